"""Figures of merit, each with its definition; intervals resample whole groups of clips.

A figure that is not defined, for want of a class or of any score, is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_curve

Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
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
    # By ranks: scikit-learn's takes twenty times as long, and is asked for thousands of resamplings.
    fakes = int(labels.sum())
    pairs_won = rankdata(scores)[labels == 1].sum() - fakes * (fakes + 1) / 2
    return float(pairs_won / (fakes * (len(labels) - fakes)))


def average_precision(labels: Labels, scores: Float64) -> float:
    """Area under the precision-recall curve; its chance level is the share of fakes."""
    return float(average_precision_score(labels, scores)) if labels.any() else float("nan")


def tpr_at(labels: Labels, scores: Float64, fpr: float) -> float:
    """Share of fakes found at the threshold that lets at most ``fpr`` of genuine clips be called fake."""
    if not _both(labels):
        return float("nan")
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(true[false <= fpr].max())


def equal_error_rate(labels: Labels, scores: Float64) -> float:
    """Error rate where both kinds of error are equally frequent."""
    if not _both(labels):
        return float("nan")
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    at = int(np.argmin(np.abs(false - (1 - true))))
    return float((false[at] + 1 - true[at]) / 2)


def calibration_error(labels: Labels, probabilities: Float64, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass (Nguyen and O'Connor, 2015)."""
    order = np.argsort(probabilities)
    if not len(order):
        return float("nan")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(labels[p].mean() - probabilities[p].mean()) * len(p) for p in parts]
    return float(sum(gaps) / len(order))


def balanced_accuracy(labels: Labels, called_fake: npt.NDArray[np.bool_]) -> float:
    """Mean of both classes' recall; 0.5 for any constant answer."""
    return float(balanced_accuracy_score(labels, called_fake)) if _both(labels) else float("nan")


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
