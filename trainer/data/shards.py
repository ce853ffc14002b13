"""Prepared clips in WebDataset shards, written once and read at random.

A folder holds ``shard-000000.tar``, ``shard-000001.tar`` … and beside each its index,
``shard-000000.index.npz``: where every file of every entry lies, and the small facts that
draws are made from.  An entry is named after what it was made of: the SHA-256 of the
clip's file, the preprocessing and the picture codec.

Crashes: a shard is written under another name, flushed to the disk and renamed, then its
index in the same way.  What has no final name is removed, and a shard without a valid
index gets one, whenever the folder is opened for writing.

Format of the shards: WebDataset, https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from avff.engine.media import Bool, Float32
from avff.engine.spec import SPEC
from avff.trainer.data.entry import CODECS, MEMBERS, Prepared, decode, load_npy
from avff.trainer.data.manifest import Clip
from avff.trainer.data.shard_index import (
    Index,
    ShardError,
    index_of,
    next_number,
    read_index,
    shards_in,
    write_index,
)
from avff.trainer.durable import flush, take_name


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of a prepared clip without reading it.

    Attributes:
        ok: bool ``[T]``, True where a face was found.
        audio_ok: float32 ``[T / 8]`` share of each slice's samples that arrived.
    """

    ok: Bool
    audio_ok: Float32

    @property
    def length(self) -> int:
        """Number of pictures, T."""
        return len(self.ok)


def entry_key(sha256: str, picture: str) -> str:
    """Return the name of an entry: file, preprocessing and picture codec; change one, change the name."""
    return f"{sha256.lower()}-{SPEC.fingerprint()[:8]}-{picture}"


class ShardWriter:
    """Appends entries to a folder; each shard appears as a whole or not at all.

    A context manager: left by an exception, it drops the shard it was writing, so that
    what a later run writes does not depend on where this one was stopped.

    Args:
        out: the folder; made if it is not there.
        shard_bytes: a shard that has reached this size is closed.
    """

    def __init__(self, out: Path, *, shard_bytes: int) -> None:
        self._out, self._shard_bytes = out, shard_bytes
        self.keys = mend(out)
        self._number = next_number(shards_in(out))
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        elif self._file is not None:
            try:
                self._file.close()  # what is still to be written may not fit on a full disk
            finally:
                self._scratch.unlink(missing_ok=True)

    def add(self, key: str, files: Mapping[str, bytes], picture: str) -> None:
        """Append an entry, unless it is there already.

        Args:
            key: its name, from ``entry_key``.
            files: as ``avff.trainer.data.entry.encode`` returns them.
            picture: name of the picture codec.
        """
        if key in self.keys:
            return
        self.keys.add(key)
        if self._file is None or self._tar is None:
            self._file = self._scratch.open("wb")
            # USTAR, with neither owner nor date: the same entries make the same bytes.
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        for name, content in files.items():
            suffix = f"faces{CODECS[picture].extension}" if name == "faces" else name
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
        if self._file.tell() >= self._shard_bytes:
            self._finish()

    @property
    def _scratch(self) -> Path:
        return self._out / f"shard-{self._number:06d}.tar.tmp"

    def _finish(self) -> None:
        if self._file is None or self._tar is None:
            return
        self._tar.close()
        flush(self._file)
        self._file.close()
        path = take_name(self._scratch)
        write_index(path)
        self._file = self._tar = None
        self._number += 1


def mend(out: Path) -> set[str]:
    """Make a folder whole after a crash, and return the keys of its entries.

    Damaged shards are removed, so that their clips are prepared again.
    """
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob("shard-*.tmp"):
        leftover.unlink()
    keys: set[str] = set()
    for path in shards_in(out):
        index = _index(path)
        if index is None:
            index_of(path).unlink(missing_ok=True)
            path.unlink()
        else:
            keys.update(index["keys"].tolist())
    return keys


def _index(path: Path) -> Index | None:
    """Read a shard's index, or make a new one; None when the shard itself is torn."""
    try:
        return read_index(path)
    except ShardError:
        try:
            return write_index(path)
        except (tarfile.TarError, ValueError, EOFError):
            return None


