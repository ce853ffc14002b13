"""Figures of merit, each with its definition; intervals resample whole groups of clips.

A figure that is not defined, for want of a class or of any score, is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Called = npt.NDArray[np.bool_]
"""True where a clip is called fake."""
BOOTSTRAP_ROUNDS = 2000


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % percentile bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(labels: Labels, scores: Float64) -> float:
    """Area under the ROC curve: the chance that a fake scores above a genuine clip; NaN for one class."""
    if not _both(labels):
        return float("nan")
    points = curve(labels, scores)
    return float(np.trapezoid(points.true, points.false))


@dataclass(frozen=True)
class Curve:
    """What every threshold finds, from one above all scores down to the lowest score.

    Attributes:
        false: share of genuine clips called fake, float64 ``[k]``, 0 first and 1 last.
        true: share of fakes found, float64 ``[k]``, likewise.
        precision: share of fakes among what is called fake, float64 ``[k]``; 1 where nothing is.
    """

    false: Float64
    true: Float64
    precision: Float64


def curve(labels: Labels, scores: Float64) -> Curve:
    """Count at each threshold that a score can be; both classes must be there."""
    # Counted here, for intervals ask for thousands of curves: scikit-learn's take ten times as long.
    order = np.argsort(-scores, kind="stable")
    ranked = labels[order]
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = np.append(0, np.cumsum(ranked)[last])
    called = np.append(0, last + 1)
    precision = np.append(1.0, found[1:] / called[1:])
    return Curve((called - found) / (len(labels) - found[-1]), found / found[-1], precision)


def average_precision(labels: Labels, scores: Float64) -> float:
    """Precision at each threshold, weighted by the fakes it adds; its chance level is the share of fakes."""
    if not _both(labels):
        return float("nan")
    points = curve(labels, scores)
    return float(np.sum(np.diff(points.true) * points.precision[1:]))


def tpr_at(labels: Labels, scores: Float64, fpr: float) -> float:
    """Share of fakes found at the threshold that lets at most ``fpr`` of genuine clips be called fake."""
    if not _both(labels):
        return float("nan")
    points = curve(labels, scores)
    return float(points.true[points.false <= fpr].max())


def equal_error_rate(labels: Labels, scores: Float64) -> float:
    """Error rate where both kinds of error are equally frequent."""
    if not _both(labels):
        return float("nan")
    points = curve(labels, scores)
    at = int(np.argmin(np.abs(points.false - (1 - points.true))))
    return float((points.false[at] + 1 - points.true[at]) / 2)


def partial_auc(labels: Labels, scores: Float64, fpr: float) -> float:
    """Area under the ROC curve up to a false-positive rate, scaled so that 0.5 is chance (McClish, 1989)."""
    if not _both(labels):
        return float("nan")
    points = curve(labels, scores)
    kept = points.false <= fpr
    false = np.append(points.false[kept], fpr)
    true = np.append(points.true[kept], np.interp(fpr, points.false, points.true))
    area, chance = np.trapezoid(true, false), fpr * fpr / 2
    return float((1 + (area - chance) / (fpr - chance)) / 2)


@dataclass(frozen=True)
class Bin:
    """Clips whose probabilities lie next to each other.

    Attributes:
        probability: their mean probability of fake, 0…1.
        fakes: the share of them that is fake, 0…1.
        count: how many they are.
    """

    probability: float
    fakes: float
    count: int


def reliability_bins(labels: Labels, probabilities: Float64, bins: int = 15) -> list[Bin]:
    """Sort by probability and cut into at most ``bins`` bins of equal mass (Nguyen and O'Connor, 2015)."""
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order))))
    return [Bin(float(probabilities[p].mean()), float(labels[p].mean()), len(p)) for p in parts if len(p)]


