"""Any clips sorted by hand: ``real/`` and ``fake/`` with files at any depth.

The first folder below ``fake/`` is the generator's name; files right in ``fake/`` have none.  Which
part of a fake is generated, and who is to be seen, is unknown; a table (``manifest.csv``) can say it.
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import AUDIO, UNNAMED, VIDEO, files_below, refuse_layout, relative

NAME = "folder"
LAYOUT = "a folder real/ and a folder fake/ with clips"


def scan(root: Path) -> list[Clip]:
    """List the files of both folders.

    Raises:
        DatasetError: neither is there.
    """
    if not any((root / name).is_dir() for name in ("real", "fake")):
        refuse_layout(root, LAYOUT)
    return [
        _clip(relative(path, root), label)
        for label, name in enumerate(("real", "fake"))
        for path in files_below(root / name, VIDEO | AUDIO)
    ]


def _clip(path: str, label: int) -> Clip:
    parts = path.split("/")
    part = None if label else 0
    generator = parts[1] if len(parts) > 2 else UNNAMED
    return Clip(
        uid=f"{NAME}/{path}", path=path, dataset=NAME, label=label, label_video=part, label_audio=part,
        kind="" if label else "real", generators=(generator,) if label else (), collection=NAME,
    )  # fmt: skip
