"""Kernels that TensorRT-RTX compiles when an engine is loaded, kept for the next time.

They lie in the user's cache directory under the SHA-256 of their engine.  A file begins with the hash of
the rest, so that a damaged one never reaches the runtime.  Losing them costs seconds, so nothing here fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
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
        self._directory = directory or cache_directory() / "kernels"

    def read(self, engine: str) -> bytes | None:
        """Return the kernels of an engine, or None; a damaged file is thrown away.

        Args:
            engine: its SHA-256, in hexadecimal.
        """
        path = self._path(engine)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, kernels = content[:_HASH_BYTES], content[_HASH_BYTES:]
        if hashlib.sha256(kernels).digest() == digest:
            return kernels
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def keep(self, engine: str, kernels: bytes) -> None:
        """Write the kernels of an engine, whole or not at all."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._write(self._path(engine), hashlib.sha256(kernels).digest() + kernels)
            written = sorted(self._directory.glob("*.kernels"), key=lambda path: path.stat().st_mtime_ns)
            for path in written[:-KEPT]:
                path.unlink()

    def _write(self, path: Path, content: bytes) -> None:
        number, scratch = tempfile.mkstemp(dir=self._directory, prefix=path.name, suffix=".tmp")
        try:
            with open(number, "wb") as file:
                file.write(content)
            os.replace(scratch, path)
        except BaseException:  # an interruption too leaves no scratch file
            os.unlink(scratch)
            raise

    def _path(self, engine: str) -> Path:
        return self._directory / f"{engine}.kernels"
