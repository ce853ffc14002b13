"""FaceForensics++ (Rössler et al., ICCV 2019) with DeepFakeDetection: pictures without sound.

``original_sequences/{youtube,actors}/<c>/videos/NNN.mp4`` and
``manipulated_sequences/<method>/<c>/videos/TTT_SSS.mp4`` (target, source), with ``<c>`` one of ``raw``,
``c23``, ``c40``; ``splits/{train,val,test}.json`` are lists of pairs of ids.  DeepFakeDetection names
``NN__scene.mp4`` and ``NN_NN__scene__XXXX.mp4`` after its actors.

The same clips come in several compressions, which move the AUC by some nine points.  One is used, the
first of c23, raw, c40 that is there for both classes; ``collection`` says which.
"""

from __future__ import annotations

import re
from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import (
    VIDEO,
    DatasetError,
    entry,
    files_below,
    read_json,
    refuse_layout,
    relative,
)

NAME = "faceforensics"
LAYOUT = "FaceForensics++: original_sequences/*/{raw,c23,c40}/videos and manipulated_sequences/*/…"
COMPRESSIONS = ("c23", "raw", "c40")
_KINDS = {"Face2Face": "reenactment", "NeuralTextures": "reenactment"}
_NAMES = re.compile(r"(?P<ids>\d+(_\d+)?)(?P<scene>__.+)?")


def scan(root: Path) -> list[Clip]:
    """Read the folders of one compression, and the splits where they are there.

    Raises:
        DatasetError: there are none, a file is named in another way, or a split is no list of pairs.
    """
    compression = _compression(root)
    splits = _splits(root)
    clips = []
    for top, label in (("original_sequences", 0), ("manipulated_sequences", 1)):
        for folder in sorted((root / top).glob(f"*/{compression}/videos")):
            clips += [_clip(root, path, label, splits) for path in files_below(folder, VIDEO)]
    return clips


def _compression(root: Path) -> str:
    """Return the compression to use: one of both classes if there is one."""
    for tops in (("original_sequences", "manipulated_sequences"), ("*_sequences",)):
        for name in COMPRESSIONS:
            if all(any(root.glob(f"{top}/*/{name}/videos")) for top in tops):
                return name
    refuse_layout(root, LAYOUT)


def _splits(root: Path) -> dict[str, str]:
    """Return the official split by id; empty when the lists are not there."""
    split_of = {}
    for split in ("train", "val", "test"):
        path = root / "splits" / f"{split}.json"
        if path.is_file():
            for number, pair in enumerate(read_json(path, list), start=1):
                with entry(path, number):
                    first, second = pair
                    split_of.update({str(first): split, str(second): split})
    return split_of


def _clip(root: Path, path: Path, label: int, splits: dict[str, str]) -> Clip:
    name, compression = path.parts[-4], path.parts[-3]
    match = _NAMES.fullmatch(path.stem)
    if match is None or ("_" in match["ids"]) != bool(label):
        raise DatasetError(f"{path}: is not named {'TTT_SSS' if label else 'NNN'}.mp4 by its people")
    ids = match["ids"].split("_")
    actors = match["scene"] is not None
    inner = relative(path, root)
    return Clip(
        uid=f"{NAME}/{inner}", path=inner, dataset=NAME, label=label, label_video=label,
        split="" if actors else splits.get(ids[0], ""),
        kind=_KINDS.get(name, "face-swap") if label else "real", generators=(name,) if label else (),
        identities=tuple(f"{NAME}:{'actor ' if actors else ''}{one}" for one in ids),
        collection=f"FaceForensics++ {'actors' if actors else 'youtube'} {compression}",
        source_uid=_source(ids[0], match["scene"], compression) if label else "",
    )  # fmt: skip


def _source(target: str, scene: str | None, compression: str) -> str:
    """Return the uid of the genuine clip that a fake was painted over."""
    where = f"{NAME}/original_sequences/{'actors' if scene else 'youtube'}/{compression}/videos"
    return f"{where}/{target}{scene.rpartition('__')[0] if scene else ''}.mp4"
