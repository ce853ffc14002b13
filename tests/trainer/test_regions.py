"""Marked regions: their text is the JSON's figures, and marks that do not pair up are refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avff.trainer import metrics
from avff.trainer.evaluate import Judged
from avff.trainer.evaluation import Evaluation
from avff.trainer.evaluation_json import as_json
from avff.trainer.metrics import Interval
from avff.trainer.perturb import CONTROLS, control, perturbations
from avff.trainer.report.intervals import draw_evaluation, intervals, row_of
from avff.trainer.report.regions import REGIONS, RegionError, fill, interval_of, stands_out, worth
from avff.trainer.shortcuts import Shortcuts, Teller
from avff.trainer.sweep import compare, sweep
from tests.support.training import make_clip
from tests.trainer.scored_clips import THRESHOLD, make_score

DATA = {
    "sides": ["genuine train", "generated train"],
    "clips": {"genuine train": 3, "generated train": 1},
    "minutes": {"genuine train": 17.74, "generated train": 0.5},
    "genuine_training_minutes": 17.74,
    "licences": [{"licence": "CC BY 4.0 | repo: MIT", "genuine train": 3, "generated train": 1}],
}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """An evaluation of thirty clips: generator A is found, B is not; a sweep and controls beside it."""
    logits = {"r": -1.0, "a": 2.0, "b": -1.0}
    clips, scores = [], []
    for kind, logit in logits.items():
        for k in range(10):
            label, generator = int(kind != "r"), kind.upper() * (kind != "r")
            clips.append(
                make_clip(f"{kind}{k}", label=label, generator=generator, label_video=1, label_audio=0)
            )
            own = logit + 0.1 * k
            scores.append(
                make_score(f"{kind}{k}", label, own, generator=generator, kind=("lip-sync" * label))
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BOOTSTRAP_ROUNDS", 200)
        swept = sweep(clips, scores, perturbations(["blur@13", "opus@12"]), lambda c, p: scores)
        twins = tuple(compare(control(name), scores, scores[::-1]) for name in CONTROLS)
        told = Teller("container facts", Interval(0.916, 0.87, 0.95), Interval(0.5, 0.4, 0.6))
        model = Teller("the model", Interval(0.75, 0.6, 0.9), Interval(0.6, 0.5, 0.7))
        made = Evaluation(
            "avff-s@12345678", "avff-evaluate …", {"split": "dev"}, THRESHOLD, clips,
            [Judged(s, ()) for s in scores], swept, Shortcuts(twins, (told,), model, 4),
        )  # fmt: skip
        return {"evaluation": json.loads(as_json(made)), "data": DATA}


def test_text_between_marks_is_made_anew(facts: dict[str, Any]) -> None:
    """All else stays as it is, filling again changes nothing, and every region is made of these facts."""
    document = "# Title\n\n" + "".join(
        f"<!-- results:{n} -->\nstale figure\n<!-- /results -->\nkept {n}\n" for n in REGIONS
    )
    filled = fill(document, facts)
    assert "stale figure" not in filled
    assert all(f"<!-- /results -->\nkept {name}\n" in filled for name in REGIONS)
    assert filled.startswith("# Title\n\n<!-- results:headline -->\n**How good is")
    assert fill(filled, facts) == filled
    assert fill("<!-- results:data -->\n<!-- /results -->", facts) == fill(
        "<!-- results:data -->\nstale figure\n<!-- /results -->", facts
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- results:headline -->\nno end", "no partner"),
        ("no start\n<!-- /results -->", "no partner"),
        ("<!-- results:headlin -->\n<!-- /results -->", "no such region: 'headlin'; there are headline, "),
    ],
    ids=["no end", "no start", "unknown"],
)
def test_wrong_marks_are_refused(facts: dict[str, Any], text: str, words: str) -> None:
    """A figure that is never filled in would look like one that is."""
    with pytest.raises(RegionError, match=words):
        fill(text, facts)


def test_headline_has_the_figures(facts: dict[str, Any]) -> None:
    """AUC, errors at the threshold, the widest apart generators, what origin alone gets, and the data."""
    text = " ".join(REGIONS["headline"](facts).split())
    made = interval_of(facts["evaluation"]["clips"]["auc"])
    assert f"**{made.value:.2f}** (95 % interval {made.low:.2f}–{made.high:.2f}" in text
    assert made.value == pytest.approx(0.75)
    # log-odds of 0.6 are 0.405: no genuine clip and no clip of B reaches it, every clip of A does.
    assert "0 of 10 genuine clips fake and finds 10 of 20 generated ones" in text
    assert "from 0.50 (B) to 1.00 (A)" in text
    assert "By kind: lip-sync 0.75." in text
    assert "those alone reach 0.92; with every clip encoded anew, alike, the model gets 0.75." in text
    assert "Of 4 pairs of a generated and a genuine clip of the same footage the model puts 60 % in" in text
    assert "18 minutes of genuine footage" in text
    assert max(map(len, REGIONS["headline"](facts).splitlines())) <= 110


def test_headline_says_when_pairs_turn_round(facts: dict[str, Any]) -> None:
    """An area that rests on the collections is never quoted without that."""
    turned = copy.deepcopy(facts)
    turned["evaluation"]["controls"]["tellers"][-1]["within"] = {"value": 0.31, "low": 0.18, "high": 0.43}
    for text in (REGIONS["headline"](turned), "\n".join(stands_out(turned["evaluation"]))):
        assert "31 % in the right order, fewer than chance would" in " ".join(text.split())


def test_headline_does_without_what_was_not_measured(facts: dict[str, Any]) -> None:
    """No controls, one generator of five clips: no sentence on them."""
    less = copy.deepcopy(facts)
    less["evaluation"]["controls"] = None
    less["evaluation"]["clips"]["generators"]["B"]["scored"] = 4
    text = REGIONS["headline"](less)
    assert "alone reach" not in text
    assert "By generator" not in text
    assert "\n\n" not in text
    assert REGIONS["controls"](less) == "Not measured."
    less["evaluation"]["sweep"] = None
    assert REGIONS["robustness"](less) == "Not measured."


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Interval(0.69, 0.5, 0.8), "cannot be told from guessing"),
        (Interval(0.9, math.nan, math.nan), "cannot be told from guessing"),
        (Interval(0.69, 0.6, 0.8), "A little better than chance"),
        (Interval(0.7, 0.6, 0.8), "wrong too often"),
        (Interval(0.85, 0.6, 0.9), "one sign among others"),
        (Interval(0.95, 0.6, 1.0), "Good, on these clips"),
    ],
)
def test_words_follow_the_figure(figure: Interval, words: str) -> None:
    """By stated levels, and never better than guessing when the interval reaches it."""
    assert words in worth(figure)


def test_card_has_the_tables(facts: dict[str, Any]) -> None:
    """Rows of the card are the JSON's figures; a licence with a bar in its name keeps its place."""
    made = facts["evaluation"]
    assert f"| AUC | {interval_of(made['clips']['auc'])} | – |" in REGIONS["figures"](facts)
    assert "| genuine called fake at 0.600 | 0 of 10 | 0 of 0 |" in REGIONS["figures"](facts)
    assert "| generator | A | 10 of 10 | 1.000 [1.000, 1.000] |" in REGIONS["parts"](facts)
    assert "| generated | fake video, real audio | 20 of 20 |" in REGIONS["parts"](facts)
    assert "| container facts | 0.916 [0.870, 0.950] | 0.500 [0.400, 0.600] within pairs |" in REGIONS[
        "controls"
    ](facts)
    assert "| blur 13 px kernel | 30 of 30 |" in REGIONS["robustness"](facts)
    assert r"| CC BY 4.0 \| repo: MIT | 3 | 1 |" in REGIONS["data"](facts)
    assert "| minutes | 17.7 | 0.5 |" in REGIONS["data"](facts)
    assert "On – hours" not in REGIONS["alarms"](facts)


