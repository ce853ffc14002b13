"""A process as its parent holds it: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from avff.engine.backends.engine_file import read_sidecar
from avff.engine.process import handle
from avff.engine.process.handle import ChildProcess
from avff.engine.process.wire import WireError
from tests.engine.process.started import (
    Started,
    child_of,
)
from tests.support import scripted_child

pytestmark = pytest.mark.timeout(60)


_TALK = """\
import os, sys, time
for _ in range(4):
    os.write(2, b"a warning\\n" * 3000)
    time.sleep(0.2)
raise RuntimeError("the real reason")
"""


@pytest.mark.parametrize("awaited", ["its answer", "its end"])
def test_last_words_are_heard_after_many_others(awaited: str, directory: Path) -> None:
    """More than a pipe holds: it is emptied while the process is waited for."""
    child = ChildProcess("try", directory, "seal", command=(sys.executable, "-c", _TALK))
    if awaited == "its answer":
        with pytest.raises(WireError):
            child.receive(20.0)
    assert child.close(20.0) == "ended with code 1 (RuntimeError: the real reason)"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 1)", "was ended by signal 35"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "was ended by SIGABRT"),
        ("import time; time.sleep(60)", "was killed"),
    ],
)
def test_its_end_is_told(code: str, words: str, directory: Path) -> None:
    child = ChildProcess("try", directory, "seal", command=(sys.executable, "-c", code))
    assert child.close(0.0 if words == "was killed" else 20.0) == words


def test_one_that_cannot_be_killed_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs in a driver of the kernel, say."""
    monkeypatch.setattr(handle, "_END_S", 0.1)
    child = ChildProcess(
        "try", directory, "seal", command=(sys.executable, "-c", "import time; time.sleep(60)")
    )
    kill, child._process.kill = child._process.kill, lambda: None  # type: ignore[method-assign]
    assert child.close() == "could not be ended"
    kill()
    child._process.wait()


def test_ending_twice_is_ending_once(directory: Path) -> None:
    """The second time its descriptors may be somebody else's."""
    child = ChildProcess("try", directory, "seal", command=(sys.executable, "-c", ""))
    ending = child.close(20.0)
    number = os.open("/dev/null", os.O_RDONLY)
    assert child.close() == ending
    os.close(number)


def test_a_process_whose_parent_has_gone_ends_at_once(directory: Path) -> None:
    """It might have gone before the process could ask to be told; it does not even load."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = str(theirs.fileno())
        command = [*scripted_child.COMMAND, "try", str(directory), read_sidecar(directory).seal, "1", number]
        env = os.environ | scripted_child.environment(directory.parent / "left")
        done = subprocess.run(command, pass_fds=[theirs.fileno()], env=env, check=False, timeout=30)
        theirs.close()
        assert (done.returncode, ours.recv(10)) == (1, b"")


def test_it_has_a_session_of_its_own(start: Callable[..., Started]) -> None:
    """Ctrl-C in a terminal reaches every process of the daemon's group, at any time."""
    pid = child_of(start().model).pid
    assert os.getsid(pid) == pid != os.getsid(0)


def test_a_process_that_talks_too_much_is_not_held_up(directory: Path) -> None:
    """stderr is a pipe that nobody reads until the end."""
    talk = (
        "import os\nfor _ in range(100):\n try: os.write(2, b'x' * 10_000)\n except BlockingIOError: pass\n"
    )
    child = ChildProcess(
        "try", directory, "seal", command=(sys.executable, "-c", talk + "raise SystemExit(3)")
    )
    assert child.close(20.0).startswith("ended with code 3 (xxx")


_PARENT = """\
import os, sys, threading
from pathlib import Path
from avff.engine.process.start import start_engines
from avff.engine.slices import Reason
from avff.engine.spec import SPEC
from tests.support import scripted_child
import numpy as np
model = start_engines(Path(sys.argv[1]), command=scripted_child.COMMAND)
process = model._release.__self__._child._process
print(process.pid, flush=True)
if sys.argv[2] == "hang":
    spec = model.contract.graphs["landmarks"].inputs[0]
    ask = lambda: model.infer("landmarks", {spec.name: np.zeros((1, *spec.shape), np.float32)})
    threading.Thread(target=ask, daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "hang"])
def test_it_ends_with_its_parent(state: str, directory: Path, tmp_path: Path) -> None:
    """Even if the parent is killed, and even within a call that never returns."""
    fault = "serve launch hang" if state == "hang" else ""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(directory), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | scripted_child.environment(tmp_path / "left", fault),
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        os.kill(pid, signal.SIGINT)  # the daemon's to handle
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        assert _runs(pid)
        parent.kill()
    deadline_s = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
