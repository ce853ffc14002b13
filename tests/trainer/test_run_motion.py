"""Runs with a motion head: its stages come between, are exact from the seed, and keep what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avff.trainer.checkpoints import load_verified
from avff.trainer.config import RunSettings
from avff.trainer.data.courses import CourseBatch
from avff.trainer.motion_stage import LipStage, MotionStage
from avff.trainer.report.history import read_history
from avff.trainer.run import dry_run, fit
from avff.trainer.run_data import RunData
from avff.trainer.stages import FINAL
from tests.trainer.test_run import data as data
from tests.trainer.test_run import equal, make_settings, paths_of, pytestmark, weights

pytestmark = pytestmark


def moving(output: Path, *, workers: int = 0, **motion: Any) -> RunSettings:
    """Settings of a run whose stages are two updates an epoch."""
    sizes = {"lip_epochs": 2, "epochs": 2, "windows_per_epoch": 4, "batch": 2}
    change = {
        "model": {"width": 16, "heads": 2, "depth": 1, "motion": True, "dropout": 0.3},
        "motion": {**sizes, "mix": {"generated": 1.0, "lips_by_sound": 3.0}, **motion},
    }
    return make_settings(output, workers=workers, change=change)


def test_stages_of_the_motion_head_come_before_the_last(data: RunData, tmp_path: Path) -> None:
    """Predictors, then classifiers, then the fusion graph, each with its own figures."""
    settings = moving(tmp_path)
    finished = fit(settings, data, paths_of(settings))
    assert list(finished) == ["encoders", "lips", "motion", FINAL]
    history = read_history(paths_of(settings).history)
    assert [(e.stage, e.epoch) for e in history] == [
        ("encoders", 0), ("lips", 0), ("lips", 1), ("motion", 0), ("motion", 1), ("whole", 0),
    ]  # fmt: skip
    assert {"train/loss", "train/desync", "val/loss", "val/shift_found"} <= set(history[1].values)
    assert {"train/loss", "auc/motion/generated", "auc/motion/stiff_head"} <= set(history[3].values)


def test_each_stage_keeps_what_the_others_have_made(data: RunData, tmp_path: Path) -> None:
    """Classifiers leave the predictors alone, and the fusion graph leaves the whole head alone."""
    settings = moving(tmp_path, ema=None)
    finished = fit(settings, data, paths_of(settings))
    kept = {
        name: load_verified(paths_of(settings).checkpoints / stage.checkpoint)["state_dict"]
        for name, stage in finished.items()
    }

    def moved(before: str, after: str) -> set[str]:
        old, new = kept[before], kept[after]
        names = {n for n in new if n in old and n.startswith("net.") and not torch.equal(new[n], old[n])}
        return {
            ".".join(n.split(".")[1:3]) if n.startswith("net.motion.") else n.split(".")[1] for n in names
        }

    heads = {"motion.lips", "motion.step", "motion.face_norm", "motion.sound_norm"}
    assert moved("encoders", "lips") == heads
    assert moved("lips", "motion") == {"motion.classifiers"}
    assert moved("motion", FINAL) == {"fusion"}


class _Cut(Exception):
    """Ends a run in the middle of an epoch, as a crash would."""


@pytest.mark.parametrize("stage", [LipStage, MotionStage])
def test_interrupted_stage_ends_with_the_weights_of_one_that_was_not(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: type[LipStage | MotionStage]
) -> None:
    """Cut within its second epoch, then resumed: bit for bit the same."""
    straight, torn = moving(tmp_path / "a"), moving(tmp_path / "b")
    wanted = weights(straight, data)
    original = stage.training_step

    def training_step(self: Any, batch: CourseBatch, index: int) -> Tensor:
        if self.current_epoch == 1 and index == 1:
            raise _Cut
        return original(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "training_step", training_step)
        with pytest.raises(_Cut):
            fit(torn, data, paths_of(torn))
    assert equal(wanted, weights(torn, data))


def test_worker_processes_do_not_change_the_weights(data: RunData, tmp_path: Path) -> None:
    """They draw windows with a copy of the predictors, and the same ones."""
    assert equal(weights(moving(tmp_path / "a"), data), weights(moving(tmp_path / "b", workers=1), data))


def test_dry_run_goes_through_every_stage(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch each, and nothing is kept."""
    monkeypatch.chdir(tmp_path)
    gone: list[str] = []
    for stage in (LipStage, MotionStage):
        original = stage.training_step

        def training_step(self: Any, batch: CourseBatch, index: int, original: Any = original) -> Tensor:
            gone.append(type(self).__name__)
            made: Tensor = original(self, batch, index)
            return made

        monkeypatch.setattr(stage, "training_step", training_step)
    dry_run(moving(tmp_path / "runs"), data)
    assert gone == ["LipStage", "MotionStage"]
    assert list(tmp_path.iterdir()) == []
