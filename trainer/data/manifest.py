"""The manifest: one JSON line per clip, the same for every dataset.

``trainer/datasets`` turns a dataset as it lies on disk into these rows.  A label that is
None is unknown, never genuine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

Segments = tuple[tuple[float, float], ...]
"""Passages of a clip, start and end in s."""


class ManifestError(Exception):
    """A manifest is missing, or one of its rows is wrong; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip.

    Attributes:
        uid: unique in the manifest.
        path: of the file, relative to the data root, with ``/``.
        dataset: name of its adapter.
        split: the official one, empty when the dataset has none.
        label: 1 when anything in it is generated, 0 when nothing is, None unknown.
        label_video, label_audio: the same for picture and sound.
        kind: ``real``, ``lip-sync``, ``full-synthesis``, ``reenactment``, ``face-swap``,
            ``tts-or-voice-clone``, or empty.
        generators: tools that made it, in order; none for genuine clips.
        identities: people it shows or was made from; none when unknown.
        collection: where the footage came from.
        source_uid: uid of the genuine clip it was made from, or empty.
        fake_video, fake_audio: generated passages; None when unknown, or the whole clip.
        duration_s, width, height, fps, audio_rate, codec_video, codec_audio: container facts,
            0 or empty when not probed yet; for the metadata-only control.
        sha256: of the file, 64 hex digits, empty when not read yet.
    """

    uid: str
    path: str
    dataset: str
    label: int | None
    split: str = ""
    label_video: int | None = None
    label_audio: int | None = None
    kind: str = ""
    generators: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    collection: str = ""
    source_uid: str = ""
    fake_video: Segments | None = None
    fake_audio: Segments | None = None
    duration_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    audio_rate: int = 0
    codec_video: str = ""
    codec_audio: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        """Check what a wrong adapter, or a wrong hand, could have written.

        Raises:
            ValueError: with what is wrong.
        """
        for name in ("label", "label_video", "label_audio"):
            if getattr(self, name) not in (None, 0, 1):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not 0, 1 or null")
        path = PurePosixPath(self.path)
        if not self.path or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"path {self.path!r} leaves the data root")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}, not 64 hex digits")
        if self.label == 0 and (self.label_video == 1 or self.label_audio == 1):
            raise ValueError("label says genuine, label_video or label_audio says generated")

    @property
    def is_fake(self) -> bool:
        """Whether anything in it is generated.

        Raises:
            ValueError: nobody knows.
        """
        if self.label is None:
            raise ValueError(f"{self.uid} has no label")
        return bool(self.label)

    @property
    def generator(self) -> str:
        """All generators as one name; empty for genuine clips."""
        return " + ".join(self.generators)

    @property
    def person(self) -> str:
        """The person it shows; unknown people count one per clip."""
        return self.identities[0] if self.identities else f"unknown person of {self.uid}"


_SHA256 = re.compile("[0-9a-fA-F]{64}")
_REQUIRED = ("uid", "path", "dataset", "label")


def read_manifest(path: Path) -> list[Clip]:
    """Read a manifest.

    Raises:
        ManifestError: the file is missing, a row is wrong (with its line number), or a uid is there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 text ({error})") from error
    clips = []
    for number, line in enumerate(lines, start=1):
        try:
            clips.append(clip_of(json.loads(line)))
        except ValueError as error:
            raise ManifestError(f"{path}: line {number}: {error}") from error
    refuse_duplicates(str(path), clips)
    return clips


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write a manifest, all of it or nothing."""
    scratch = path.with_name(path.name + ".tmp")
    rows = (json.dumps(asdict(clip), ensure_ascii=False, allow_nan=False) for clip in clips)
    scratch.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    scratch.replace(path)


def clip_of(row: Any) -> Clip:
    """Return the clip a JSON object describes.

    Raises:
        ValueError: a key is missing or unknown, or a value is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    known = {field.name for field in fields(Clip)}
    for name in row:
        if name not in known:
            raise ValueError(f"unknown key {name!r}")
    for name in _REQUIRED:
        if name not in row:
            raise ValueError(f"no key {name!r}")
    try:
        return Clip(**{name: _value(name, value) for name, value in row.items()})
    except TypeError as error:
        raise ValueError(str(error)) from error


def _value(name: str, value: Any) -> Any:
    if name in ("generators", "identities"):
        return tuple(str(v) for v in value)
    if name in ("fake_video", "fake_audio"):
        return None if value is None else tuple((float(start), float(end)) for start, end in value)
    if name in ("duration_s", "fps"):
        return float(value)
    if name in ("width", "height", "audio_rate"):
        return int(value)
    return value


def manifest_sha256(path: Path) -> str:
    """Return the SHA-256 of the manifest file, as 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refuse_duplicates(where: str, clips: Iterable[Clip]) -> None:
    """Check that no clip is listed twice.

    Raises:
        ManifestError: naming the clip.
    """
    seen: set[str] = set()
    for clip in clips:
        if clip.uid in seen:
            raise ManifestError(f"{where}: clip {clip.uid!r} is listed twice")
        seen.add(clip.uid)
