"""Figures of merit against a few lines of numpy each."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
)

from avff.trainer import metrics
from avff.trainer.metrics import (
    Float64,
    Interval,
    Labels,
    accuracy,
    always_fake_f1,
    auc,
    average_precision,
    balanced_accuracy,
    bootstrap,
    brier,
    calibration_error,
    equal_error_rate,
    even_calibration_error,
    f1,
    majority_baseline,
    negative_log_likelihood,
    partial_auc,
    reliability_bins,
    tpr_at,
)


def data(seed: int, count: int = 80, *, decimals: int = 1) -> tuple[Labels, Float64]:
    """Overlapping scores with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, np.round(rng.normal(labels, 1.0), decimals)


@pytest.mark.parametrize("seed", range(4))
def test_auc_counts_pairs(seed: int) -> None:
    """The share of pairs in which the fake scores higher; a tie is half a pair."""
    labels, scores = data(seed)
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    wins = sum((fake > real) + 0.5 * (fake == real) for fake, real in pairs)
    assert auc(labels, scores) == pytest.approx(wins / len(pairs))


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_the_mean_precision_at_each_fake(seed: int) -> None:
    """Precision at every fake, from the highest score down."""
    labels, scores = data(seed, decimals=9)
    ordered = labels[np.argsort(-scores)]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    assert average_precision(labels, scores) == pytest.approx(precision[ordered == 1].mean())


@pytest.mark.parametrize("seed", range(4))
def test_ranking_figures_are_scikit_learns(seed: int) -> None:
    """Ties included, the areas agree with the library that is too slow to resample with."""
    labels, scores = data(seed)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )
    genuine = int((labels == 0).sum())
    for fpr in (0.1, 0.5, 4 / genuine):  # the last is a corner of the curve
        wanted = roc_auc_score(labels, scores, max_fpr=fpr)
        assert partial_auc(labels, scores, fpr) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_probabilities_are_scikit_learns(seed: int) -> None:
    """Brier score, likelihood, F1 and balanced accuracy."""
    labels, logits = data(seed)
    probabilities = 1 / (1 + np.exp(-logits))
    called = probabilities >= 0.6
    assert brier(labels, probabilities) == pytest.approx(brier_score_loss(labels, probabilities))
    assert negative_log_likelihood(labels, logits) == pytest.approx(log_loss(labels, probabilities))
    assert f1(labels, called) == pytest.approx(f1_score(labels, called))
    assert balanced_accuracy(labels, called) == pytest.approx(balanced_accuracy_score(labels, called))
    assert accuracy(labels, called) == pytest.approx((labels == called).mean())


def test_likelihood_of_a_sure_answer_is_finite() -> None:
    """Log-odds far out cost what they are when wrong, nothing when right, and never overflow."""
    labels = np.array([1, 0])
    assert negative_log_likelihood(labels, np.array([900.0, -900.0])) == pytest.approx(0)
    assert negative_log_likelihood(labels, np.array([-900.0, 900.0])) == pytest.approx(900)


@pytest.mark.parametrize("fakes", [1, 5, 65])
def test_always_fake_f1_is_what_calling_everything_fake_gets(fakes: int) -> None:
    """Of 80 clips with 65 fakes it is the 0.897 that looks like a good classifier."""
    labels = np.array([1] * fakes + [0] * (80 - fakes))
    assert always_fake_f1(float(labels.mean())) == pytest.approx(f1_score(labels, np.ones(80)))


def test_f1_without_fakes_called_or_true_is_not_defined() -> None:
    """Nothing to find and nothing found is no success and no failure."""
    assert math.isnan(f1(np.zeros(3, np.int64), np.zeros(3, np.bool_)))
    assert f1(np.ones(3, np.int64), np.zeros(3, np.bool_)) == 0


def test_bins_hold_all_clips_in_order() -> None:
    """Sorted by probability, as many in one as in another, none lost."""
    labels, scores = data(1, 50, decimals=9)
    probabilities = 1 / (1 + np.exp(-scores))
    bins = reliability_bins(labels, probabilities, 4)
    assert [b.count for b in bins] == [13, 13, 12, 12]
    assert [b.probability for b in bins] == sorted(b.probability for b in bins)
    assert sum(b.fakes * b.count for b in bins) == pytest.approx(labels.sum())
    assert sum(b.probability * b.count for b in bins) == pytest.approx(probabilities.sum())


