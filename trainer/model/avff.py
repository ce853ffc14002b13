"""The streaming networks: slice-local encoders and a fusion graph, and their size as a dataclass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.model.encoders import AudioEncoder, LandmarkEncoder, VideoEncoder
from avff.trainer.model.fusion import Fusion, FusionGraph, FusionOut
from avff.trainer.model.motion import FACE_VALUES, SOUND_VALUES, MotionHead, raw_sound
from avff.trainer.model.novelty import Novelty
from avff.trainer.model.pooling import FramePool, Pooling

Architecture = Literal["avff-s", "avff-b", "late-fusion", "audio-only", "video-only"]
_SMALL, _BASE = (128, 4, 2), (768, 12, 12)
"""Width, heads and depth: of the streaming networks, and of ViT-B."""


@dataclass(frozen=True)
class AvffConfig:
    """Architecture and size of the network.

    A size of 0 stands for the architecture's own: width 128, 4 heads, depth 2; for avff-b
    width 768, 12 heads, depth 12.

    Attributes:
        width: token width D.
        heads: attention heads; must divide the width (late-fusion has no attention).
        depth: transformer blocks per modality (late-fusion has none).
        dropout: in the fusion graph; in every block of avff-b.
        architecture: see ``docs/training.md``.
        recompute: avff-b only: forget what is inside a block and compute it again on the way
            back (gradient checkpointing).  A step takes a third longer and far less memory.
        pooling: how what every picture answers becomes the window's answer, see
            :mod:`avff.trainer.model.pooling`: ``mean``, or ``lse`` for the log-sum-exp.
        motion: avff-s only: whether it has the head on the motion of the face's points.
        pooling_temperature: of ``lse``: towards 0 the most suspicious picture alone counts,
            far above the logits' spread it is the mean.

    Raises:
        ValueError: heads do not divide the width, ``recompute`` with another architecture, or a
            temperature that is not above 0 or has nothing to act on.
    """

    width: int = 0
    heads: int = 0
    depth: int = 0
    dropout: float = 0.2
    architecture: Architecture = "avff-s"
    recompute: bool = False
    motion: bool = False
    pooling: Pooling = "mean"
    pooling_temperature: float = 1.0

    def __post_init__(self) -> None:
        own = _BASE if self.architecture == "avff-b" else _SMALL
        for name, value in zip(("width", "heads", "depth"), own, strict=True):
            # Frozen for everyone else: only here a 0 becomes the number it stands for.
            object.__setattr__(self, name, getattr(self, name) or value)
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if self.recompute and self.architecture != "avff-b":
            raise ValueError(f"recompute is for avff-b; {self.architecture} is small enough without")
        if self.motion and self.architecture != "avff-s":
            raise ValueError(f"motion is for avff-s, not {self.architecture}")
        if not 0 < self.pooling_temperature < math.inf:
            raise ValueError(f"pooling_temperature must be above 0, not {self.pooling_temperature:g}")
        if self.pooling == "mean" and self.pooling_temperature != 1:
            raise ValueError("pooling_temperature is of pooling lse; a mean has none")

    def frame_pool(self) -> FramePool:
        """Return the module that pools what every picture answers."""
        return FramePool(self.pooling, self.pooling_temperature)


class StreamingNet(nn.Module):
    """Encoders and fusion as one module for training; they export as four graphs.

    Args:
        config: size of the network.
        video, audio, landmarks: slice-local encoders.
        fusion: what becomes of a window's tokens.
        motion: the head on the motion of the face's points, or None.
        novelty: measures how unlike the training data a window is; None for an own one.
    """

    def __init__(
        self,
        config: AvffConfig,
        *,
        video: nn.Module,
        audio: nn.Module,
        landmarks: nn.Module,
        fusion: FusionGraph,
        motion: MotionHead | None = None,
        novelty: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.video, self.audio, self.landmarks = video, audio, landmarks
        self.fusion, self.motion = fusion, motion
        self.novelty = Novelty(config.width) if novelty is None else novelty

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Score windows; slices are folded into the batch, so this is the streaming path too.

        Args:
            video: ``[N, 8, 8, 3, 128, 128]``, 0…1.
            audio: ``[N, 8, 2, 80, 32]``.
            landmarks: ``[N, 8, 8, 184]``.
            video_ok, audio_ok: ``[N, 64]``, 1 where there is evidence.
        """
        shape = (-1, SPEC.window_frames, self.config.width)
        out: FusionOut = self.fusion(
            self.video(video.flatten(0, 1)).reshape(shape),
            self.audio(audio.flatten(0, 1)).reshape(shape),
            self.landmarks(landmarks.flatten(0, 1)).reshape(shape),
            video_ok,
            audio_ok,
        )
        if self.motion is None:
            return out
        sound = raw_sound(audio.flatten(0, 1)).reshape(-1, SPEC.window_frames, SOUND_VALUES)
        points = landmarks.reshape(-1, SPEC.window_frames, FACE_VALUES)
        return out.with_motion(self.motion(points, sound, video_ok, audio_ok))

    def served(self) -> dict[str, nn.Module]:
        """Return what serves a stream, by graph name: encoders of one slice, and :class:`ServedFusion`."""
        carries = self.motion is not None
        return {
            "video": self.video,
            "audio": _Carrying(self.audio, raw_sound) if carries else self.audio,
            "landmarks": _Carrying(self.landmarks, _as_it_is) if carries else self.landmarks,
            "fusion": ServedFusion(self),
        }

    def token_widths(self) -> dict[str, int]:
        """Return the width of the tokens that each encoder of :meth:`served` makes."""
        width, carries = self.config.width, self.motion is not None
        return {
            "video": width,
            "audio": width + SOUND_VALUES * carries,
            "landmarks": width + FACE_VALUES * carries,
        }


class ServedFusion(nn.Module):
    """A network's fusion graph and motion head as one, on the tokens of its served encoders.

    Args:
        net: whose they are.
    """

    def __init__(self, net: StreamingNet) -> None:
        super().__init__()
        self.fusion, self.motion, self.width = net.fusion, net.motion, net.config.width

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Fuse one batch of windows; tokens ``[N, 64, width]``, each encoder's of its own width."""
        width = self.width
        out: FusionOut = self.fusion(video, audio[..., :width], landmarks[..., :width], video_ok, audio_ok)
        if self.motion is None:
            return out
        return out.with_motion(self.motion(landmarks[..., width:], audio[..., width:], video_ok, audio_ok))


class _Carrying(nn.Module):
    """An encoder whose tokens also carry what the motion head looks at, as it came in."""

    def __init__(self, encoder: nn.Module, raw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.raw = encoder, raw

    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch of slices."""
        return torch.cat([self.encoder(x), self.raw(x)], dim=-1)


def _as_it_is(x: Tensor) -> Tensor:
    return x


class Avff(StreamingNet):
    """avff-s: the streaming network with AVFF's cross-modal prediction."""

    video: VideoEncoder
    audio: AudioEncoder
    landmarks: LandmarkEncoder
    fusion: Fusion

    def __init__(self, config: AvffConfig) -> None:
        super().__init__(
            config,
            video=VideoEncoder(config.width),
            audio=AudioEncoder(config.width),
            landmarks=LandmarkEncoder(config.width),
            fusion=Fusion(
                width=config.width, heads=config.heads, depth=config.depth, dropout=config.dropout,
                pooling=config.frame_pool(),
            ),
            motion=MotionHead(dropout=config.dropout) if config.motion else None,
        )  # fmt: skip
