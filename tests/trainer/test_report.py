"""The report: its figures are those of the scores, and clips without a score are counted, not scored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from avff.engine.contract import Calibration, Contract
from avff.engine.spec import SPEC
from avff.trainer import metrics
from avff.trainer.data.splits import group_of
from avff.trainer.evaluate import ClipScore, save_scores
from avff.trainer.metrics import Interval
from avff.trainer.report import RunFacts, metadata_control, render
from tests.support.training import make_clip

THRESHOLD = 0.6
CONTRACT = Contract("avff", {}, SPEC, 128, Calibration({}, {}, THRESHOLD), {})
RUN = RunFacts(
    name="trial",
    command="avff-train --config x.yaml",
    facts={"seed": "7", "torch": "2"},
    split=["train: 1 genuine", "validation: 2 genuine"],
    validation={"any, av": Interval(0.8, 0.7, 0.9)},
    metadata_auc=Interval(0.55, 0.4, 0.7),
)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be exact here."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 200)


def make_scores() -> list[ClipScore]:
    """Thirty genuine clips and two generators with ten clips each; some clips have no score."""
    rng = np.random.default_rng(0)
    scores = []
    for k in range(30):
        logit = None if k % 10 == 9 else float(rng.normal(-0.5, 1))
        abstained = {"no_face": 12} if logit is None else {"too_short": 7}
        windows = 0 if logit is None else 5
        scores.append(ClipScore(f"r{k}", 0, "real", "", "", f"person {k // 2}", logit, windows, abstained))
    for number, generator in enumerate(("Ada", "Bob")):
        for k in range(10):
            logit = None if k == 0 else float(rng.normal(0.3 + number, 1))
            paired = f"r{k}" if generator == "Ada" else ""
            kind = "lip-sync" if k < 5 else "tts-or-voice-clone"
            scores.append(
                ClipScore(
                    f"{generator}{k}", 1, kind, generator, paired, f"{generator}{k}", logit, 5, {"no_face": 1}
                )
            )
    return scores


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: cells by the first one."""
    section = text.split(heading, 1)[1].split("\n## ")[0].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    cells = [[c.strip().strip("*") for c in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def number(cell: str) -> float:
    found = re.match(r"-?[\d.]+", cell.strip("*"))
    assert found is not None, cell
    return float(found[0])


def test_headline_figures_are_those_of_the_scores() -> None:
    """AUC, average precision, accuracy and false alarms, computed again from the scores."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), "## Clips of `dev`")
    kept = [s for s in scores if s.logit is not None]
    labels = np.array([s.label for s in kept])
    logits = np.array([s.logit for s in kept])
    probabilities = 1 / (1 + np.exp(-logits))
    called = probabilities >= THRESHOLD
    assert number(table["AUC"][0]) == pytest.approx(roc_auc_score(labels, logits), abs=5e-4)
    precision = average_precision_score(labels, logits)
    assert number(table["average precision"][0]) == pytest.approx(precision, abs=5e-4)
    assert table["average precision"][0].endswith(f"chance {labels.mean():.3f}")
    assert number(table["accuracy at it"][0]) == pytest.approx((called == labels).mean(), abs=5e-4)
    majority = max(labels.mean(), 1 - labels.mean())
    assert table["accuracy at it"][0].endswith(f"majority baseline {majority:.3f}")
    balanced = balanced_accuracy_score(labels, called)
    assert number(table["balanced accuracy at it"][0]) == pytest.approx(balanced, abs=5e-4)
    alarms = int((called & (labels == 0)).sum())
    assert table["genuine clips called fake"] == [f"{alarms} of {int((labels == 0).sum())}"]
    assert [value for name, value in table.items() if name.startswith("threshold")] == [["0.600"]]
    assert table["AUC of container facts only (control)"] == ["0.550 [0.400, 0.700]"]


def test_clips_without_a_score_are_counted_and_not_scored() -> None:
    """They are in the counts, and moving them between 0 and 1 is impossible: they have no number."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), "## Clips of `dev`")
    assert table["clips scored"] == ["45 of 50"]
    assert table["genuine clips without a score"] == ["3 of 30"]
    assert table["generated clips without a score"] == ["2 of 20"]
    scored_only = rows(render(RUN, CONTRACT, [s for s in scores if s.logit is not None], "dev"), "## Clips")
    assert scored_only["AUC"] == table["AUC"]


@pytest.mark.parametrize("field", ["generator", "kind"])
def test_breakdown_compares_each_part_with_all_genuine_clips(field: str) -> None:
    """AUC against every genuine clip, and the share called fake, per generator and per kind."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), f"### By {field}")
    assert set(table) == {getattr(s, field) for s in scores if s.label}
    for name, (scored, auc, called, _) in table.items():
        part = [s for s in scores if s.label and getattr(s, field) == name]
        kept = [s for s in [*scores[:30], *part] if s.logit is not None]
        labels, logits = [s.label for s in kept], [s.logit for s in kept]
        assert number(auc) == pytest.approx(roc_auc_score(labels, logits), abs=5e-4)
        found = [s.probability for s in part if s.probability is not None]
        assert scored == f"{len(found)} of {len(part)}"
        assert number(called) == pytest.approx(np.mean([p >= THRESHOLD for p in found]), abs=6e-3)


def test_pairs_compare_a_fake_with_its_own_footage() -> None:
    """Only pairs with two scores count; a generator without pairs has a dash."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), "### By generator")
    logit = {s.uid: s.logit for s in scores}
    # The footage of k = 9 has no score, nor has the fake of k = 0.
    pairs = [(logit[f"Ada{k}"], logit[f"r{k}"]) for k in range(1, 9)]
    ordered = sum(a > b for a, b in pairs if a is not None and b is not None)
    assert table["Ada"][3] == f"{ordered} of 8"
    assert table["Bob"][3] == "–"


def test_reasons_are_counted_in_windows() -> None:
    """Of all windows of a class, scored or not, how many lack a score and why."""
    table = rows(render(RUN, CONTRACT, make_scores(), "dev"), "### Windows without a score")
    total = {0: 27 * 12 + 3 * 12, 1: 20 * 6}
    assert table == {
        "no_face": [f"36 of {total[0]}", f"20 of {total[1]}"],
        "too_short": [f"189 of {total[0]}", f"0 of {total[1]}"],
    }


def test_run_is_described() -> None:
    """The command, the facts, the split and the validation figures are in the report."""
    text = render(RUN, CONTRACT, make_scores(), "dev")
    assert text.startswith("# Training report: trial\n")
    for words in ("`avff-train --config x.yaml`", "| seed | 7 |", "- train: 1 genuine", "| any, av | 0.800"):
        assert words in text


@pytest.mark.parametrize("scored", [None, 0, 1], ids=["none", "genuine", "generated"])
def test_report_without_scores_is_still_a_report(scored: int | None) -> None:
    """A model that offers no modality gets its counts, and no figure that is not defined."""
    scores = [
        ClipScore(f"{label}{k}", label, "x", "A" * label, "", f"{label}{k}", value, 1, {})
        for label in (0, 1)
        for k in range(3)
        for value in [1.0 if label == scored else None]
    ]
    text = render(RUN, CONTRACT, scores, "dev")
    table = rows(text, "## Clips of `dev`")
    assert table["generated clips without a score"] == ["0 of 3" if scored == 1 else "3 of 3"]
    assert ("AUC" in table) == (scored is not None)
    assert rows(text, "### By generator")["A"][1].startswith("nan")


def test_scores_are_saved_with_all_that_the_figures_need(tmp_path: Path) -> None:
    """One line of JSON per clip; none without a score is given one."""
    scores = make_scores()
    save_scores(scores, tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [ClipScore(**line) for line in lines] == scores
    assert [line["logit"] is None for line in lines] == [s.logit is None for s in scores]


@pytest.mark.parametrize(("logit", "probability"), [(0.0, 0.5), (2.0, 0.880797), (-900.0, 0.0), (None, None)])
def test_probability_is_the_sigmoid_of_the_log_odds(logit: float | None, probability: float | None) -> None:
    """Higher is more fake, far ends do not overflow, and no log-odds is no probability."""
    score = ClipScore("a", 1, "", "", "", "a", logit, 0, {})
    assert score.probability == (None if probability is None else pytest.approx(probability, abs=1e-6))


def test_metadata_control_sees_what_containers_give_away() -> None:
    """Clips that differ in length by class are told apart without a look at picture or sound."""
    rng = np.random.default_rng(0)
    made = {
        honest: [
            make_clip(f"{honest}{k}", label=k % 2, generator="A" * (k % 2), duration_s=float(length))
            for k, length in enumerate(rng.normal(5, 1, 80) + (0 if honest else 4) * (np.arange(80) % 2))
        ]
        for honest in (True, False)
    }
    figures = {h: metadata_control(c[:40], c[40:], group_of(c[40:])) for h, c in made.items()}
    assert figures[False].value > 0.9
    assert figures[True].low < 0.5 < figures[True].high
