"""Pooling of pictures: a log-sum-exp between mean and maximum, and a mean that stays what it was."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.model.avff import Architecture, StreamingNet
from avff.trainer.model.pooling import FramePool, masked_lse, masked_mean
from avff.trainer.model.registry import answer, build
from avff.trainer.model.vit import AvffB
from tests.trainer.model.networks import ALL, random_batch, small_config, small_net

T = SPEC.window_frames


def logits(count: int = 3) -> Tensor:
    """Logits of pictures ``[count, 64, 1]`` as a network gives them."""
    return 4 * torch.randn(count, T, 1, generator=torch.Generator().manual_seed(2))


def half(count: int = 3) -> Tensor:
    """Evidence for every other picture, ``[count, 64, 1]``."""
    return (torch.arange(T) % 2).float().reshape(1, T, 1).expand(count, -1, -1)


def pooled_net(architecture: Architecture, pooling: str, temperature: float = 1.0) -> StreamingNet | AvffB:
    """The small network with the same weights under either pooling."""
    net = build(
        replace(small_config(architecture), pooling=pooling, pooling_temperature=temperature)  # type: ignore[arg-type]
    )
    net.load_state_dict(small_net(architecture).state_dict())
    return net.eval()


def test_value_is_the_formula() -> None:
    """T log(mean exp(x / T)) over the pictures that are there, written out in 64 bits."""
    x, there = logits(), half()
    for temperature in (0.25, 1.0, 3.0):
        kept = x[:, 1::2].double()
        wanted = temperature * (kept / temperature).exp().mean(dim=1).log()
        torch.testing.assert_close(masked_lse(x, there, temperature).double(), wanted, rtol=0, atol=1e-5)


def test_pictures_without_evidence_have_no_influence() -> None:
    """Neither on the value nor through a gradient, whatever they answer; without any the answer is 0."""
    x, there = logits(), half()
    for noise in (1e3, -1e3):
        assert torch.equal(masked_lse(x, there, 1.0), masked_lse(x + noise * (1 - there), there, 1.0))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(masked_lse(x, there, 1.0).sum(), x)
    assert (slope[:, 0::2] == 0).all()
    assert (slope[:, 1::2] > 0).all()
    nothing = masked_lse(x, torch.zeros(3, T, 1), 0.5)
    (slope,) = torch.autograd.grad(nothing.sum(), x)
    assert torch.equal(nothing, torch.zeros(3, 1))
    assert torch.equal(slope, torch.zeros_like(slope))


def test_one_suspicious_picture_raises_it_more_than_the_mean() -> None:
    """A passage of 40 ms in 2.56 s: the mean stays with the others, the log-sum-exp moves towards it."""
    calm = torch.full((1, T, 1), -4.0)
    suspicious = calm.clone()
    suspicious[0, 10] = 6.0
    there = torch.ones(1, T, 1)
    rise = {
        name: float(FramePool(name)(suspicious, there) - FramePool(name)(calm, there))
        for name in ("mean", "lse")
    }
    assert rise["mean"] == pytest.approx(10 / 64)
    assert rise["lse"] == pytest.approx(math.log((math.exp(10) + 63) / 64), abs=1e-4)
    assert rise["lse"] > 30 * rise["mean"]


def test_temperature_leads_from_the_maximum_to_the_mean() -> None:
    """Towards 0 the maximum, towards infinity the mean, and never less as it falls."""
    x, there = logits(), half()
    low, high = masked_lse(x, there, 1e-4), masked_lse(x, there, 1e4)
    torch.testing.assert_close(low, x[:, 1::2].amax(dim=1), rtol=0, atol=1e-3)
    torch.testing.assert_close(high, masked_mean(x, there), rtol=0, atol=1e-2)
    steps = [masked_lse(x, there, t) for t in (0.01, 0.1, 1.0, 10.0, 100.0)]
    assert all((a > b).all() for a, b in itertools.pairwise(steps))


def test_far_logits_do_not_overflow() -> None:
    """exp(300) has no place in 32 bits; half precision going in comes out in 32 bits."""
    x = torch.tensor([[300.0], [-300.0]]).reshape(1, 2, 1)
    there = torch.ones(1, 2, 1)
    assert float(masked_lse(x, there, 1.0)) == pytest.approx(300 - math.log(2), abs=1e-3)
    found = masked_lse(x.half(), there.half(), 0.1)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("architecture", ALL)
def test_mean_is_what_it_was_and_the_weights_are_the_same(architecture: Architecture) -> None:
    """The default's parts are plain means; log-sum-exp changes answers of the clip and nothing else."""
    batch = random_batch(2)
    batch.video_ok[0, 8:40], batch.audio_ok[0, 24:56] = 0.0, 0.0
    with torch.no_grad():
        mean, lse = (answer(pooled_net(architecture, p), batch) for p in ("mean", "lse"))
        default = answer(small_net(architecture), batch)
    assert small_config(architecture).pooling == "mean"
    assert torch.equal(default.clip, mean.clip)
    seen, heard = batch.video_ok.unsqueeze(-1), batch.audio_ok.unsqueeze(-1)
    for column, there in ((1, seen), (2, heard)):
        wanted = masked_mean(mean.frames[..., column : column + 1], there)[:, 0]
        torch.testing.assert_close(mean.clip[:, column], wanted, rtol=0, atol=1e-6)
        pooled = masked_lse(lse.frames[..., column : column + 1], there, 1.0)[:, 0]
        torch.testing.assert_close(lse.clip[:, column], pooled, rtol=0, atol=1e-5)
    assert torch.equal(mean.frames, lse.frames)
    assert torch.equal(mean.clip[:, 3], lse.clip[:, 3])
    # What looks at one modality alone has nothing to say of pictures without it.
    evidence = {"video-only": seen, "audio-only": heard}.get(architecture, torch.maximum(seen, heard))
    added = masked_lse(lse.frames[..., :1], evidence, 1.0)[:, 0]
    torch.testing.assert_close(lse.clip[:, 0], mean.clip[:, 0] + added, rtol=0, atol=1e-5)


def test_gradient_goes_to_the_picture_that_gave_it_away() -> None:
    """Through a network: of 64 pictures the one with the highest logit moves the answer most."""
    net = pooled_net("avff-s", "lse", 0.1)
    assert isinstance(net, StreamingNet)
    width = net.config.width
    make = torch.Generator().manual_seed(4)
    video = (10 * torch.randn(1, T, width, generator=make)).requires_grad_()
    other, there = torch.zeros(1, T, width), torch.ones(1, T)
    out = net.fusion(video, other, other, there, there)
    (slope,) = torch.autograd.grad(out.clip[0, 1], video)
    assert int(slope.abs().sum(dim=-1).argmax()) == int(out.frames[0, :, 1].argmax())


def test_pooling_has_no_weights() -> None:
    """A model that was trained before there was a choice loads as it is."""
    assert not list(FramePool("lse").parameters())
    assert not FramePool("lse").state_dict()
    assert isinstance(FramePool(), nn.Module)
