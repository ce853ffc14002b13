"""LAV-DF (Cai et al., DICTA 2022): ``metadata.min.json`` beside ``{train,dev,test}/NNNNNN.mp4``.

The JSON is a list; an entry has ``file``, ``split``, ``original`` (null when genuine),
``modify_video``, ``modify_audio``, ``n_fakes``, ``fake_periods`` and ``duration``.  Only passages of
a fake are generated; ``fake_periods`` is in seconds, not in frames.  The people are not named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avff.trainer.data.manifest import Clip, Segments
from avff.trainer.datasets.files import entry, name_of, read_json, record, refuse_layout, relative

NAME = "lav-df"
LISTS = ("metadata.min.json", "metadata.json")
LAYOUT = "LAV-DF: metadata.min.json, train/, dev/, test/"
ROUNDING_S = 0.1
"""A passage may end this much after the clip."""
_TOOLS = {"video": "Wav2Lip", "audio": "SV2TTS"}


def scan(root: Path) -> list[Clip]:
    """Read the list.

    Raises:
        DatasetError: it is missing, or an entry is wrong.
    """
    path = next((b / n for b in (root, root / "LAV-DF") for n in LISTS if (b / n).is_file()), None)
    if path is None:
        refuse_layout(root, LAYOUT)
    clips = []
    for number, row in enumerate(read_json(path, list), start=1):
        with entry(path, name_of(row, number)):
            clips.append(_clip(root, path.parent, record(row)))
    return clips


def _clip(root: Path, base: Path, row: dict[str, Any]) -> Clip:
    path = relative(base / row["file"], root)
    video, audio = _changed(row, "modify_video"), _changed(row, "modify_audio")
    passages = _passages(row)
    fake = int(video or audio)
    if bool(passages) != bool(fake):
        raise ValueError(f"has {len(passages)} fake_periods, but modify_video or modify_audio say otherwise")
    original = row.get("original") if fake else None
    return Clip(
        uid=f"{NAME}/{path}", path=path, dataset=NAME, label=fake, split=str(row["split"]),
        label_video=video, label_audio=audio,
        kind="lip-sync" if video else "tts-or-voice-clone" if audio else "real",
        generators=tuple(_TOOLS[name] for name, there in (("video", video), ("audio", audio)) if there),
        collection="LAV-DF", source_uid=f"{NAME}/{relative(base / original, root)}" if original else "",
        fake_video=passages if video else (), fake_audio=passages if audio else (),
    )  # fmt: skip


def _changed(row: dict[str, Any], name: str) -> int:
    if not isinstance(row[name], bool):
        raise ValueError(f"{name} is {row[name]!r}, not true or false")
    return int(row[name])


def _passages(row: dict[str, Any]) -> Segments:
    passages = tuple((float(start), float(end)) for start, end in row["fake_periods"])
    if len(passages) != int(row["n_fakes"]):
        raise ValueError(f"n_fakes is {row['n_fakes']}, with {len(passages)} fake_periods")
    for start, end in passages:
        if not 0 <= start < end <= float(row["duration"]) + ROUNDING_S:
            raise ValueError(f"fake_periods has {start:g} to {end:g}, in a clip of {row['duration']} s")
    return passages
