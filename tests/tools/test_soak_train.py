"""The soak kills for real, resumes, and tells other weights from equal ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from avff.trainer.checkpoints import save_durably
from avff.trainer.paths import RunPaths
from tools import soak_train
from tools.soak_train import Kill


def test_run_killed_inside_a_save_ends_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a kill, with its moment, and exit code 0."""
    monkeypatch.setattr(soak_train, "_EPOCHS", 1)
    assert soak_train.main(["--kills", "1", "--inside-saves", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "in flush" in lines[-2]
    assert lines[-2].endswith("equal")
    assert lines[-1] == "1/1 equal"


def test_hash_is_of_the_tensors_of_both_checkpoints(tmp_path: Path) -> None:
    """Another epoch number changes nothing, the last bit of one weight of either file does."""

    def hash_of(name: str, best: float, last: float, epoch: int) -> str:
        paths = RunPaths(tmp_path / name, "soak")
        for file, value in (("best_model.pth", best), ("last.pth", last)):
            state = {"net.weight": torch.tensor([value, 2.0])}
            save_durably({"state_dict": state, "epoch": epoch}, paths.checkpoints / file)
        return soak_train.weights_sha256(paths)

    one = hash_of("one", 1.0, 1.0, epoch=0)
    assert hash_of("same", 1.0, 1.0, epoch=1) == one
    nearly = float(np.nextafter(np.float32(1), np.float32(2)))
    assert len({one, hash_of("best", nearly, 1.0, epoch=0), hash_of("last", 1.0, nearly, epoch=0)}) == 3


def test_one_run_with_other_weights_fails_the_soak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However many others were equal."""
    outcomes = ["equal", "other weights", "equal"]
    scripted = [Kill("after 1.00 s", 2, outcome) for outcome in outcomes]
    monkeypatch.setattr(soak_train, "soak", lambda kills, inside_saves, seed: scripted)
    assert soak_train.main(["--kills", "3", "--inside-saves", "0"]) == 1
    assert capsys.readouterr().out == "2/3 equal\n"


@pytest.mark.parametrize("arguments", [["--kills", "0"], ["--kills", "2", "--inside-saves", "3"]])
def test_kills_that_cannot_be_are_refused(arguments: list[str]) -> None:
    """None at all, or more inside a save than altogether."""
    with pytest.raises(SystemExit) as caught:
        soak_train.main(arguments)
    assert caught.value.code == 2
