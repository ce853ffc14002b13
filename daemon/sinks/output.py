"""Writing text to a file descriptor from a thread, so that a reader who stalls blocks only that."""

from __future__ import annotations

import errno
import os

from avff.daemon.sinks.base import SinkError
from avff.daemon.worker import Worker


class Output:
    """An open descriptor, written without Python's buffers.

    ``sys.stdout`` would try to flush again at exit and complain about a reader
    that has gone; here every line is out, or known not to be.

    Args:
        fd: stays open.
        name: for log lines and the thread.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._worker = Worker(f"write:{name}")

    async def write(self, text: str) -> None:
        """Write all of a text.

        Raises:
            SinkError: the reader is gone (no message), or writing failed.
        """
        try:
            await self._worker.run(_write_all, self._fd, text.encode("utf-8", "replace"))
        except BrokenPipeError:
            raise SinkError from None  # `| head -1` is no mistake
        except OSError as error:
            raise SinkError(f"cannot write ({os.strerror(error.errno or errno.EIO)})") from error

    async def close(self) -> None:
        """End the thread; the descriptor stays open."""
        await self._worker.close()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
