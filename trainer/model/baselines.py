"""What the streaming network is compared with: late fusion, and one modality alone.

All have its slice-local encoders, so that a difference in accuracy is the fusion's.
They export as the same four graphs: the encoder of a modality that an architecture
does without becomes a graph of zeros.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.model.avff import AvffConfig, StreamingNet
from avff.trainer.model.encoders import AudioEncoder, LandmarkEncoder, VideoEncoder
from avff.trainer.model.fusion import (
    FusionGraph,
    FusionOut,
    TemporalMix,
    TokenHeads,
    mlp_head,
    pool,
    transformer,
    without_cross,
)
from avff.trainer.model.layers import Absent
from avff.trainer.model.pooling import FramePool, masked_mean

_T = SPEC.window_frames
Modality = Literal["video", "audio"]


class LateFusion(FusionGraph):
    """Every modality is averaged over the window before a perceptron sees them side by side.

    Nothing compares sound with picture: synchrony has no answer, and an exchanged voice leaves
    no trace but in itself.

    Args:
        width: token width D.
        dropout: in the head.
        pooling: of what every picture answers.
    """

    def __init__(self, *, width: int, dropout: float, pooling: FramePool) -> None:
        super().__init__()
        self.pooling = pooling
        self.tokens = TokenHeads(width)
        self.frame_any = nn.Linear(3 * width, 1)
        self.any = mlp_head(3 * width, dropout)
        self.width = width

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Fuse one batch of windows; arguments as of :meth:`avff.trainer.model.fusion.Fusion.forward`."""
        seen, heard = video_ok.unsqueeze(-1), audio_ok.unsqueeze(-1)
        picture, sound = self.tokens.video(video), self.tokens.audio(audio)  # [N, 64, 1]
        side_by_side = torch.cat([video * seen, landmarks * seen, audio * heard], dim=-1)  # [N, 64, 3 D]
        frame_any = self.frame_any(side_by_side)
        frames = torch.cat([frame_any, picture, sound], dim=-1)
        means = [masked_mean(video, seen), masked_mean(landmarks, seen), masked_mean(audio, heard)]
        any_logit = self.pooling.with_frames(self.any(torch.cat(means, dim=-1)), frame_any, seen, heard)
        parts = [self.pooling(picture, seen), self.pooling(sound, heard)]
        clip = torch.cat([any_logit, *parts, torch.zeros_like(any_logit)], dim=-1)
        return without_cross(clip, frames, self.width)


class SingleFusion(FusionGraph):
    """The streaming fusion graph with everything of the other modality taken out.

    Args:
        modality: the one it looks at; ``video`` includes the landmarks.
        width, heads, depth, dropout, pooling: as of :class:`avff.trainer.model.fusion.Fusion`.
    """

    def __init__(
        self, modality: Modality, *, width: int, heads: int, depth: int, dropout: float, pooling: FramePool
    ) -> None:
        super().__init__()
        self.modality, self.width, self.pooling = modality, width, pooling
        sees = modality == "video"
        self.tokens = TokenHeads(width, sees=sees, hears=not sees)
        self.lift = nn.Linear((2 if sees else 1) * width, width)
        self.missing = nn.Parameter(torch.zeros(width))
        self.mix = TemporalMix(width)
        self.position = nn.Parameter(torch.randn(_T, width) * 0.02)
        self.blocks = transformer(width, heads, depth, dropout)
        self.frame_any = nn.Linear(width, 1)
        self.any = mlp_head(2 * width, dropout)

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Judge one batch of windows; arguments as of :meth:`avff.trainer.model.fusion.Fusion.forward`."""
        picture, sound = self.tokens.video(video), self.tokens.audio(audio)  # [N, 64, 1]
        if self.modality == "video":
            own, there = torch.cat([video, landmarks], dim=-1), video_ok.unsqueeze(-1)
        else:
            own, there = audio, audio_ok.unsqueeze(-1)
        x = self.mix(self.lift(own) * there + self.missing * (1 - there)) + self.position  # [N, 64, D]
        for block in self.blocks:
            x = block(x)
        frame_any = self.frame_any(x)
        any_logit = self.pooling.with_frames(self.any(pool(x)), frame_any, there, there)
        # An absent head's zeros are pooled to zero, whichever modality's mask it is done with.
        parts = [self.pooling(picture, there), self.pooling(sound, there)]
        clip = torch.cat([any_logit, *parts, torch.zeros_like(any_logit)], dim=-1)
        return without_cross(clip, torch.cat([frame_any, picture, sound], dim=-1), self.width)


def late_fusion(config: AvffConfig) -> StreamingNet:
    """Build the late-fusion baseline."""
    width = config.width
    return StreamingNet(
        config, video=VideoEncoder(width), audio=AudioEncoder(width), landmarks=LandmarkEncoder(width),
        fusion=LateFusion(width=width, dropout=config.dropout, pooling=config.frame_pool()),
    )  # fmt: skip


def single_modality(config: AvffConfig, modality: Modality) -> StreamingNet:
    """Build the network that looks at one modality and has no encoder for the other."""
    width, sees = config.width, modality == "video"
    return StreamingNet(
        config,
        video=VideoEncoder(width) if sees else _no_encoder(width),
        audio=_no_encoder(width) if sees else AudioEncoder(width),
        landmarks=LandmarkEncoder(width) if sees else _no_encoder(width),
        fusion=SingleFusion(
            modality, width=width, heads=config.heads, depth=config.depth, dropout=config.dropout,
            pooling=config.frame_pool(),
        ),
    )  # fmt: skip


def _no_encoder(width: int) -> nn.Sequential:
    """A slice of any kind, ``[N, ...]``, to 8 tokens ``[N, 8, D]`` of zeros."""
    return nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (SPEC.slice_frames, -1)), Absent(width))
