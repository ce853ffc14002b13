"""One process that runs engines, as its parent holds it: started, spoken to, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import avff
from avff.engine.errors import BackendError
from avff.engine.process.wire import Message, receive, send

# -P: the directory that the daemon was started in is no place to import from.
COMMAND = (sys.executable, "-P", "-m", "avff.engine.process.child")
_END_S = 5.0
"""Longest wait for a process that was killed; one that hangs in a driver of the kernel is left."""
_PIPE = 65_536
"""Bytes that a pipe holds."""


class ChildProcess:
    """A process with a connection to it.

    Args:
        mode: ``try`` or ``serve``.
        directory: folder of the engines.
        memory: descriptor of the shared memory, if it serves.
        command: what is started.

    Raises:
        BackendError: it cannot be started.
    """

    def __init__(
        self, mode: str, directory: Path, memory: int | None = None, *, command: Sequence[str] = COMMAND
    ) -> None:
        ours, theirs = socket.socketpair()
        self._errors, writing = os.pipe()
        # What it has to say is kept by the pipe; a pipe that is full must not stop it.
        os.set_blocking(writing, False)
        os.set_blocking(self._errors, False)
        passed = [theirs.fileno()] + ([] if memory is None else [memory])
        try:
            self._process = subprocess.Popen(
                [*command, mode, str(directory), *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=writing,
                pass_fds=passed,
                start_new_session=True,  # Ctrl-C is the daemon's
                env=_environment(),
            )
        except OSError as error:
            ours.close()
            os.close(self._errors)
            raise BackendError(f"the engine's process cannot be started ({error.strerror})") from error
        finally:
            theirs.close()
            os.close(writing)
        self._connection = Connection(ours.detach())

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
        return receive(self._connection, timeout_s)

    def close(self, grace_s: float = 0.0) -> str:
        """End the process, by force after a while, and return in words how it ended.

        Args:
            grace_s: how long it may take to end by itself, now that nobody speaks to it.
        """
        self._connection.close()
        killed = False
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            killed = True
            self._process.kill()
        try:
            code: int | None = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            code = None
        said = self._said()
        return _ending(None if killed else code) + (f" ({said})" if said else "")

    def _said(self) -> str:
        """Return the last line that it wrote to stderr: of a traceback, the error."""
        try:
            text = os.read(self._errors, _PIPE)
        except BlockingIOError:
            text = b""
        os.close(self._errors)
        lines = text.decode(errors="replace").split("\n")
        return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")


def _environment() -> dict[str, str]:
    """Return this process's environment, with this very program first: both sides must be the same one."""
    paths = [str(Path(avff.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _ending(code: int | None) -> str:
    if code is None:
        return "was killed"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
