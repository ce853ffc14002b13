"""AV-Deepfake1M (Cai et al., ACM MM 2024): a JSON list for each of ``train/`` and ``val/``.

``{train,val}/idXXXXX/<video>/<clip>/{real,real_video_fake_audio,…}.mp4``, with
``{train,val}_metadata.json``; an entry has ``file`` (relative to the split's folder), ``original``,
``split``, ``modify_type``, ``audio_model`` and ``{audio,visual}_fake_segments`` in seconds.
``test_files.txt`` names the clips of ``test/``, whose labels were never published: unknown.

``both_modified`` is also spelt ``both-modified``.  People are VoxCeleb2's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from avff.trainer.data.manifest import Clip, Segments
from avff.trainer.datasets.files import (
    choose,
    entry,
    name_of,
    read_json,
    read_text,
    record,
    refuse_layout,
)

NAME = "av-deepfake1m"
TEST = "test_files.txt"
LAYOUT = f"AV-Deepfake1M: train_metadata.json with train/, val_metadata.json with val/, or {TEST} with test/"
_SPLITS = ("train", "val")
_TYPES = {
    "real": (0, 0), "visual_modified": (1, 0), "audio_modified": (0, 1), "both_modified": (1, 1),
}  # fmt: skip
_PERSON = re.compile(r"id\d+")


def scan(root: Path) -> list[Clip]:
    """Read the lists that are there.

    Raises:
        DatasetError: there is none, or an entry is wrong.
    """
    clips: list[Clip] = []
    for split in _SPLITS:
        path = root / f"{split}_metadata.json"
        if path.is_file():
            for number, row in enumerate(read_json(path, list), start=1):
                with entry(path, name_of(row, number)):
                    row = record(row)
                    clips.append(clip_of(NAME, split, inside(split, row["file"]), row))
    clips += unlabelled(NAME, root)
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips


def unlabelled(name: str, root: Path) -> list[Clip]:
    """Return the clips of the test set, without labels; none when its list is not there."""
    if not (root / TEST).is_file():
        return []
    files = [line.strip() for line in read_text(root / TEST).splitlines() if line.strip()]
    paths = [inside("test", file) for file in files]
    return [
        Clip(uid=f"{name}/{path}", path=path, dataset=name, label=None, split="test", collection=name)
        for path in paths
    ]


def inside(split: str, file: Any) -> str:
    """Return the path from the root of a file that a list names with or without its split's folder.

    Raises:
        ValueError: it is no text.
    """
    if not isinstance(file, str):
        raise ValueError(f"the file is {file!r}, not a path")
    return file if file.startswith(f"{split}/") else f"{split}/{file}"


def clip_of(name: str, split: str, path: str, row: dict[str, Any]) -> Clip:
    """Return the clip that an entry describes.

    Args:
        name: of the dataset.
        split: official split.
        path: of the clip, from the root.
        row: the entry.

    Raises:
        KeyError, ValueError, TypeError: the entry is wrong.
    """
    video, audio = choose("modify_type", str(row["modify_type"]).replace("-", "_"), _TYPES)
    fake = int(video or audio)
    original = row.get("original") if fake else None
    return Clip(
        uid=f"{name}/{path}", path=path, dataset=name, label=fake, split=split,
        label_video=video, label_audio=audio,
        kind="lip-sync" if video else "tts-or-voice-clone" if audio else "real",
        generators=_tools(name, video, audio, row),
        identities=tuple(f"voxceleb2:{part}" for part in path.split("/") if _PERSON.fullmatch(part)),
        collection=name,
        source_uid=f"{name}/{inside(split, original)}" if original else "",
        fake_video=_segments(row, "visual_fake_segments") if video else (),
        fake_audio=_segments(row, "audio_fake_segments") if audio else (),
    )  # fmt: skip


def _tools(name: str, video: int, audio: int, row: dict[str, Any]) -> tuple[str, ...]:
    # Lips are TalkLip's in the first edition; the second has several tools and does not say which.
    lips = "TalkLip" if name == NAME else "unnamed lip-sync"
    voice = str(row.get("audio_model") or "unnamed voice")
    return tuple(tool for tool, there in ((lips, video), (voice, audio)) if there)


def _segments(row: dict[str, Any], name: str) -> Segments:
    segments = tuple((float(start), float(end)) for start, end in row[name])
    for start, end in segments:
        if not 0 <= start < end:
            raise ValueError(f"{name} has {start:g} to {end:g}")
    return segments
