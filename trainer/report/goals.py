"""What the embedded model was to reach, beside what it reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from avff.engine.slices import Reason
from avff.trainer.report.tables import NOTHING, number, table

Facts = Mapping[str, Any]


class Goal(NamedTuple):
    """One goal of the embedded model on the clips that judge.

    Attributes:
        what: in words.
        wanted: the bound.
        at_least: whether it is a lower bound.
        found: the figure; NaN where it was not measured.
    """

    what: str
    wanted: float
    at_least: bool
    found: float

    @property
    def is_met(self) -> bool:
        """Whether it is; never where nothing was measured."""
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted


def goals_of(made: Facts) -> list[Goal]:
    """Return the goals, set before the model was made, with the figures of an evaluation's JSON."""
    clips, alarms, sweep = made["clips"], made["alarms"], made["sweep"]
    worst = min((_value(kind["auc"]) for kind in clips["kinds"].values()), default=math.nan)
    return [
        Goal("AUC of clips", 0.9, True, _value(clips["auc"])),
        Goal("AUC of the worst kind", 0.8, True, worst),
        Goal("balanced accuracy at the threshold", 0.85, True, _value(clips["balanced_accuracy"])),
        Goal("TPR at 5 % FPR", 0.6, True, _value(clips["tpr_at_5"])),
        Goal("calibration error at even odds", 0.08, False, _value(clips["even_calibration_error"])),
        Goal("full windows of genuine clips without a score", 0.1, False, _refused(made)),
        Goal(
            "false alarms an hour", 2.0, False, _value(alarms["genuine"]["all_clips_one_stream"]["per_hour"])
        ),
        Goal("median time to an alarm, s", 10.0, False, _known(alarms["generated"]["median_s"])),
        Goal("mean fall of the AUC under perturbations", 0.07, False, _known((sweep or {}).get("mean_drop"))),
    ]


def card_goals(facts: Facts) -> str:
    """The goals as a table."""
    rows = [
        [
            goal.what,
            f"{'at least' if goal.at_least else 'at most'} {goal.wanted:g}",
            NOTHING if math.isnan(goal.found) else number(goal.found),
            "yes" if goal.is_met else "**no**",
        ]
        for goal in goals_of(facts["evaluation"])
    ]
    return table(["figure", "goal", "found", "met"], rows)


def _value(figure: Mapping[str, float | None]) -> float:
    return _known(figure["value"])


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _refused(made: Facts) -> float:
    """Share of genuine windows without a score, of those that had time to fill."""
    reasons = dict(made["abstained"]["genuine"])
    early = reasons.pop(Reason.TOO_SHORT, 0)
    full = sum(made["windows"]["called"]["genuine"].values()) - early
    return sum(reasons.values()) / full if full > 0 else math.nan
