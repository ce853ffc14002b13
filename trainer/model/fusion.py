"""The fusion graph: 64 tokens a modality in, logits per window and per picture out.

Everything that looks across slices is here: positions, transformers, AVFF's
cross-modal prediction, the sync curve.  Positions are added here and never cached,
because a slice changes its place in the window at every hop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from avff.engine.spec import SPEC
from avff.trainer.model.layers import Absent, Block
from avff.trainer.model.pooling import FramePool

_S, _F, _T = SPEC.window_slices, SPEC.slice_frames, SPEC.window_frames
MAX_SHIFT = 15
"""Pictures either way in the sync curve: ± 0.6 s."""
_SYNC_WIDTH = 64


class MotionAnswer(Protocol):
    """What :class:`avff.trainer.model.motion.MotionOut` holds."""

    @property
    def logit(self) -> Tensor: ...
    @property
    def desync(self) -> Tensor: ...
    @property
    def sync(self) -> Tensor: ...


@dataclass
class FusionOut:
    """What a network yields for a batch of windows; what an architecture does not have is zeros.

    Attributes:
        clip: ``[N, 4]`` logits: any, video, audio, desync.
        frames: ``[N, 64, 3]`` logits per picture: any, video, audio; the last two mean nothing
            where that modality has no evidence.
        sync: ``[N, 31]`` mean cosine of sound and picture at shifts -15…15 pictures.
        sync_video, sync_audio: ``[N, 64, 64]`` unit vectors the curve is made of (training only).
        predicted: A2V and V2A predictions with their targets (training only): four times
            ``[N, 64, D]``; of avff-b the first pair is ``[N, 1568, D]``, the second ``[N, 320, D]``.
        motion: ``[N, 1]`` logit of the motion head, or None.
    """

    clip: Tensor
    frames: Tensor
    sync: Tensor
    sync_video: Tensor
    sync_audio: Tensor
    predicted: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    motion: Tensor | None = None

    def with_motion(self, motion: MotionAnswer) -> FusionOut:
        """Return it with a motion head's answer, which knows more of synchrony than the tokens do."""
        clip = torch.cat([self.clip[:, :3], motion.desync], dim=1)
        return replace(self, clip=clip, sync=motion.sync, motion=motion.logit)

    def all_heads(self) -> Tensor:
        """Return the logits of all heads, ``[N, 5]``, in the order of ``engine.contract.CLIP_OUTPUTS``."""
        motion = torch.zeros_like(self.clip[:, :1]) if self.motion is None else self.motion
        return torch.cat([self.clip, motion], dim=1)


