"""``history.jsonl``: whole after any crash, and clear about what is wrong with it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from avff.trainer.report.history import (
    Epoch,
    HistoryError,
    append_epoch,
    best_f1,
    majority_prior,
    read_history,
    stages_of,
)
from tests.trainer.scored_clips import make_history


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_epochs_come_back_as_they_were_written(path: Path) -> None:
    """In the order of training, every figure with all its digits; no file is no epochs."""
    assert read_history(path) == []
    history = make_history()
    for epoch in history:
        append_epoch(path, epoch)
    assert read_history(path) == history
    assert list(stages_of(history)) == ["encoders", "whole"]


def test_lines_are_flat_json(path: Path) -> None:
    """Stage, epoch and figures are keys of one object: any tool reads it."""
    append_epoch(path, Epoch("whole", 3, {"val/loss": 0.5, "lr": 1e-4}))
    assert json.loads(path.read_text()) == {"stage": "whole", "epoch": 3, "val/loss": 0.5, "lr": 1e-4}


def test_names_of_earlier_versions_are_read_as_todays(path: Path) -> None:
    """Losses of the first two stages had names the report did not look for; AUC shared theirs."""
    old = {
        "pretrain/loss": 3.0,
        "pretrain/val/loss": 4.0,
        "encoders/video": 1.0,
        "encoders/video/lip_swap": 0.6,
    }
    path.write_text(json.dumps({"stage": "pretrain", "epoch": 0, **old, "auc/desync": 0.5}) + "\n")
    (epoch,) = read_history(path)
    assert epoch.values == {
        "train/loss": 3.0, "val/loss": 4.0, "train/video": 1.0, "auc/video/lip_swap": 0.6, "auc/desync": 0.5,
    }  # fmt: skip


def test_figure_that_is_not_defined_is_null(path: Path) -> None:
    """NaN and infinity are no JSON; they are read as NaN, and so is what was never measured."""
    append_epoch(path, Epoch("whole", 0, {"val/auc": math.nan, "train/loss": math.inf}))
    assert json.loads(path.read_text())["val/auc"] is None
    (epoch,) = read_history(path)
    assert [math.isnan(epoch.get(n)) for n in ("val/auc", "train/loss", "val/f1")] == [True] * 3


def test_epochs_trained_again_replace_the_old_ones(path: Path) -> None:
    """A run that goes back to epoch 1 leaves one line for each epoch, and other stages as they are."""
    for stage, epoch in (("encoders", 0), ("encoders", 5), ("whole", 0), ("whole", 1), ("whole", 2)):
        append_epoch(path, Epoch(stage, epoch, {"val/loss": 1.0}))
    append_epoch(path, Epoch("whole", 1, {"val/loss": 2.0}))
    kept = [(e.stage, e.epoch, e.get("val/loss")) for e in read_history(path)]
    assert kept == [("encoders", 0, 1.0), ("encoders", 5, 1.0), ("whole", 0, 1.0), ("whole", 1, 2.0)]


def test_crash_while_writing_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all bytes are on the disk the old file has its name; the next epoch is added as ever."""
    append_epoch(path, Epoch("whole", 0, {}))
    before = path.read_bytes()

    def cut(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", cut)
        with pytest.raises(KeyboardInterrupt):
            append_epoch(path, Epoch("whole", 1, {}))
    assert path.read_bytes() == before
    append_epoch(path, Epoch("whole", 1, {}))
    assert [e.epoch for e in read_history(path)] == [0, 1]
    assert [p.name for p in path.parent.iterdir()] == ["history.jsonl"]


@pytest.mark.parametrize(
    "line",
    ["[1]", "{", '{"epoch": 1}', '{"stage": "whole", "epoch": "x"}', '{"stage": "a", "epoch": 1, "lr": "x"}'],
)
def test_damaged_line_is_named(path: Path, line: str) -> None:
    """File and line number in one line, and no figure is guessed."""
    path.write_text('{"stage": "whole", "epoch": 0}\n' + line + "\n")
    with pytest.raises(HistoryError, match=r"history.jsonl: line 2 is not an epoch") as caught:
        read_history(path)
    assert "\n" not in str(caught.value)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """One line with the path and the system's reason."""
    with pytest.raises(HistoryError, match=r"none/history.jsonl: cannot be written \(No such file"):
        append_epoch(tmp_path / "none" / "history.jsonl", Epoch("whole", 0, {}))


def test_best_f1_is_the_highest_that_was_measured() -> None:
    """Its epoch and stage; none when no stage measures it."""
    best = best_f1(make_history())
    assert best is not None
    assert (best.stage, best.epoch, best.get("val/f1")) == ("whole", 0, 0.75)
    assert best_f1(make_history()[:6]) is None


@pytest.mark.parametrize(("priors", "accuracy"), [((0.3, 0.2), 0.8), ((0.7, math.nan), 0.7)])
def test_majority_is_that_of_the_last_epoch_that_counted(priors: tuple[float, ...], accuracy: float) -> None:
    """Whichever class it is."""
    history = [Epoch("whole", n, {"val/prior": prior}) for n, prior in enumerate(priors)]
    assert majority_prior(history) == pytest.approx(accuracy)
    assert math.isnan(majority_prior([Epoch("encoders", 0, {"train/loss": 1.0})]))
