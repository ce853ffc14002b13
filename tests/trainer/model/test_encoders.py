"""The encoders: tokens of a slice depend on that slice alone, so a stream may keep them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from avff.engine.features import audio_tensor
from avff.engine.spec import SPEC
from avff.trainer.export import graphs_of, tensor_specs
from avff.trainer.model.avff import Avff
from tests.support.training import SMALL, random_windows, seeded_net

ENCODERS = ("video", "audio", "landmarks")


@pytest.fixture(scope="module")
def net() -> Avff:
    return seeded_net()


def encoder(net: Avff, name: str) -> Callable[[Tensor], Tensor]:
    """The encoder without gradients."""
    return torch.no_grad()(graphs_of(net)[name])


def slices(name: str, count: int = 5) -> Tensor:
    """Random input ``[count, ...]`` of an encoder."""
    video, audio, landmarks, *_ = random_windows(1)
    return {"video": video, "audio": audio, "landmarks": landmarks}[name][0][:count].clone()


@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_have_the_contracts_shape(net: Avff, name: str) -> None:
    """One slice gives 8 tokens of the network's width."""
    inputs, outputs = tensor_specs(name, net.token_widths())
    x = slices(name)
    assert tuple(x.shape[1:]) == inputs[0].shape
    assert tuple(encoder(net, name)(x).shape) == (5, *outputs[0].shape)
    assert outputs[0].shape == (SPEC.slice_frames, net.config.width)


@pytest.mark.parametrize("name", ENCODERS)
def test_changing_a_slice_changes_only_its_tokens(net: Avff, name: str) -> None:
    """Nothing crosses the border between two slices."""
    x = slices(name)
    before = encoder(net, name)(x)
    x[2] = torch.rand_like(x[2])
    after = encoder(net, name)(x)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-5)
    assert (after[2] - before[2]).abs().max() > 0.01


@pytest.mark.parametrize("name", ENCODERS)
def test_one_slice_alone_equals_the_same_slice_in_a_batch(net: Avff, name: str) -> None:
    """A batch of 1 equals a batch of N."""
    x = slices(name)
    together = encoder(net, name)(x)
    alone = torch.cat([encoder(net, name)(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("end", [0, SPEC.slice_frames - 1], ids=["first", "last"])
def test_tokens_run_along_time(net: Avff, name: str, end: int) -> None:
    """A change in the 40 ms at one end of a slice moves the token there, and not the one at the other end."""
    x = slices(name, 1)
    before = encoder(net, name)(x)
    if name == "audio":
        x[..., 4 * end : 4 * end + 4] += 1.0
    else:
        x[:, end] += 1.0
    moved = (encoder(net, name)(x) - before).abs().amax(dim=-1)[0]
    assert moved[end] > 1e-4
    assert moved[SPEC.slice_frames - 1 - end] == 0


def test_a_click_moves_the_audio_token_of_its_own_40_ms(net: Avff) -> None:
    """Audio tokens run along time and not along frequency: the click at picture k is in token k."""
    frame = SPEC.slice_samples // SPEC.slice_frames
    silence = torch.zeros(SPEC.context_samples + SPEC.slice_samples).numpy()
    encode = encoder(net, "audio")
    still = encode(torch.from_numpy(audio_tensor(silence))[None])
    peaks = []
    for k in range(SPEC.slice_frames):
        click = silence.copy()
        click[SPEC.context_samples + k * frame + frame // 2] = 1.0
        moved = (encode(torch.from_numpy(audio_tensor(click))[None]) - still).abs().amax(dim=-1)[0]
        peaks.append(int(moved.argmax()))
    # A spectrum ends up to 32 ms after the sample that it is centred on.
    assert all(0 <= peak - k <= 1 for k, peak in enumerate(peaks[:-1]))
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_input_value_reaches_the_tokens(net: Avff, name: str) -> None:
    """No picture, band or landmark is left out on the way."""
    x = slices(name, 1).requires_grad_()
    graphs_of(net)[name](x).square().sum().backward()
    assert x.grad is not None
    along = {"video": (0, 2, 3, 4), "audio": (0, 1), "landmarks": (0,)}[name]
    assert (x.grad.abs().sum(dim=along) > 0).all()


def test_training_mode_differs_from_inference() -> None:
    """The batch norms hold statistics of their own, so the tests above would notice a wrong mode."""
    net = seeded_net(config=SMALL)
    x = slices("video", 2)
    still = encoder(net, "video")(x)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():  # of the network itself: what is exported is always in inference mode
        assert (net.video(x) - still).abs().max() > 0.01
