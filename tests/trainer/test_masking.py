"""Complementary masks: whole slices, exactly half of them, each seen or heard and never both."""

from __future__ import annotations

import numpy as np
import torch

from avff.engine.spec import SPEC
from avff.trainer.masking import draw_masks, fill_in

T, S, F = SPEC.window_frames, SPEC.window_slices, SPEC.slice_frames


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_four_slices_are_seen_and_the_other_four_heard() -> None:
    """Whatever is drawn, every slice is visible in exactly one modality, from its first token to its last."""
    for seed in range(200):
        see, hear = draw_masks(rng(seed))
        assert see.shape == hear.shape == (T,)
        assert torch.equal(see + hear, torch.ones(T))
        slices = hear.reshape(S, F)
        assert torch.equal(slices.amin(1), slices.amax(1))
        assert int(slices[:, 0].sum()) == S // 2


def test_every_choice_of_four_slices_is_drawn() -> None:
    """All 70 masks occur about equally often; none is special."""
    draws = 7000
    source = rng(0)
    masks = [tuple(draw_masks(source)[1].reshape(S, F)[:, 0].int().tolist()) for _ in range(draws)]
    counts = np.unique(np.array(masks), axis=0, return_counts=True)[1]
    assert len(counts) == 70
    assert abs(counts - draws / 70).max() < 5 * np.sqrt(draws / 70)


def test_a_seed_gives_the_same_mask_again() -> None:
    """Masks depend on their generator only, and differ from one seed to another."""
    assert all(torch.equal(*(draw_masks(rng(seed))[0] for _ in range(2))) for seed in range(5))
    assert len({tuple(draw_masks(rng(seed))[0].tolist()) for seed in range(20)}) > 10


def test_the_other_modality_stands_in_where_a_slice_is_hidden() -> None:
    """Visible tokens are the modality's own, hidden ones the prediction."""
    own, predicted = torch.zeros(2, T, 3), torch.ones(2, T, 3)
    visible = torch.stack([draw_masks(rng(seed))[0] for seed in range(2)])
    filled = fill_in(own, predicted, visible)
    assert torch.equal(filled, (1 - visible).unsqueeze(-1).expand(-1, -1, 3))
