"""From one logit per picture to one of the window: their mean, or a log-sum-exp.

The log-sum-exp is that of Pinheiro and Collobert (CVPR 2015, arXiv:1411.6228), with the
temperature T for their 1 / r::

    T * log(mean over the pictures that are there of exp(logit / T))

It lies between the mean, which it nears as T grows, and the maximum, which it nears as T goes
to 0.  A short manipulated passage raises it where a mean would drown it, and its gradient goes to
the pictures that gave it away.  AVH-Align (Smeu et al., CVPR 2025, arXiv:2412.00175) pools its
frame scores so with T = 1 and the sum in place of the mean; the mean does not depend on how
many pictures are there.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "lse"]
_AWAY = 1e4
"""How far below every logit a picture that is not there is put; within what FP16 can hold."""


class FramePool(nn.Module):
    """Pools what every picture answers; it has no parameters.

    Args:
        pooling: ``mean`` or ``lse``.
        temperature: T of the log-sum-exp, above 0; a mean has no use for it.
    """

    def __init__(self, pooling: Pooling = "mean", temperature: float = 1.0) -> None:
        super().__init__()
        self.pooling, self.temperature = pooling, temperature

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Pool ``[N, L, C]`` to ``[N, C]`` over the steps that are there (``[N, L, 1]``), 0 when none is."""
        return masked_mean(x, there) if self.pooling == "mean" else masked_lse(x, there, self.temperature)

    def with_frames(self, window: Tensor, frames: Tensor, seen: Tensor, heard: Tensor) -> Tensor:
        """Return the answer of both modalities together, ``[N, 1]``.

        With ``lse`` the head on the whole window answers for what no single picture shows, and the
        pooled pictures are added to it; with ``mean`` it answers alone.

        Args:
            window: logit of the head on the whole window, ``[N, 1]``.
            frames: logits per picture, ``[N, L, 1]``.
            seen, heard: ``[N, L, 1]``; a picture counts that has evidence of either kind.
        """
        return window if self.pooling == "mean" else window + self(frames, torch.maximum(seen, heard))


def masked_mean(x: Tensor, there: Tensor) -> Tensor:
    """Mean over the steps that are there (``[N, L, 1]``): ``[N, L, C]`` to ``[N, C]``, 0 when none is."""
    return (x * there).sum(dim=1) / there.sum(dim=1).clamp(min=1.0)


def masked_lse(x: Tensor, there: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp over the steps that are there, by their number and the temperature.

    Args:
        x: ``[N, L, C]``.
        there: ``[N, L, 1]``, 1 or 0.
        temperature: above 0.

    Returns:
        float32 ``[N, C]``, 0 when no step is there.
    """
    # Sums of exponentials stay in 32 bits, whatever precision made the logits.
    x, there = x.float(), there.float()
    count = there.sum(dim=1)
    some = count.clamp(max=1.0)
    low = x * there - _AWAY * (1 - there)
    # The maximum cancels out of value and gradient; without it exp would overflow.
    top = low.amax(dim=1, keepdim=True).detach()
    total = (((low - top) / temperature).exp() * there).sum(dim=1)
    # Where nothing is there the logarithm is of 1, not of 0.
    mean = total / count.clamp(min=1.0) + (1 - some)
    return (temperature * mean.log() + top.squeeze(1)) * some
