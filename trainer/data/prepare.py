"""Clips, decoded once: aligned faces, landmarks and 16 kHz sound in shards.

The shards hold what the engine's front-end yields, so every later step starts from the
daemon's own preprocessing.  An entry is named after the clip's SHA-256, the
preprocessing's fingerprint and the picture codec: change one and the clip is prepared
again.  Shards are written in the order of the clips, whichever process is done first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from avff.engine.errors import MediaError
from avff.engine.faces.models import FaceModels, load_face_models
from avff.engine.offline import slices_of_file
from avff.engine.slices import FaceSlice, Slice
from avff.engine.spec import SPEC
from avff.trainer.data.entry import Prepared, encode
from avff.trainer.data.folder import BAD, DIED, check_room, failed_before, nobody_else, say, write_bad
from avff.trainer.data.manifest import Clip
from avff.trainer.data.probe import Look, filled_in, look_at
from avff.trainer.data.shard_index import ShardError
from avff.trainer.data.shards import ShardStore, ShardWriter, entry_key
from avff.trainer.data.workers import in_order

SHARD_MB = 512
FILES = "files.jsonl"


@dataclass(frozen=True, slots=True)
class Preparation:
    """What has become of a list of clips.

    Attributes:
        clips: the prepared ones by uid, with SHA-256 and container facts filled in.
        store: where they are read from.
        bad: why the others could not be prepared, by uid.
        made: how many entries were not there before.
    """

    clips: Mapping[str, Clip]
    store: ShardStore
    bad: Mapping[str, str]
    made: int


def prepare(
    clips: Sequence[Clip],
    root: Path,
    out: Path,
    *,
    workers: int,
    picture: str = "bmp",
    shard_mb: float = SHARD_MB,
    max_bad: float = 1.0,
) -> Preparation:
    """Bring every clip into a folder of shards; what is there already is not made again.

    A clip whose file is gone counts as prepared when its row states its SHA-256 and the
    folder holds the entry.

    Args:
        clips: clips to prepare.
        root: directory the clips' paths are relative to.
        out: the folder.
        workers: processes.
        picture: picture codec, ``bmp`` (exact and fastest), ``png`` (exact) or ``jpeg``.
        shard_mb: size at which a shard is closed, in MB.
        max_bad: share 0…1 of clips that may fail.

    Raises:
        ShardError: more clips than that failed (they are listed all the same), or the disk is too small.
        AssetError: the face models are not to be had.
        OSError: the disk is full or not writable; what is complete is kept, and a new run goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    with nobody_else(out):
        with ShardWriter(out, shard_bytes=round(shard_mb * 1e6)) as writer:
            looks = look_at(clips, root, out / FILES, threads=workers)
            known, bad = _sorted_out(clips, looks, picture, writer.keys)
            failed = failed_before(out)
            if len(bad) > max_bad * len(clips):
                todo = []  # no use in hours of decoding: most likely the data root is wrong
            else:
                todo = _not_yet(known.values(), failed, picture, writer.keys)
            if todo:
                sizes = [look.size for c in todo if isinstance(look := looks[c.uid], Look)]
                check_room(out, list(zip((c.duration_s for c in todo), sizes, strict=True)), picture)
                failed |= _make(todo, root, writer, workers=workers, picture=picture)
        bad |= {c.uid: failed[c.sha256] for c in known.values() if c.sha256 in failed}
        rows = ((known.get(c.uid, replace(c, sha256="")), bad[c.uid]) for c in clips if c.uid in bad)
        write_bad(out, rows, asked={c.uid for c in clips})
    if len(bad) > max_bad * len(clips):
        raise ShardError(
            f"{len(bad)} of {len(clips)} clips cannot be prepared, more than {max_bad:.2%}; "
            f"{out / BAD} says why"
        )
    good = {uid: clip for uid, clip in known.items() if uid not in bad}
    made = sum(clip.uid in good for clip in todo)
    say(f"{made} clips prepared, {len(good) - made} were in {out} already, {len(bad)} bad")
    return Preparation(good, ShardStore(out, good.values(), picture=picture), bad, made)


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


