"""A prepared clip, and the files it is made of inside a shard.

Pictures are stored one after another in ``faces.bmp`` (or ``.png``, ``.jpg``), with their
sizes in ``sizes.npy``, so that any of them can be read without the others; a picture
without a face takes no room.  All other arrays are plain ``.npy`` files and come back
bit for bit, the 16 kHz sound as float32 too: no lossless sound format holds floats.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from avff.engine.media import Bool, Float32, UInt8
from avff.engine.spec import SPEC

FRAME_SAMPLES = SPEC.rate_hz // SPEC.fps
"""Samples of sound to one picture of the grid."""
ARRAYS = ("ok", "landmarks", "motion", "audio", "audio_ok")
MEMBERS = ("json", "faces", "sizes.npy", *(f"{name}.npy" for name in ARRAYS))
"""Files of an entry by their place in the index; ``faces`` has the extension of the picture codec."""

ReadPart = Callable[[str, int, int | None], bytes]
"""Returns bytes of a member: its name, the first byte, and how many (None: to its end)."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How pictures are stored.

    Attributes:
        extension: of the file name, with its dot.
        flags: for ``cv2.imencode``.
        picture_bytes: of a usual aligned face (measured), for the disk budget.
    """

    extension: str
    flags: tuple[int, ...]
    picture_bytes: int


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        # Nothing to undo: read sixty times as fast as PNG.
        "bmp": Codec(".bmp", (), 49_206),
        # Run lengths at the lowest level: a third of the time of the default, a tenth larger, and exact.
        "png": Codec(
            ".png",
            (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
            25_000,
        ),
        # Colour at full resolution: halving it would blur the very edges that blending leaves.
        "jpeg": Codec(
            ".jpg",
            (
                cv2.IMWRITE_JPEG_QUALITY, 95,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
            ),
            8_000,
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One clip's main face and sound on the uniform grid, T pictures long.

    Attributes:
        faces: uint8 ``[T, 128, 128, 3]``, zeros where no face was found.
        ok: bool ``[T]``.
        landmarks: float32 ``[T, 468, 3]``.
        motion: float32 ``[T, 6]``.
        audio: float32 ``[352 + T * 640]``.
        audio_ok: float32 ``[T / 8]`` share of each slice's samples that arrived.
    """

    faces: UInt8
    ok: Bool
    landmarks: Float32
    motion: Float32
    audio: Float32
    audio_ok: Float32


def encode(prepared: Prepared, picture: str, record: Mapping[str, Any]) -> dict[str, bytes]:
    """Turn a prepared clip into its files.

    Args:
        prepared: the clip.
        picture: name of the codec.
        record: what ``json`` shall say.

    Returns:
        content by name, in the order of ``MEMBERS``.
    """
    codec = CODECS[picture]
    pictures = [
        _encoded(face, codec) if ok else b"" for face, ok in zip(prepared.faces, prepared.ok, strict=True)
    ]
    arrays = {f"{name}.npy": _npy(getattr(prepared, name)) for name in ARRAYS}
    return {
        "json": json.dumps(record, ensure_ascii=False, sort_keys=True).encode(),
        "faces": b"".join(pictures),
        "sizes.npy": _npy(np.array([len(p) for p in pictures], np.uint32)),
        **arrays,
    }


def decode(read: ReadPart, at: int, frames: int, *, pictures: bool = True) -> Prepared:
    """Read part of an entry.

    Args:
        read: gives bytes of the entry's files.
        at: first picture, not beyond the end.
        frames: how many pictures; fewer are returned where the clip ends.
        pictures: False leaves the faces undecoded, ``[T, 0, 0, 3]``.

    Returns:
        the part, its arrays read-only; ``audio_ok`` is of all slices that it touches.

    Raises:
        ValueError: a picture is damaged.
    """
    sizes = load_npy(read("sizes.npy", 0, None))
    until = min(at + frames, len(sizes))
    return Prepared(
        _faces(read, sizes, at, until) if pictures else np.zeros((until - at, 0, 0, 3), np.uint8),
        _rows(read, "ok.npy", at, until),
        _rows(read, "landmarks.npy", at, until),
        _rows(read, "motion.npy", at, until),
        _rows(read, "audio.npy", at * FRAME_SAMPLES, until * FRAME_SAMPLES + SPEC.context_samples),
        _rows(read, "audio_ok.npy", at // SPEC.slice_frames, -(-until // SPEC.slice_frames)),
    )


def _faces(read: ReadPart, sizes: npt.NDArray[Any], at: int, until: int) -> UInt8:
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    content = memoryview(read("faces", int(ends[at]), int(ends[until] - ends[at])))
    faces = np.zeros((until - at, SPEC.face_px, SPEC.face_px, 3), np.uint8)
    for number, (start, end) in enumerate(zip(ends[at:until], ends[at + 1 : until + 1], strict=True)):
        if end > start:
            packed = np.frombuffer(content[start - ends[at] : end - ends[at]], np.uint8)
            face = cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB)
            if face is None:
                raise ValueError(f"has a damaged picture {at + number}")
            faces[number] = face
    faces.setflags(write=False)
    return faces


def load_npy(content: bytes) -> npt.NDArray[Any]:
    """Read a ``.npy`` file that is in memory."""
    array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _encoded(face: UInt8, codec: Codec) -> bytes:
    return cv2.imencode(codec.extension, cv2.cvtColor(face, cv2.COLOR_RGB2BGR), codec.flags)[1].tobytes()


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


_NPY_HEADER = 128
"""Bytes before the data of any array here: the shapes are short, and headers are padded to 64."""


def _rows(read: ReadPart, name: str, start: int, end: int) -> npt.NDArray[Any]:
    """Read rows ``start`` … ``end`` of an array, without the rest of it."""
    header = io.BytesIO(read(name, 0, _NPY_HEADER))
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    row = dtype.itemsize * int(np.prod(shape[1:]))
    content = read(name, header.tell() + start * row, (end - start) * row)
    return np.frombuffer(content, dtype).reshape(-1, *shape[1:])
