"""What the adapters share: reading lists that name the faulty line, and finding media on disk."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from avff.trainer.data.manifest import ManifestError

VIDEO = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm"})
AUDIO = frozenset({".flac", ".wav", ".mp3", ".m4a", ".ogg", ".opus"})
UNNAMED = "unnamed"
"""Generator of a fake whose dataset does not say which tool made it."""
T = TypeVar("T")


class DatasetError(ManifestError):
    """A folder does not hold the dataset it should; the message names the place and the way out."""


def refuse_layout(root: Path, layout: str) -> NoReturn:
    """Say that a folder is laid out in another way.

    Raises:
        DatasetError: always.
    """
    raise DatasetError(f"{root}: expected {layout}; give the folder that holds them, or another dataset name")


def find_base(root: Path, marker: str, folder: str, layout: str) -> Path:
    """Return ``root``, or the folder ``folder`` in it: the one that holds ``marker``.

    Raises:
        DatasetError: neither does.
    """
    for base in (root, root / folder):
        if (base / marker).exists():
            return base
    refuse_layout(root, layout)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without byte order mark.

    Raises:
        DatasetError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text ({error})") from error


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file whose outermost value is a ``kind``, ``dict`` or ``list``.

    Raises:
        DatasetError: it cannot be read, is no JSON (with the line), or is something else.
    """
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: line {error.lineno}: is not JSON ({error.msg})") from error
    if not isinstance(value, kind):
        raise DatasetError(f"{path}: line 1: holds a {type(value).__name__}, not a {kind.__name__}")
    return value


@contextmanager
def entry(path: Path, name: object) -> Iterator[None]:
    """Turn what is wrong with an entry of a JSON file into a message with the entry and its line.

    Raises:
        DatasetError: for a ValueError, KeyError or TypeError in the block.
    """
    try:
        yield
    except KeyError as error:
        raise DatasetError(f"{_place(path, name)}: no key {error}") from error
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{_place(path, name)}: {error}") from error


def record(row: Any) -> dict[str, Any]:
    """Return an entry as the JSON object that it has to be.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, not an object")
    return row


def name_of(row: Any, number: int) -> Any:
    """Return the file that an entry of a list is about, or its number when it does not say."""
    return row.get("file", number) if isinstance(row, dict) else number


def _place(path: Path, name: object) -> str:
    """The line that holds ``name`` as a key, or as the value of "file"; most files are one long line."""
    if isinstance(name, int):
        return f"{path}: entry {name}"
    text = read_text(path)
    key = re.escape(json.dumps(name))
    found = re.search(rf'{key}\s*:|"file"\s*:\s*{key}', text)
    return f"{path}: line {text.count(chr(10), 0, found.start() if found else 0) + 1}: entry {name!r}"


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """Read a table with commas; each row comes with its line number, the header is the first.

    Raises:
        DatasetError: it cannot be read, or is empty.
    """
    reader = csv.reader(read_text(path).splitlines())
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num}: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: is empty")
    return rows


def read_named(path: Path, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a table with commas whose header has at least these columns.

    Raises:
        DatasetError: a column is missing, or a row is too long or too short.
    """
    (_, header), *rows = read_csv(path)
    for name in columns:
        if name not in header:
            raise DatasetError(f"{path}: line 1: no column {name!r}")
    named = []
    for line, row in rows:
        with at_line(path, line):
            check_length(row, len(header))
            named.append((line, dict(zip(header, row, strict=True))))
    return named


def read_spaced(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Read a table without header whose values are parted by blanks; see :func:`read_csv`.

    Raises:
        DatasetError: it cannot be read, or a row has another number of values.
    """
    rows = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if text.strip():
            with at_line(path, line):
                check_length(text.split(), columns)
            rows.append((line, text.split()))
    return rows


def check_length(row: list[str], columns: int) -> None:
    """Check that a row has so many values.

    Raises:
        ValueError: with both numbers.
    """
    if len(row) != columns:
        raise ValueError(f"has {len(row)} values, not {columns}")


@contextmanager
def at_line(path: Path, line: int) -> Iterator[None]:
    """Put file and line before the message of a ValueError in the block.

    Raises:
        DatasetError: for that ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise DatasetError(f"{path}: line {line}: {error}") from error


def choose(column: str, value: Any, meaning: Mapping[str, T]) -> T:
    """Return what a value means.

    Raises:
        ValueError: it is none of the known ones.
    """
    if value not in meaning:
        raise ValueError(f"{column} is {value!r}, not {' or '.join(meaning)}")
    return meaning[value]


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return all files below a folder that have one of these suffixes, sorted, without hidden ones.

    An archive packed by macOS leaves ``._x.mp4`` beside every ``x.mp4``.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [
            Path(place, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        ]
    return found


def relative(path: Path, root: Path) -> str:
    """Return the path from the data root, with ``/``."""
    return path.relative_to(root).as_posix()
