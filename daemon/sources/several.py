"""Several sources from one argument: names in front, patterns of files."""

from __future__ import annotations

import glob
import re
from collections.abc import Container
from pathlib import Path

from avff.daemon.errors import ExitCode, SourceError

MOST_FILES = 16
"""Files of one pattern: all are scored at once, each with face models of its own."""
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)=(?P<uri>.+)")


def expand(uri: str, name: str | None = None) -> list[tuple[str, str | None]]:
    """Return the URIs that one argument stands for, each with its name or None.

    Args:
        uri: a URI, ``NAME=URI``, or ``glob:PATTERN`` for several files.
        name: given otherwise; one in front of the URI comes first.

    Raises:
        SourceError: the pattern matches no file, or too many.
    """
    named = _NAMED.fullmatch(uri)
    if named is not None and not Path(uri).exists():
        uri, name = named["uri"], named["name"]
    if not uri.startswith("glob:"):
        return [(uri, name)]
    pattern = uri.removeprefix("glob:")
    files = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
    if not files:
        raise SourceError(f"{uri}: matches no file", ExitCode.NO_INPUT)
    if len(files) > MOST_FILES:
        raise SourceError(
            f"{uri}: matches {len(files)} files, and at most {MOST_FILES} are scored at once", ExitCode.USAGE
        )
    return [(f"file:{path}", None if name is None else f"{name}/{Path(path).name}") for path in files]


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name, or the first of ``name#2``, ``name#3`` … that is not taken."""
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return name if name not in taken else f"{name}#{number}"
