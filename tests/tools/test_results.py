"""``tools/results.py``: pages from an evaluation that is there, counts of a manifest, and a run's report."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from avff.trainer import metrics
from avff.trainer.data.manifest import read_manifest
from avff.trainer.evaluate import Judged, save_scores
from avff.trainer.evaluation import Evaluation, as_page
from avff.trainer.evaluation_json import as_json
from tests.support.training import make_clip, write_manifest
from tests.trainer.scored_clips import THRESHOLD, make_scores
from tests.trainer.test_gallery import windows_of
from tools import results
from tools.results_pages import (
    data_counts,
    publish_evaluation,
    publish_run,
    quote,
    write_failures,
    write_json,
)

COLUMNS = ("path", "split", "label", "licence", "duration_s")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``avff-evaluate`` leaves behind, of fifty clips that nobody had to judge."""
    folder = tmp_path_factory.mktemp("work")
    scores = make_scores()
    clips = [make_clip(s.uid, label=s.label, generator=s.generator, label_video=1) for s in scores]
    command = f"avff-evaluate default --manifest /data/manifest.csv --data /data -o {folder}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BOOTSTRAP_ROUNDS", 100)
        made = Evaluation(
            "avff-s@1", command, {"split": "dev"}, THRESHOLD, clips, [Judged(s, ()) for s in scores], None
        )
        (folder / "evaluation.json").write_text(as_json(made))
        (folder / "evaluation.md").write_text(as_page(made))
    save_scores(scores, folder / "predictions.jsonl")
    save_scores([w for s in scores for w in windows_of(s.uid, [s.logit])], folder / "windows.jsonl")
    return folder


def test_evaluation_is_published_with_its_pictures(work: Path, tmp_path: Path) -> None:
    """Page, figures, scores; no path of this machine; pictures of an earlier evaluation go."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "old.png").write_bytes(b"")
    publish_evaluation(work, tmp_path, data=Path("/data"))
    page = (tmp_path / "evaluation.md").read_text()
    assert "Made by `make results`: `avff-evaluate default --manifest $AVFF_DATA/manifest.csv" in page
    assert "-o runs/results" in page
    assert str(work) not in page
    assert page.index("## What stands out") < page.index("| fact | value |")
    pictures = sorted(p.name for p in (tmp_path / "evaluation").iterdir())
    assert "old.png" not in pictures
    assert {"roc.png", "confusion_matrix.png", "generators.png"} <= set(pictures)
    assert all(f"](evaluation/{name})" in page for name in pictures)
    assert (tmp_path / "evaluation.json").read_bytes() == (work / "evaluation.json").read_bytes()
    assert (tmp_path / "evaluation-predictions.jsonl").read_bytes() == (
        work / "predictions.jsonl"
    ).read_bytes()


def test_failures_are_those_of_the_evaluation(work: Path, tmp_path: Path) -> None:
    """Clips on the wrong side of the threshold that the model has, with a plot each."""
    write_failures(work, tmp_path)
    page = (tmp_path / "failures.md").read_text()
    wrong = [
        s
        for s in make_scores()
        if s.probability is not None and (s.probability >= THRESHOLD) != bool(s.label)
    ]
    assert f"{len(wrong)} of\n{len(wrong)}." in page
    assert len(list((tmp_path / "failures").iterdir())) == len(wrong) == 10


def test_clips_are_counted_by_licence(tmp_path: Path) -> None:
    """By split and class, the most frequent first, with minutes; the names of clips are not there."""
    rows = [
        ("train/real/anna.mp4", "train", "real", "CC BY", "30"),
        ("train/real/b.mp4", "train", "real", "MIT", "60"),
        ("dev/real/c.mp4", "dev", "real", "CC BY", "6"),
        ("dev/fake/d.mp4", "dev", "fake", "CC BY", "12"),
        ("other/e.mp4", "holdout", "fake", "secret", "12"),
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    made = data_counts(tmp_path / "manifest.csv")
    assert made["licences"] == [
        {"licence": "CC BY", "genuine train": 1, "generated train": 0, "genuine dev": 1, "generated dev": 1},
        {"licence": "MIT", "genuine train": 1, "generated train": 0, "genuine dev": 0, "generated dev": 0},
    ]
    assert made["genuine_training_minutes"] == 1.5
    assert made["clips"]["generated dev"] == 1
    assert "anna" not in json.dumps(made)


def test_documents_are_filled_in(work: Path, tmp_path: Path) -> None:
    """Both of them, from the results that lie in the same tree."""
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    publish_evaluation(work, folder, data=Path("/data"))
    counts = {"sides": [], "clips": {}, "minutes": {}, "licences": [], "genuine_training_minutes": 3.2}
    write_json(folder / "data.json", counts)
    for name in ("README.md", "docs/model-card.md"):
        shutil.copy(results.ROOT / name, tmp_path / name)
    quote(tmp_path)
    assert "3 minutes of genuine footage" in (tmp_path / "README.md").read_text()
    assert "Model `avff-s@1`, split `dev`" in (tmp_path / "docs" / "model-card.md").read_text()


def test_report_of_a_run_is_published_without_its_faces(tmp_path: Path) -> None:
    """Plots that the report shows go along; pictures of the worst errors stay in the run's folder."""
    run, target = tmp_path / "run", tmp_path / "results"
    (run / "assets").mkdir(parents=True)
    target.mkdir()
    for name in ("roc.png", "misclassified-01.png"):
        cv2.imwrite(str(run / "assets" / name), np.zeros((4, 4), np.uint8))
    (run / "training_report.md").write_text("# Training report: mine\n\n![roc](assets/roc.png)\n")
    (run / "settings.json").write_text('{"name": "mine"}')
    (run / "history.jsonl").write_text("{}\n")
    (run / "predictions.jsonl").write_text("{}\n")
    publish_run(run, target)
    page = (target / "mine.md").read_text()
    assert "![roc](mine/roc.png)" in page
    assert "[mine-history.jsonl](mine-history.jsonl)" in page
    published = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert published == ["mine-history.jsonl", "mine-predictions.jsonl", "mine.md", "mine/roc.png"]


