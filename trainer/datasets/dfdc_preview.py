"""DFDC preview (Dolhansky et al., arXiv:1910.08854): ``dataset.json`` beside three folders of clips.

``dfdc_preview_set/{original_videos,method_A,method_B}/…/*.mp4``; an entry of the JSON is
``"<path>": {"label": "real" or "fake", "set": "train" or "test", "target_id", "swapped_id"}``.

Labels are in lower case, unlike DFDC's.  A fake shows both the target and the person swapped in.
Faces were swapped; what happened to the sound of a fake is not said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import choose, entry, find_base, read_json, record, relative

NAME = "dfdc-preview"
LIST = "dataset.json"
LAYOUT = f"DFDC preview: {LIST}, original_videos/, method_A/, method_B/"


def scan(root: Path) -> list[Clip]:
    """Read ``dataset.json``.

    Raises:
        DatasetError: it is missing, or an entry is wrong.
    """
    base = find_base(root, LIST, "dfdc_preview_set", LAYOUT)
    rows = read_json(base / LIST, dict)
    clips = []
    for name, row in rows.items():
        with entry(base / LIST, name):
            clips.append(_clip(root, base, name, record(row), rows))
    return clips


def _clip(root: Path, base: Path, name: str, row: dict[str, Any], rows: dict[str, Any]) -> Clip:
    path = relative(base / name, root)
    label = choose("label", row["label"], {"real": 0, "fake": 1})
    people = [row["target_id"], row["swapped_id"] if label else None]
    source = row.get("source_video") if label else None
    return Clip(
        uid=f"{NAME}/{path}", path=path, dataset=NAME, label=label, split=str(row["set"]),
        label_video=label, label_audio=None if label else 0, kind="face-swap" if label else "real",
        generators=(f"DFDC {name.split('/')[0]}",) if label else (),
        identities=tuple(f"{NAME}:{p}" for p in people if p is not None), collection="DFDC preview",
        source_uid=f"{NAME}/{relative(base / source, root)}" if source in rows else "",
    )  # fmt: skip
