"""Late fusion and the single modalities: what makes them baselines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avff.engine.spec import SPEC
from avff.trainer.model.avff import Architecture, StreamingNet
from avff.trainer.model.fusion import FusionOut
from tests.trainer.model.networks import BASELINES, small_streaming_net

T = SPEC.window_frames


def tokens(count: int = 2) -> list[Tensor]:
    """Random arguments of a fusion graph with all evidence there."""
    make = torch.Generator().manual_seed(1)
    return [
        *(torch.randn(count, T, 16, generator=make) for _ in range(3)),
        torch.ones(count, T),
        torch.ones(count, T),
    ]


def fuse(net: StreamingNet, arguments: list[Tensor]) -> FusionOut:
    with torch.no_grad():
        out: FusionOut = net.fusion(*arguments)
    return out


@pytest.mark.parametrize("architecture", BASELINES)
def test_what_a_baseline_does_not_have_is_zero(architecture: Architecture) -> None:
    """No baseline answers for synchrony, and a single modality answers for itself alone."""
    net = small_streaming_net(architecture)
    out = fuse(net, tokens())
    absent = {"late-fusion": {3}, "audio-only": {1, 3}, "video-only": {2, 3}}[architecture]
    assert {k for k in range(4) if not out.clip[:, k].any()} == absent
    assert {k for k in range(3) if not out.frames[..., k].any()} == absent - {3}
    assert not out.sync.any()
    assert not any(x.any() for pair in out.predicted for x in pair)


def test_late_fusion_sees_no_order() -> None:
    """Averages over the window do not change when the sound is put in another order; single pictures do."""
    net, before = small_streaming_net("late-fusion"), tokens()
    order = torch.randperm(T, generator=torch.Generator().manual_seed(2))
    turned = [x[:, order] if k == 1 else x for k, x in enumerate(before)]
    one, other = fuse(net, before), fuse(net, turned)
    torch.testing.assert_close(one.clip, other.clip, rtol=0, atol=1e-5)
    assert (one.frames - other.frames).abs().max() > 1e-3


def test_late_fusion_averages_over_what_is_there() -> None:
    """A window of which half is missing is judged as the other half is."""
    net, before = small_streaming_net("late-fusion"), tokens()
    before[3][:, 32:], before[4][:, 32:] = 0.0, 0.0
    doubled = [torch.cat([x[:, :32], x[:, :32]], dim=1) for x in before]
    torch.testing.assert_close(fuse(net, before).clip, fuse(net, doubled).clip, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["audio-only", "video-only"])
def test_single_modality_sees_order(architecture: Architecture) -> None:
    """It keeps the streaming network's positions: the same slices in another order are another window."""
    net, before = small_streaming_net(architecture), tokens()
    turned = [x.reshape(2, 8, 8, 16).flip(1).reshape(x.shape) if k < 3 else x for k, x in enumerate(before)]
    assert (fuse(net, before).clip - fuse(net, turned).clip).abs().max() > 1e-3


@pytest.mark.parametrize(("architecture", "mask"), [("audio-only", 4), ("video-only", 3)])
def test_single_modality_notices_that_evidence_is_missing(architecture: Architecture, mask: int) -> None:
    """Under a mask of 0 no token matters, and the window is not judged as if it were whole."""
    net, whole = small_streaming_net(architecture), tokens()
    gap = [x.clone() for x in whole]
    gap[mask][:, 8:24] = 0.0
    noise = [x.clone() for x in gap]
    for k in range(3):
        noise[k][:, 8:24] = 10.0
    assert torch.equal(fuse(net, gap).clip, fuse(net, noise).clip)
    assert (fuse(net, gap).clip - fuse(net, whole).clip).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "absent"), [("audio-only", ("video", "landmarks")), ("video-only", ("audio",))]
)
def test_single_modality_has_no_encoder_for_the_other(
    architecture: Architecture, absent: tuple[str, ...]
) -> None:
    """The other modality's encoders have no parameters, and their tokens are zeros of the usual shape."""
    net = small_streaming_net(architecture)
    slices = {
        "video": torch.rand(3, 8, 3, 128, 128),
        "audio": torch.rand(3, 2, 80, 32),
        "landmarks": torch.rand(3, 8, 184),
    }
    for name, x in slices.items():
        encoder = net.get_submodule(name)
        found = encoder(x)
        assert found.shape == (3, 8, 16)
        assert (not found.any()) == (name in absent)
        assert (sum(p.numel() for p in encoder.parameters()) == 0) == (name in absent)
