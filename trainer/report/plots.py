"""The report's plots, as matplotlib figures; :func:`draw_all` writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avff.trainer import metrics
from avff.trainer.evaluate import ClipScore
from avff.trainer.report.figures import Scored
from avff.trainer.report.history import Epoch, best_f1, majority_prior, stages_of
from avff.trainer.report.style import (
    BLACK,
    BLUE,
    GENERATED,
    GENUINE,
    GREEN,
    GREY,
    ORANGE,
    legend_below,
    panels,
    save,
    styled,
)
from avff.trainer.report.tables import confusion

HISTOGRAM_BINS = 25
RELIABILITY_BINS = 10
"""Fewer than the 15 of the calibration error: each point is to rest on clips enough to be looked at."""


def draw_all(
    directory: Path, history: Sequence[Epoch], scores: Sequence[ClipScore], threshold: float
) -> list[str]:
    """Write every plot that there is data for.

    Args:
        directory: made if missing; plots of an earlier report in it are replaced.
        history: of the run.
        scores: of the clips that judge.
        threshold: probability from which a clip is called fake.

    Returns:
        the names of the files written.

    Raises:
        OSError: the folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    scored = Scored.of(scores)
    drawn: dict[str, Callable[[], Figure]] = {}
    for name, keys, draw in _OF_HISTORY:
        if any(math.isfinite(e.get(k)) for e in history for k in keys):
            drawn[name] = partial(draw, history)
    if scored.has_both():
        drawn["roc.png"] = partial(roc, scored, threshold)
        drawn["pr.png"] = partial(precision_recall, scored, threshold)
    if len(scored.labels):
        drawn["reliability.png"] = partial(reliability, scored)
        drawn["score_histogram.png"] = partial(score_histogram, scored, threshold)
        drawn["confusion_matrix.png"] = partial(confusion_matrix, scores, threshold)
    for name, figure in drawn.items():
        save(figure(), directory / name)
    return list(drawn)


@styled
def learning_curves(history: Sequence[Epoch]) -> Figure:
    """Training and validation loss by epoch, a panel for each stage."""
    lines = {"train/loss": ("training", BLUE, "o"), "val/loss": ("validation", ORANGE, "s")}
    figure = _by_epoch(history, lines, "loss", "Loss")
    legend_below(figure)
    return figure


@styled
def training_metrics(history: Sequence[Epoch]) -> Figure:
    """Validation AUC, accuracy and F1 by epoch, a panel for each stage; the best F1 is marked.

    The dashed line is the accuracy of always giving the more frequent answer.
    """
    lines = {
        "val/auc": ("AUC", BLUE, "o"),
        "val/accuracy": ("accuracy", GREEN, "s"),
        "val/f1": ("F1", ORANGE, "^"),
    }
    figure = _by_epoch(history, lines, "validation figure, 0…1", "Validation")
    best = best_f1(history)
    for axes in figure.axes:
        axes.set_ylim(0, 1.02)
        prior = majority_prior([e for e in history if e.stage == axes.get_gid()])
        if math.isfinite(prior):
            axes.axhline(prior, ls="--", color=GREY, label=f"accuracy to beat, {prior:.3f}")
        if best is not None and axes.get_gid() == best.stage:
            axes.plot(best.epoch + 1, best.get("val/f1"), "o", ms=15, mfc="none", mec=BLACK, mew=1.6,
                      label="best F1 (chooses nothing)")  # fmt: skip
    legend_below(figure)
    return figure


@styled
def learning_rate(history: Sequence[Epoch]) -> Figure:
    """Learning rate by epoch, on a logarithmic axis, a panel for each stage."""
    figure = _by_epoch(
        history, {"lr": ("learning rate", BLUE, "o")}, "learning rate at the epoch's end", "Learning rate"
    )
    rates = [e.get("lr") for e in history if math.isfinite(e.get("lr"))]
    for axes in figure.axes:
        if min(rates) > 0:
            axes.set_yscale("log")
    return figure


_OF_HISTORY = (
    ("learning_curves.png", ("train/loss", "val/loss"), learning_curves),
    ("training_metrics.png", ("val/auc", "val/accuracy", "val/f1"), training_metrics),
    ("learning_rate.png", ("lr",), learning_rate),
)


