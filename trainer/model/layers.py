"""Building blocks that export cleanly: explicit attention, no data-dependent shapes.

``nn.MultiheadAttention`` is avoided: it bakes the batch into its reshapes on export,
and without ``batch_first`` attends across the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Dense 2-D convolution, batch norm, ReLU.  Dense 3x3 suits both CPUs and FP16 tensor cores."""

    def __init__(
        self, inputs: int, outputs: int, *, size: int = 3, stride: int | tuple[int, int] = 1
    ) -> None:
        padding = 0 if size == 4 else size // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class TemporalShift(nn.Module):
    """Let each picture see its neighbours in the slice: an eighth of the channels move either way.

    Costs nothing (Lin et al., ICCV 2019, arXiv:1811.08383).  Zeros enter at the slice's
    borders, so nothing crosses them.

    Args:
        frames: pictures in a slice.
        channels: channels of the feature map.
        side: its height and width.
    """

    def __init__(self, frames: int, channels: int, side: int) -> None:
        super().__init__()
        self.frames, self.channels, self.side = frames, channels, side
        self.moved = channels // 8

    def forward(self, x: Tensor) -> Tensor:
        """Shift ``[N * F, C, H, W]`` along the pictures of each slice."""
        split = x.reshape(-1, self.frames, self.channels, self.side, self.side)  # [N, F, C, H, W]
        m = self.moved
        blank = torch.zeros_like(split[:, :1, :m])
        earlier = torch.cat([split[:, 1:, :m], blank], dim=1)
        later = torch.cat([blank, split[:, :-1, m : 2 * m]], dim=1)
        mixed = torch.cat([earlier, later, split[:, :, 2 * m :]], dim=2)
        return mixed.reshape(-1, self.channels, self.side, self.side)  # [N * F, C, H, W]


class ShiftBlock(nn.Module):
    """Residual: x + ConvNorm(TemporalShift(x))."""

    def __init__(self, frames: int, channels: int, side: int) -> None:
        super().__init__()
        self.shift = TemporalShift(frames, channels, side)
        self.conv = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[N * F, C, H, W]``."""
        return x + self.conv(self.shift(x))


class Attention(nn.Module):
    """Multi-head attention of ``x`` over ``context`` with explicit products.

    Args:
        width: token width D.
        heads: must divide D.
        length: tokens in both sequences; fixed, so that only the batch is dynamic.
    """

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.length, self.size = heads, length, width // heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend: ``[N, L, D]`` over ``[N, L, D]`` gives ``[N, L, D]``."""
        shape = (-1, self.length, self.heads, self.size)
        # Scaling q before the product keeps FP16 in range.
        q = self.q(x).reshape(shape).transpose(1, 2) * self.size**-0.5  # [N, H, L, d]
        k, v = self.kv(context).chunk(2, dim=-1)
        k = k.reshape(shape).permute(0, 2, 3, 1)  # [N, H, d, L]
        v = v.reshape(shape).transpose(1, 2)  # [N, H, L, d]
        mixed = torch.softmax(q @ k, dim=-1) @ v  # [N, H, L, d]
        return self.out(mixed.transpose(1, 2).reshape(-1, self.length, self.heads * self.size))


class Block(nn.Module):
    """Pre-norm transformer block; attends over itself, or over ``context`` when given.

    Args:
        width, heads, length: see :class:`Attention`.
        dropout: after attention and in and after the feed-forward layers.
        crosses: whether it is called with a context.
        spread: hidden width of the feed-forward layers in token widths.
    """

    def __init__(
        self, width: int, heads: int, length: int, *, dropout: float, crosses: bool = False, spread: int = 2
    ) -> None:
        super().__init__()
        self.norm_x = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width) if crosses else nn.Identity()
        self.attention = Attention(width, heads, length)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, spread * width),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(spread * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Keep the shape ``[N, L, D]``."""
        normed = self.norm_x(x)
        other = normed if context is None else self.norm_context(context)
        x = x + self.dropout(self.attention(normed, other))
        return x + self.dropout(self.feed(x))


class Absent(nn.Module):
    """Zeros where an architecture has no encoder or head: ``[N, L, ...]`` to ``[N, L, width]``.

    It has no parameters; the place stays, so that every architecture has the same parts.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Answer nothing."""
        return torch.zeros_like(x.flatten(2)[..., :1]).expand(-1, -1, self.width)
