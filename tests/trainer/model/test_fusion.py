"""The fusion graph: what it may not see, the sign of the sync curve, and the size of the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from avff.engine.spec import SPEC
from avff.trainer.model.avff import Avff
from avff.trainer.model.fusion import MAX_SHIFT, FusionOut, band_matrix
from tests.support.training import random_windows, seeded_net

T = SPEC.window_frames
ANSWERS = ("clip", "frames", "sync")


@pytest.fixture(scope="module")
def net() -> Avff:
    return seeded_net()


def tokens(net: Avff, count: int = 3) -> list[Tensor]:
    """Random arguments of the fusion graph with all evidence there."""
    make = torch.Generator().manual_seed(1)
    return [
        *(torch.randn(count, T, net.config.width, generator=make) for _ in range(3)),
        torch.ones(count, T),
        torch.ones(count, T),
    ]


def fuse(net: Avff, arguments: list[Tensor]) -> FusionOut:
    with torch.no_grad():
        out: FusionOut = net.fusion(*arguments)
    return out


def assert_same(one: FusionOut, other: FusionOut, items: slice = slice(None), atol: float = 1e-5) -> None:
    for name in ANSWERS:
        torch.testing.assert_close(
            getattr(one, name)[items], getattr(other, name)[items], rtol=0, atol=atol, msg=name
        )


def test_answers_have_the_documented_shapes(net: Avff) -> None:
    """Clip, frame and sync answers for each window."""
    out = fuse(net, tokens(net))
    shapes = {name: tuple(x.shape) for name, x in vars(out).items() if isinstance(x, Tensor)}
    assert shapes == {
        "clip": (3, 4),
        "frames": (3, T, 3),
        "sync": (3, 31),
        "sync_video": (3, T, 64),
        "sync_audio": (3, T, 64),
    }
    assert {tuple(x.shape) for pair in out.predicted for x in pair} == {(3, T, net.config.width)}


def test_one_window_alone_equals_the_same_window_in_a_batch(net: Avff) -> None:
    """A batch of 1 equals a batch of N, from media to answers, whatever the batch mates lack."""
    windows = random_windows(3)
    windows[3][1], windows[4][2] = 0.0, 0.0
    with torch.no_grad():
        together = net(*windows)
        for i in range(3):
            alone = net(*(w[i : i + 1] for w in windows))
            for name in ANSWERS:
                torch.testing.assert_close(
                    getattr(alone, name)[0], getattr(together, name)[i], rtol=0, atol=1e-5, msg=name
                )


def evident(out: FusionOut, video_ok: Tensor, audio_ok: Tensor) -> FusionOut:
    """The answers without the part logits of pictures that lack that part's evidence."""
    there = torch.stack([torch.ones_like(video_ok), video_ok, audio_ok], dim=-1)
    return replace(out, frames=out.frames * there)


@pytest.mark.parametrize(
    ("mask", "hidden", "other"), [(3, (0, 2), (1,)), (4, (1,), (0, 2))], ids=["picture", "sound"]
)
@pytest.mark.parametrize("where", [slice(None), slice(8, 24), slice(5, 6)], ids=["all", "slices", "one"])
def test_missing_evidence_is_not_seen(
    net: Avff, mask: int, hidden: tuple[int, ...], other: tuple[int, ...], where: slice
) -> None:
    """Under a mask of 0 no token matters; the modality beside it does."""
    before = tokens(net)
    before[mask][:, where] = 0.0
    changed = [x.clone() for x in before]
    for k in hidden:
        changed[k][:, where] = 100 * torch.randn_like(changed[k][:, where])
    one, two = (evident(fuse(net, x), x[3], x[4]) for x in (before, changed))
    assert_same(one, two, atol=0)
    for k in other:
        changed[k][:, where] += 1.0
    assert (fuse(net, before).clip - fuse(net, changed).clip).abs().max() > 1e-4


@pytest.mark.parametrize("mask", [3, 4], ids=["picture", "sound"])
def test_taking_evidence_away_is_noticed(net: Avff, mask: int) -> None:
    """The token for missing evidence is not the token that was there."""
    before = tokens(net)
    after = [x.clone() for x in before]
    after[mask][:, 10] = 0.0
    assert (fuse(net, before).clip - fuse(net, after).clip).abs().max() > 1e-4


@pytest.mark.parametrize(("mask", "hidden"), [(3, (0, 2)), (4, (1,))], ids=["picture", "sound"])
def test_withheld_media_does_not_reach_the_answers(net: Avff, mask: int, hidden: tuple[int, ...]) -> None:
    """From media on: with a modality withheld, any pictures or sound give the same answers."""
    before = random_windows(2)
    before[mask][:] = 0.0
    changed = [torch.rand_like(x) if k in hidden else x for k, x in enumerate(before)]
    with torch.no_grad():
        one, two = (evident(net(*x), x[3], x[4]) for x in (before, changed))
    assert_same(one, two, atol=0)