def _by_epoch(
    history: Sequence[Epoch], lines: dict[str, tuple[str, str, str]], unit: str, title: str
) -> Figure:
    """A panel for each stage that has measured one of the figures; where one is NaN its line has a gap."""
    stages = {
        stage: epochs
        for stage, epochs in stages_of(history).items()
        if any(math.isfinite(e.get(name)) for e in epochs for name in lines)
    }
    figure, every = panels(len(stages))
    for axes, (stage, epochs) in zip(every, stages.items(), strict=True):
        axes.set_gid(stage)
        for name, (label, colour, marker) in lines.items():
            values = [e.get(name) for e in epochs]
            if np.isfinite(values).any():
                numbers = [e.epoch + 1 for e in epochs]
                axes.plot(numbers, values, marker=marker, ms=5, color=colour, label=label)
        axes.set(title=f"{title}: stage {stage}", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    every[0].set_ylabel(unit)
    return figure


@styled
def roc(scored: Scored, threshold: float) -> Figure:
    """ROC curve with the diagonal of guessing and the point of the frozen threshold."""
    points = metrics.curve(scored.labels, scored.logits)
    figure, (axes,) = panels()
    area = metrics.auc(scored.labels, scored.logits)
    axes.plot(points.false, points.true, color=BLUE, label=f"model, AUC {area:.3f}")
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="guessing, AUC 0.500")
    called = scored.called_fake(threshold)
    at = (float(called[scored.labels == 0].mean()), float(called[scored.labels == 1].mean()))
    axes.plot(*at, "o", ms=10, color=ORANGE, label=f"at threshold {threshold:.3f}", clip_on=False, zorder=3)
    axes.set(title="ROC, whole clips", xlabel="false-positive rate (genuine called fake), 0…1",
             ylabel="true-positive rate (fakes found), 0…1")  # fmt: skip
    _square(axes)
    legend_below(figure)
    return figure


@styled
def precision_recall(scored: Scored, threshold: float) -> Figure:
    """Precision-recall curve with the share of fakes, which guessing gets, and the frozen threshold."""
    points = metrics.curve(scored.labels, scored.logits)
    figure, (axes,) = panels()
    average = metrics.average_precision(scored.labels, scored.logits)
    prior = float(scored.labels.mean())
    axes.plot(
        points.true, points.precision, color=BLUE, drawstyle="steps-pre", label=f"model, AP {average:.3f}"
    )
    axes.axhline(prior, ls="--", color=GREY, label=f"guessing: share of fakes {prior:.3f}")
    called = scored.called_fake(threshold)
    if called.any():
        at = (float(called[scored.labels == 1].mean()), float(scored.labels[called].mean()))
        axes.plot(
            *at, "o", ms=10, color=ORANGE, label=f"at threshold {threshold:.3f}", clip_on=False, zorder=3
        )
    axes.set(title="Precision and recall, whole clips", xlabel="recall (fakes found), 0…1",
             ylabel="precision (called fake and fake), 0…1")  # fmt: skip
    _square(axes)
    legend_below(figure)
    return figure


def _square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02))


@styled
def reliability(scored: Scored) -> Figure:
    """Share of fakes against the probability given, in bins of equal mass, with the clips in each."""
    bins = metrics.reliability_bins(scored.labels, scored.probabilities, RELIABILITY_BINS)
    error = metrics.calibration_error(scored.labels, scored.probabilities)
    figure, (axes,) = panels()
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="a probability that can be believed")
    axes.plot([b.probability for b in bins], [b.fakes for b in bins], "o-", ms=8, color=BLUE,
              label=f"model, calibration error {error:.3f}", clip_on=False)  # fmt: skip
    for number, b in enumerate(bins):
        # Bins of equal mass lie close together where scores do: counts take turns above and below.
        away = 11 if number % 2 else -20
        axes.annotate(str(b.count), (b.probability, b.fakes), xytext=(0, away), textcoords="offset points",
                      ha="center", color=BLACK, fontsize=11)  # fmt: skip
    axes.plot([], [], " ", marker="$n$", color=BLACK, label="clips in the bin")
    axes.set(title="Reliability, whole clips", xlabel="mean probability of fake in the bin, 0…1",
             ylabel="share of fakes in the bin, 0…1", xlim=(0, 1), ylim=(-0.1, 1.1))  # fmt: skip
    legend_below(figure)
    return figure


@styled
def score_histogram(scored: Scored, threshold: float) -> Figure:
    """Clips of both classes by probability, and the frozen threshold."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist()
    figure, (axes,) = panels()
    for label, name, colour, filled in ((0, "genuine", GENUINE, True), (1, "generated", GENERATED, False)):
        values = scored.probabilities[scored.labels == label]
        share = np.full(len(values), 100 / max(1, len(values)))
        axes.hist(values, edges, weights=share, histtype="stepfilled" if filled else "step",
                  color=colour, alpha=0.45 if filled else 1.0, linewidth=2.4,
                  label=f"{name}, {len(values)} clips")  # fmt: skip
    axes.axvline(threshold, color=BLACK, ls="--", label=f"threshold {threshold:.3f}")
    axes.set(title="Scores of whole clips", xlabel="probability of fake, 0…1",
             ylabel="clips, % of their class", xlim=(0, 1))  # fmt: skip
    legend_below(figure)
    return figure


@styled
def confusion_matrix(scores: Sequence[ClipScore], threshold: float) -> Figure:
    """Counts by class and answer, shaded by their share of the class."""
    counts = confusion(scores, threshold)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = panels()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        axes.text(column, row, f"{counts[row, column]}\n{share:.0%}", ha="center", va="center", fontsize=16,
                  color="white" if share > 0.55 else "black")  # fmt: skip
    axes.set_xticks(range(3), ["not called fake", "called fake", "no score"])
    axes.set_yticks(range(2), ["genuine", "generated"])
    axes.set(title=f"Clips by class and answer at threshold {threshold:.3f}", xlabel="answer", ylabel="class")
    axes.grid(False)
    return figure