def _sorted_out(
    clips: Sequence[Clip], looks: Mapping[str, Look | str], picture: str, keys: Set[str]
) -> tuple[dict[str, Clip], dict[str, str]]:
    """Tell clips whose content is known, filled in, from those that are bad at first sight; both by uid."""
    known: dict[str, Clip] = {}
    bad: dict[str, str] = {}
    for clip in clips:
        look = looks[clip.uid]
        if isinstance(look, str):
            if entry_key(clip.sha256, picture) in keys:
                known[clip.uid] = clip
            else:
                bad[clip.uid] = look
        elif clip.sha256.lower() not in ("", look.sha256):
            bad[clip.uid] = (
                f"{look.path}: is not the file the dataset lists "
                f"(SHA-256 {look.sha256[:12]}…, not {clip.sha256[:12].lower()}…)"
            )
        else:
            known[clip.uid] = filled_in(clip, look)
    return known, bad


def _not_yet(clips: Iterable[Clip], failed: Mapping[str, str], picture: str, keys: Set[str]) -> list[Clip]:
    """Return the clips that need preparing; of those with the same content, the first."""
    first: dict[str, Clip] = {}
    for clip in clips:
        if clip.sha256 not in failed and entry_key(clip.sha256, picture) not in keys:
            first.setdefault(clip.sha256, clip)
    return list(first.values())


def _make(
    todo: Sequence[Clip], root: Path, writer: ShardWriter, *, workers: int, picture: str
) -> dict[str, str]:
    """Prepare clips and append them; return the reasons, by SHA-256, for those that failed."""
    load_face_models(progress=True)  # fetched once, before the workers ask for them
    work = partial(_prepare_one, root=root, picture=picture)
    failed: dict[str, str] = {}
    media_s = 0.0
    with tqdm(total=len(todo), desc="prepare", unit="clip") as bar:
        for clip, made in in_order(work, todo, workers=workers, died=_Made(reason=DIED)):
            if made.reason:
                failed[clip.sha256] = made.reason
            else:
                writer.add(entry_key(clip.sha256, picture), made.files, picture)
            media_s += made.media_s
            bar.set_postfix_str(f"{media_s / bar.format_dict['elapsed']:.1f} x real time")
            bar.update()
    return failed


@dataclass(frozen=True, slots=True)
class _Made:
    """What came of a clip: its files (see ``entry.encode``) and its length in s, or why it failed."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    media_s: float = 0.0
    reason: str = ""


_worker_models: FaceModels | None = None


def _prepare_one(clip: Clip, *, root: Path, picture: str) -> _Made:
    """Prepare one clip with the engine's own front-end, in a worker process."""
    global _worker_models
    _worker_models = _worker_models or load_face_models()
    try:
        slices = slices_of_file(root / clip.path, _worker_models)
        if not slices:
            return _Made(reason="shorter than half a slice")
        prepared = from_slices(slices)
    except MediaError as error:
        return _Made(reason=str(error))
    except Exception as error:  # one odd file among many thousands is listed; it does not end the run
        return _Made(reason=f"{type(error).__name__}: {error}".splitlines()[0])
    length = len(prepared.ok)
    # The row as it is now.  For training the manifest counts: its labels may be corrected later.
    record = {
        "clip": asdict(clip), "spec": SPEC.fingerprint(), "picture": picture,
        "pictures": length, "fps": SPEC.fps, "rate_hz": SPEC.rate_hz,
    }  # fmt: skip
    return _Made(encode(prepared, picture, record), length / SPEC.fps)


def _nobody() -> FaceSlice:
    n, side = SPEC.slice_frames, SPEC.face_px
    return FaceSlice(
        -1, np.zeros((n, side, side, 3), np.uint8), np.zeros((n, 468, 3), np.float32),
        np.zeros((n, 6), np.float32), np.zeros(n, np.bool_), 0.0, (0.0, 0.0, 0.0, 0.0),
    )  # fmt: skip
