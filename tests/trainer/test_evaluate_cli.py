"""``avff-evaluate`` from a manifest to its figures, on a few seconds of clips."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from avff.engine.model import CONTRACT_FILE, DEFAULT_MODEL, load_model
from avff.engine.offline import predictions_of_file
from avff.engine.predictor import Predictor
from avff.engine.spec import SPEC
from avff.trainer import evaluation, metrics
from avff.trainer.data.manifest import Clip, Segments, write_manifest
from avff.trainer.evaluate import UNREADABLE, ClipScore, Judged, label_of_window
from avff.trainer.evaluate_cli import main
from tests.support.engine import face_models
from tests.support.training import make_clip, talking_clip

ROOT = Path(__file__).parents[2]
SECONDS = 3.2
SWEEP = (
    "--sweep", "av-offset,gain", "--severity", "1", "--clips", "2", "--seed", "3", "--windows", "--controls",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """A data root, its manifest, and a model."""

    root: Path
    manifest: Path
    model: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Two genuine and three generated clips, one of them no media; one that nobody has labelled."""
    root = tmp_path_factory.mktemp("evaluate")
    clips = []
    for k in range(4):
        talking_clip(root / f"{k}.mp4", seconds=SECONDS, start_s=2.0 * k, pitch=1 + 0.1 * k)
        generator = ("Ada", "Bob")[k // 3] if k > 1 else ""
        clips.append(
            make_clip(f"{k}.mp4", label=int(k > 1), generator=generator, identity=f"p{k}", split="dev")
        )
    (root / "broken.mp4").write_bytes(b"no media at all")
    clips.append(make_clip("broken.mp4", label=1, generator="Bob", split="dev"))
    clips[3] = dataclasses.replace(clips[3], label_video=1, label_audio=0, fake_video=((0.0, 0.3),))
    clips.append(dataclasses.replace(clips[0], uid="unknown", label=None, label_video=None, label_audio=None))
    named = [dataclasses.replace(c, sha256=sha256(root / c.path)) for c in clips]
    write_manifest(root / "clips.jsonl", named)
    return Data(root, root / "clips.jsonl", default_model(tmp_path_factory.mktemp("model")))


def default_model(directory: Path) -> Path:
    """The embedded model's graphs, under a contract of this program's preprocessing whatever theirs was."""
    with as_file(files("avff.engine") / "weights" / DEFAULT_MODEL) as embedded:
        for file in embedded.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
    contract = json.loads((directory / CONTRACT_FILE).read_text())
    (directory / CONTRACT_FILE).write_text(json.dumps({**contract, "spec": asdict(SPEC)}, indent=1))
    return directory


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluate(data: Data, output: Path, *more: str) -> int:
    """Give the command."""
    arguments = [data.model, "--manifest", data.manifest, "--data", data.root, "--workers", "1", "-o", output]
    return main([*map(str, arguments), *more])


@pytest.fixture(scope="module")
def done(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished evaluation with a small sweep."""
    output = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BOOTSTRAP_ROUNDS", 50)
        assert evaluate(data, output, *SWEEP) == 0
    return output


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def figures(done: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((done / "evaluation.json").read_text())
    return made


def test_scores_are_the_engines(data: Data, done: Path) -> None:
    """Clip and windows say what the engine says of the file, and the unlabelled clip is not judged."""
    scores = [ClipScore(**row) for row in rows(done / "predictions.jsonl")]
    assert [s.uid for s in scores] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "broken.mp4"]
    windows = [w for w in rows(done / "windows.jsonl") if w["uid"] == "2.mp4"]
    predictor = Predictor(load_model(data.model, threads=1))
    expected = predictions_of_file(data.root / "2.mp4", face_models(), predictor)
    assert [w["logit"] for w in windows] == [
        None if p.logit is None else pytest.approx(p.logit, abs=1e-5) for p in expected
    ]
    assert [w["reason"] for w in windows] == [str(p.reason or "") for p in expected]
    known = [w["logit"] for w in windows if w["logit"] is not None]
    assert (scores[2].windows, len(known)) == (3, 3)
    assert scores[2].logit == pytest.approx(np.mean(known), abs=1e-9)
    assert windows[-1]["end_s"] == pytest.approx(3.2)
    assert windows[-1]["start_s"] == pytest.approx(0.64)


def test_clip_figures_can_be_computed_again(data: Data, done: Path) -> None:
    """A few lines of numpy and scikit-learn on predictions.jsonl agree with evaluation.json."""
    kept = [r for r in rows(done / "predictions.jsonl") if r["logit"] is not None]
    labels, logits = np.array([r["label"] for r in kept]), np.array([r["logit"] for r in kept])
    threshold = load_model(data.model, threads=1).contract.calibration.threshold
    called = 1 / (1 + np.exp(-logits)) >= threshold
    made = figures(done)["clips"]
    assert (made["count"], made["scored"], made["auc"]["value"]) == (
        5, 4, pytest.approx(roc_auc_score(labels, logits), abs=1e-6),
    )  # fmt: skip
    assert made["average_precision"]["value"] == pytest.approx(
        average_precision_score(labels, logits), abs=1e-6
    )
    assert made["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(labels, called), abs=1e-6
    )
    assert made["f1"]["value"] == pytest.approx(f1_score(labels, called), abs=1e-6)


def test_window_figures_have_window_labels(done: Path) -> None:
    """Windows past a clip's listed passage are genuine; the AUC is that of windows.jsonl."""
    windows = rows(done / "windows.jsonl")
    late = [w["label"] for w in windows if w["uid"] == "3.mp4" and w["start_s"] >= 0.3]
    early = [w["label"] for w in windows if w["uid"] == "3.mp4" and w["start_s"] < 0.3]
    assert late
    assert (set(late), set(early)) == ({0}, {1})
    kept = [w for w in windows if w["logit"] is not None]
    auc = roc_auc_score([w["label"] for w in kept], [w["logit"] for w in kept])
    made = figures(done)["windows"]
    assert made["auc"]["value"] == pytest.approx(auc, abs=1e-6)
    assert (made["count"], made["scored"]) == (len(windows), len(kept))


def test_generators_and_abstentions_are_counted(done: Path) -> None:
    """Each generator against everything genuine; why there is no score, by class."""
    made = figures(done)
    generators = made["clips"]["generators"]
    assert {k: (v["count"], v["scored"]) for k, v in generators.items()} == {"Ada": (1, 1), "Bob": (2, 1)}
    assert made["abstained"] == {"genuine": {"too_short": 14}, "generated": {"too_short": 14, UNREADABLE: 1}}
    assert made["without_label_left_out"] == "1"


def test_alarms_are_counted_over_the_windows(done: Path) -> None:
    """Clips of 3.2 s with 3 scored windows each are too little for an alarm, even end to end."""
    made = figures(done)["alarms"]
    assert made["genuine"]["hours"] == pytest.approx(2 * SECONDS / 3600)
    assert made["genuine"]["scored_windows"] == 6
    assert made["genuine"]["all_clips_one_stream"]["count"] == 0
    assert made["generated"] == {"clips": 2, "alarmed": 0, "median_s": None}
    assert [row["per_hour"] for row in made["thresholds"]] == [1, 2, 5, 10]
    assert {w["track"] for w in rows(done / "windows.jsonl") if w["logit"] is not None} == {0}


def test_page_can_be_read(done: Path) -> None:
    """Figures at both levels, breakdowns, the unreadable file with its reason, and the sweep."""
    page = (done / "evaluation.md").read_text()
    for heading in (
        "# Evaluation: avff",
        "## By generator",
        "## By kind",
        "## Alarms",
        "## Robustness",
        "### All cells",
    ):
        assert heading in page
    assert f"| AUC | {figures(done)['clips']['auc']['value']:.3f}" in page
    assert "majority baseline 0.500" in page
    assert "| broken.mp4 | not readable as audio or video" in page
    assert "2 of 5 clips, the same in every cell, chosen with seed 3." in page
    assert "--sweep av-offset,gain --severity 1" in page


def test_no_offset_changes_nothing(done: Path) -> None:
    """The path of the perturbed clips is the engine's own: an offset of 0 ms gives the very same scores."""
    cells = {c["name"]: c for c in figures(done)["sweep"]["cells"]}
    assert set(cells) == {"av-offset", "gain"}
    assert (cells["av-offset"]["drop"]["value"], cells["av-offset"]["rise"]["value"]) == (0, 0)
    assert (cells["gain"]["severity"], cells["gain"]["rise"]["value"] != 0) == (-10, True)


def test_controls_stand_beside_the_clean_run(done: Path) -> None:
    """Twins of all clips that can be read, compared on the same clips; facts of containers that are alike."""
    made = figures(done)
    twins = {t["name"]: t for t in made["controls"]["twins"]}
    assert {name: (t["clips"], t["scored"]) for name, t in twins.items()} == {
        "leading-silence": (5, 4), "re-encode": (5, 4),
    }  # fmt: skip
    assert all(t["clean"]["value"] == made["clips"]["auc"]["value"] for t in twins.values())
    assert twins["re-encode"]["rise"]["value"] != 0
    tellers = {t["name"]: t for t in made["controls"]["tellers"]}
    assert tellers["the model"]["across"] == made["clips"]["auc"]
    assert tellers["length alone"]["across"]["value"] == 0.5, "all clips are of one length"
    assert (made["controls"]["pairs"], tellers["the model"]["within"]["value"]) == (0, None)
    page = (done / "evaluation.md").read_text()
    assert "| every clip encoded anew, alike | 4 of 5 |" in page


def test_answers_are_counted_by_class(done: Path) -> None:
    """The confusion matrix, and AUCs by what is generated."""
    made = figures(done)
    called = made["clips"]["called"]
    assert (sum(called["genuine"].values()), sum(called["generated"].values())) == (2, 3)
    assert called["generated"]["no_score"] == 1
    assert made["clips"]["modalities"]["fake video, real audio"]["count"] == 1
    assert made["windows"]["modalities"]["fake video, real audio"]["count"] == sum(
        w["uid"] == "3.mp4" and w["label"] == 1 for w in rows(done / "windows.jsonl")
    )


def test_same_command_again_judges_nothing(
    data: Data, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the same model said of the same files is used, and gives the same results."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 50)
    before = {p: p.stat().st_mtime_ns for p in (done / "kept").iterdir()}
    text = {name: (done / name).read_bytes() for name in ("evaluation.json", "predictions.jsonl")}
    assert len(before) == 5, "clean, two cells, two twins"
    assert evaluate(data, done, *SWEEP) == 0
    assert {p: p.stat().st_mtime_ns for p in (done / "kept").iterdir()} == before
    assert {name: (done / name).read_bytes() for name in text} == text
    assert "judge" not in capsys.readouterr().err


def test_other_model_is_judged_anew(
    data: Data, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are kept by what made them: a model with another calibration finds none of its own."""
    asked: list[str] = []

    def record(clips: list[Clip], *_: object, **__: object) -> list[Judged]:
        asked.extend(c.uid for c in clips)
        return []

    monkeypatch.setattr(evaluation, "judge_windows", record)
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 1)
    other = tmp_path / "model"
    other.mkdir()
    for file in data.model.iterdir():
        other.joinpath(file.name).write_bytes(file.read_bytes())
    contract = json.loads((other / CONTRACT_FILE).read_text())
    contract["calibration"]["threshold"] += 0.01
    (other / CONTRACT_FILE).write_text(json.dumps(contract))
    kept = {p.name: p.read_bytes() for p in (done / "kept").iterdir()}
    (tmp_path / "out" / "kept").mkdir(parents=True)
    for name, content in kept.items():
        (tmp_path / "out" / "kept" / name).write_bytes(content)
    assert evaluate(data, tmp_path / "out") == 0
    assert not asked
    assert evaluate(dataclasses.replace(data, model=other), tmp_path / "out") == 0
    assert len(asked) == 5


def test_split_without_clips_is_refused(
    data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Another split has no clips here, which ends with 65 and names those that have."""
    assert evaluate(data, tmp_path / "out", "--split", "test") == 65
    stderr = capsys.readouterr().err
    assert stderr == "avff-evaluate: no labelled clip to judge; splits with labelled clips: 'dev'\n"


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr, one line."""
    code = main([str(a) for a in arguments])
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1, stderr
    return code, stderr


def test_what_is_missing_is_named(data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Model, data, manifest and clip: 66, one line each."""
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    given = ("--data", data.root, "-o", out)
    code, stderr = outcome(capsys, nowhere, "--manifest", data.manifest, *given)
    assert (code, f"{nowhere}: no such model" in stderr) == (66, True)
    code, stderr = outcome(capsys, data.model, "--manifest", nowhere, *given)
    assert (code, stderr) == (66, f"avff-evaluate: {nowhere}: no such manifest\n")
    code, stderr = outcome(capsys, data.model, "--dataset", "folder", "--data", nowhere, "-o", out)
    assert (code, stderr) == (66, f"avff-evaluate: {nowhere}: no such data directory\n")
    (tmp_path / "empty").mkdir()
    write_manifest(tmp_path / "one.jsonl", [make_clip("0.mp4")])
    given = ("--data", tmp_path / "empty", "-o", out)
    code, stderr = outcome(capsys, data.model, "--manifest", tmp_path / "one.jsonl", *given)
    assert (code, "0.mp4: no such clip" in stderr) == (66, True)
    assert not out.exists()


def test_what_does_not_fit_is_named(data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An unknown dataset and a changed file: 65; an unknown perturbation and no model: 78."""
    given = ("--data", data.root, "-o", tmp_path / "out")
    code, stderr = outcome(capsys, data.model, "--dataset", "fakeavcelb", *given)
    assert (code, "did you mean 'fakeavceleb'" in stderr) == (65, True)
    changed = tmp_path / "changed.jsonl"
    write_manifest(changed, [dataclasses.replace(make_clip("0.mp4"), sha256="0" * 64)])
    code, stderr = outcome(capsys, data.model, "--manifest", changed, *given)
    assert (code, "is not the file that the manifest describes" in stderr) == (65, True)
    code, stderr = outcome(capsys, data.model, "--manifest", data.manifest, *given, "--sweep", "h265")
    assert (code, stderr) == (78, "avff-evaluate: unknown perturbation 'h265'; did you mean 'h264'?\n")
    code, stderr = outcome(capsys, data.root, "--manifest", data.manifest, *given)
    assert (code, "holds no model" in stderr) == (78, True)
    taken = tmp_path / "taken"
    taken.write_text("")
    code, stderr = outcome(
        capsys, data.model, "--dataset", "table", "--data", one_row(tmp_path / "csv", data), "-o", taken
    )
    assert (code, str(taken) in stderr) == (74, True)


def one_row(root: Path, data: Data) -> Path:
    """A data root in the layout of the generic table."""
    from tests.support.training import write_manifest as write_table

    root.mkdir()
    (root / "0.mp4").write_bytes((data.root / "0.mp4").read_bytes())
    write_table(root, [dataclasses.replace(make_clip("0.mp4"), sha256=sha256(root / "0.mp4"))])
    return root


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--manifest a --dataset b",
        "--manifest a --clips 3",
        "--manifest a --workers 0",
        "--manifest a --sweep gain --severity x",
    ],
    ids=["no clips", "two sources", "choice without sweep", "no workers", "no level"],
)
def test_wrong_usage_ends_with_2(more: str) -> None:
    """What the command line cannot mean is refused before anything is read."""
    with pytest.raises(SystemExit) as caught:
        main(["model", "--data", "x", "-o", "y", *more.split()])
    assert caught.value.code == 2


def test_help_lists_the_exit_codes_without_heavy_libraries() -> None:
    """``--help`` waits neither for scikit-learn nor for torch, and tells every code."""
    program = (
        "import sys; sys.modules['torch'] = sys.modules['sklearn'] = None\n"
        "from avff.trainer.evaluate_cli import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=True,
    )
    assert all(str(code) in done.stdout for code in (0, 2, 65, 66, 69, 70, 74, 78, 130))


def fake(
    *, video: int | None, audio: int | None, seen: Segments | None = None, heard: Segments | None = None
) -> Clip:
    clip = make_clip("a", label=1, label_video=video, label_audio=audio)
    return dataclasses.replace(clip, fake_video=seen, fake_audio=heard)


@pytest.mark.parametrize(
    ("clip", "label"),
    [
        (make_clip("a"), 0),
        (fake(video=None, audio=None), 1),
        (fake(video=1, audio=0), 1),
        (fake(video=1, audio=0, seen=((3.0, 4.0),)), 0),
        (fake(video=1, audio=0, seen=((0.0, 1.5),)), 1),
        (fake(video=0, audio=1, seen=((0.0, 1.5),), heard=((3.0, 4.0),)), 0),
        (fake(video=1, audio=1, seen=((3.0, 4.0),), heard=((1.9, 2.2),)), 1),
        (fake(video=1, audio=1, seen=((3.0, 4.0),), heard=((0.0, 1.0),)), 0),
        (fake(video=1, audio=None, seen=((3.0, 4.0),)), None),
        (fake(video=1, audio=None, seen=((1.0, 1.1),)), 1),
        (fake(video=1, audio=1, seen=(), heard=((3.0, 4.0),)), 0),
    ],
)  # fmt: skip
def test_window_from_1_to_2_s_has_the_label_of_its_passage(clip: Clip, label: int | None) -> None:
    """Listed passages decide; without any the clip's label does; the unknown is never called genuine."""
    assert label_of_window(clip, 1.0, 2.0) == label
