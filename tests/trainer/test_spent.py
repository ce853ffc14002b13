"""What a run has cost adds up over all times that its command was given."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning
import pytest

from avff.trainer import spent
from avff.trainer.checkpoints import CheckpointError
from avff.trainer.spent import Ledger, Spent, read_spent

MODULE = lightning.LightningModule()
GIB = 2**30


class Process:
    """One process that trains, with a clock and a GPU that the test sets.

    Args:
        path: of the ledger.
        now_s: what the clock shows at its start.
        first: whether it is the one that writes.
    """

    def __init__(
        self, path: Path, now_s: float, monkeypatch: pytest.MonkeyPatch, *, first: bool = True
    ) -> None:
        self.now_s, self.peak_bytes = now_s, cast("int | None", None)
        monkeypatch.setattr(spent, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(spent, "_peak_gpu_bytes", lambda: self.peak_bytes)
        self.trainer = cast(Any, SimpleNamespace(is_global_zero=first))
        self.ledger = Ledger(path)
        self.ledger.on_fit_start(self.trainer, MODULE)

    def epoch(self, now_s: float, peak_bytes: int | None = None) -> None:
        """End an epoch at a time."""
        self.now_s, self.peak_bytes = now_s, peak_bytes
        self.ledger.on_train_epoch_end(self.trainer, MODULE)


def test_killed_process_loses_its_last_epoch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time adds up and memory keeps its highest, though nothing was said after the last whole epoch."""
    path = tmp_path / "checkpoints" / "spent.json"
    killed = Process(path, 100.0, monkeypatch)
    killed.epoch(130.0, 6 * GIB)
    killed.epoch(150.0, 7 * GIB)
    assert read_spent(path) == Spent(50.0, 7 * GIB)
    resumed = Process(path, 1.0, monkeypatch)
    resumed.epoch(31.0, 2 * GIB)
    assert read_spent(path) == Spent(80.0, 7 * GIB)
    resumed.now_s = 33.0
    resumed.ledger.on_train_end(resumed.trainer, MODULE)
    assert read_spent(path) == Spent(82.0, 7 * GIB)


def test_stopped_process_counts_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error or a signal the minutes of the broken epoch are spent too; a CPU has no GPU memory."""
    path = tmp_path / "spent.json"
    process = Process(path, 10.0, monkeypatch)
    process.now_s = 25.0
    process.ledger.on_exception(process.trainer, MODULE, KeyboardInterrupt())
    assert read_spent(path) == Spent(15.0, None)


def test_one_process_keeps_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several would count the same minutes several times."""
    Process(tmp_path / "spent.json", 0.0, monkeypatch, first=False).epoch(10.0)
    assert read_spent(tmp_path / "spent.json") is None


def test_damaged_ledger_is_named(tmp_path: Path) -> None:
    """It is never written by halves; whoever has changed it is told."""
    path = tmp_path / "spent.json"
    path.write_text(json.dumps({"minutes": 3}))
    with pytest.raises(CheckpointError, match=r"spent\.json: is damaged; delete it"):
        read_spent(path)
