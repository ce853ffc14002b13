"""Windows for the motion head: points, pose and sound of a face, without its pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from avff.engine.faces.landmarks import (
    JAW,
    LEFT_BROW,
    LEFT_EYE,
    LIPS_INNER,
    LIPS_OUTER,
    MODEL_POINTS,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
)
from avff.engine.features import audio_tensor, landmark_tensor
from avff.engine.media import Float32
from avff.engine.spec import SPEC
from avff.trainer.data.postchain import degrade_sound
from avff.trainer.data.sample import Sample
from avff.trainer.data.windows import Shelf, choose
from avff.trainer.model.motion import FOLDS, SOUND_VALUES, raw_sound
from avff.trainer.pseudo.courses import COURSES, Actor, Course
from avff.trainer.pseudo.selfblend import nearest_ok

_T, _POINTS = SPEC.window_frames, len(MODEL_POINTS)
ByVoice = Callable[[Float32, int], Float32]
"""Says how lips move by a sound float32 ``[T, 320]`` and a fold: float32 ``[T, 114]``."""


class CourseBatch(NamedTuple):
    """Tensors of a batch of windows (or, without the first axis, of one).

    ``label`` is 1 where the face does not move as a speaker's, NaN unknown.  ``fold`` is the
    predictor that may answer for the window: the one that is not trained on its person.
    """

    landmarks: Tensor
    sound: Tensor
    video_ok: Tensor
    audio_ok: Tensor
    label: Tensor
    fold: Tensor
    group: Tensor


class GenuineCourses(Dataset[CourseBatch]):
    """An endless supply of genuine windows; item ``i`` of an epoch is always the same.

    Args:
        shelf: of clips, without pictures.
        size: items in an epoch.
        seed: of the run.
        strength: of the degradation of the sound, 0…1.
    """

    def __init__(self, shelf: Shelf, *, size: int, seed: int, strength: float) -> None:
        self._shelf, self._size, self._seed, self._strength = shelf, size, seed, strength
        self._folds = folds_of(shelf)
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> CourseBatch:
        """Draw and degrade: seeds depend on run, epoch and item only, so resuming is exact."""
        seed = [self._seed, self.epoch, index]
        sample, person = _genuine(self._shelf, np.random.default_rng([*seed, 1]))
        degrade = np.random.default_rng([*seed, 2])
        course, sound = course_of(sample), degrade_sound(sample.audio, degrade, self._strength)
        return _batch(degraded(course, degrade), sound, sample, label=0.0, fold=self._folds[person])


class TrainingCourses(Dataset[CourseBatch]):
    """Pairs of windows: even items genuine, the odd one after each made or generated.

    Args:
        shelf: of training clips, without pictures.
        mix: shares of the odd items by name of ``COURSES``, plus ``generated``.
        by_voice: the lip predictors.
        size: items in an epoch, even.
        seed: of the run.
        strength: of the degradation of the sound, 0…1.
        dropout: probability that a pair's sound is withheld.
    """

    def __init__(
        self,
        shelf: Shelf,
        mix: Mapping[str, float],
        by_voice: ByVoice,
        *,
        size: int,
        seed: int,
        strength: float,
        dropout: float,
    ) -> None:
        self._makes = _Maker(shelf, by_voice)
        self._mix, self._size, self._seed = mix, size, seed
        self._strength, self._dropout = strength, dropout
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> CourseBatch:
        """Draw, manipulate, degrade: seeds depend on run, epoch and pair only, so resuming is exact."""
        pair, manipulated = divmod(index, 2)
        seed = [self._seed, self.epoch, pair]
        choice = np.random.default_rng([*seed, 0])
        kind = choose(self._mix, choice)
        mute = choice.random() < self._dropout
        drawn = self._makes(kind if manipulated else "real", seed)
        return drawn.batch(np.random.default_rng([*seed, 2]), self._strength, mute=mute)


class ValidationCourses(Dataset[CourseBatch]):
    """A fixed set: the same genuine windows plain and by every recipe, and as many generated ones.

    Args:
        shelf: of validation clips, without pictures.
        by_voice: the lip predictors.
        each: windows in a group.
        seed: of the run.
        strength: of the degradation of the sound, 0…1.
    """

    def __init__(self, shelf: Shelf, by_voice: ByVoice, *, each: int, seed: int, strength: float) -> None:
        self._makes = _Maker(shelf, by_voice)
        self._each, self._seed, self._strength = each, seed, strength
        self.groups = ["real", "generated", *sorted(COURSES)]

    def __len__(self) -> int:
        return self._each * len(self.groups)

    def __getitem__(self, index: int) -> CourseBatch:
        """Return the window ``index``; groups follow one another."""
        group, number = divmod(index, self._each)
        seed = [self._seed, number]
        drawn = self._makes(self.groups[group], seed)
        return drawn.batch(np.random.default_rng([*seed, 2]), self._strength, group=group)


class _Drawn(NamedTuple):
    """A window before it is degraded."""

    course: Course
    sample: Sample
    label: float
    fold: int

    def batch(
        self, rng: np.random.Generator, strength: float, *, mute: bool = False, group: int = 0
    ) -> CourseBatch:
        sound = degrade_sound(self.sample.audio, rng, strength)
        return _batch(
            degraded(self.course, rng), sound, self.sample,
            label=self.label, fold=self.fold, mute=mute, group=group,
        )  # fmt: skip


class _Maker:
    """Draws windows of every kind."""

    def __init__(self, shelf: Shelf, by_voice: ByVoice) -> None:
        self._shelf, self._by_voice = shelf, by_voice
        self._folds = folds_of(shelf)

    def __call__(self, kind: str, seed: list[int]) -> _Drawn:
        """Draw a window; the same seed gives the same genuine one for every recipe."""
        rng = np.random.default_rng([*seed, 1])
        if kind == "generated":
            sample = self._shelf.generated(rng)
            return _Drawn(course_of(sample), sample, float(sample.labels[1]), int(rng.integers(FOLDS)))
        sample, person = _genuine(self._shelf, rng)
        fold = self._folds[person]
        if kind == "real":
            return _Drawn(course_of(sample), sample, 0.0, fold)
        made = COURSES[kind](self._actor(sample, fold), rng, lambda: self._stranger(person, rng))
        return _Drawn(made, sample, 1.0, fold)

    def _actor(self, sample: Sample, fold: int) -> Actor:
        moves = self._by_voice(sound_values(sample.audio), fold)
        return Actor(course_of(sample), moves.reshape(_T, -1, 2))

    def _stranger(self, person: str, rng: np.random.Generator) -> Actor:
        for _ in range(8):
            sample, other = _genuine(self._shelf, rng)
            if other != person:
                break
        return self._actor(sample, self._folds[other])


def folds_of(shelf: Shelf) -> dict[str, int]:
    """Return the fold of each genuine person: every other one, in the order of their names."""
    return {person: place % FOLDS for place, person in enumerate(shelf.people)}


def course_of(sample: Sample) -> Course:
    """Return a window's points and pose; where the face was lost they stand still."""
    near = nearest_ok(sample.ok)
    values = landmark_tensor(sample.landmarks[near], sample.motion[near])
    return Course(values[:, : 2 * _POINTS].reshape(-1, _POINTS, 2), values[:, 2 * _POINTS :])


