"""The report: its figures are those of the scores, and clips without a score are counted, not scored."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
    roc_curve,
)

from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.evaluate import ClipScore, save_scores
from avff.trainer.metrics import Interval
from avff.trainer.report import Evidence, RunFacts, metadata_control, render, write_report
from avff.trainer.report.history import Epoch
from tests.support.training import make_clip
from tests.trainer.scored_clips import CONTRACT, THRESHOLD, make_history, make_score, make_scores

RUN = RunFacts(
    name="trial",
    command="avff-train --config x.yaml",
    facts={"seed": "7", "torch": "2"},
    split=["train: 1 genuine", "validation: 2 genuine"],
    validation={"any, av": Interval(0.8, 0.7, 0.9)},
    metadata_auc=Interval(0.55, 0.4, 0.7),
    duration_s=125.0,
    hardware="two cores",
    stopped="no better validation loss for 5 epochs",
)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be exact here."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 200)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "default"])
def test_default_threshold_is_never_called_frozen(frozen: bool) -> None:
    """Where no genuine validation clip got a score the report says so, beside the figures it concerns."""
    run = dataclasses.replace(RUN, frozen=frozen)
    text = render(run, CONTRACT, make_scores(), "dev")
    assert ("| threshold (frozen on genuine validation clips) |" in text) == frozen
    assert ("| threshold (a default, frozen on nothing) |" in text) != frozen
    assert ("The threshold was frozen on genuine validation clips before" in text) == frozen
    assert ("The threshold is a default: no genuine validation clip got a score" in text) != frozen


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


def recomputed(path: Path) -> dict[str, float]:
    """Every headline figure from saved predictions, by scikit-learn and numpy alone."""
    saved = [json.loads(line) for line in path.read_text().splitlines()]
    labels = np.array([s["label"] for s in saved if s["logit"] is not None])
    logits = np.array([s["logit"] for s in saved if s["logit"] is not None])
    p = 1 / (1 + np.exp(-logits))
    false, true, _ = roc_curve(labels, logits, drop_intermediate=False)
    cross = np.argmin(np.abs(false - (1 - true)))
    bins = np.array_split(np.argsort(p), 15)
    return {
        "auc": roc_auc_score(labels, logits),
        "partial_auc": roc_auc_score(labels, logits, max_fpr=0.1),
        "average_precision": average_precision_score(labels, logits),
        "eer": (false[cross] + 1 - true[cross]) / 2,
        "tpr_at_1": true[false <= 0.01].max(),
        "tpr_at_5": true[false <= 0.05].max(),
        "accuracy": np.mean((p >= THRESHOLD) == labels),
        "balanced_accuracy": balanced_accuracy_score(labels, p >= THRESHOLD),
        "f1": f1_score(labels, p >= THRESHOLD),
        "calibration_error": sum(abs(labels[b].mean() - p[b].mean()) * len(b) for b in bins) / len(p),
        "even_calibration_error": even_error(labels, p),
        "brier": brier_score_loss(labels, p),
        "nll": log_loss(labels, p),
    }


def even_error(labels: npt.NDArray[np.int64], p: npt.NDArray[np.float64]) -> float:
    """The calibration error of a set in which items are repeated until both classes are as many."""
    genuine, generated = int((labels == 0).sum()), int(labels.sum())
    often = np.where(labels == 0, generated, genuine)
    order = np.argsort(p, kind="stable")
    middles = np.cumsum(often[order]) - often[order] / 2
    place = (middles / often.sum() * 15).astype(int)
    gaps = [abs(((labels - p) * often)[order][place == k].sum()) for k in range(15)]
    return float(sum(gaps) / often.sum())


def test_figures_can_be_recomputed_from_saved_predictions(tmp_path: Path) -> None:
    """All of them agree to 1e-6 in ``figures.json``, and to the digits shown in the report."""
    scores = make_scores()
    save_scores(scores, tmp_path / "predictions.jsonl")
    report = write_report(tmp_path, RUN, CONTRACT, scores, "dev", Evidence())
    figures = json.loads((tmp_path / "figures.json").read_text())
    expected = recomputed(tmp_path / "predictions.jsonl")
    assert figures.keys() == expected.keys() | {"threshold", "clips", "scored"}
    assert (figures["threshold"], figures["clips"], figures["scored"]) == (THRESHOLD, 50, 45)
    for name, value in expected.items():
        assert figures[name]["value"] == pytest.approx(value, abs=1e-6), name
        assert figures[name]["low"] <= value <= figures[name]["high"] or "calibration_error" in name
    shown = [number(row[0]) for row in list(rows(report.read_text(), "## Clips of `dev`").values())[1:15]]
    shown.pop(1)  # the control
    assert shown == pytest.approx(list(expected.values()), abs=5.1e-4)


def test_figures_stand_beside_what_knowing_nothing_gets() -> None:
    """Accuracy beside the majority, F1 beside always fake, average precision beside the prior."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), "## Clips of `dev`")
    prior = 18 / 45
    assert table["accuracy at the threshold"][1] == f"majority baseline {1 - prior:.3f}"
    assert table["F1 at the threshold"][1] == f"always fake {2 * prior / (1 + prior):.3f}"
    assert table["average precision"][1] == f"chance {prior:.3f}"
    assert table["AUC of container facts only (control)"][0] == "0.550 [0.400, 0.700]"
    assert table["threshold (frozen on genuine validation clips)"][0] == "0.600"


