"""Datasets as they lie on disk, each turned into the rows of one manifest.

One module per dataset.  Its ``scan`` reads the lists that the dataset comes with and decodes
nothing, so container facts and hashes stay empty until the clips are prepared.  Layouts, and what
is easily read wrongly in them, stand in the modules.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avff.trainer.data.manifest import Clip, refuse_duplicates
from avff.trainer.datasets import (
    asvspoof5,
    asvspoof2019,
    asvspoof2021,
    av_deepfake1m,
    av_deepfake1m_pp,
    celeb_df,
    df_timit,
    dfdc,
    dfdc_preview,
    faceforensics,
    fakeavceleb,
    folder,
    in_the_wild,
    kodf,
    lav_df,
    table,
)
from avff.trainer.datasets.files import DatasetError, files_below

__all__ = ["DATASETS", "Adapter", "DatasetError", "Scan", "scan"]
MAX_MISSING = 0.5
"""Share of listed clips that may be absent, as in a download of some parts."""


class Adapter(Protocol):
    """What a dataset's module holds."""

    NAME: str

    def scan(self, root: Path) -> list[Clip]:
        """Return the clips that the dataset lists, whether or not their files are there.

        Raises:
            ManifestError: the layout is not this dataset's, or a row is wrong.
        """
        ...


_MODULES: tuple[Adapter, ...] = (
    dfdc, dfdc_preview, fakeavceleb, lav_df, av_deepfake1m, av_deepfake1m_pp, faceforensics, celeb_df,
    df_timit, kodf, asvspoof2019, asvspoof2021, asvspoof5, in_the_wild, folder, table,
)  # fmt: skip
DATASETS: dict[str, Adapter] = {module.NAME: module for module in _MODULES}


@dataclass(frozen=True, slots=True)
class Scan:
    """What a data root holds.

    Attributes:
        clips: those whose files are there.
        warnings: what was left out, a line each.
    """

    clips: list[Clip]
    warnings: list[str]


def scan(name: str, root: Path) -> Scan:
    """Return the clips of a dataset.

    Args:
        name: key of ``DATASETS``.
        root: folder that the dataset was unpacked to; clips' paths are relative to it.

    Raises:
        ManifestError: the name is unknown, the folder is missing or laid out in another way, a row is
            wrong, a clip is listed twice, or more than half of the clips are missing.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(DATASETS)}"
        raise DatasetError(f"no dataset {name!r}; {hint}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    listed = DATASETS[name].scan(root)
    refuse_duplicates(str(root), listed)
    clips = [clip for clip in listed if (root / clip.path).is_file()]
    missing = _missing(name, root, listed, clips)
    return Scan(clips, [*missing, *_unlisted(root, listed)])


def _missing(name: str, root: Path, listed: list[Clip], clips: list[Clip]) -> list[str]:
    """Return a warning about listed clips that are not there, if any."""
    if not listed:
        raise DatasetError(f"{root}: {name} has no clips here")
    if len(listed) == len(clips):
        return []
    there = {clip.uid for clip in clips}
    first = next(clip.path for clip in listed if clip.uid not in there)
    lost = len(listed) - len(clips)
    line = f"{root}: {lost} of {len(listed)} listed clips are not there, the first is {first}"
    if lost > MAX_MISSING * len(listed):
        raise DatasetError(f"{line}; unpack the rest, or give the folder that the lists belong to")
    return [f"{line}; they are left out"]


def _unlisted(root: Path, listed: list[Clip]) -> list[str]:
    """Return a warning about files of the clips' types that no list names, if any."""
    known = {clip.path for clip in listed}
    suffixes = {Path(clip.path).suffix.lower() for clip in listed}
    others = [f for f in files_below(root, suffixes) if f.relative_to(root).as_posix() not in known]
    if not others:
        return []
    first = others[0].relative_to(root).as_posix()
    return [f"{root}: {len(others)} files are in no list, the first is {first}; they are left out"]
