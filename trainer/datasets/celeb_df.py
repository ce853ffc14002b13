"""Celeb-DF v2 (Li et al., CVPR 2020): pictures without sound, named after the people in them.

``Celeb-real/idA_NNNN.mp4``, ``Celeb-synthesis/idA_idB_NNNN.mp4`` (face of B on footage NNNN of A),
``YouTube-real/NNNNN.mp4``, and ``List_of_testing_videos.txt``.

The list begins its lines with **1 for real and 0 for fake**.  It names the test set; everything else
is for training.
"""

from __future__ import annotations

import re
from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import (
    VIDEO,
    DatasetError,
    at_line,
    choose,
    files_below,
    read_spaced,
    refuse_layout,
    relative,
)

NAME = "celeb-df-v2"
LIST = "List_of_testing_videos.txt"
LAYOUT = f"Celeb-DF v2: Celeb-real/, Celeb-synthesis/, YouTube-real/ and {LIST}"
_FOLDERS = {"Celeb-real": 0, "YouTube-real": 0, "Celeb-synthesis": 1}
_NAMES = {
    "Celeb-real": re.compile(r"(id\d+)_(\d+)"),
    "YouTube-real": re.compile(r"()(\d+)"),
    "Celeb-synthesis": re.compile(r"(id\d+)_(id\d+)_(\d+)"),
}


def scan(root: Path) -> list[Clip]:
    """Read the three folders and the list.

    Raises:
        DatasetError: they are missing, the list contradicts a folder, or a file is named in another way.
    """
    if not (root / LIST).is_file():
        refuse_layout(root, LAYOUT)
    test = _test_set(root / LIST)
    paths = [path for folder in _FOLDERS for path in files_below(root / folder, VIDEO)]
    absent = sorted(test - {relative(path, root) for path in paths})
    return [_clip(root, path, test) for path in [*paths, *(root / name for name in absent)]]


def _test_set(path: Path) -> set[str]:
    """Return the paths in the list, whose labels have to agree with the folders."""
    names = set()
    for line, (mark, name) in read_spaced(path, 2):
        with at_line(path, line):
            label = choose("label", mark, {"1": 0, "0": 1})
            if label != choose("folder", name.split("/")[0], _FOLDERS):
                raise ValueError(f"{mark} for {name}; in this list 1 is real and 0 is fake")
        names.add(name)
    return names


def _clip(root: Path, path: Path, test: set[str]) -> Clip:
    inner = relative(path, root)
    folder = inner.split("/")[0]
    match = _NAMES[folder].fullmatch(path.stem)
    if match is None:
        raise DatasetError(f"{path}: is not named as in Celeb-DF v2")
    *people, number = match.groups()
    label = _FOLDERS[folder]
    return Clip(
        uid=f"{NAME}/{inner}", path=inner, dataset=NAME, label=label, label_video=label,
        split="test" if inner in test else "train", kind="face-swap" if label else "real",
        generators=("Celeb-DF",) if label else (),
        identities=tuple(f"{NAME}:{person}" for person in people if person),
        collection=f"Celeb-DF v2 {folder}",
        source_uid=f"{NAME}/Celeb-real/{people[0]}_{number}.mp4" if label else "",
    )  # fmt: skip
