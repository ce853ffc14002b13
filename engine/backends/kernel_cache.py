"""Kernels that TensorRT-RTX compiles when an engine is loaded, kept for the next time.

They lie in the user's cache directory under the SHA-256 of their engine.  They are code, as engines are: a
file begins with the hash of the rest, so that a damaged one never reaches the runtime, and a folder that
others can write is not used.  Losing them costs seconds, so nothing here fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from avff.engine.faces.assets import cache_directory

KEPT = 32
"""Most files; those that were written first go."""
_HASH_BYTES = 32


class KernelCache:
    """A folder of kernels.

    Args:
        directory: of the files; ``kernels`` in the user's cache directory unless given.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or _in_users_cache()

    def take(self, engine: str) -> bytes | None:
        """Return the kernels of an engine and remove their file; None if there is none, or a damaged one.

        Whoever could use them keeps them again, so that those that crash a process crash only one.

        Args:
            engine: its SHA-256, in hexadecimal.
        """
        with contextlib.suppress(OSError):
            path = self._own_directory() / f"{engine}.kernels"
            content = path.read_bytes()
            path.unlink()
            digest, kernels = content[:_HASH_BYTES], content[_HASH_BYTES:]
            if hashlib.sha256(kernels).digest() == digest:
                return kernels
        return None

    def keep(self, engine: str, kernels: bytes) -> None:
        """Write the kernels of an engine, whole or not at all."""
        with contextlib.suppress(OSError):
            directory = self._own_directory()
            self._write(directory / f"{engine}.kernels", hashlib.sha256(kernels).digest() + kernels)
            # What a writer that was killed left behind is among them, and goes in its turn.
            written = sorted(directory.glob("*.kernels*"), key=lambda path: path.stat().st_mtime_ns)
            for path in written[:-KEPT]:
                path.unlink()

    def _own_directory(self) -> Path:
        """Return the folder, made if need be.

        Raises:
            OSError: there is none, or others can write it.
        """
        if self._directory is None:
            raise FileNotFoundError("there is no cache directory")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{self._directory} can be written by others")
        return self._directory

    def _write(self, path: Path, content: bytes) -> None:
        number, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with open(number, "wb") as file:
                file.write(content)
            os.replace(scratch, path)
        except BaseException:  # an interruption too leaves no scratch file
            os.unlink(scratch)
            raise


def _in_users_cache() -> Path | None:
    try:
        directory = cache_directory() / "kernels"
    except RuntimeError:
        return None  # there is no home directory
    return None if directory.parts[0] == "~" else directory  # nor here: it would lie where we happen to be
