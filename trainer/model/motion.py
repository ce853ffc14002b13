"""The motion head: does this face move as a speaker's does, and as the sound would have it?

AVFF's idea, the prediction of one modality from the other, on the face's points instead of its
pixels: where the lips go is predicted from the sound, and what the prediction leaves over tells
genuine speech from lips that were made.  Both tails are evidence: animated portraits follow the
sound less than people do, lip-sync generators more.  So the difference is an input of a classifier and
never a score by itself (docs/decisions/0012).

The predictors are *cross-fitted*: each is trained on one half of the people, and the classifier learns a
person from the predictor that never saw them.  Predictions for people it was trained on are too
good, and the classifier would come to expect as much of strangers.

What is constant through a window (the face's shape, the head's mean pose, the microphone's response)
is taken out before anything else, so that neither a person nor a collection can be told by it.

Shapes: N windows, T = 64 pictures, C channels; convolutions run along T as 2-D ones ``[N, C, T, 1]``,
which every runtime has.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from avff.engine.faces.landmarks import JAW, LIPS_INNER, LIPS_OUTER, MODEL_POINTS, NOSE
from avff.engine.spec import SPEC
from avff.trainer.model.fusion import MAX_SHIFT, band_matrix

FOLDS = 2
"""Predictors, and parts of the people."""
CLASSIFIERS = 3
SHIFTS = 2 * MAX_SHIFT + 1
FACE_VALUES = SPEC.landmark_values
SOUND_VALUES = SPEC.bands * SPEC.slice_spectra // SPEC.slice_frames
"""Mel bands of the four spectra of one picture."""
LIPS = tuple(
    2 * MODEL_POINTS.index(point) + axis for point in LIPS_OUTER + LIPS_INNER + JAW for axis in (0, 1)
)
"""Places of x and y of the lips and the jaw in a landmark vector."""
_WIDTH, _SPEECH_WIDTH = 64, 96
_MOST = 6.0
"""Standard deviations beyond which a point is taken to have been lost by the tracker."""
_TINY = 1e-4


def raw_sound(audio: Tensor) -> Tensor:
    """Return the mel bands by picture, ``[N, 8, 320]``, of slices' spectra ``[N, 2, 80, 32]``."""
    mel = audio[:, 0].reshape(-1, SPEC.bands, SPEC.slice_frames, SPEC.slice_spectra // SPEC.slice_frames)
    return mel.permute(0, 2, 3, 1).reshape(-1, SPEC.slice_frames, SOUND_VALUES)


class _Along(nn.Module):
    """Residual convolution over 5 pictures: ``[N, C, T, 1]`` to the same."""

    def __init__(self, width: int, *, dropout: float, dilation: int = 1) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.conv = nn.Conv2d(width, width, (5, 1), padding=(2 * dilation, 0), dilation=(dilation, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix neighbouring pictures."""
        return x + _gelu(self.conv(self.drop(x)))


class LipPredictor(nn.Module):
    """A2V on points: normalised sound ``[N, 320, T, 1]`` to normalised lips ``[N, 114, T, 1]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(SOUND_VALUES, _SPEECH_WIDTH, (3, 1), padding=(1, 0))
        self.mix = nn.Sequential(*(_Along(_SPEECH_WIDTH, dropout=0.1) for _ in range(4)))
        self.out = nn.Conv2d(_SPEECH_WIDTH, len(LIPS), 1)

    def forward(self, sound: Tensor) -> Tensor:
        """Predict where the lips go."""
        out: Tensor = self.out(self.mix(_gelu(self.lift(sound))))
        return out


class _Classifier(nn.Module):
    """Normalised face and sound, and what their prediction leaves over, to one logit."""

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.see = nn.Conv2d(FACE_VALUES, _WIDTH, 1)
        self.see_mix = nn.Sequential(*(_Along(_WIDTH, dropout=dropout) for _ in range(2)))
        self.hear = nn.Conv2d(SOUND_VALUES, _WIDTH, (3, 1), padding=(1, 0))
        self.hear_mix = nn.Sequential(*(_Along(_WIDTH, dropout=dropout) for _ in range(3)))
        self.join = nn.Conv2d(2 * _WIDTH + 3 * len(LIPS), _WIDTH, 1)
        self.join_mix = nn.Sequential(*(_Along(_WIDTH, dropout=dropout, dilation=2) for _ in range(3)))
        self.out = nn.Linear(2 * _WIDTH, 1)

    def forward(self, face: Tensor, speech: Tensor, compared: Tensor, seen: Tensor, heard: Tensor) -> Tensor:
        """Classify a batch of windows: ``[N, C, T, 1]`` each, to ``[N, 1]``."""
        h = self.see_mix(_gelu(self.see(face)))
        q = self.hear_mix(_gelu(self.hear(speech))) * heard
        z = self.join_mix(_gelu(self.join(torch.cat([h, q, compared], dim=1))))
        count = seen.sum(dim=2, keepdim=True).clamp(min=1.0)
        mean = (z * seen).sum(dim=2, keepdim=True) / count
        spread = (((z - mean) * seen).square().sum(dim=2, keepdim=True) / count + _TINY).sqrt()
        out: Tensor = self.out(torch.cat([mean, spread], dim=1).flatten(1))
        return out


class MotionOut(NamedTuple):
    """What the motion head says of a batch of windows.

    Attributes:
        logit: ``[N, 1]``, above 0 where the face does not move as a speaker's does; while training
            ``[N, 3]``, each classifier's own.
        desync: ``[N, 1]``, above 0 where lips and sound are out of step.
        sync: ``[N, 31]``, correlation of the lips with what the sound lets expect, at shifts -15…15 pictures.
    """

    logit: Tensor
    desync: Tensor
    sync: Tensor


class Synchrony(nn.Module):
    """By how much lips and sound are out of step, from where the lips go and where the sound has them go."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(SHIFTS, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 1))
        self.band: Tensor
        self.register_buffer("band", band_matrix(), persistent=False)

    def forward(self, lips: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit ``[N, 1]`` and the curve ``[N, 31]`` of courses ``[N, 114, T, 1]``."""
        seen, heard = lips.squeeze(3), predicted.squeeze(3)
        products = seen.transpose(1, 2) @ heard / seen.shape[1]  # [N, T, T], picture by sound
        power = seen.square().mean(dim=(1, 2)) * heard.square().mean(dim=(1, 2))  # [N]
        curve = products.reshape(-1, SPEC.window_frames**2) @ self.band
        curve = curve / (power + _TINY).sqrt().unsqueeze(1)
        return self.out(curve), curve


class MotionHead(nn.Module):
    """Points, pose and sound of a window to one logit: the mean of three classifiers'.

    Generated clips to learn from are few, and which of their traces a small network takes up is left to
    its first weights: a mean of several depends less on that.

    Args:
        dropout: in the classifiers.
    """

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.face_norm = nn.BatchNorm2d(FACE_VALUES, affine=False, momentum=0.02)
        self.sound_norm = nn.BatchNorm2d(SOUND_VALUES, affine=False, momentum=0.02)
        self.lips = nn.ModuleList(LipPredictor() for _ in range(FOLDS))
        self.step = Synchrony()
        self.classifiers = nn.ModuleList(_Classifier(dropout=dropout) for _ in range(CLASSIFIERS))
        self.from_nose: Tensor
        self.register_buffer("from_nose", _relative_to_nose(), persistent=False)
        self.of_lips: Tensor
        self.register_buffer("of_lips", torch.tensor(LIPS), persistent=False)

    def forward(
        self,
        landmarks: Tensor,
        sound: Tensor,
        video_ok: Tensor,
        audio_ok: Tensor,
        fold: Tensor | None = None,
    ) -> MotionOut:
        """Judge a batch of windows.

        Args:
            landmarks: ``[N, T, 184]``, from ``engine.features.landmark_tensor``.
            sound: ``[N, T, 320]``, from :func:`raw_sound`.
            video_ok, audio_ok: ``[N, T]``, 1 where there is evidence.
            fold: ``[N]``, which predictor answers for each window; None for the mean of both.
        """
        seen, heard = _column(video_ok), _column(audio_ok)  # [N, 1, T, 1]
        face, lips = self.face(landmarks, video_ok)
        speech = self.speech(sound, audio_ok)
        predicted = self.predict(speech, fold) * heard
        both = seen * heard
        compared = torch.cat([predicted, (lips - predicted) * both, lips * predicted * both], dim=1)
        answers = torch.cat([c(face, speech, compared, seen, heard) for c in self.classifiers], dim=1)
        desync, sync = self.step(lips, predicted)
        return MotionOut(answers if self.training else answers.mean(dim=1, keepdim=True), desync, sync)

    def face(self, landmarks: Tensor, video_ok: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised course of a face ``[N, 184, T, 1]``, and of its lips ``[N, 114, T, 1]``."""
        face = _normed(landmarks @ self.from_nose, video_ok, self.face_norm)
        return face, face.index_select(1, self.of_lips)

    def speech(self, sound: Tensor, audio_ok: Tensor) -> Tensor:
        """Return the normalised sound ``[N, 320, T, 1]``."""
        return _normed(sound, audio_ok, self.sound_norm)

    def predict(self, speech: Tensor, fold: Tensor | None = None) -> Tensor:
        """Return where the lips go by the sound, normalised, ``[N, 114, T, 1]``."""
        each = [predictor(speech) for predictor in self.lips]
        if fold is None:
            return torch.stack(each).mean(dim=0)
        mine = fold.reshape(-1, 1, 1, 1)
        return torch.where(mine == 0, each[0], each[1])

    def lips_by_sound(self, sound: Tensor, fold: Tensor) -> Tensor:
        """Return how the lips would move by one fold's predictor, about 0, in units of the landmark vector.

        Args:
            sound: ``[N, T, 320]``.
            fold: ``[N]``.

        Returns:
            ``[N, T, 114]``.
        """
        variance = self.face_norm.running_var
        assert variance is not None, "the norm keeps its statistics"
        spread = (variance + self.face_norm.eps).sqrt()[self.of_lips]
        heard = torch.ones_like(sound[..., 0])
        predicted = self.predict(self.speech(sound, heard), fold)
        return predicted.squeeze(3).transpose(1, 2) * spread


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _column(there: Tensor) -> Tensor:
    """``[N, T]`` as ``[N, 1, T, 1]``."""
    return there.unsqueeze(1).unsqueeze(3)


def _normed(values: Tensor, there: Tensor, norm: nn.Module) -> Tensor:
    """Take out what is constant through a window, and scale: ``[N, T, C]`` to ``[N, C, T, 1]``."""
    mask = there.unsqueeze(2)
    mean = (values * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
    centred = (values - mean) * mask
    return norm(centred.transpose(1, 2).unsqueeze(3)).clamp(-_MOST, _MOST) * _column(there)


def _relative_to_nose() -> Tensor:
    """Constant ``[184, 184]``: points relative to the middle of the nose, the pose as it is."""
    matrix = torch.eye(FACE_VALUES)
    points = len(MODEL_POINTS)
    for axis in (0, 1):
        nose = [2 * MODEL_POINTS.index(point) + axis for point in NOSE[:4]]
        columns = torch.arange(points) * 2 + axis
        for row in nose:
            matrix[row, columns] -= 1 / len(nose)
    return matrix
