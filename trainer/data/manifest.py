"""The manifest: one row per clip, with labels where None means unknown, never genuine."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class ManifestError(Exception):
    """A manifest is missing, or one of its rows is wrong; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip.

    Attributes:
        uid: path relative to the data root; unique.
        split: ``train`` or ``dev`` (judging only).
        label: 1 when anything in it is generated, else 0.
        label_video, label_audio: 1 generated, 0 genuine, None unknown.
        kind: ``real``, ``lip-sync``, ``full-synthesis``, ``reenactment``, ``tts-or-voice-clone``.
        generator: tool that made it, empty for genuine clips.
        identity: person, empty when unknown.
        source: project or collection the clip came from.
        paired_real: uid of the genuine clip of the same footage, or empty.
        duration_s, width, height, fps, audio_rate: container facts, for the metadata-only control.
        sha256: of the file.
    """

    uid: str
    split: str
    label: int
    label_video: int | None
    label_audio: int | None
    kind: str
    generator: str
    identity: str
    source: str
    paired_real: str
    duration_s: float
    width: int
    height: int
    fps: float
    audio_rate: int
    sha256: str


_COLUMNS = (
    "path", "split", "label", "label_video", "label_audio", "kind", "generator", "identity", "source",
    "paired_real", "duration_s", "width", "height", "fps", "audio_rate", "sha256",
)  # fmt: skip
_SHA256 = re.compile("[0-9a-fA-F]{64}")


def read_manifest(path: Path) -> list[Clip]:
    """Read a manifest in CSV.

    Raises:
        ManifestError: the file is missing, lacks a column, or a row is wrong (with its line number).
    """
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
    _refuse_duplicates(path, clips)
    return clips


def manifest_sha256(path: Path) -> str:
    """Return the SHA-256 of the manifest file, as 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _clip(path: Path, line: int, row: dict[str, str]) -> Clip:
    try:
        if None in row or None in row.values():  # how csv marks a row that is too long or too short
            raise ValueError("has more or fewer values than line 1 has names")
        if Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
            raise ValueError(f"path {row['path']!r} leaves the data root")
        if not _SHA256.fullmatch(row["sha256"]):
            raise ValueError(f"sha256 is {row['sha256']!r}, not 64 hex digits")
        return Clip(
            row["path"], row["split"], _label(row), _tri(row, "label_video"), _tri(row, "label_audio"),
            row["kind"], row["generator"], row["identity"], row["source"], row["paired_real"],
            float(row["duration_s"]), int(row["width"] or 0), int(row["height"] or 0),
            float(row["fps"] or 0), int(row["audio_rate"] or 0), row["sha256"],
        )  # fmt: skip
    except ValueError as error:
        raise ManifestError(f"{path}: line {line}: {error}") from error


def _label(row: dict[str, str]) -> int:
    if row["label"] not in ("real", "fake"):
        raise ValueError(f"label is {row['label']!r}, not real or fake")
    return int(row["label"] == "fake")


def _tri(row: dict[str, str], column: str) -> int | None:
    if row[column] not in ("", "0", "1"):
        raise ValueError(f"{column} is {row[column]!r}, not 0, 1 or empty")
    return int(row[column]) if row[column] else None


def _refuse_duplicates(path: Path, clips: Iterable[Clip]) -> None:
    seen: set[str] = set()
    for clip in clips:
        if clip.uid in seen:
            raise ManifestError(f"{path}: clip {clip.uid!r} is listed twice")
        seen.add(clip.uid)
