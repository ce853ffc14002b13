"""Media on standard input, in any container that can be read from front to back.

A pipe waits like a file, so that nothing is lost and ``avffd --source pipe: < clip.mkv``
gives the scores of ``avffd --source clip.mkv``; a writer that runs in real time sets the pace.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources.base import SourceSettings
from avff.daemon.sources.file import FileSource

if TYPE_CHECKING:
    from avff.engine.decode import MediaReader

STDIN = 0


def open_pipe(rest: str, name: str | None, settings: SourceSettings) -> FileSource:
    """Return the source for standard input.

    Raises:
        SourceError: something follows ``pipe:``, or standard input is a terminal.
    """
    if rest:
        raise SourceError(f"pipe:{rest}: only standard input can be read, as pipe:", ExitCode.USAGE)
    if os.isatty(STDIN):
        raise SourceError("pipe: standard input is a terminal; give media, as in ... | avffd", ExitCode.USAGE)
    return FileSource("standard input", name or "pipe", settings, open_reader=_open)


def _open() -> MediaReader:
    from avff.engine import pipe

    return pipe.open_pipe(STDIN, "standard input")