@pytest.mark.parametrize("fpr", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_tpr_is_the_best_that_the_false_alarms_allow(seed: int, fpr: float) -> None:
    """Of all thresholds with few enough false alarms, the one that finds most fakes."""
    labels, scores = data(seed)
    thresholds = [*np.unique(scores), np.inf]
    real, fake = scores[labels == 0], scores[labels == 1]
    allowed = [float((fake >= t).mean()) for t in thresholds if (real >= t).mean() <= fpr]
    assert tpr_at(labels, scores, fpr) == pytest.approx(max(allowed))


@pytest.mark.parametrize("seed", range(4))
def test_equal_error_rate_is_where_the_errors_meet(seed: int) -> None:
    """At the threshold where misses and false alarms are closest, their mean."""
    labels, scores = data(seed, decimals=9)
    real, fake = scores[labels == 0], scores[labels == 1]
    errors = [((real >= t).mean(), (fake < t).mean()) for t in [*scores, np.inf]]
    false, missed = min(errors, key=lambda e: abs(e[0] - e[1]))
    assert equal_error_rate(labels, scores) == pytest.approx((false + missed) / 2, abs=1e-9)


def test_calibration_error_is_the_gap_in_bins_of_equal_mass() -> None:
    """Two bins: of four clips at 0.2 none is fake, of four at 0.6 three are."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    probabilities = np.array([0.2] * 4 + [0.6] * 4)
    expected = (abs(0 - 0.2) * 4 + abs(0.75 - 0.6) * 4) / 8
    assert calibration_error(labels, probabilities, bins=2) == pytest.approx(expected)


def test_calibration_error_of_honest_probabilities_is_small() -> None:
    """When 30 % of what is called 30 % is fake, the error goes to zero; overconfidence does not."""
    rng = np.random.default_rng(0)
    probabilities = rng.random(20_000)
    labels = (rng.random(20_000) < probabilities).astype(np.int64)
    assert calibration_error(labels, probabilities) < 0.02
    assert calibration_error(labels, np.round(probabilities)) > 0.2


def test_even_calibration_error_does_not_depend_on_how_many_are_fake() -> None:
    """Honest at even odds is honest with nine fakes to one genuine item; the plain figure says otherwise."""
    rng = np.random.default_rng(0)
    probabilities = rng.random(40_000)
    labels = (rng.random(40_000) < probabilities).astype(np.int64)
    kept = (labels == 1) | (rng.random(40_000) < 1 / 9)
    assert even_calibration_error(labels[kept], probabilities[kept]) < 0.03
    assert calibration_error(labels[kept], probabilities[kept]) > 0.2
    assert even_calibration_error(labels, np.round(probabilities)) > 0.2
    assert np.isnan(even_calibration_error(np.ones(4, np.int64), np.full(4, 0.5)))


def test_balanced_accuracy_is_the_mean_recall() -> None:
    """A constant answer gets one half whatever the majority."""
    labels = np.array([1] * 8 + [0] * 2)
    called = np.array([True] * 6 + [False] * 2 + [True, False])
    assert balanced_accuracy(labels, called) == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert balanced_accuracy(labels, np.ones(10, np.bool_)) == 0.5


@pytest.mark.parametrize(("fakes", "baseline"), [(8, 0.8), (5, 0.5), (1, 0.9)])
def test_majority_baseline_is_the_larger_share(fakes: int, baseline: float) -> None:
    """What always saying the more frequent class would get."""
    assert majority_baseline(np.array([1] * fakes + [0] * (10 - fakes))) == pytest.approx(baseline)


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1, 1]], ids=["none", "genuine", "fake"])
def test_figure_that_is_not_defined_is_nan(labels: list[int]) -> None:
    """Without both classes there is nothing to tell apart, and no warning and no crash either."""
    wanted, scores = np.array(labels, np.int64), np.linspace(0.1, 0.9, len(labels))
    figures = [auc(wanted, scores), equal_error_rate(wanted, scores), tpr_at(wanted, scores, 0.05)]
    figures += [average_precision(wanted, scores), partial_auc(wanted, scores, 0.1)]
    figures.append(balanced_accuracy(wanted, scores > 0.5))
    interval = bootstrap(auc, wanted, scores, [str(k) for k in range(len(labels))])
    figures += [interval.value, interval.low, interval.high]
    assert all(math.isnan(f) for f in figures)
    assert math.isnan(majority_baseline(wanted)) == (not labels)
    for figure in (calibration_error, brier, negative_log_likelihood):
        assert math.isnan(figure(wanted, scores)) == (not labels)
    assert math.isnan(accuracy(wanted, scores > 0.5)) == (not labels)


def test_interval_of_repeated_clips_is_not_narrower() -> None:
    """Five copies of each clip are no new evidence: by group the interval stays, clip by clip it shrinks."""
    labels, scores = data(3, 40)
    names = [f"person {k}" for k in range(40)]
    once = bootstrap(auc, labels, scores, names)
    copied, copies = np.repeat(labels, 5), np.repeat(scores, 5)
    clustered = bootstrap(auc, copied, copies, np.repeat(names, 5).tolist())
    naive = bootstrap(auc, copied, copies, [str(k) for k in range(200)])
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert naive.high - naive.low < 0.7 * (clustered.high - clustered.low)


def test_interval_is_of_resampled_figures() -> None:
    """It encloses the figure, repeats with its seed, and narrows with more groups."""
    widths = []
    for count in (40, 400):
        labels, scores = data(0, count)
        names = [str(k) for k in range(count)]
        interval = bootstrap(auc, labels, scores, names)
        assert interval == bootstrap(auc, labels, scores, names)
        assert interval.low < interval.value < interval.high
        assert interval.value == auc(labels, scores)
        widths.append(interval.high - interval.low)
    assert 2 < widths[0] / widths[1] < 5  # the square root of ten, about


def test_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 samples of the same population, nearly all intervals hold its AUC."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 300)
    truth = 0.5 * (1 + math.erf(1 / 2))  # two normals one standard deviation apart
    held = 0
    for seed in range(40):
        labels, scores = data(seed + 100, 60, decimals=9)
        interval = bootstrap(auc, labels, scores, [str(k // 2) for k in range(60)])
        held += interval.low <= truth <= interval.high
    assert held >= 34


def test_interval_reads_as_text() -> None:
    """Three decimals, the interval in brackets."""
    assert str(Interval(0.71249, 0.6, 0.8)) == "0.712 [0.600, 0.800]"