def test_what_stands_out_is_found_by_rule(facts: dict[str, Any]) -> None:
    """A weak generator; cells whose interval is off its mark, and none of those that are not."""
    calm = stands_out(facts["evaluation"])
    assert any("cannot be told from genuine clips: B 0.500" in line for line in calm)
    assert not any("blur" in line for line in calm)
    moved = copy.deepcopy(facts["evaluation"])
    blur, opus = moved["sweep"]["cells"]
    blur["drop"] = {"value": 0.2, "low": 0.01, "high": 0.3}
    opus["rise"] = {"value": -0.05, "low": -0.08, "high": -0.03}
    text = "\n".join(stands_out(moved))
    assert "surely falls under blur 13 px kernel by 0.200." in text
    assert "moves under opus 12 kbit/s by -0.050." in text


def test_pictures_are_drawn_of_what_is_there(facts: dict[str, Any], tmp_path: Path) -> None:
    """Generators, the sweep and the controls; a plot without data is not drawn."""
    assert draw_evaluation(facts["evaluation"], tmp_path) == [
        "generators.png",
        "robustness.png",
        "controls.png",
    ]
    assert all(p.stat().st_size > 5000 for p in tmp_path.glob("*.png"))
    bare = {**facts["evaluation"], "sweep": None, "controls": None}
    assert draw_evaluation(bare, tmp_path) == ["generators.png"]


def test_plot_has_a_point_and_an_interval_for_each_row() -> None:
    """The first row on top; a figure that is not defined says so."""
    rows = [
        row_of("a", {"value": 0.7, "low": 0.6, "high": 0.8}),
        row_of("b", {"value": None, "low": None, "high": None}),
    ]
    (axes,) = intervals("AUC", rows, 0.7).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.get_lines()[:2]] == [[0.6, 0.8], [0.7]]
    assert "not defined" in [t.get_text() for t in axes.texts]