def test_confusion_matrix_keeps_clips_without_a_score_apart() -> None:
    """Scored clips are counted as scikit-learn counts them; the others are in no cell of an answer."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), "### Confusion matrix")
    kept = [(s.label, s.probability >= THRESHOLD) for s in scores if s.probability is not None]
    expected = confusion_matrix(*zip(*kept, strict=True))
    for label, name, silent in ((0, "genuine", "3"), (1, "generated", "2")):
        assert table[name] == [*map(str, expected[label]), silent]


def test_clips_without_a_score_are_counted_and_not_scored() -> None:
    """They are in the counts, and moving them between 0 and 1 is impossible: they have no number."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), "## Clips of `dev`")
    assert table["clips scored"][0] == "45 of 50"
    assert table["genuine clips without a score"][0] == "3 of 30"
    assert table["generated clips without a score"][0] == "2 of 20"
    scored_only = rows(render(RUN, CONTRACT, [s for s in scores if s.logit is not None], "dev"), "## Clips")
    assert scored_only["AUC"] == table["AUC"]


@pytest.mark.parametrize("field", ["generator", "kind"])
def test_breakdown_compares_each_part_with_all_genuine_clips(field: str) -> None:
    """AUC against every genuine clip, and the share called fake, per generator and per kind."""
    scores = make_scores()
    table = rows(render(RUN, CONTRACT, scores, "dev"), f"### By {field}")
    genuine = [s.probability for s in scores if not s.label and s.probability is not None]
    alarms = np.mean([p >= THRESHOLD for p in genuine])
    assert table.pop("all genuine clips") == ["27 of 30", "–", f"{alarms:.2f}", "–"]
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


def test_modalities_are_told_apart_by_the_manifest() -> None:
    """Picture, sound, both, and what nobody labelled, which is never called real."""
    labels = [(1, 0), (0, 1), (1, 1), (None, None), (1, None)]
    fakes = [make_clip(f"f{k}", label=1, label_video=v, label_audio=a) for k, (v, a) in enumerate(labels)]
    scores = [make_score(f"r{k}", 0, -1.0) for k in range(3)]
    scores += [make_score(clip.uid, 1, 0.0 + k) for k, clip in enumerate(fakes)]
    scores.append(make_score("not in the manifest", 1, 1.0))
    table = rows(render(RUN, CONTRACT, scores, "dev", Evidence({"dev": fakes})), "### By modality")
    assert {name: row[0] for name, row in table.items()} == {
        "real video, real audio": "3 of 3",
        "fake video, real audio": "1 of 1",
        "real video, fake audio": "1 of 1",
        "fake video, fake audio": "1 of 1",
        "unknown video, unknown audio": "2 of 2",
        "fake video, unknown audio": "1 of 1",
    }


def make_sides() -> dict[str, list[Clip]]:
    """Three sides; one person of the training clips is among the judging ones too."""
    return {
        "train": [
            make_clip("t0", identity="p0", duration_s=4.4),
            make_clip("t1", identity="p1", duration_s=4.4),
            make_clip("t2", label=1, generator="Ada", duration_s=4.4),
        ],
        "validation": [make_clip("v0"), make_clip("v1", label=1, generator="Bob")],
        "dev": [
            make_clip("d0", identity="p1"),
            *(make_clip(f"d{k}", label=1, generator="Bob") for k in (1, 2)),
        ],
    }


def test_data_is_counted_by_side() -> None:
    """Clips, seconds, classes, groups and shared groups; generators of each side; a leak is a finding."""
    text = render(RUN, CONTRACT, make_scores(), "dev", Evidence(make_sides()))
    data, generators = text.split("## Data", 1)[1].split("| generator |")[:2]
    assert rows("x" + data, "x") == {
        "train": ["3", "13", "2", "1", "0", "3", "1"],
        "validation": ["2", "10", "1", "1", "0", "2", "0"],
        "dev": ["3", "15", "1", "2", "0", "3", "1"],
    }
    assert rows("x| generator |" + generators, "x") == {"Ada": ["1", "0", "0"], "Bob": ["0", "1", "2"]}
    assert "shared groups 1, not 0; `t1` (train) and `d0` (dev)" in text.split("## Recommendations")[1]


