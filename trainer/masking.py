"""Complementary masks: what stage 1 hides of a window (AVFF, Oorloff et al., CVPR 2024, arXiv:2406.02951).

Half of the slices are visible in the sound, the other half in the picture, so that every
slice is seen or heard and never both: one modality has to stand in for the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from avff.engine.spec import SPEC

_S, _F = SPEC.window_slices, SPEC.slice_frames


def draw_masks(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the masks of one window, whole slices at a time.

    Args:
        rng: source of the draw.

    Returns:
        ``see`` and ``hear``, float32 ``[64]`` each, 1 where the picture (the sound) is visible.
        Exactly four of the eight slices are visible in either, and ``see + hear`` is 1 throughout.
    """
    heard = torch.from_numpy(rng.permutation(_S) < _S // 2)
    hear = heard.float().repeat_interleave(_F)
    return 1 - hear, hear


def fill_in(own: Tensor, predicted: Tensor, visible: Tensor) -> Tensor:
    """Put what the other modality predicts where a modality itself is hidden.

    Args:
        own: tokens ``[N, 64, D]`` of the modality.
        predicted: tokens ``[N, 64, D]`` made of the other one.
        visible: ``[N, 64]``, 1 where ``own`` may be used.
    """
    return torch.where(visible.unsqueeze(-1) > 0, own, predicted)
