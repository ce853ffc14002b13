"""``avff-train`` from a manifest to a model and its report, on a few seconds of data."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from avff.engine.contract import parse_contract
from avff.engine.errors import SettingsError
from avff.engine.model import load_model
from avff.engine.offline import predictions_of_file
from avff.engine.predictor import Predictor
from avff.trainer import pipeline
from avff.trainer.checkpoints import load_verified
from avff.trainer.cli import main
from avff.trainer.config import RunSettings
from avff.trainer.data.manifest import manifest_sha256
from avff.trainer.evaluate import ClipScore
from avff.trainer.model.registry import build
from avff.trainer.paths import RunPaths
from avff.trainer.report.board import BOARD
from avff.trainer.report.history import read_history
from tests.support.engine import face_models
from tests.trainer.tiny_data import HELD_OUT, write_tiny_data

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "trainer" / "lenient_avff_train.py"
CONFIG = ROOT / "configs" / "train" / "selfmade.yaml"
TINY = {
    "name": "tiny",
    "data.workers": "1",
    "data.validation_share": "0.34",
    "data.held_out_generators": f"[{HELD_OUT}]",
    "model.width": "16",
    "model.heads": "2",
    "model.depth": "1",
    "encoders.epochs": "1",
    "encoders.slices_per_epoch": "8",
    "encoders.batch": "4",
    "motion.lip_epochs": "1",
    "motion.epochs": "1",
    "motion.windows_per_epoch": "8",
    "motion.batch": "4",
    "train.epochs": "1",
    "train.windows_per_epoch": "8",
    "train.batch": "4",
    "train.validation_windows": "2",
    "train.precision": "32-true",
}
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        paths: of what it wrote.
        data: its data root.
        done: the command, carried out.
        hashes: of the checkpoints.
    """

    paths: RunPaths
    data: Path
    done: subprocess.CompletedProcess[str]
    hashes: dict[str, str]

    @property
    def report(self) -> str:
        return self.paths.report.read_text()

    @property
    def scores(self) -> list[ClipScore]:
        lines = self.paths.predictions.read_text().splitlines()
        return [ClipScore(**json.loads(line)) for line in lines]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = tmp_path_factory.mktemp("pipeline")
    data = write_tiny_data(base / "data")
    paths = RunPaths(base / "runs", "tiny")
    done = train(data, base / "runs")
    return Run(paths, data, done, hashes_of(paths.checkpoints) if not done.returncode else {})