class CrossPredictor(nn.Module):
    """AVFF's A2V / V2A: per slice, a linear layer over the token axis and one transformer block.

    Args:
        width, heads: of the tokens.
        dropout: in the block.
        given: tokens in a slice of the modality that is there.
        wanted: tokens in a slice of the one that is predicted.
        spread: see :class:`avff.trainer.model.layers.Block`.
    """

    def __init__(
        self, width: int, heads: int, *, dropout: float, given: int = _F, wanted: int = _F, spread: int = 2
    ) -> None:
        super().__init__()
        self.over_tokens = nn.Linear(given, wanted)
        self.block = Block(width, heads, wanted, dropout=dropout, spread=spread)
        self.width, self.given, self.wanted = width, given, wanted

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict slice by slice: ``[N, S * given, D]`` to ``[N, S * wanted, D]``."""
        x = tokens.reshape(-1, self.given, self.width)  # [N * S, given, D]
        x = self.over_tokens(x.transpose(1, 2)).transpose(1, 2)  # [N * S, wanted, D]
        return self.block(x).reshape(-1, _S * self.wanted, self.width)


class TemporalMix(nn.Module):
    """Residual convolution over 5 pictures, across slice borders: ``[N, 64, D]`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, (5, 1), padding=(2, 0))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Mix neighbouring pictures."""
        y = x.transpose(1, 2).reshape(-1, self.width, _T, 1)
        y = functional.gelu(self.conv(y), approximate="tanh")
        return x + y.reshape(-1, self.width, _T).transpose(1, 2)


class TokenHeads(nn.Module):
    """One logit per picture straight from its tokens: what the encoders' stage has learnt, kept as it is.

    A linear answer on slice-local tokens carries over to unseen people and generators better
    than one that a deep fusion makes of them (docs/decisions/0005).

    Args:
        width: token width D.
        sees, hears: False for an architecture without that modality.
    """

    def __init__(self, width: int, *, sees: bool = True, hears: bool = True) -> None:
        super().__init__()
        self.video = nn.Linear(width, 1) if sees else Absent(1)
        self.audio = nn.Linear(width, 1) if hears else Absent(1)


class FusionGraph(nn.Module):
    """What the fusion graphs of all streaming architectures have in common.

    They are called with ``video, audio, landmarks, video_ok, audio_ok`` (see
    :meth:`Fusion.forward`) and answer with a :class:`FusionOut`.

    Attributes:
        tokens: the heads that the encoders' stage trains.
    """

    tokens: TokenHeads


class Fusion(FusionGraph):
    """Tokens and masks of one window to logits.

    Args:
        width: token width D.
        heads: attention heads.
        depth: transformer blocks per modality.
        dropout: in blocks and heads.
        pooling: of what every picture answers.
    """

    def __init__(self, *, width: int, heads: int, depth: int, dropout: float, pooling: FramePool) -> None:
        super().__init__()
        self.pooling = pooling
        self.tokens = TokenHeads(width)
        self.see = nn.Linear(2 * width, width)
        self.hear = nn.Linear(width, width)
        self.unseen = nn.Parameter(torch.zeros(width))
        self.unheard = nn.Parameter(torch.zeros(width))
        self.mix_v, self.mix_a = TemporalMix(width), TemporalMix(width)
        self.sync_v, self.sync_a = nn.Linear(width, _SYNC_WIDTH), nn.Linear(width, _SYNC_WIDTH)
        self.position = nn.Parameter(torch.randn(_T, width) * 0.02)
        self.blocks_v = transformer(width, heads, depth, dropout)
        self.blocks_a = transformer(width, heads, depth, dropout)
        self.a2v = CrossPredictor(width, heads, dropout=dropout)
        self.v2a = CrossPredictor(width, heads, dropout=dropout)
        self.join_v, self.join_a = nn.Linear(3 * width, width), nn.Linear(3 * width, width)
        self.cross_v = Block(width, heads, _T, dropout=dropout, crosses=True)
        self.cross_a = Block(width, heads, _T, dropout=dropout, crosses=True)
        self.frame_any = nn.Linear(2 * width, 1)
        self.heads = JointHeads(width, dropout=dropout)
        self.band: Tensor
        self.register_buffer("band", band_matrix(), persistent=False)

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Fuse one batch of windows.

        Args:
            video, audio, landmarks: tokens ``[N, 64, D]``.
            video_ok, audio_ok: ``[N, 64]``, 1 where there is evidence.
        """
        seen, heard = video_ok.unsqueeze(-1), audio_ok.unsqueeze(-1)
        # A modality's own answer rests on its own tokens: a clean voice must not vouch for a face.
        picture, sound = self.tokens.video(video), self.tokens.audio(audio)  # [N, 64, 1]
        v = self.see(torch.cat([video, landmarks], dim=-1)) * seen + self.unseen * (1 - seen)
        a = self.hear(audio) * heard + self.unheard * (1 - heard)
        v, a = self.mix_v(v), self.mix_a(a)
        sync_v, sync_a = _unit(self.sync_v(v)) * seen, _unit(self.sync_a(a)) * heard
        curve = (sync_v @ sync_a.transpose(1, 2)).reshape(-1, _T * _T) @ self.band  # [N, 31]
        v, a = v + self.position, a + self.position
        for block_v, block_a in zip(self.blocks_v, self.blocks_a, strict=True):
            v, a = block_v(v), block_a(a)
        from_a, from_v = self.a2v(a), self.v2a(v)
        f_v = self.join_v(torch.cat([v, from_a, v - from_a], dim=-1))
        f_a = self.join_a(torch.cat([a, from_v, a - from_v], dim=-1))
        g_v, g_a = self.cross_v(f_v, f_a), self.cross_a(f_a, f_v)  # [N, 64, D]
        frame_any = self.frame_any(torch.cat([g_v, g_a], dim=-1))  # [N, 64, 1]
        frames = torch.cat([frame_any, picture, sound], dim=-1)
        any_logit, desync = self.heads(g_v, g_a, curve)
        any_logit = self.pooling.with_frames(any_logit, frame_any, seen, heard)
        clip = torch.cat([any_logit, self.pooling(picture, seen), self.pooling(sound, heard), desync], dim=-1)
        return FusionOut(clip, frames, curve, sync_v, sync_a, ((from_a, v), (from_v, a)))


class JointHeads(nn.Module):
    """What only both modalities together can tell: any manipulation at all, and lost synchrony."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        inputs = 4 * width + 2 * MAX_SHIFT + 1
        self.any, self.desync = mlp_head(inputs, dropout), mlp_head(inputs, dropout)

    def forward(self, g_v: Tensor, g_a: Tensor, curve: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, each ``[N, 1]``, from fused tokens ``[N, 64, D]`` and the sync curve."""
        joint = torch.cat([pool(g_v), pool(g_a), curve], dim=-1)
        return self.any(joint), self.desync(joint)


def transformer(width: int, heads: int, depth: int, dropout: float) -> nn.ModuleList:
    """Return blocks over the 64 tokens of a window."""
    return nn.ModuleList(Block(width, heads, _T, dropout=dropout) for _ in range(depth))


def mlp_head(inputs: int, dropout: float) -> nn.Sequential:
    """Return a small head: ``[N, inputs]`` to one logit ``[N, 1]``."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, 64), nn.GELU(approximate="tanh"), nn.Linear(64, 1)
    )


def pool(x: Tensor) -> Tensor:
    """Mean and maximum over time: ``[N, 64, D]`` to ``[N, 2 D]``."""
    return torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=-1)


def without_cross(clip: Tensor, frames: Tensor, width: int) -> FusionOut:
    """Return the answer of a network that never compares sound and picture: those parts are zeros.

    Args:
        clip: ``[N, 4]`` logits.
        frames: ``[N, 64, 3]`` logits.
        width: token width D, for the shape of the predictions.
    """
    blank = torch.zeros_like(frames[..., 0])  # [N, 64]
    vectors = blank.unsqueeze(-1).expand(-1, -1, _SYNC_WIDTH)
    tokens = blank.unsqueeze(-1).expand(-1, -1, width)
    return FusionOut(
        clip, frames, blank[:, : 2 * MAX_SHIFT + 1], vectors, vectors, ((tokens, tokens), (tokens, tokens))
    )


def _unit(x: Tensor) -> Tensor:
    # 1e-4, not the customary 1e-12, which underflows in FP16.
    return x / (x.pow(2).sum(dim=-1, keepdim=True) + 1e-4).sqrt()


def band_matrix() -> Tensor:
    """Return a constant ``[4096, 31]``: column k averages pairs whose sound lies k - 15 pictures later."""
    lag = torch.arange(_T)[None, :] - torch.arange(_T)[:, None]  # sound index minus picture index
    bands = [(lag == k).float() / (_T - abs(k)) for k in range(-MAX_SHIFT, MAX_SHIFT + 1)]
    return torch.stack([b.reshape(-1) for b in bands], dim=1)
