"""The building blocks: nothing leaks over a slice's border or into another item of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avff.trainer.model.layers import Attention, Block, TemporalShift
from tests.support import training  # noqa: F401  # one thread

FRAMES, CHANNELS, SIDE = 8, 16, 3
N, LENGTH, WIDTH = 3, 8, 12


def features(slices: int) -> torch.Tensor:
    """Feature maps ``[slices * 8, 16, 3, 3]``, all different and none zero."""
    count = slices * FRAMES * CHANNELS * SIDE * SIDE
    return torch.arange(1.0, count + 1).reshape(-1, CHANNELS, SIDE, SIDE)


def test_temporal_shift_moves_an_eighth_each_way() -> None:
    """The first eighth comes from the next picture, the second from the one before, the rest stays."""
    x = features(1)
    y = TemporalShift(FRAMES, CHANNELS, SIDE)(x)
    eighth = CHANNELS // 8
    assert torch.equal(y[:-1, :eighth], x[1:, :eighth])
    assert torch.equal(y[1:, eighth : 2 * eighth], x[:-1, eighth : 2 * eighth])
    assert torch.equal(y[:, 2 * eighth :], x[:, 2 * eighth :])


def test_temporal_shift_lets_zeros_in_at_a_slices_borders() -> None:
    """What a slice's last picture would get from the next slice is zero, and likewise the first."""
    y = TemporalShift(FRAMES, CHANNELS, SIDE)(features(2)).reshape(2, FRAMES, CHANNELS, SIDE, SIDE)
    eighth = CHANNELS // 8
    assert not y[:, -1, :eighth].any()
    assert not y[:, 0, eighth : 2 * eighth].any()
    assert y[:, :-1, :eighth].all()


def attention(seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    return Attention(WIDTH, 3, LENGTH)


def test_attention_equals_pytorchs_own() -> None:
    """The explicit products are multi-head attention as ``nn.MultiheadAttention`` has it."""
    ours = attention()
    theirs = nn.MultiheadAttention(WIDTH, 3, batch_first=True)
    with torch.no_grad():
        assert theirs.in_proj_weight is not None
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, context = torch.randn(N, LENGTH, WIDTH), torch.randn(N, LENGTH, WIDTH)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0], rtol=0, atol=1e-5)


def test_attention_does_not_mix_items_of_a_batch() -> None:
    """Changing one item, in tokens and context, leaves the others' answers as they were."""
    layer = attention()
    x, context = torch.randn(N, LENGTH, WIDTH), torch.randn(N, LENGTH, WIDTH)
    before = layer(x, context)
    x[1], context[1] = torch.randn(LENGTH, WIDTH), torch.randn(LENGTH, WIDTH)
    after = layer(x, context)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=0, atol=1e-6)
    assert (after[1] - before[1]).abs().max() > 0.01


def test_attention_follows_a_permutation_of_the_tokens() -> None:
    """Without positions, tokens in another order give the same answers in that order."""
    layer = attention()
    x, order = torch.randn(N, LENGTH, WIDTH), torch.randperm(LENGTH)
    torch.testing.assert_close(layer(x[:, order], x[:, order]), layer(x, x)[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("crosses", [False, True], ids=["self", "cross"])
def test_block_is_residual(crosses: bool) -> None:
    """A block whose last layers are zero passes its tokens on untouched."""
    torch.manual_seed(0)
    block = Block(WIDTH, 3, LENGTH, dropout=0.5, crosses=crosses).eval()
    x, context = torch.randn(N, LENGTH, WIDTH), torch.randn(N, LENGTH, WIDTH) if crosses else None
    assert not torch.allclose(block(x, context), x)
    last = block.feed[-1]
    assert isinstance(last, nn.Linear)
    for layer in (block.attention.out, last):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(x, context), x)


def test_crossing_block_looks_at_its_context() -> None:
    """Another context gives another answer."""
    torch.manual_seed(0)
    block = Block(WIDTH, 3, LENGTH, dropout=0.0, crosses=True).eval()
    x, context = torch.randn(N, LENGTH, WIDTH), torch.randn(N, LENGTH, WIDTH)
    assert not torch.allclose(block(x, context), block(x, context.flip(1) * 2))