def test_command_carries_out_its_pieces(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial on some clips: the evaluation gets a manifest of them, and another tree is written to."""
    data, tree, scratch = tmp_path / "data", tmp_path / "tree", tmp_path / "scratch"
    data.mkdir()
    clips = [make_clip(f"{k}.mp4", label=k % 2, generator="A" * (k % 2), split="dev") for k in range(8)]
    write_manifest(data, [*clips, make_clip("t.mp4")])
    given: list[str] = []

    def evaluate(arguments: list[str]) -> int:
        given.extend(arguments)
        for file in work.iterdir():
            shutil.copy(file, scratch / file.name)
        return 0

    monkeypatch.setattr(results, "evaluate", evaluate)
    command = ["--data", str(data), "--into", str(tree), "--work", str(scratch), "--limit", "4"]
    assert results.main([*command, "--only", "evaluation,failures", "--sweep-clips", "2"]) == 0
    some = Path(given[given.index("--manifest") + 1])
    assert len(read_manifest(some)) == 4
    assert {c.split for c in read_manifest(some)} == {"dev"}
    assert "--controls" in given
    cells = given[given.index("--sweep") + 1].split(",")
    assert {"h264@300", "vp8@150", "opus@12", "frame-rate@15", "loss@5"} <= set(cells)
    assert (tree / "docs" / "results" / "failures.md").is_file()


def test_failed_evaluation_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code is the command's."""
    write_manifest(tmp_path, [make_clip("a.mp4", split="dev")])
    monkeypatch.setattr(results, "evaluate", lambda arguments: 78)
    command = ["--data", str(tmp_path), "--into", str(tmp_path / "tree"), "--work", str(tmp_path / "work")]
    assert results.main([*command, "--only", "evaluation"]) == 78
    assert list((tmp_path / "tree" / "docs" / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("only", "words"), [("evaluation,figures", "no piece 'figures'"), ("quotes", "manifest")]
)
def test_wrong_usage_is_named(
    only: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and 2."""
    assert results.main(["--data", str(tmp_path), "--into", str(tmp_path), "--only", only]) == 2
    assert words in capsys.readouterr().err
