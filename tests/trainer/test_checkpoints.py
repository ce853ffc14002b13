"""Checkpoints: whole or not there, whatever happens while one is written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from avff.trainer.checkpoints import (
    CheckpointError,
    is_whole,
    load_verified,
    newest_whole,
    previous_of,
    save_durably,
)

ROOT = Path(__file__).parents[2]


def content(number: int) -> dict[str, Any]:
    return {"epoch": number, "weights": torch.full((64,), float(number)), "names": ["a", "b"]}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Tensors and plain values, and the checkpoint before as well."""
    path = tmp_path / "run" / "last.ckpt"
    for number in range(3):
        save_durably(content(number), path)
    found = load_verified(path)
    assert found["epoch"] == 2
    assert torch.equal(found["weights"], content(2)["weights"])
    assert torch.load(previous_of(path), weights_only=True)["epoch"] == 1
    assert newest_whole(path) == path
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "last.ckpt", "last.ckpt.previous", "last.ckpt.sha256",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    """It is never loaded; when both are damaged the run says so instead of starting anew."""
    path = tmp_path / "last.ckpt"
    save_durably(content(0), path)
    save_durably(content(1), path)
    harm(path, damage)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: is damaged"):
        load_verified(path)
    assert newest_whole(path) == previous_of(path)
    harm(previous_of(path), damage)
    with pytest.raises(CheckpointError, match="so is the one before; delete the run's checkpoints"):
        newest_whole(path)


def harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-10]), "empty": b""}[how])


def test_nothing_there_is_a_fresh_start(tmp_path: Path) -> None:
    """No checkpoint is no error; one that was asked for by name is."""
    assert newest_whole(tmp_path / "last.ckpt") is None
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_verified(tmp_path / "last.ckpt")


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    """A checkpoint with an object in it is not unpickled, even if its hash is right."""
    path = tmp_path / "last.ckpt"
    save_durably({"object": Path("x")}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_verified(path)


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says which file and why; no half-written file stays."""
    path = tmp_path / "last.ckpt"
    save_durably(content(0), path)

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be written \(No space left on device\)"):
        save_durably(content(1), path)
    assert load_verified(path)["epoch"] == 0
    assert not list(tmp_path.glob("*.tmp"))


STEPS = 7
"""Flushes and renames in a save that has a predecessor."""
KILLED_WITHIN_A_SAVE = """
import os, signal, sys
from pathlib import Path
import torch
from avff.trainer.checkpoints import save_durably

def content(number):
    return {"epoch": number, "weights": torch.full((64,), float(number))}

def save_until(path, calls):
    seen = 0
    def counting(original):
        def call(*arguments, **options):
            nonlocal seen
            if seen == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            return original(*arguments, **options)
        return call
    for number in range(2):
        save_durably(content(number), path)
    os.fsync, Path.replace = counting(os.fsync), counting(Path.replace)
    save_durably(content(2), path)

for calls in range(int(sys.argv[2])):
    # One interpreter loads torch, and each of its children is killed elsewhere.
    child = os.fork()
    if not child:
        save_until(Path(sys.argv[1]) / str(calls) / "last.ckpt", calls)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Folders left by saves that were killed before their first, second ... step, and exit codes."""
    directory = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WITHIN_A_SAVE, str(directory), str(STEPS + 1)],
        capture_output=True, text=True, timeout=200, check=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    return directory, [int(code) for code in done.stdout.split()]


@pytest.mark.parametrize("calls", range(STEPS + 1))
def test_kill_at_any_step_of_a_save_leaves_a_whole_checkpoint(
    killed: tuple[Path, list[int]], calls: int
) -> None:
    """SIGKILL before each flush and each rename: the newest whole one is the old or the new, never less."""
    directory, codes = killed
    finished = calls == STEPS
    assert codes[calls] == (0 if finished else -signal.SIGKILL)
    path = directory / str(calls) / "last.ckpt"
    newest = newest_whole(path)
    assert newest is not None
    assert is_whole(newest)
    assert torch.load(newest, weights_only=True)["epoch"] in ((2,) if finished else (1, 2))
    # The next save works on from whatever was left.
    save_durably(content(3), path)
    assert load_verified(path)["epoch"] == 3
    assert is_whole(previous_of(path))