def sound_values(audio: Float32) -> Float32:
    """Return the mel bands by picture, float32 ``[T, 320]``, of a window's sound with its context."""
    length = SPEC.context_samples + SPEC.slice_samples
    starts = range(0, len(audio) - length + 1, SPEC.slice_samples)
    spectra = np.stack([audio_tensor(audio[start : start + length]) for start in starts])
    return raw_sound(torch.from_numpy(spectra)).reshape(-1, SOUND_VALUES).numpy()


def degraded(course: Course, rng: np.random.Generator) -> Course:
    """Move a course as other cameras, faces and trackers would have shown it.

    Larger or smaller by up to 15 %, mirrored, with up to 1.2 % noise of the tracker, every second or third
    picture held.
    """
    middle = course.points.mean(axis=0)
    points = middle + (course.points - middle) * rng.uniform(0.85, 1.15)
    motion = course.motion.astype(np.float64)
    if rng.random() < 0.5:
        points = points + rng.normal(0, rng.uniform(0, 0.012), points.shape)
        motion[:, 3:] += rng.normal(0, 0.02, motion[:, 3:].shape)
    if rng.random() < 0.5:
        points, motion = points[:, _MIRROR] * (-1, 1), motion * (-1, -1, 1, -1, 1, 1)
    if rng.random() < 0.25:
        points = points[_held(len(points), int(rng.integers(2, 4)))]
    return Course(points.astype(np.float32), motion.astype(np.float32))


def _held(pictures: int, step: int) -> np.ndarray:
    return np.arange(pictures) // step * step


def _mirrored() -> list[int]:
    """Return, for each of the model's points, the place of the one on the face's other side."""
    other: dict[int, int] = {}
    for lips in (LIPS_OUTER, LIPS_INNER):
        other |= {point: lips[(10 - place) % 20] for place, point in enumerate(lips)}
    eyes = [RIGHT_EYE[k] for k in (3, 2, 1, 0, 5, 4, 6, 7)]
    brows = RIGHT_BROW[::-1]
    for here, there in ((LEFT_EYE, eyes), (LEFT_BROW, brows)):
        other |= dict(zip(here, there, strict=True)) | dict(zip(there, here, strict=True))
    other |= dict(zip(JAW, JAW[::-1], strict=True)) | {NOSE[2]: NOSE[3], NOSE[3]: NOSE[2]}
    return [MODEL_POINTS.index(other.get(point, point)) for point in MODEL_POINTS]


_MIRROR = _mirrored()


def _genuine(shelf: Shelf, rng: np.random.Generator) -> tuple[Sample, str]:
    person = shelf.people[int(rng.integers(len(shelf.people)))]
    return shelf.window_of_person(person, rng), person


def _batch(
    course: Course,
    audio: Float32,
    sample: Sample,
    *,
    label: float,
    fold: int,
    mute: bool = False,
    group: int = 0,
) -> CourseBatch:
    points = course.points.reshape(len(course.points), -1)
    landmarks = np.concatenate([points, course.motion], axis=1).astype(np.float32)
    return CourseBatch(
        torch.from_numpy(landmarks),
        torch.from_numpy(sound_values(audio)),
        torch.from_numpy(sample.ok.astype(np.float32)),
        torch.full((_T,), 0.0 if mute else 1.0),
        torch.tensor(label),
        torch.tensor(fold),
        torch.tensor(group),
    )
