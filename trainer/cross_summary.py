"""What a cross-validation amounts to: figures of every fold, their spread, and all clips together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from avff.trainer.metrics import Float64, Interval, Labels
from avff.trainer.pipeline import Outcome
from avff.trainer.report.figures import DEFINITIONS, Definition, Scored
from avff.trainer.report.tables import number, shown, table

FIGURES_FILE, PAGE_FILE = "cross_validation.json", "cross_validation.md"
AT_THRESHOLD = frozenset({"accuracy", "balanced_accuracy", "f1"})
"""Figures that depend on a fold's own threshold."""
_EXPLAINED = """\
Each fold's model was judged on clips that had no part in its training, its choice of epoch, its
calibration or its threshold. The standard deviation is over folds, of the figure of one fold; it is no
standard error of the mean, for the folds share most of their training clips. *Pooled* takes the clips of
all folds together, each with the log-odds and the threshold of its own fold's model; its 95 % interval
resamples groups of clips that share a person or footage. A dash: not defined, for want of scores or of a
class."""


@dataclass(frozen=True)
class CrossFigures:
    """What a cross-validation amounts to; figures by the keys of :data:`DEFINITIONS`, NaN where undefined.

    Attributes:
        by_fold: the figures of each fold's model on the fold's clips.
        mean: over the folds that have the figure.
        deviation: standard deviation over the same (n - 1 in the denominator); NaN for fewer than two.
        pooled: of all folds' clips together, with 95 % intervals that resample groups.
    """

    by_fold: Sequence[Mapping[str, float]]
    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    pooled: Mapping[str, Interval]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> CrossFigures:
        """Measure the figures of finished folds."""
        by_fold = [_figures(o) for o in outcomes]
        defined = {d.key: [f[d.key] for f in by_fold if math.isfinite(f[d.key])] for d in DEFINITIONS}
        return cls(
            by_fold,
            {key: float(np.mean(v)) if v else math.nan for key, v in defined.items()},
            {key: float(np.std(v, ddof=1)) if len(v) > 1 else math.nan for key, v in defined.items()},
            _pooled(outcomes),
        )


def write_summary(directory: Path, name: str, command: str, outcomes: Sequence[Outcome]) -> None:
    """Write ``cross_validation.md`` and, in full precision, ``cross_validation.json``.

    Args:
        directory: where to; made if need be.
        name: of the cross-validation.
        command: what was typed.
        outcomes: of the folds, in order.
    """
    figures = CrossFigures.of(outcomes)
    directory.mkdir(parents=True, exist_ok=True)
    kept = {
        "name": name,
        "command": command,
        "folds": [
            {
                "clips": len(o.scores), "scored": _scored(o), "threshold": o.threshold,
                "figures": _plain(f),
            }
            for o, f in zip(outcomes, figures.by_fold, strict=True)
        ],
        "mean": _plain(figures.mean),
        "standard_deviation": _plain(figures.deviation),
        "pooled": {key: _plain(asdict(interval)) for key, interval in figures.pooled.items()},
    }  # fmt: skip
    text = json.dumps(kept, indent=1, allow_nan=False) + "\n"
    (directory / FIGURES_FILE).write_text(text, encoding="utf-8")
    (directory / PAGE_FILE).write_text(_page(name, command, outcomes, figures), encoding="utf-8")


def _figures(outcome: Outcome) -> dict[str, float]:
    scored = Scored.of(outcome.scores)
    if not len(scored.labels):
        return {d.key: math.nan for d in DEFINITIONS}
    return {d.key: d.of(scored.labels, scored.logits, outcome.threshold) for d in DEFINITIONS}


def _pooled(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    folded = [Scored.of(o.scores) for o in outcomes]
    logits = np.concatenate([s.logits for s in folded])
    # Moved so that every fold's threshold lies at even odds, where one number can stand for all of them.
    moved = [s.logits - _log_odds(o.threshold) for s, o in zip(folded, outcomes, strict=True)]
    labels = np.concatenate([s.labels for s in folded])
    groups = [group for s in folded for group in s.groups]
    plain, at = Scored(labels, logits, groups), Scored(labels, np.concatenate(moved), groups)
    return {d.key: (at if d.key in AT_THRESHOLD else plain).interval(_at_even_odds(d)) for d in DEFINITIONS}


def _at_even_odds(definition: Definition) -> Callable[[Labels, Float64], float]:
    return lambda labels, logits: definition.of(labels, logits, 0.5)


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _page(name: str, command: str, outcomes: Sequence[Outcome], figures: CrossFigures) -> str:
    count = len(outcomes)
    labels = np.concatenate([Scored.of(o.scores).labels for o in outcomes])
    rows = [
        [
            d.title, *(number(f[d.key]) for f in figures.by_fold),
            f"{number(figures.mean[d.key])} ± {number(figures.deviation[d.key])}",
            shown(figures.pooled[d.key]), _to_beat(d, labels),
        ]
        for d in DEFINITIONS
    ]  # fmt: skip
    total = sum(len(o.scores) for o in outcomes)
    scored = [f"{_scored(o)} of {len(o.scores)}" for o in outcomes]
    rows.append(["clips scored", *scored, "", f"{sum(map(_scored, outcomes))} of {total}", ""])
    rows.append(["threshold", *(number(o.threshold, 4) for o in outcomes), "", "each fold's own", ""])
    numbered = [f"fold {n}" for n in range(1, count + 1)]
    head = ["figure", *numbered, "mean ± SD", "pooled [95 % interval]", "to beat, pooled"]
    return "\n\n".join([
        f"# Cross-validation: {name}", f"{count} folds; made by `{command}`.", table(head, rows),
        _EXPLAINED, f"Each fold's report: `{name}-fold1` to `{name}-fold{count}`, beside this folder.",
    ]) + "\n"  # fmt: skip


def _to_beat(definition: Definition, labels: Labels) -> str:
    if definition.to_beat is None or not len(labels):
        return ""
    name, level = definition.to_beat
    return f"{name} {number(level(labels))}"


def _scored(outcome: Outcome) -> int:
    return sum(s.logit is not None for s in outcome.scores)


def _plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}