def test_a_clean_voice_does_not_vouch_for_a_face(net: Avff) -> None:
    """The video head looks at pictures only, and the audio head at sound only."""
    before = tokens(net)
    deaf, blind = [x.clone() for x in before], [x.clone() for x in before]
    deaf[1] = torch.randn_like(deaf[1])
    blind[0], blind[2] = torch.randn_like(blind[0]), torch.randn_like(blind[2])
    own, other = fuse(net, before), {1: fuse(net, deaf), 2: fuse(net, blind)}
    for column, out in other.items():
        assert torch.equal(out.clip[:, column], own.clip[:, column])
        assert torch.equal(out.frames[..., column], own.frames[..., column])
        crossed = 3 - column
        assert (out.clip[:, crossed] - own.clip[:, crossed]).abs().max() > 1e-4
        assert (out.clip[:, 0] - own.clip[:, 0]).abs().max() > 1e-4


def test_cross_prediction_stays_in_its_slice(net: Avff) -> None:
    """A2V and V2A of slice k depend on slice k alone."""
    x = torch.randn(2, T, net.config.width)
    changed = x.clone()
    changed[:, 16:24] += 1.0
    with torch.no_grad():
        moved = (net.fusion.a2v(changed) - net.fusion.a2v(x)).abs().amax(dim=(0, 2))
    assert not moved[:16].any()
    assert not moved[24:].any()
    assert moved[16:24].all()


def test_order_of_slices_matters(net: Avff) -> None:
    """Positions are added in the fusion graph: the same slices in another order are another window."""
    before = tokens(net)
    turned = [x.reshape(3, 8, 8, -1).flip(1).reshape(x.shape) for x in before]
    assert (fuse(net, before).clip - fuse(net, turned).clip).abs().max() > 1e-3
    assert (fuse(net, before).sync - fuse(net, turned).sync).abs().max() > 1e-4


def test_band_matrix_equals_a_loop_over_pairs() -> None:
    """Column k averages the products of picture i with sound i + k - 15."""
    naive = np.zeros((T * T, 2 * MAX_SHIFT + 1), np.float32)
    for picture in range(T):
        for sound in range(T):
            lag = sound - picture
            if abs(lag) <= MAX_SHIFT:
                naive[picture * T + sound, lag + MAX_SHIFT] = 1 / (T - abs(lag))
    np.testing.assert_allclose(band_matrix().numpy(), naive, rtol=1e-6)
    np.testing.assert_allclose(naive.sum(axis=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("late", [-15, -7, -1, 0, 1, 4, 15])
def test_sync_curve_peaks_where_the_sound_lies(late: int) -> None:
    """Sound that comes ``late`` pictures after its picture peaks at index 15 + late."""
    torch.manual_seed(0)
    line = functional.normalize(torch.randn(T + 2 * MAX_SHIFT, 64), dim=-1)
    video = line[MAX_SHIFT : MAX_SHIFT + T]
    audio = line[MAX_SHIFT - late : MAX_SHIFT - late + T]
    curve = (video @ audio.T).reshape(1, -1) @ band_matrix()
    assert int(curve.argmax()) == MAX_SHIFT + late
    assert float(curve.max()) == pytest.approx(1.0, abs=1e-4)


def test_sync_curve_is_the_mean_cosine_of_its_vectors(net: Avff) -> None:
    """The curve that is shown is made of the vectors that the loss sees."""
    out = fuse(net, tokens(net))
    for shift in (-15, -2, 0, 9):
        pictures = range(max(0, -shift), min(T, T - shift))
        cosines = [(out.sync_video[:, t] * out.sync_audio[:, t + shift]).sum(-1) for t in pictures]
        mean = torch.stack(cosines).mean(0)
        torch.testing.assert_close(out.sync[:, MAX_SHIFT + shift], mean, rtol=0, atol=1e-5)
    assert (out.sync.abs() <= 1).all()


def test_size_stays_within_the_budget(net: Avff) -> None:
    """Fewer than 10 million parameters."""
    assert 1e5 < sum(p.numel() for p in net.parameters()) < 1e7


def test_every_parameter_reaches_an_answer(net: Avff) -> None:
    """No layer is built and then left out."""
    windows = random_windows(2)
    windows[3][0, :8], windows[4][1, 8:16] = 0.0, 0.0
    out = net(*windows)
    (out.clip.square().sum() + out.frames.square().sum()).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    net.zero_grad()
    assert idle == []