class ShardStore:
    """Prepared clips, read at random.

    Keeps the facts of every clip in memory (about 0.5 kB for 10 s) and no file open, so that
    processes may be forked from its owner, or be handed a copy.

    Args:
        out: folder of shards.
        clips: clips it is asked for; each has its SHA-256.
        picture: name of the picture codec.

    Raises:
        ShardError: a shard is damaged, or a clip is not in it; also from the methods.
    """

    def __init__(self, out: Path, clips: Iterable[Clip], *, picture: str = "bmp") -> None:
        self._paths = shards_in(out)
        indices = [read_index(path) for path in self._paths]
        self._shard = np.repeat(np.arange(len(indices)), [len(i["keys"]) for i in indices])
        self._members = _joined(indices, "members", np.zeros((0, len(MEMBERS), 2), np.int64))
        self._ok = _joined(indices, "ok", np.zeros(0, np.bool_))
        self._audio_ok = _joined(indices, "audio_ok", np.zeros(0, np.float32))
        lengths = _joined(indices, "lengths", np.zeros(0, np.int64))
        self._ends = np.concatenate([[0], np.cumsum(lengths)])
        rows = {key: row for row, key in enumerate(k for i in indices for k in i["keys"].tolist())}
        self._latest: tuple[tuple[str, int, int, bool], Prepared] | None = None
        self._row: dict[str, int] = {}
        for clip in clips:
            row = rows.get(entry_key(clip.sha256, picture))
            if row is None:
                raise ShardError(f"{out}: clip {clip.uid!r} is not prepared; run avff-prepare again")
            self._row[clip.uid] = row

    def facts(self, uid: str) -> Facts:
        """Return what is known of a clip without reading it."""
        row = self._row[uid]
        start, end = self._ends[row], self._ends[row + 1]
        # Clips are whole slices, so the shares of sound lie one to eight pictures.
        slices = slice(start // SPEC.slice_frames, end // SPEC.slice_frames)
        return Facts(self._ok[start:end], self._audio_ok[slices])

    def cut(self, uid: str, at: int, frames: int, *, pictures: bool = True) -> Prepared:
        """Read ``frames`` pictures from ``at`` on, with their sound; fewer where the clip ends.

        Only these pictures are decoded: 64 of them take 20 ms as PNG, 4 as JPEG, 0.4 as BMP (one core).
        The arrays are read-only.  Without ``pictures`` none is decoded, see :func:`entry.decode`.
        """
        wanted = (uid, at, frames, pictures)
        # A window and its manipulated twin are drawn one after the other: the second is not decoded again.
        if self._latest is None or self._latest[0] != wanted:
            with self._open(uid) as read:
                try:
                    self._latest = wanted, decode(read, at, frames, pictures=pictures)
                except ValueError as error:
                    raise ShardError(
                        f"{read.path}: clip {uid!r} {error}; delete the shard, prepare again"
                    ) from error
        return self._latest[1]

    def sound(self, uid: str) -> Float32:
        """Read the sound of a whole clip: float32 ``[352 + T * 640]`` at 16 kHz."""
        with self._open(uid) as read:
            return load_npy(read("audio.npy", 0, None))

    def _open(self, uid: str) -> _Entry:
        row = self._row[uid]
        return _Entry(self._paths[int(self._shard[row])], self._members[row])


class _Entry:
    """An open shard, as a function that returns bytes of one entry's members."""

    def __init__(self, path: Path, members: npt.NDArray[np.int64]) -> None:
        self.path, self._members = path, members
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> _Entry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, member: str, start: int, length: int | None) -> bytes:
        offset, size = (int(v) for v in self._members[MEMBERS.index(member)])
        wanted = size - start if length is None else min(length, size - start)
        content = os.pread(self._file.fileno(), wanted, offset + start)
        if len(content) < wanted:
            raise ShardError(f"{self.path}: ends too early; run avff-prepare again")
        return content


def _joined(indices: list[Index], name: str, empty: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([empty, *(index[name] for index in indices)])
