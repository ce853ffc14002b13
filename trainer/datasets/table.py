"""The generic table: a CSV with a row per clip, named ``manifest.csv`` in the data root.

Columns that must be there: ``path`` (relative to the root), ``split``, ``label`` (``real`` or
``fake``), ``label_video`` and ``label_audio`` (1, 0, or empty for unknown), ``kind``,
``generator``, ``identity``, ``source``, ``paired_real`` (path of the genuine clip of the same
footage), ``duration_s``, ``width``, ``height``, ``fps``, ``audio_rate``, ``sha256``.  Others are
ignored.
"""

from __future__ import annotations

import csv
from pathlib import Path

from avff.trainer.data.manifest import Clip, ManifestError, refuse_duplicates

NAME = "table"
FILE = "manifest.csv"
_COLUMNS = (
    "path", "split", "label", "label_video", "label_audio", "kind", "generator", "identity", "source",
    "paired_real", "duration_s", "width", "height", "fps", "audio_rate", "sha256",
)  # fmt: skip


def scan(root: Path) -> list[Clip]:
    """Read ``manifest.csv`` of a data root.

    Raises:
        ManifestError: the file is missing, lacks a column, or a row is wrong (with its line number).
    """
    return read_table(root / FILE)


def read_table(path: Path) -> list[Clip]:
    """Read a table of clips; see :func:`scan`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
            if absent:
                raise ManifestError(f"{path}: line 1: no column {absent[0]!r}")
            clips = [_clip(path, reader.line_num, row) for row in reader]
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; set data.root or AVFF_DATA") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: is not a table in UTF-8 ({error})") from error
    refuse_duplicates(str(path), clips)
    return clips


def _clip(path: Path, line: int, row: dict[str, str]) -> Clip:
    try:
        if None in row or None in row.values():  # how csv marks a row that is too long or too short
            raise ValueError("has more or fewer values than line 1 has names")
        if not row["sha256"]:
            raise ValueError("sha256 is '', not 64 hex digits")
        return Clip(
            uid=row["path"], path=row["path"], dataset=NAME, split=row["split"],
            label=_label(row), label_video=_tri(row, "label_video"), label_audio=_tri(row, "label_audio"),
            kind=row["kind"], generators=tuple(filter(None, [row["generator"]])),
            identities=tuple(filter(None, [_person(row["identity"])])),
            collection=row["source"], source_uid=row["paired_real"],
            duration_s=float(row["duration_s"]), width=int(row["width"] or 0), height=int(row["height"] or 0),
            fps=float(row["fps"] or 0), audio_rate=int(row["audio_rate"] or 0), sha256=row["sha256"],
        )  # fmt: skip
    except ValueError as error:
        raise ManifestError(f"{path}: line {line}: {error}") from error


def _person(name: str) -> str:
    """Drop remarks in brackets ("s1 (by eye)"): when in doubt it is the same person."""
    return name.split(" (")[0]


def _label(row: dict[str, str]) -> int:
    if row["label"] not in ("real", "fake"):
        raise ValueError(f"label is {row['label']!r}, not real or fake")
    return int(row["label"] == "fake")


def _tri(row: dict[str, str], column: str) -> int | None:
    if row[column] not in ("", "0", "1"):
        raise ValueError(f"{column} is {row[column]!r}, not 0, 1 or empty")
    return int(row[column]) if row[column] else None
