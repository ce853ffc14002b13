"""Labelled clips that every clone has: cut out of the demo clip, half of them altered, with a manifest.

They stand in where there is no data, to compare a graph with itself in another precision.  One face and
one voice in a dozen disguises say nothing about how good a model is.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from tools.make_replica import Change, bent_mouth, blurred, write_clip

CLIPS, SECONDS = 20, 5.12
"""Five windows each, 100 in all: the AUC moves in steps of 1/2500."""
_WAYS: tuple[tuple[Change | None, bool], ...] = ((bent_mouth, False), (blurred, False), (None, True))
"""What is done to the altered ones, by turns: to picture, picture, sound."""


def write_demo_data(root: Path, clips: int = CLIPS, seconds: float = SECONDS) -> Path:
    """Write clips and their ``manifest.csv``, every second clip altered.

    Args:
        root: where to; made if need be.
        clips: how many.
        seconds: length of each.
    """
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        who, fake = divmod(number, 2)
        tool, revoiced = _WAYS[who % len(_WAYS)] if fake else (None, False)
        path = root / f"{number:02}.mp4"
        write_clip(path, seconds, who, fake, tool=tool, revoiced=revoiced)
        rows.append(_row(path, seconds, who, bool(fake), revoiced))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def _row(path: Path, seconds: float, who: int, fake: bool, revoiced: bool) -> dict[str, object]:
    return {
        "path": path.name, "split": "demo", "label": "fake" if fake else "real",
        "label_video": int(fake and not revoiced), "label_audio": int(revoiced),
        "kind": "altered" if fake else "real", "generator": "", "identity": f"person {who}",
        "source": "demo clip", "paired_real": f"{2 * who:02}.mp4" if fake else "", "duration_s": seconds,
        "width": "", "height": "", "fps": "", "audio_rate": "",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip
