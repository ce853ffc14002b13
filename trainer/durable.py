"""Files that a crash at any moment leaves as they were or as they should be, never half."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_durably(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name, flush it to the disk, and give it its name.

    Args:
        path: of the file.
        write: is given the open file.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    scratch = scratch_of(path)
    with scratch.open("wb") as file:
        write(file)
        flush(file)
    take_name(scratch)


def scratch_of(path: Path) -> Path:
    """Return the name a file has while it is written."""
    return path.with_name(path.name + ".tmp")


def flush(file: IO[bytes]) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def take_name(scratch: Path) -> Path:
    """Rename ``NAME.tmp`` to ``NAME``, and make the name last."""
    path = scratch.replace(scratch.with_suffix(""))
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path
