"""A folder of engines: whole at every moment, whatever ends a build."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from avff.engine.backends.engine_file import Runtime, read_engines
from avff.engine.backends.sidecar import SIDECAR_FILE
from avff.trainer import durable
from avff.trainer.engines.build import publish
from tests.support.engine_files import random_engines, write_engines

ROOT = Path(__file__).parents[3]
RUNTIME = Runtime("rtx", "1.7.1.116", "8.9")
FILES = 5
"""Four engines and the side-car."""


def _held(directory: Path) -> Mapping[str, bytes]:
    return read_engines(directory, RUNTIME).content


def _run(code: str, *arguments: str) -> int:
    """Run code in another process, as a build of its own, and return its exit code."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, check=False, stderr=subprocess.DEVNULL
    ).returncode


def test_building_needs_no_torch() -> None:
    """It takes seconds to import, and a machine that only builds engines has no use for it."""
    assert _run("import sys, avff.trainer.engines.build; sys.exit(7 if 'torch' in sys.modules else 0)") == 0


def test_new_engines_take_the_place_of_old_ones(tmp_path: Path) -> None:
    """Only what the new side-car names stays, with what is none of ours."""
    write_engines(tmp_path, seed=1)
    others = (
        "notes.txt",
        "v8.engine",
        "audio-12.engine",
        "video-0123456789abcdef.engine.old",
        "V.engine.tmp",
    )
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "audio-0123456789abcdef.engine.tmp").write_text("of a build that was killed")
    write_engines(tmp_path, seed=2)
    assert _held(tmp_path) == random_engines(2)[1]
    assert len(list(tmp_path.iterdir())) == FILES + len(others)
    assert all((tmp_path / name).is_file() for name in others)
    write_engines(tmp_path, seed=2)
    assert _held(tmp_path) == random_engines(2)[1]


KILLED = """
import os, signal, sys
from pathlib import Path
from avff.trainer import durable
from tests.support.engine_files import write_engines

left = int(sys.argv[2])
take_name = durable.take_name

def dying(scratch):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return take_name(scratch)

durable.take_name = dying
write_engines(Path(sys.argv[1]), seed=2)
"""


def test_a_build_killed_at_any_file_leaves_the_old_engines(tmp_path: Path) -> None:
    """SIGKILL before each of the five renames; the next build finishes and cleans up."""
    old = write_engines(tmp_path, seed=1)
    for names in range(FILES):
        assert _run(KILLED, str(tmp_path), str(names)) == -signal.SIGKILL
        assert read_engines(tmp_path, RUNTIME).sidecar == old
        assert _held(tmp_path) == random_engines(1)[1]
    assert list(tmp_path.glob("*.tmp"))
    assert _run(KILLED, str(tmp_path), str(FILES)) == 0
    assert _held(tmp_path) == random_engines(2)[1]
    assert len(list(tmp_path.iterdir())) == FILES


@pytest.mark.parametrize("names", range(FILES))
@pytest.mark.parametrize("first", [True, False])
def test_an_interruption_at_any_file_leaves_the_folder_as_it_was(
    first: bool, names: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written for the new side-car goes, of a first build too."""
    if not first:
        write_engines(tmp_path, seed=1)
    before = sorted(tmp_path.iterdir())
    take_name = durable.take_name
    left = names

    def interrupted(scratch: Path) -> Path:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return take_name(scratch)

    monkeypatch.setattr(durable, "take_name", interrupted)
    sidecar, engines = random_engines(2)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, sidecar, engines)
    assert sorted(tmp_path.iterdir()) == before
    if not first:
        assert _held(tmp_path) == random_engines(1)[1]


def test_an_error_after_the_side_car_changed_leaves_the_new_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking them back would leave a side-car without its engines."""
    write_engines(tmp_path, seed=1)
    take_name = durable.take_name

    def late(scratch: Path) -> Path:
        path = take_name(scratch)
        if path.name == SIDECAR_FILE:
            raise OSError("the disk went away")
        return path

    monkeypatch.setattr(durable, "take_name", late)
    with pytest.raises(OSError, match="went away"):
        write_engines(tmp_path, seed=2)
    monkeypatch.undo()
    assert _held(tmp_path) == random_engines(2)[1]


FULL = """
import resource, sys
from pathlib import Path
from tests.support.engine_files import write_engines

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_engines(Path(sys.argv[1]), seed=2)
except OSError:
    sys.exit(7)
"""


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("room", [0, 1000, 4000])
def test_no_room_leaves_the_old_engines(room: int, seed: int, tmp_path: Path) -> None:
    """None for a byte, none for an engine, none for the side-car: the system itself refuses to write.

    The engines of before are others than those that are to be written, or the same.
    """
    write_engines(tmp_path, seed=seed)
    assert (tmp_path / SIDECAR_FILE).stat().st_size > 4000 > 3000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    before = sorted(tmp_path.iterdir())
    assert _run(FULL, str(tmp_path), str(room)) == 7
    assert sorted(tmp_path.iterdir()) == before
    assert _held(tmp_path) == random_engines(seed)[1]


REPEATED = """
import sys
from pathlib import Path
from tests.support.engine_files import write_engines

for k in range(20):
    write_engines(Path(sys.argv[1]), seed=int(sys.argv[2]) + k % 2)
"""


def test_builds_at_the_same_time_take_turns(tmp_path: Path) -> None:
    """Two processes write into one folder, twenty times each: neither fails, and what is left is whole."""
    command = [sys.executable, "-c", REPEATED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    runs = [subprocess.Popen([*command, seed], env=environment) for seed in ("3", "5")]
    assert [run.wait() for run in runs] == [0, 0]
    assert _held(tmp_path) in (random_engines(4)[1], random_engines(6)[1])
    assert len(list(tmp_path.iterdir())) == FILES


def test_a_build_waits_for_the_other(tmp_path: Path) -> None:
    """As long as the folder is locked, nothing is written into it."""
    write_engines(tmp_path, seed=1)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    waiting = threading.Thread(target=write_engines, args=(tmp_path,), kwargs={"seed": 2})
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    assert _held(tmp_path) == random_engines(1)[1]
    os.close(folder)
    waiting.join(10)
    assert _held(tmp_path) == random_engines(2)[1]
