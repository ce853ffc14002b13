"""AVFF's first stage: picture and sound of genuine people learn to stand in for each other.

Self-supervised, on genuine windows only (Oorloff et al., CVPR 2024, arXiv:2406.02951).  Half
of the slices are hidden in the sound and the other half in the picture, each is predicted from
the other modality (A2V, V2A), and what was hidden is rebuilt.  Departures: synchrony is learnt
frame by frame on top, because 25 pictures a second can show it where the paper's 5 cannot; the
adversarial loss is left out.

What the second stage loads is the network itself; the layers made here are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import lightning
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.data.genuine import Masked
from avff.trainer.losses import frame_sync_loss, masked_reconstruction, slice_contrast_loss
from avff.trainer.masking import fill_in
from avff.trainer.model.avff import Avff
from avff.trainer.model.decoders import (
    FACE_VALUES,
    SOUND_VALUES,
    SliceContrast,
    WindowDecoder,
    face_targets,
    sound_targets,
)
from avff.trainer.model.fusion import MAX_SHIFT
from avff.trainer.optim import OptimSettings, Positive, make_optimiser

_S, _F, _T = SPEC.window_slices, SPEC.slice_frames, SPEC.window_frames
_LATER = ("tokens", "join_v", "join_a", "cross_v", "cross_a", "frame_any", "heads")
"""Parts of the fusion graph that answer whether something is generated: left to the second stage."""


@dataclass(frozen=True)
class PretrainWeights:
    """Weight of each loss: hidden faces, hidden sound, synchrony of pictures, contrast of slices."""

    faces: float = 1.0
    sound: float = 1.0
    sync: float = 0.5
    contrast: float = 0.01


class PretrainSettings(BaseModel):
    """The self-supervised stage.  Four of eight slices are hidden in either modality, always."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Positive = 50
    windows_per_epoch: Positive = 2048
    batch: Positive = 64
    """Windows in a batch; the contrast of slices has one negative per other window."""
    post_chain: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Strength of the degradation; what is rebuilt is the degraded window."""
    validation_windows: Positive = 64
    optim: OptimSettings = OptimSettings(learning_rate=3e-4)
    loss: PretrainWeights = PretrainWeights()


@dataclass
class Rebuilt:
    """What the stage makes of a batch of windows.

    Attributes:
        faces, sound: ``[N, 64, 576]`` and ``[N, 64, 320]``, see ``decoders.py``; made from the
            masked window, for hidden and visible tokens alike.
        sync: ``[N, 31]`` sync curve of the whole window's pictures and the shifted sound.
        sync_video, sync_audio: ``[N, 64, 64]`` unit vectors the curve is made of.
        slice_video, slice_audio: ``[N, 8, 64]`` unit vectors of whole slices.
    """

    faces: Tensor
    sound: Tensor
    sync: Tensor
    sync_video: Tensor
    sync_audio: Tensor
    slice_video: Tensor
    slice_audio: Tensor


class PretrainStage(lightning.LightningModule):
    """Trains encoders, cross-modal prediction and synchrony of a network in place.

    Args:
        net: the network; the layers in ``_LATER`` are left as they are.
        settings: of this stage.
        total_steps: optimiser steps, for the schedule.
    """

    def __init__(self, net: Avff, settings: PretrainSettings, total_steps: int) -> None:
        super().__init__()
        width, heads = net.config.width, net.config.heads
        self.net = net
        self.faces = WindowDecoder(width, heads, FACE_VALUES)
        self.sound = WindowDecoder(width, heads, SOUND_VALUES)
        self.contrast = SliceContrast(width)
        self._settings, self._total_steps = settings, total_steps

    def setup(self, stage: str) -> None:
        """Leave the second stage's layers alone: with several processes, each gradient is waited for."""
        del stage
        self._later().requires_grad_(False)

    def teardown(self, stage: str) -> None:
        """Hand the network back as one that can be trained throughout."""
        del stage
        self._later().requires_grad_(True)

    def forward(self, batch: Masked) -> Rebuilt:
        """Rebuild masked windows, and compare picture and sound of whole ones."""
        net, windows = self.net, batch.windows
        shape = (-1, _T, net.config.width)
        # Encoders see one slice each, so masking their tokens is the same as masking their input.
        video = net.video(windows.video.flatten(0, 1)).reshape(shape)
        audio = net.audio(windows.audio.flatten(0, 1)).reshape(shape)
        landmarks = net.landmarks(windows.landmarks.flatten(0, 1)).reshape(shape)
        see, hear = batch.see * windows.video_ok, batch.hear * windows.audio_ok
        masked = net.fusion(video, audio, landmarks, see, hear)
        # Under the masks no moment is both seen and heard: synchrony needs a whole window.
        late = net.audio(batch.late_audio.flatten(0, 1)).reshape(shape)
        whole = net.fusion(video, late, landmarks, windows.video_ok, windows.audio_ok)
        (from_sound, own_video), (from_video, own_sound) = masked.predicted
        return Rebuilt(
            self.faces(fill_in(own_video, from_sound, see)),
            self.sound(fill_in(own_sound, from_video, hear)),
            whole.sync,
            whole.sync_video,
            whole.sync_audio,
            *self.contrast(video, audio, landmarks),
        )

    def training_step(self, batch: Masked, index: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            ValueError: a window is not known to be genuine.
        """
        del index
        terms = self.terms(self(batch), batch)
        self.log_dict(
            {f"train/{k}": v.detach() for k, v in terms.items()},
            on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.see),
        )  # fmt: skip
        self.log("loss", terms["loss"].detach(), prog_bar=True, logger=False)
        return terms["loss"]

    def validation_step(self, batch: Masked, index: int) -> None:
        """Log the losses, and how often the sync curve peaks within ± 1 of the true shift (chance 0.1)."""
        del index
        rebuilt = self(batch)
        figures = self.terms(rebuilt, batch)
        figures["in_step"] = ((peak_shift(rebuilt.sync) - batch.late).abs() <= 1).float().mean()
        named = {f"val/{k}": v for k, v in figures.items()}
        self.log_dict(named, batch_size=len(batch.see), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimiser of the settings, on what this stage trains."""
        stage = self._settings
        return make_optimiser(
            stage.optim, [self], steps=self._total_steps, epochs=stage.epochs, frozen=[self._later()]
        )

    def terms(self, rebuilt: Rebuilt, batch: Masked) -> dict[str, Tensor]:
        """Return every loss and their weighted sum under ``loss``.

        Raises:
            ValueError: a window is not known to be genuine.
        """
        windows, weights = batch.windows, self._settings.loss
        _refuse_others(windows.labels)
        there = windows.video_ok * windows.audio_ok
        # The losses are small sums of logs: they stay in 32 bits.
        with torch.autocast(self.device.type, enabled=False):
            terms = {
                "faces": masked_reconstruction(
                    rebuilt.faces.float(), face_targets(windows.video), (1 - batch.see) * windows.video_ok
                ),
                "sound": masked_reconstruction(
                    rebuilt.sound.float(), sound_targets(windows.audio), (1 - batch.hear) * windows.audio_ok
                ),
                "sync": frame_sync_loss(
                    rebuilt.sync_video.float(),
                    rebuilt.sync_audio.float(),
                    windows.video_ok,
                    windows.audio_ok,
                    batch.late,
                ),
                "contrast": slice_contrast_loss(
                    rebuilt.slice_video.float(),
                    rebuilt.slice_audio.float(),
                    there.reshape(-1, _S, _F).amin(dim=2),
                ),
            }
        terms["loss"] = torch.stack([getattr(weights, name) * loss for name, loss in terms.items()]).sum()
        return terms

    def _later(self) -> nn.ModuleList:
        return nn.ModuleList(self.net.fusion.get_submodule(name) for name in _LATER)


def peak_shift(curve: Tensor) -> Tensor:
    """Return by how many pictures the sound comes late, ``[N]``, where the curve ``[N, 31]`` is highest."""
    return curve.argmax(dim=1) - MAX_SHIFT


def _refuse_others(labels: Tensor) -> None:
    """Check that windows are genuine and in sync; a part that nobody labelled is, if the whole is."""
    wrong = (labels[:, [0, 3]] != 0).any(dim=1) | (labels[:, 1:3] == 1).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"pre-training is for genuine windows in sync: {int(wrong.sum())} of the {len(labels)} "
            "in this batch are generated, out of sync or unlabelled"
        )
