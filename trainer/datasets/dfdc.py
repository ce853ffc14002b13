"""DFDC (Dolhansky et al., arXiv:2006.07397): parts of clips, each with its ``metadata.json``.

``dfdc_train_part_N/{*.mp4, metadata.json}``; an entry of the JSON is ``"x.mp4": {"label": "FAKE" or
"REAL", "split": "train", "original": "y.mp4"}``.  The root is a folder of parts or one part.  The
public test set has ``labels.csv`` (``filename,label``) instead.

A fake may be in the picture or the sound, and which is not said: both are unknown.  Clips of one
``original`` belong together; people are not named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import (
    at_line,
    choose,
    entry,
    read_json,
    read_named,
    record,
    refuse_layout,
    relative,
)

NAME = "dfdc"
LISTS = ("metadata.json", "labels.csv")
LAYOUT = "DFDC: *.mp4 with metadata.json or labels.csv, or folders of these"
_LABELS = {"REAL": 0, "FAKE": 1, "0": 0, "1": 1}


def scan(root: Path) -> list[Clip]:
    """Read the lists of one part, or of all parts in a folder.

    Raises:
        DatasetError: there is no list, or an entry is wrong.
    """
    parts = [root] if any((root / name).is_file() for name in LISTS) else sorted(root.iterdir())
    clips: list[Clip] = []
    for part in parts:
        if (part / LISTS[0]).is_file():
            clips += _train(root, part)
        elif (part / LISTS[1]).is_file():
            clips += _test(root, part)
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips


def _train(root: Path, part: Path) -> list[Clip]:
    path = part / LISTS[0]
    clips = []
    for name, row in read_json(path, dict).items():
        with entry(path, name):
            clips.append(_clip(root, part, name, record(row)))
    return clips


def _clip(root: Path, part: Path, name: str, row: dict[str, Any]) -> Clip:
    label = choose("label", row["label"], _LABELS)
    original = row.get("original")
    source = f"{NAME}/{relative(part / original, root)}" if label and original else ""
    return _made(relative(part / name, root), label, str(row.get("split", "")), source)


def _test(root: Path, part: Path) -> list[Clip]:
    path = part / LISTS[1]
    clips = []
    for line, row in read_named(path, ("filename", "label")):
        with at_line(path, line):
            label = choose("label", row["label"], _LABELS)
            clips.append(_made(relative(part / row["filename"], root), label, "test", ""))
    return clips


def _made(path: str, label: int, split: str, source: str) -> Clip:
    # A clip labelled REAL is genuine throughout; of a FAKE one only that something is generated is known.
    part = None if label else 0
    return Clip(
        uid=f"{NAME}/{path}", path=path, dataset=NAME, label=label, split=split,
        label_video=part, label_audio=part, kind="" if label else "real",
        generators=("DFDC",) if label else (), collection="DFDC", source_uid=source,
    )  # fmt: skip
