"""Silence for native libraries that write on descriptor 2 whatever they are told."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
"""Two threads that save and restore the descriptor at once would leave it mute."""


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence descriptor 2 of the process; short calls only."""
    with _LOCK:
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
