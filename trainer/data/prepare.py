"""Clips, decoded once: aligned faces, landmarks and 16 kHz sound in a cache of ``.npz`` files.

The cache holds what the engine's front-end yields, so every later step starts from
the daemon's own preprocessing.  A cache entry is named after the clip's SHA-256 and
the preprocessing's fingerprint: change either and the clip is prepared again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from avff.engine.errors import MediaError
from avff.engine.faces.models import FaceModels, load_face_models
from avff.engine.media import Bool, Float32, UInt8
from avff.engine.offline import slices_of_file
from avff.engine.slices import FaceSlice, Slice
from avff.engine.spec import SPEC
from avff.trainer.data.manifest import Clip


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One clip's main face and sound on the uniform grid, T pictures long.

    Attributes:
        faces: uint8 ``[T, 128, 128, 3]``.
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


def prepare(clips: Sequence[Clip], root: Path, cache: Path, *, workers: int) -> dict[str, str]:
    """Fill the cache with every clip that is not in it.

    Args:
        clips: clips to prepare.
        root: directory the clips' paths are relative to.
        cache: where the entries go.
        workers: processes.

    Returns:
        reasons, by uid, for clips that could not be prepared.
    """
    cache.mkdir(parents=True, exist_ok=True)
    todo = [c for c in clips if not cache_path(cache, c).is_file()]
    if not todo:
        return {}
    load_face_models(progress=True)  # fetched once, before the workers ask for them
    work = partial(_prepare_one, root=root, cache=cache)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = tqdm(pool.map(work, todo), total=len(todo), desc="prepare", unit="clip")
        bad = {clip.uid: reason for clip, reason in zip(todo, results, strict=True) if reason}
    if bad:
        (cache / "bad_samples.jsonl").write_text(_json_lines(bad.items()), encoding="utf-8")
    return bad


def cache_path(cache: Path, clip: Clip) -> Path:
    """Return the path of a clip's cache entry."""
    return cache / f"{clip.sha256[:20]}-{SPEC.fingerprint()[:8]}.npz"


def load_prepared(cache: Path, clip: Clip) -> Prepared:
    """Read a cache entry.

    Raises:
        OSError: the clip was not prepared.
    """
    with np.load(cache_path(cache, clip), allow_pickle=False) as entry:
        return Prepared(*(entry[name] for name in Prepared.__dataclass_fields__))


def from_slices(slices: Sequence[Slice]) -> Prepared:
    """Join a clip's slices into arrays."""
    faces = [s.face or _nobody() for s in slices]
    audio = [slices[0].audio] + [s.audio[SPEC.context_samples :] for s in slices[1:]]
    return Prepared(
        faces=np.concatenate([f.faces for f in faces]),
        ok=np.concatenate([f.ok for f in faces]),
        landmarks=np.concatenate([f.landmarks for f in faces]),
        motion=np.concatenate([f.motion for f in faces]),
        audio=np.concatenate(audio),
        audio_ok=np.array([s.audio_ok for s in slices], np.float32),
    )


_worker_models: FaceModels | None = None


def _prepare_one(clip: Clip, *, root: Path, cache: Path) -> str:
    """Prepare one clip in a worker process; return why not, or an empty string."""
    global _worker_models
    _worker_models = _worker_models or load_face_models()
    try:
        slices = slices_of_file(root / clip.uid, _worker_models)
    except MediaError as error:
        return str(error)
    if not slices:
        return "shorter than half a slice"
    target = cache_path(cache, clip)
    scratch = target.with_suffix(f".{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        prepared = from_slices(slices)
        np.savez(file, **{name: getattr(prepared, name) for name in Prepared.__dataclass_fields__})
    scratch.replace(target)
    return ""


def _nobody() -> FaceSlice:
    n, side = SPEC.slice_frames, SPEC.face_px
    return FaceSlice(
        -1, np.zeros((n, side, side, 3), np.uint8), np.zeros((n, 468, 3), np.float32),
        np.zeros((n, 6), np.float32), np.zeros(n, np.bool_), 0.0, (0.0, 0.0, 0.0, 0.0),
    )  # fmt: skip


def _json_lines(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(json.dumps({"uid": uid, "reason": reason}) + "\n" for uid, reason in rows)
