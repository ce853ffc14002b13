"""What a clip's file is, without decoding it: its SHA-256 and what its container says.

A file whose size and time of change are those of the last look is not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.error
import av.stream
from tqdm import tqdm

from avff.trainer.data.manifest import Clip

_FACTS = ("duration_s", "width", "height", "fps", "audio_rate", "codec_video", "codec_audio")


@dataclass(frozen=True, slots=True)
class Look:
    """A file as it was found.

    Attributes:
        path: absolute.
        size: in bytes.
        changed_ns: time of the last change, in ns since 1970.
        sha256: of its content, 64 hex digits.
        duration_s, width, height, fps, audio_rate, codec_video, codec_audio: as in ``Clip``;
            0 or empty where the container does not say.
    """

    path: str
    size: int
    changed_ns: int
    sha256: str
    duration_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    audio_rate: int = 0
    codec_video: str = ""
    codec_audio: str = ""


def look_at(clips: Sequence[Clip], root: Path, memory: Path, *, threads: int) -> dict[str, Look | str]:
    """Look at the clips' files.

    Args:
        clips: clips, their paths relative to ``root``.
        root: the data root.
        memory: JSON lines of earlier looks; new ones are appended as they are made.
        threads: that read files.

    Returns:
        by uid, in the order of ``clips``: the look, or why the file cannot be read.
    """
    known = _remembered(memory)
    paths = [(root / clip.path).absolute() for clip in clips]
    looks: dict[str, Look | str] = {}
    with ThreadPoolExecutor(threads) as pool, memory.open("a", encoding="utf-8") as file:
        found = pool.map(partial(_look, known=known), paths)
        for clip, look in zip(clips, tqdm(found, "look", len(clips), unit="file", delay=2), strict=True):
            looks[clip.uid] = look
            if isinstance(look, Look) and known.get(look.path) is not look:
                # Begins with a line feed: a line that a crash cut short spoils no other.
                file.write("\n" + json.dumps(asdict(look), ensure_ascii=False))
                known[look.path] = look
    return looks


def filled_in(clip: Clip, look: Look) -> Clip:
    """Add what a look found to what the dataset says; where both speak, the dataset is believed."""
    missing = {name: getattr(look, name) for name in _FACTS if not getattr(clip, name)}
    return replace(clip, sha256=look.sha256, **missing)


def _look(path: Path, *, known: dict[str, Look]) -> Look | str:
    try:
        status = path.stat()
        before = known.get(str(path))
        if before and (before.size, before.changed_ns) == (status.st_size, status.st_mtime_ns):
            return before
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return Look(str(path), status.st_size, status.st_mtime_ns, digest, **_container_facts(path))


def _container_facts(path: Path) -> dict[str, Any]:
    """Read the head of a container; a file that is none has no facts, and decoding will say why."""
    facts: dict[str, Any] = {}
    try:
        # The whitelist keeps playlists from reading other files or hosts.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if container.duration is not None:
                facts["duration_s"] = container.duration / av.time_base
            video = next((s for s in container.streams.video if _moves(s)), None)
            if video is not None:
                context = video.codec_context
                facts |= {"width": context.width, "height": context.height, "codec_video": context.name}
                facts["fps"] = float(video.average_rate or 0)
            audio = next((s for s in container.streams.audio if s.codec_context is not None), None)
            if audio is not None:
                facts |= {"audio_rate": audio.rate, "codec_audio": audio.codec_context.name}
    except (av.error.FFmpegError, ValueError):
        return {}
    return facts


def _moves(stream: av.VideoStream) -> bool:
    """Whether it is a picture track that can be decoded, and no cover art."""
    cover_art = bool(stream.disposition & av.stream.Disposition.attached_pic)
    return stream.codec_context is not None and not cover_art


def _remembered(memory: Path) -> dict[str, Look]:
    if not memory.is_file():
        return {}
    known = {}
    for line in memory.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            look = Look(**json.loads(line))
        except (ValueError, TypeError):  # cut short by a crash
            continue
        known[look.path] = look
    return known
