"""The losses: unknown labels are silent, and only genuine windows teach what belongs together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from avff.trainer.losses import (
    LossWeights,
    cross_loss,
    frame_sync_loss,
    masked_bce,
    masked_focal,
    masked_reconstruction,
    slice_contrast_loss,
    sync_loss,
    total_loss,
)
from avff.trainer.model.fusion import FusionOut
from tests.support import training  # noqa: F401  # one thread

NAN = float("nan")
N, T, D = 4, 64, 8
GENUINE = [0.0, 0.0, 0.0, 0.0]


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors that take gradients."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(values, dim=-1).requires_grad_()


def output() -> FusionOut:
    """A network's answers whose every part is a leaf, so that gradients show what a loss looks at."""
    make = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(shape, generator=make, requires_grad=True)
        for shape in [(N, 4), (N, T, 3), (N, 31), (N, T, D), (N, T, D), (N, T, D), (N, T, D)]
    ]
    clip, frames, sync, a, b, c, d = leaves
    return FusionOut(clip, frames, sync, unit(N, T, D, seed=1), unit(N, T, D, seed=2), ((a, b), (c, d)))


def labels(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def gradient(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.grad is None else x.grad


def test_known_labels_cost_binary_cross_entropy() -> None:
    """Without smoothing and with every label known it is the textbook formula."""
    logits, wanted = torch.tensor([[0.3, -1.2], [2.0, 0.0]]), labels([1.0, 0.0], [0.0, 1.0])
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    y = wanted.numpy()
    expected = float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
    assert float(masked_bce(logits, wanted, 0.0)) == pytest.approx(expected, rel=1e-5)


def test_unknown_labels_have_no_gradient() -> None:
    """NaN means unknown: it moves nothing, and the mean is over the known ones."""
    logits = torch.randn(3, 4, requires_grad=True)
    wanted = labels([1, NAN, 0, NAN], [NAN, NAN, NAN, NAN], [0, 1, NAN, 1])
    loss = masked_bce(logits, wanted, 0.05)
    torch.autograd.backward(loss)
    known = ~torch.isnan(wanted)
    assert (gradient(logits)[~known] == 0).all()
    assert (gradient(logits)[known] != 0).all()
    alone = masked_bce(logits.detach()[known], wanted[known], 0.05)
    assert float(loss.detach()) == pytest.approx(float(alone), rel=1e-6)


def test_no_known_label_costs_nothing() -> None:
    """A batch without labels gives 0, not NaN."""
    logits = torch.randn(2, 4, requires_grad=True)
    loss = masked_bce(logits, torch.full((2, 4), NAN), 0.05)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert not gradient(logits).any()


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("smoothing", [0.05, 0.2])
def test_smoothing_is_least_at_its_own_odds(label: float, smoothing: float) -> None:
    """The best logit is finite: the log-odds of the smoothed target, on the label's side."""
    logits = torch.linspace(-6, 6, 2401)
    each = torch.stack([masked_bce(x[None], torch.tensor([label]), smoothing) for x in logits])
    target = label * (1 - smoothing) + smoothing / 2
    best = float(logits[each.argmin()])
    assert best == pytest.approx(math.log(target / (1 - target)), abs=0.01)
    assert (best > 0) == bool(label)


def test_weights_shift_the_mean_towards_a_column() -> None:
    """A column of weight 0 does not count."""
    logits, wanted = torch.randn(3, 2), torch.ones(3, 2)
    weighted = masked_bce(logits, wanted, 0.0, torch.tensor([1.0, 0.0]))
    assert float(weighted) == pytest.approx(float(masked_bce(logits[:, :1], wanted[:, :1], 0.0)), rel=1e-6)


def test_sync_loss_is_lower_in_sync() -> None:
    """The further the sound is shifted away, the more it costs; in step costs next to nothing."""
    video = unit(2, T, 64).detach()
    costs = [float(sync_loss(video, video.roll(shift, dims=1))) for shift in (0, 1, 8)]
    assert costs[0] < 0.1
    assert min(costs[1:]) > costs[0] + 1


def test_sync_loss_counts_both_directions() -> None:
    """Which modality comes first makes no difference."""
    video, audio = unit(2, T, 16, seed=1).detach(), unit(2, T, 16, seed=2).detach()
    assert float(sync_loss(video, audio)) == pytest.approx(float(sync_loss(audio, video)), rel=1e-5)


def test_sync_loss_of_nothing_is_zero() -> None:
    """A batch without genuine windows still has a loss to go backward from."""
    empty = torch.zeros(0, T, 64, requires_grad=True)
    loss = sync_loss(empty, empty)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0


def test_cross_loss_does_not_move_its_target() -> None:
    """The prediction learns from what is there; what is there does not come to meet it."""
    out = output()
    torch.autograd.backward(cross_loss(out, torch.tensor([True] * N)))
    for predicted, target in out.predicted:
        assert gradient(predicted).any()
        assert not gradient(target).any()


def test_cross_loss_is_one_minus_the_cosine() -> None:
    """0 for the same direction at any length, 2 for the opposite one."""
    out = output()
    (_, b), (_, d) = out.predicted
    genuine = torch.tensor([True] * N)
    for factor, cost in ((3.0, 0.0), (-1.0, 2.0)):
        out.predicted = ((b * factor, b), (d * factor, d))
        assert float(cross_loss(out, genuine).detach()) == pytest.approx(cost, abs=1e-5)


@pytest.mark.parametrize(
    ("row", "seen", "heard", "teaches"),
    [
        (GENUINE, 1.0, 1.0, True),
        ([0.0, 0.0, NAN, 0.0], 1.0, 1.0, True),
        ([1.0, 1.0, 0.0, 0.0], 1.0, 1.0, False),
        ([0.0, 0.0, 0.0, 1.0], 1.0, 1.0, False),
        ([0.0, 0.0, 0.0, NAN], 1.0, 1.0, False),
        (GENUINE, 0.5, 1.0, False),
        (GENUINE, 1.0, 0.5, False),
    ],
    ids=["genuine", "part-unknown", "fake", "desync", "sync-unknown", "half-seen", "half-heard"],
)
def test_only_genuine_windows_teach_what_belongs_together(
    row: list[float], seen: float, heard: float, teaches: bool
) -> None:
    """Sync and cross-modal prediction learn from whole genuine windows in sync, and from no others."""
    out = output()
    wanted = labels(GENUINE, row, GENUINE, GENUINE)
    seen_mask, heard_mask = torch.ones(N, T), torch.ones(N, T)
    seen_mask[1, round(T * seen) :], heard_mask[1, round(T * heard) :] = 0, 0
    terms = total_loss(out, wanted, torch.full((N, T, 3), NAN), seen_mask, heard_mask, LossWeights())
    torch.autograd.backward(terms["sync"] + terms["cross"])
    for x in (out.sync_video, out.sync_audio, out.predicted[0][0], out.predicted[1][0]):
        assert gradient(x)[0].any()
        assert bool(gradient(x)[1].any()) == teaches


def test_total_is_the_weighted_sum_of_its_terms() -> None:
    """Each weight of the settings scales its own term."""
    out = output()
    wanted, frames = labels(GENUINE, [1, 1, 0, 0], GENUINE, [1, 0, 1, 1]), torch.zeros(N, T, 3)
    weights = LossWeights(clip=0.7, frames=0.3, sync=0.2, cross=0.1)
    ones = torch.ones(N, T)
    terms = {k: float(v.detach()) for k, v in total_loss(out, wanted, frames, ones, ones, weights).items()}
    assert all(terms[k] > 0 for k in ("clip", "frames", "sync", "cross"))
    expected = sum(getattr(weights, k) * terms[k] for k in ("clip", "frames", "sync", "cross"))
    assert terms["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("column", range(4))
def test_a_logit_is_pushed_towards_its_own_label(column: int) -> None:
    """1 means fake: the right column's logit rises for a fake and falls for a genuine window."""
    out = output()
    wanted = torch.full((N, 4), NAN)
    wanted[0, column], wanted[1, column] = 1.0, 0.0
    ones = torch.ones(N, T)
    torch.autograd.backward(
        total_loss(out, wanted, torch.full((N, T, 3), NAN), ones, ones, LossWeights())["clip"]
    )
    assert gradient(out.clip)[0, column] < 0 < gradient(out.clip)[1, column]
    moved = gradient(out.clip) != 0
    assert moved.sum() == 2


def test_focal_loss_of_gamma_zero_is_cross_entropy() -> None:
    """Smoothing, weights and unknown labels mean the same in both."""
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    wanted = labels([1, 0, NAN, 1], [0, 0, 1, NAN], [1, 1, 1, 1], [NAN] * 4, [0, 1, 0, 1])
    weight = torch.tensor([1.0, 0.6, 0.6, 0.3])
    for arguments in ((0.0, None), (0.1, None), (0.1, weight)):
        found = masked_focal(logits, wanted, *arguments, gamma=0.0)
        assert float(found) == pytest.approx(float(masked_bce(logits, wanted, *arguments)), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_follows_its_formula(gamma: float) -> None:
    """(1 - p) ** gamma times the cross-entropy, where p is what the right answer was given."""
    logits, wanted = torch.tensor([3.0, -1.0, 0.5, -4.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-np.where(wanted.numpy() == 1, logits.numpy(), -logits.numpy()).astype(np.float64)))
    expected = float((-((1 - p) ** gamma) * np.log(p)).mean())
    assert float(masked_focal(logits, wanted, 0.0, gamma=gamma)) == pytest.approx(expected, rel=1e-5)


def test_gamma_counts_both_kinds_of_answers_and_nothing_else() -> None:
    """It changes the terms per window and per picture; synchrony and prediction stay as they are."""
    out, ones = output(), torch.ones(N, T)
    wanted, frames = labels(GENUINE, [1, 1, 0, 0], GENUINE, [1, 0, 1, 1]), torch.ones(N, T, 3)
    plain, focal = (
        total_loss(out, wanted, frames, ones, ones, LossWeights(focal_gamma=g, label_smoothing=0.1))
        for g in (0.0, 2.0)
    )
    assert torch.equal(plain["frames"], masked_bce(out.frames, frames, 0.1))
    assert torch.equal(focal["frames"], masked_focal(out.frames, frames, 0.1, gamma=2.0))
    each = torch.tensor([1.0, 0.6, 0.6, 0.3])
    assert torch.equal(plain["clip"], masked_bce(out.clip, wanted, 0.1, each))
    assert torch.equal(focal["clip"], masked_focal(out.clip, wanted, 0.1, each, gamma=2.0))
    assert all(torch.equal(plain[term], focal[term]) for term in ("sync", "cross"))


def test_focal_loss_is_silent_about_the_unknown_and_finite_at_extremes() -> None:
    """NaN moves nothing, and certainty, right or wrong, has a finite gradient."""
    logits = torch.tensor([200.0, -200.0, 200.0, 1.0], requires_grad=True)
    torch.autograd.backward(masked_focal(logits, torch.tensor([1.0, 1.0, 0.0, NAN]), 0.0, gamma=0.5))
    assert torch.isfinite(gradient(logits)).all()
    assert gradient(logits)[3] == 0
    assert gradient(logits)[1] < 0 < gradient(logits)[2]


def test_reconstruction_costs_hidden_tokens_only() -> None:
    """The mean squared error of what was hidden; nothing else has a gradient."""
    rebuilt = torch.randn(2, T, 5, requires_grad=True)
    target, hidden = torch.randn(2, T, 5), (torch.rand(2, T) < 0.5).float()
    loss = masked_reconstruction(rebuilt, target, hidden)
    torch.autograd.backward(loss)
    chosen = hidden.bool()
    expected = float((rebuilt.detach() - target)[chosen].square().mean())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal((gradient(rebuilt) != 0).any(2), chosen)
    assert float(masked_reconstruction(target, target + 1, hidden * 0)) == 0


def reference_nce(similarity: np.ndarray, compared: np.ndarray, right: np.ndarray) -> float:
    """InfoNCE pair by pair, for one matrix of cosines."""
    costs = []
    for i, j in np.argwhere(compared & right):
        for scores, allowed, own in ((similarity[i], compared[i], j), (similarity[:, j], compared[:, j], i)):
            logits = scores.astype(np.float64) / 0.1
            costs.append(np.log(np.exp(logits[allowed]).sum()) - logits[own])
    return float(np.mean(costs))


@pytest.mark.parametrize("late", [-15, -4, 0, 1, 7])
def test_frame_sync_loss_equals_a_plain_loop(late: int) -> None:
    """31 shifts, one right, its neighbours left out, and nothing that was not seen or heard."""
    video, audio = unit(1, T, 16, seed=1).detach(), unit(1, T, 16, seed=2).detach()
    seen, heard = torch.ones(1, T), torch.ones(1, T)
    seen[0, 10:14], heard[0, 30:33] = 0, 0
    found = float(frame_sync_loss(video, audio, seen, heard, torch.tensor([late])))
    compared, right = np.zeros((T, T), np.bool_), np.zeros((T, T), np.bool_)
    for picture in range(T):
        for sound in range(T):
            shift = sound - picture
            there = bool(seen[0, picture]) and bool(heard[0, sound])
            compared[picture, sound] = there and abs(shift) <= 15 and abs(shift - late) != 1
            right[picture, sound] = shift == late
    similarity = (video @ audio.transpose(1, 2))[0].numpy()
    assert found == pytest.approx(reference_nce(similarity, compared, right), rel=1e-4)


def test_frame_sync_loss_wants_the_true_shift() -> None:
    """Sound that comes seven pictures late costs little where that is known, and much elsewhere."""
    video = unit(2, T, 64).detach()
    audio, there = video.roll(7, dims=1), torch.ones(2, T)
    costs = {k: float(frame_sync_loss(video, audio, there, there, torch.tensor([k, k]))) for k in (-7, 0, 7)}
    assert costs[7] < 0.1
    assert min(costs[-7], costs[0]) > costs[7] + 1


def test_a_tokens_place_in_its_slice_is_no_synchrony() -> None:
    """Codes of the place alone, which answer for sound in step, are worse than silence for shifted sound."""
    place = functional.one_hot(torch.arange(T) % 8, 8).float().expand(31, -1, -1)
    there, blank = torch.ones(31, T), torch.full((31, T, 1), 1.0)
    shifts = torch.arange(-15, 16)
    in_step = frame_sync_loss(place, place, there, there, shifts * 0)
    shifted = frame_sync_loss(place, place, there, there, shifts)
    silent = frame_sync_loss(blank, blank, there, there, shifts)
    assert float(in_step) < float(silent) - 1
    assert float(shifted) > float(silent)


def test_contrast_equals_a_plain_loop() -> None:
    """The same slice of other windows is the negative; absent slices are none."""
    video, audio = unit(5, 8, 16, seed=3).detach(), unit(5, 8, 16, seed=4).detach()
    there = torch.ones(5, 8)
    there[1, 2] = there[4] = 0
    pairs, total = 0, 0.0
    for s in range(8):
        known = there[:, s].numpy().astype(np.bool_)
        similarity = (video[:, s] @ audio[:, s].T).numpy()
        cost = reference_nce(similarity, known[:, None] & known, np.eye(5, dtype=np.bool_))
        pairs, total = pairs + known.sum(), total + cost * known.sum()
    assert float(slice_contrast_loss(video, audio, there)) == pytest.approx(total / pairs, rel=1e-4)


def test_contrasts_of_nothing_are_zero_and_finite() -> None:
    """Windows without face or sound cost nothing and leave no NaN behind."""
    video, audio = unit(2, T, 8, seed=5), unit(2, T, 8, seed=6)
    absent, late = torch.zeros(2, T), torch.zeros(2, dtype=torch.long)
    loss = frame_sync_loss(video, audio, absent, absent, late)
    loss = loss + slice_contrast_loss(video[:, :8], audio[:, :8], absent[:, :8])
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert not gradient(video).any()
    assert not gradient(audio).any()
