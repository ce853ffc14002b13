"""The figures of a model on scored clips: one table of definitions, for the report and for its checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avff.trainer import metrics
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Called, Float64, Interval, Labels, bootstrap

FEW_FALSE_ALARMS = 0.1
"""False-positive rate up to which the partial AUC looks: a detector with more is of no use."""


@dataclass(frozen=True)
class Scored:
    """Clips that have a score.

    Attributes:
        labels: int64 ``[n]``, 1 fake, 0 genuine.
        logits: float64 ``[n]``, calibrated log-odds of fake.
        groups: of each clip: the person or footage it shares with others.
    """

    labels: Labels
    logits: Float64
    groups: list[str]

    @classmethod
    def of(cls, scores: Sequence[ClipScore]) -> Scored:
        """Leave out the clips without a score."""
        kept = [s for s in scores if s.logit is not None]
        return cls(
            np.array([s.label for s in kept], np.int64),
            np.array([s.logit for s in kept], np.float64),
            [s.group for s in kept],
        )

    @property
    def probabilities(self) -> Float64:
        """Probability of fake, 0…1, float64 ``[n]``."""
        return probabilities_of(self.logits)

    def called_fake(self, threshold: float) -> Called:
        """Return bool ``[n]``: the clips whose probability reaches the threshold."""
        return np.asarray(self.probabilities >= threshold)

    def has_both(self) -> bool:
        """Whether there are genuine and generated clips to tell apart."""
        return len(np.unique(self.labels)) == 2

    def interval(self, figure: Callable[[Labels, Float64], float]) -> Interval:
        """Return a figure of labels and log-odds, with an interval that resamples groups."""
        return bootstrap(figure, self.labels, self.logits, self.groups)


def probabilities_of(logits: Float64) -> Float64:
    """Turn log-odds into probabilities 0…1; far ends do not overflow."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))


@dataclass(frozen=True)
class Definition:
    """One figure.

    Attributes:
        key: its name in ``figures.json``.
        title: its name in the report.
        of: computes it from labels, log-odds and the frozen threshold.
        to_beat: what knowing nothing gets, from the labels; None where there is no such level.
    """

    key: str
    title: str
    of: Callable[[Labels, Float64, float], float]
    to_beat: tuple[str, Callable[[Labels], float]] | None = None


def _called(figure: Callable[[Labels, Called], float]) -> Callable[[Labels, Float64, float], float]:
    return lambda labels, logits, threshold: figure(labels, probabilities_of(logits) >= threshold)


def _ranked(figure: Callable[..., float], *more: float) -> Callable[[Labels, Float64, float], float]:
    return lambda labels, logits, threshold: figure(labels, logits, *more)


def _believed(figure: Callable[[Labels, Float64], float]) -> Callable[[Labels, Float64, float], float]:
    return lambda labels, logits, threshold: figure(labels, probabilities_of(logits))


def _share(labels: Labels) -> float:
    return float(labels.mean())


def _always_fake(labels: Labels) -> float:
    return metrics.always_fake_f1(_share(labels))


def _constant(value: float) -> Callable[[Labels], float]:
    return lambda labels: value


DEFINITIONS = (
    Definition("auc", "AUC", _ranked(metrics.auc), ("chance", _constant(0.5))),
    Definition("partial_auc", "partial AUC to 10 % FPR, scaled",
               _ranked(metrics.partial_auc, FEW_FALSE_ALARMS), ("chance", _constant(0.5))),
    Definition("average_precision", "average precision", _ranked(metrics.average_precision),
               ("chance", _share)),
    Definition("eer", "equal error rate", _ranked(metrics.equal_error_rate), ("chance", _constant(0.5))),
    Definition("tpr_at_1", "TPR at 1 % FPR", _ranked(metrics.tpr_at, 0.01), ("chance", _constant(0.01))),
    Definition("tpr_at_5", "TPR at 5 % FPR", _ranked(metrics.tpr_at, 0.05), ("chance", _constant(0.05))),
    Definition("accuracy", "accuracy at the threshold", _called(metrics.accuracy),
               ("majority baseline", metrics.majority_baseline)),
    Definition("balanced_accuracy", "balanced accuracy at the threshold", _called(metrics.balanced_accuracy),
               ("constant answer", _constant(0.5))),
    Definition("f1", "F1 at the threshold", _called(metrics.f1), ("always fake", _always_fake)),
    Definition("calibration_error", "expected calibration error, 15 bins",
               _believed(metrics.calibration_error)),
    Definition("even_calibration_error", "the same at even odds", _believed(metrics.even_calibration_error)),
    Definition("brier", "Brier score", _believed(metrics.brier), ("always 0.5", _constant(0.25))),
    Definition("nll", "negative log-likelihood, nats", _ranked(metrics.negative_log_likelihood),
               ("always 0.5", _constant(math.log(2)))),
)  # fmt: skip
"""All figures of the report's head table, in its order."""


@dataclass(frozen=True)
class Judgement:
    """A model's answers on the clips that judge it, and what they amount to.

    Attributes:
        scores: of all clips, with a score or without.
        threshold: probability from which a clip is called fake, frozen before these were seen.
        figures: see :func:`measure`.
        metadata: AUC of the control on container facts.
    """

    scores: Sequence[ClipScore]
    threshold: float
    figures: Mapping[str, Interval]
    metadata: Interval

    @classmethod
    def of(cls, scores: Sequence[ClipScore], threshold: float, metadata: Interval) -> Judgement:
        """Measure the figures."""
        return cls(scores, threshold, measure(Scored.of(scores), threshold), metadata)


def measure(scored: Scored, threshold: float) -> dict[str, Interval]:
    """Compute every figure of :data:`DEFINITIONS`.

    Args:
        scored: the clips.
        threshold: probability from which a clip is called fake, frozen before these were seen.

    Returns:
        figures with 95 % intervals that resample groups, by key; empty without clips.
    """
    if not len(scored.labels):
        return {}
    return {d.key: scored.interval(_at(d, threshold)) for d in DEFINITIONS}


def _at(definition: Definition, threshold: float) -> Callable[[Labels, Float64], float]:
    return lambda labels, logits: definition.of(labels, logits, threshold)
