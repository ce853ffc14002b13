"""Goals of the embedded model: set once, beside what an evaluation found."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from avff.trainer.report.goals import card_goals, goals_of


def interval(value: float | None) -> dict[str, float | None]:
    """A figure of an evaluation's JSON."""
    return {"value": value, "low": value, "high": value}


MADE: dict[str, Any] = {
    "clips": {
        "auc": interval(0.9), "balanced_accuracy": interval(0.84), "tpr_at_5": interval(0.7),
        "even_calibration_error": interval(0.05),
        "kinds": {"lip-sync": {"auc": interval(0.95)}, "voice": {"auc": interval(0.79)}},
    },
    "windows": {"called": {"genuine": {"fake": 3, "not_fake": 50, "no_score": 27}}},
    "abstained": {"genuine": {"too_short": 20, "no_face": 7}},
    "alarms": {
        "genuine": {"all_clips_one_stream": {"per_hour": interval(2.0)}}, "generated": {"median_s": None},
    },
    "sweep": {"mean_drop": 0.08},
}  # fmt: skip


def test_every_goal_is_compared_the_right_way() -> None:
    """Bounds themselves are met; the worst kind counts; what was not measured is not met."""
    met = {goal.what: goal.is_met for goal in goals_of(MADE)}
    assert met == {
        "AUC of clips": True,
        "AUC of the worst kind": False,
        "balanced accuracy at the threshold": False,
        "TPR at 5 % FPR": True,
        "calibration error at even odds": True,
        "full windows of genuine clips without a score": False,
        "false alarms an hour": True,
        "median time to an alarm, s": False,
        "mean fall of the AUC under perturbations": False,
    }


def test_windows_that_had_no_time_to_fill_are_no_abstention() -> None:
    """7 of the 60 windows that were full have no score."""
    found = {goal.what: goal.found for goal in goals_of(MADE)}
    assert found["full windows of genuine clips without a score"] == pytest.approx(7 / 60)


def test_without_a_sweep_or_genuine_windows_there_is_no_figure() -> None:
    """A dash and a "no" stand for what was not measured."""
    made = copy.deepcopy(MADE) | {"sweep": None, "abstained": {"genuine": {}}}
    made["windows"]["called"]["genuine"] = {"fake": 0, "not_fake": 0, "no_score": 0}
    found = [goal.found for goal in goals_of(made)]
    assert math.isnan(found[-1])
    assert math.isnan(found[5])
    rows = card_goals({"evaluation": made}).splitlines()
    assert rows[-1] == "| mean fall of the AUC under perturbations | at most 0.07 | – | **no** |"
