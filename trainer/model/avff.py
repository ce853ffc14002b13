"""The streaming networks: slice-local encoders and a fusion graph, and their size as a dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.model.encoders import AudioEncoder, LandmarkEncoder, VideoEncoder
from avff.trainer.model.fusion import Fusion, FusionGraph, FusionOut
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
    """

    def __init__(
        self,
        config: AvffConfig,
        *,
        video: nn.Module,
        audio: nn.Module,
        landmarks: nn.Module,
        fusion: FusionGraph,
    ) -> None:
        super().__init__()
        self.config = config
        self.video, self.audio, self.landmarks = video, audio, landmarks
        self.fusion = fusion

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
        return self.fusion(
            self.video(video.flatten(0, 1)).reshape(shape),
            self.audio(audio.flatten(0, 1)).reshape(shape),
            self.landmarks(landmarks.flatten(0, 1)).reshape(shape),
            video_ok,
            audio_ok,
        )


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
        )  # fmt: skip