def test_training_is_told_from_start_to_end() -> None:
    """Loss and accuracy of each stage, the best F1 with its epoch beside the constant answer's."""
    text = render(RUN, CONTRACT, make_scores(), "dev", Evidence(history=make_history()))
    section = text.split("## Training\n")[1].split("\n## ")[0]
    for line in (
        "| encoders | training loss | 2.000 | 1.500 | 1.500 | 6 |",
        "| whole | validation loss | 0.600 | 0.800 | 0.550 | 2 |",
        "| whole | validation accuracy | 0.600 | 0.680 | 0.680 | 5 |",
        "Always giving the more frequent answer has an accuracy of 0.600.",
        "Best validation F1: 0.750 in epoch 1 of stage `whole`; calling everything fake gets 0.750.",
    ):
        assert line in section
    assert "encoders | validation F1" not in section


def test_every_stage_is_told_from_start_to_end() -> None:
    """The self-supervised stage has losses of both sides, and how often synchrony was found."""
    figures = {"train/loss": (3.0, 2.0), "val/loss": (3.1, 2.2), "val/in_step": (0.1, 0.4)}
    history = [Epoch("pretrain", n, {name: v[n] for name, v in figures.items()}) for n in range(2)]
    text = render(RUN, CONTRACT, make_scores(), "dev", Evidence(history=history))
    for line in (
        "| pretrain | training loss | 3.000 | 2.000 | 2.000 | 2 |",
        "| pretrain | validation loss | 3.100 | 2.200 | 2.200 | 2 |",
        "| pretrain | validation windows whose synchrony is found | 0.100 | 0.400 | 0.400 | 2 |",
    ):
        assert line in text


def test_validation_clips_are_told_beside_the_judges() -> None:
    """Their AUC stands in the report, and the gap to the judging clips is looked at."""
    easy = [make_score(f"v{k}", k % 2, float(k % 2)) for k in range(10)] + [make_score("v", 1, None)]
    text = render(RUN, CONTRACT, make_scores(), "dev", Evidence(validation_scores=easy))
    assert "Whole validation clips: AUC 1.000 [1.000, 1.000], 10 of 11 scored." in text
    kept = [(s.label, s.logit) for s in make_scores() if s.logit is not None]
    assert f"| 1.000 and {roc_auc_score(*zip(*kept, strict=True)):.3f} | **yes** |" in text


def test_report_shows_the_plots_it_wrote(tmp_path: Path) -> None:
    """Every picture in the text is a file of 1200 x 675 pixels, and every file is in the text."""
    evidence = Evidence(make_sides(), make_history(), make_scores())
    text = write_report(tmp_path, RUN, CONTRACT, make_scores(), "dev", evidence).read_text()
    shown = re.findall(r"!\[[\w ]+\]\((assets/\w+\.png)\)", text)
    assert sorted(shown) == sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "assets").iterdir())
    assert len(shown) == 8
    for name in shown:
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.shape == (675, 1200, 3)
        assert picture.std() > 5


def test_names_cannot_break_a_table() -> None:
    """A generator with a bar in its name has one cell."""
    scores = [make_score("r", 0, -1.0), make_score("f", 1, 1.0, generator="A|B")]
    assert "| A\\|B | 1 of 1 |" in render(RUN, CONTRACT, scores, "dev")


def test_reasons_are_counted_in_windows() -> None:
    """Of all windows of a class, scored or not, how many lack a score and why."""
    table = rows(render(RUN, CONTRACT, make_scores(), "dev"), "### Windows without a score")
    total = {0: 27 * 12 + 3 * 12, 1: 20 * 6}
    assert table == {
        "no_face": [f"36 of {total[0]}", f"20 of {total[1]}"],
        "too_short": [f"189 of {total[0]}", f"0 of {total[1]}"],
    }


def test_run_is_described() -> None:
    """The command, the facts, how long, on what, and why it ended are in the report."""
    text = render(RUN, CONTRACT, make_scores(), "dev")
    assert text.startswith("# Training report: trial\n")
    for words in ("`avff-train --config x.yaml`", "| seed | 7 |", "- train: 1 genuine", "| any, av | 0.800"):
        assert words in text
    assert "| duration of training | 2.1 min |" in text
    assert "| hardware | two cores |\n| peak GPU memory | no GPU |" in text
    assert "| why training ended | no better validation loss for 5 epochs |" in text
    on_gpu = render(dataclasses.replace(RUN, peak_gpu_bytes=3 * 2**29), CONTRACT, make_scores(), "dev")
    assert "| peak GPU memory | 1.50 GiB |" in on_gpu


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
    assert table["generated clips without a score"][0] == ("0 of 3" if scored == 1 else "3 of 3")
    assert ("AUC" in table) == (scored is not None)
    assert "nan" not in text
    assert rows(text, "### By generator")["A"][1] == "–"


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