def calibration_error(labels: Labels, probabilities: Float64, bins: int = 15) -> float:
    """Expected calibration error: mean gap of probability and share of fakes in bins of equal mass."""
    made = reliability_bins(labels, probabilities, bins)
    gaps = [abs(b.fakes - b.probability) * b.count for b in made]
    return float(sum(gaps) / len(labels)) if made else float("nan")


def even_calibration_error(labels: Labels, probabilities: Float64, bins: int = 15) -> float:
    """Expected calibration error as it would be with as many genuine items as fakes; NaN for one class.

    Scores are for even odds.  On items of which three in four are fakes an honest score of 0.5 would be
    counted as 0.25 too low, which says nothing of the score.
    """
    if not _both(labels):
        return float("nan")
    weights = np.where(labels == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    order = np.argsort(probabilities, kind="stable")
    labels, probabilities, weights = labels[order], probabilities[order], weights[order]
    # An item belongs to the bin in which the middle of its weight lies.
    place = ((np.cumsum(weights) - weights / 2) * bins).astype(int)
    gaps = np.bincount(place, weights * (labels - probabilities))
    return float(np.abs(gaps).sum())


def brier(labels: Labels, probabilities: Float64) -> float:
    """Mean squared distance of the probability from the label (Brier, 1950); 0.25 for always one half."""
    return float(np.mean((probabilities - labels) ** 2)) if len(labels) else float("nan")


def negative_log_likelihood(labels: Labels, logits: Float64) -> float:
    """Mean of -ln(probability given to the true class), in nats; 0.693 for always one half."""
    signed = np.where(labels == 1, -logits, logits)
    return float(np.logaddexp(0, signed).mean()) if len(labels) else float("nan")


def accuracy(labels: Labels, called_fake: Called) -> float:
    """Share of right answers; means nothing without :func:`majority_baseline` beside it."""
    return float((called_fake == labels).mean()) if len(labels) else float("nan")


# The figures at a threshold are counted here: scikit-learn's take a millisecond each, and intervals
# ask for thousands.
def balanced_accuracy(labels: Labels, called_fake: Called) -> float:
    """Mean of both classes' recall; 0.5 for any constant answer."""
    if not _both(labels):
        return float("nan")
    return float((called_fake[labels == 1].mean() + 1 - called_fake[labels == 0].mean()) / 2)


def f1(labels: Labels, called_fake: Called) -> float:
    """Harmonic mean of precision and recall of fakes; NaN when nothing is fake and nothing is called so."""
    found, called, fakes = int(called_fake[labels == 1].sum()), int(called_fake.sum()), int(labels.sum())
    return 2 * found / (called + fakes) if called + fakes else float("nan")


def always_fake_f1(prior: float) -> float:
    """F1 of calling everything fake where the share of fakes is ``prior``: what an F1 has to beat."""
    return 2 * prior / (1 + prior)


def majority_baseline(labels: Labels) -> float:
    """Accuracy of always answering the more frequent class."""
    return float(max(labels.mean(), 1 - labels.mean())) if len(labels) else float("nan")


def _both(labels: Labels) -> bool:
    return bool(0 < labels.sum() < len(labels))


def bootstrap(
    figure: Callable[[Labels, Float64], float],
    labels: Labels,
    scores: Float64,
    groups: Sequence[str],
    *,
    seed: int = 0,
) -> Interval:
    """Return a figure with an interval that resamples groups, not clips.

    Clips of one person or one footage are not independent: counting them so would
    make the interval too narrow.

    Args:
        figure: of labels and scores.
        labels: 1 fake, 0 genuine.
        scores: higher is more fake.
        groups: group of each clip.
        seed: of the resampling.
    """
    if not len(labels):
        return Interval(float("nan"), float("nan"), float("nan"))
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(BOOTSTRAP_ROUNDS):
        chosen = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        if _both(labels[chosen]):
            values.append(figure(labels[chosen], scores[chosen]))
    low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    return Interval(figure(labels, scores), float(low), float(high))