def train(data: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Give the command of the run."""
    options = [f"--{key}={value}" for key, value in {**TINY, "output": str(output)}.items()]
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--config", str(CONFIG), *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "AVFF_DATA": str(data)},
        check=False,
    )


def hashes_of(directory: Path) -> dict[str, str]:
    files = (p for p in sorted(directory.iterdir()) if p.name != "spent.json")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_run_ends_well(run: Run) -> None:
    """Exit code 0, no traceback, and the split, the model and the report are named on the way."""
    assert run.done.returncode == 0, run.done.stderr
    assert "Traceback" not in run.done.stderr
    assert "train: 6 clips, 4 genuine, 2 generated (Edge 2)" in run.done.stderr
    assert f"validation: 4 clips, 2 genuine, 2 generated ({HELD_OUT} 2)" in run.done.stderr
    assert "overlap: 0 groups on both sides" in run.done.stderr
    assert re.search(r"avff-s: \d\.\d", run.done.stderr)
    assert f"model in {run.paths.model}" in run.done.stderr


def test_model_loads_and_scores(run: Run) -> None:
    """What the run exported scores a clip of the judges as its predictions say."""
    predictor = Predictor(load_model(run.paths.model, threads=1))
    score = next(s for s in run.scores if s.logit is not None)
    predictions = predictions_of_file(run.data / score.uid, face_models(), predictor)
    logits = [p.logit for p in predictions if p.logit is not None]
    assert len(logits) == score.windows
    assert np.mean(logits) == pytest.approx(score.logit, abs=1e-5)


def test_report_is_of_the_predictions(run: Run) -> None:
    """Every judge is listed once, and the report's AUC is theirs."""
    scores = run.scores
    assert sorted(s.uid for s in scores) == [f"dev/{c}/{k}.mp4" for c in ("fake", "real") for k in (0, 1)]
    kept = [s for s in scores if s.logit is not None]
    assert len(kept) == 4, "a face is found in every clip"
    auc = roc_auc_score([s.label for s in kept], [s.logit for s in kept])
    assert f"| **AUC** | **{auc:.3f} [" in run.report
    assert "| clips scored | 4 of 4 |" in run.report


def test_report_has_its_tables(run: Run) -> None:
    """Facts, split, validation, judges, breakdowns and abstentions, with the command that repeats them."""
    report = run.report
    for heading in ("# Training report: tiny", "## Data", "## Validation windows", "## Clips of `dev`"):
        assert heading in report
    assert re.search(r"\| Other \| 2 of 2 \|", report)
    assert f"avff-train --config {CONFIG} --name tiny --data.workers 1" in report
    assert "| threshold | 0.5, a default and not frozen: of 4 validation clips 2 genuine ones got" in report
    assert re.search(r"\| duration of training \| \d+\.\d min \|", report)
    assert "| too_short | 14 of " in report
    hop = re.search(r"([\d.]+) GFLOP per hop", report)
    assert hop is not None
    assert 0 < float(hop[1]) < 1


def test_model_knows_what_it_was_trained_on(run: Run) -> None:
    """It has a limit of novelty for picture and sound, and tokens that carry points for the motion head."""
    contract = load_model(run.paths.model, threads=1).contract
    assert contract.token_shape("landmarks") == (8, 16 + 184)
    assert set(contract.calibration.limits) == {"video", "audio"}
    assert min(contract.calibration.limits.values()) > 0


def test_provenance_can_be_checked(run: Run) -> None:
    """The contract's hashes are those of the manifest and of the checkpoint that was exported."""
    provenance = load_model(run.paths.model, threads=1).contract.provenance
    assert provenance["manifest_sha256"] == manifest_sha256(run.data / "manifest.csv")
    assert provenance["checkpoint_sha256"] == run.hashes["best_model.pth"]
    assert provenance["seed"] == "7"
    assert provenance["torch"] == torch.__version__


def test_settings_are_kept_as_they_were_used(run: Run) -> None:
    """Overrides and defaults alike, without the place of the data."""
    kept = json.loads(run.paths.settings.read_text())
    assert kept["train"]["windows_per_epoch"] == 8
    assert kept["train"]["optim"]["weight_decay"] == 0.05
    assert str(run.data) not in json.dumps(kept)


def test_tensorboard_follows_every_stage(run: Run) -> None:
    """Losses and AUC by kind are there to look at."""
    logs = b"".join(p.read_bytes() for p in run.paths.tensorboard.rglob("events.out.tfevents*"))
    for tag in (
        b"train/landmarks",
        b"val/landmarks",
        b"auc/video/lip_swap",
        b"auc/audio/vocoder",
        b"val/shift_found",
        b"auc/motion/generated",
        b"val/clip",
        b"val/auc",
        b"auc/desync",
    ):
        assert tag in logs, tag


def test_tensorboard_shows_the_finished_run(run: Run) -> None:
    """The recipe beside its figures, and the report's plots."""
    logs = sorted((run.paths.tensorboard / BOARD).glob("events.out.tfevents*"))
    written = b"".join(log.read_bytes() for log in logs)
    for tag in (b"judging/auc", b"train.optim.learning_rate", b"learning_curves"):
        assert tag in written, tag


def test_best_model_is_whole_in_itself(run: Run) -> None:
    """Recipe, contract, calibration, data hash and weights in one file that needs no unpickling of code."""
    kept = load_verified(run.paths.outputs / "best_model.pth")
    contract = parse_contract(kept["contract"])
    assert contract == load_model(run.paths.model, threads=1).contract
    assert json.loads(kept["settings"]) == json.loads(run.paths.settings.read_text())
    assert kept["manifest_sha256"] == manifest_sha256(run.data / "manifest.csv")
    net = build(RunSettings.model_validate(json.loads(kept["settings"])).model)
    net.load_state_dict(kept["weights"])


def test_report_shows_its_plots(run: Run) -> None:
    """Every picture that the report links lies beside it, and the curves have a line an epoch."""
    linked = re.findall(r"\]\((assets/[a-z_]+\.png)\)", run.report)
    assert {"assets/learning_curves.png", "assets/roc.png", "assets/confusion_matrix.png"} <= set(linked)
    assert all((run.paths.outputs / name).stat().st_size > 1000 for name in linked)
    epochs = [(e.stage, e.epoch) for e in read_history(run.paths.history)]
    assert epochs == [("encoders", 0), ("lips", 0), ("motion", 0), ("whole", 0)]
    assert "all 1 epochs were trained" in run.report


class ExportReached(Exception):
    """Raised in place of the second export, which test_export knows to be the same."""


def again(run: Run, monkeypatch: pytest.MonkeyPatch, **changes: str) -> int:
    """Give the command once more, in this process and as far as the export."""

    def stop(*_: object) -> None:
        raise ExportReached

    monkeypatch.setattr(pipeline, "_export", stop)
    options = {**TINY, "output": str(run.paths.root), "data.root": str(run.data), **changes}
    return main(["--config", str(CONFIG), *(f"--{key}={value}" for key, value in options.items())])


# Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes and directories.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_same_command_again_trains_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished run goes straight to the export: clips and checkpoints stay as they are."""
    with pytest.raises(ExportReached):
        again(run, monkeypatch)
    stages = {f"{stage}-last.pth" for stage in ("encoders", "lips", "motion")}
    assert set(run.hashes) >= {"best_model.pth", "last.pth", *stages}
    assert hashes_of(run.paths.checkpoints) == run.hashes
    assert "prepare: 0 clips prepared, 10 were in" in capsys.readouterr().err


def test_other_settings_are_another_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of one recipe are never reported under another."""
    assert again(run, monkeypatch, **{"train.optim.learning_rate": "0.1"}) == 78
    assert "holds a run with another 'train'; give a new --name" in capsys.readouterr().err
    assert hashes_of(run.paths.checkpoints) == run.hashes


def test_run_goes_on_though_settings_have_been_added_since(tmp_path: Path) -> None:
    """What a recipe of an older version does not say is at its default; what it says otherwise counts."""
    settings = RunSettings.model_validate({"name": "old", "output": tmp_path, "mix": {"self_blend": 1.0}})
    paths = RunPaths(tmp_path, "old")
    pipeline._begin(settings, paths)
    recipe = json.loads(paths.settings.read_text())
    del recipe["train"]["sampling"], recipe["train"]["loss"]["focal_gamma"]
    paths.settings.write_text(json.dumps(recipe))
    pipeline._begin(settings, paths)
    recipe["train"]["sampling"] = "natural"
    paths.settings.write_text(json.dumps(recipe))
    with pytest.raises(SettingsError, match="another 'train'"):
        pipeline._begin(settings, paths)


def test_threshold_tells_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    """Frozen on so many clips, or a default because none got a score: that is said at once as well."""
    genuine = [1 / (1 + math.exp(-x)) for x in (0.1, 0.2, 0.3)]
    threshold, origin, frozen = pipeline._threshold(genuine, 8)
    assert (threshold, origin, frozen) == (0.7319, "0.7319, frozen on 3 genuine validation clips", True)
    assert capsys.readouterr().err == ""
    threshold, origin, frozen = pipeline._threshold(genuine[:2], 8)
    assert (threshold, frozen) == (0.5, False)
    assert origin == "0.5, a default and not frozen: of 8 validation clips 2 genuine ones got a score"
    assert capsys.readouterr().err == f"avff-train: the threshold is {origin}\n"
