"""One process that runs engines, as its parent holds it: started, spoken to, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import avff
from avff.engine.errors import BackendError
from avff.engine.process.wire import Message, receive, send

# -P: the directory that the daemon was started in is no place to import from.
COMMAND = (sys.executable, "-P", "-m", "avff.engine.process.child")
_END_S = 5.0
"""Longest wait for a process that was killed; one that hangs in a driver of the kernel is left."""
_POLL_S = 0.02
_PIPE = 65_536
"""Bytes that a pipe holds; as many of the last words are kept."""


class ChildProcess:
    """A process with a connection to it.

    Args:
        mode: ``try`` or ``serve``.
        directory: folder of the engines.
        seal: of the engines, the only ones that it may load.
        memory: descriptor of the shared memory, if it serves.
        command: what is started.

    Raises:
        BackendError: it cannot be started.
    """

    def __init__(
        self,
        mode: str,
        directory: Path,
        seal: str,
        memory: int | None = None,
        *,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._said = b""
        self._ending: str | None = None
        with ExitStack() as theirs, ExitStack() as ours:
            try:
                near, far = socket.socketpair()
                ours.enter_context(near)
                theirs.enter_context(far)
                self._errors, writing = os.pipe()
                ours.callback(os.close, self._errors)
                theirs.callback(os.close, writing)
                # A pipe that is full must not stop the process.
                os.set_blocking(writing, False)
                os.set_blocking(self._errors, False)
                passed = [far.fileno()] + ([] if memory is None else [memory])
                self._process = subprocess.Popen(
                    [*command, mode, str(directory), seal, str(os.getpid()), *map(str, passed)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=writing,
                    pass_fds=passed,
                    start_new_session=True,  # Ctrl-C is the daemon's
                    env=_environment(),
                )
            except OSError as error:
                raise BackendError(f"the engine's process cannot be started ({error.strerror})") from error
            self._connection = Connection(near.detach())
            ours.pop_all()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            WireError: the process is gone.
        """
        send(self._connection, message)

    def receive(self, timeout_s: float) -> Message | None:
        """Return its next message, or None if there is none within the time.

        Raises:
            WireError: the process is gone.
        """
        until_s = time.monotonic() + timeout_s
        awaited: list[Connection | int] = [self._connection, self._errors]
        while True:
            ready = wait_for(awaited, max(0.0, until_s - time.monotonic()))
            if self._errors in ready and not self._listen():
                awaited.remove(self._errors)
            if self._connection in ready or time.monotonic() >= until_s:
                return receive(self._connection, 0.0)

    def close(self, grace_s: float = 0.0) -> str:
        """End the process, by force after a while, and return in words how it ended; twice is once.

        Args:
            grace_s: how long it may take to end by itself, now that nobody speaks to it.
        """
        if self._ending is None:
            self._connection.close()
            if self._wait(grace_s) is None:
                self._process.kill()
            self._ending = _ending(self._wait(_END_S))
            self._listen()
            os.close(self._errors)
            said = _last_line(self._said)
            self._ending += f" ({said})" if said else ""
        return self._ending

    def _wait(self, longest_s: float) -> int | None:
        """Wait for its end, and listen meanwhile; return its code, or None if it goes on."""
        until_s = time.monotonic() + longest_s
        while (code := self._process.poll()) is None and time.monotonic() < until_s:
            if wait_for([self._errors], _POLL_S) and not self._listen():
                time.sleep(_POLL_S)
        return code

    def _listen(self) -> bool:
        """Take in what it wrote to stderr, so that there is room for its last words; False at the end."""
        try:
            text = os.read(self._errors, _PIPE)
        except BlockingIOError:
            return True
        self._said = (self._said + text)[-_PIPE:]
        return bool(text)


def _last_line(text: bytes) -> str:
    """Return the last line that is not blank: of a traceback, the error."""
    lines = text.decode(errors="replace").split("\n")
    return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")


def _environment() -> dict[str, str]:
    """Return this process's environment, with this very program first: both sides must be the same one."""
    paths = [str(Path(avff.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _ending(code: int | None) -> str:
    if code is None:
        return "could not be ended"
    if code == -signal.SIGKILL:
        return "was killed"
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was ended by {names.get(-code, f'signal {-code}')}"
    return f"ended with code {code}"
