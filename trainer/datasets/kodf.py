"""KoDF (Kwon et al., ICCV 2021) as AI-Hub hands it out: Korean folder, file and column names.

``{1.Training,2.Validation}/원천데이터/train_원본/원본N/<UUID>/<UUID>_NNN.mp4`` and
``…/train_변조/{fo,dffs,dfl,fsgan,audio_driven}N/<UUID>/*.mp4``; tables
``{원본,변조}영상_{training,validation}_메타데이터.csv`` anywhere below the root, in UTF-8 with or
without byte order mark.  Folder names differ between releases: clips are found by their 영상ID.

A fake shows the person of 타겟UUID with the face of 소스UUID.  Genuine clips are long and HEVC, fakes
short and H.264: bring both to one codec and length, else these tell the classes apart.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import (
    VIDEO,
    at_line,
    choose,
    files_below,
    read_named,
    refuse_layout,
    relative,
)

NAME = "kodf"
LAYOUT = "KoDF: 원본영상_training_메타데이터.csv and 변조영상_training_메타데이터.csv (or …_validation_…)"
REAL_COLUMNS = ("영상ID", "UUID")
FAKE_COLUMNS = ("영상ID", "타겟영상", "타겟UUID", "소스UUID", "변조모델")
_MODELS = {
    "fo": "reenactment", "dffs": "face-swap", "dfl": "face-swap", "fsgan": "face-swap",
    "audio_driven": "lip-sync",
}  # fmt: skip


def scan(root: Path) -> list[Clip]:
    """Read the tables.

    Raises:
        DatasetError: there is none, or a row is wrong.
    """
    paths = {_id(path.name): relative(path, root) for path in files_below(root, VIDEO)}
    clips: list[Clip] = []
    for table, fake, split in _tables(root):
        for line, row in read_named(table, FAKE_COLUMNS if fake else REAL_COLUMNS):
            with at_line(table, line):
                clips.append(_fake(row, paths, split) if fake else _genuine(row, paths, split))
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips


def _tables(root: Path) -> Iterator[tuple[Path, bool, str]]:
    """Yield each table, whether it is about fakes, and its split."""
    for path in files_below(root, {".csv"}):
        name = unicodedata.normalize("NFC", path.name)  # macOS writes Hangul in parts
        for kind in ("원본", "변조"):
            for split in ("training", "validation"):
                if name == f"{kind}영상_{split}_메타데이터.csv":
                    yield path, kind == "변조", split


def _id(name: str) -> str:
    """Return the id of a clip that is written with or without its suffix."""
    name = unicodedata.normalize("NFC", name.strip())
    return name[:-4] if name.lower().endswith(".mp4") else name


def _genuine(row: dict[str, str], paths: dict[str, str], split: str) -> Clip:
    one = _id(row["영상ID"])
    return Clip(
        uid=f"{NAME}/{one}", path=paths.get(one, f"{one}.mp4"), dataset=NAME, label=0, split=split,
        label_video=0, label_audio=0, kind="real", identities=(f"{NAME}:{row['UUID']}",), collection="KoDF",
    )  # fmt: skip


def _fake(row: dict[str, str], paths: dict[str, str], split: str) -> Clip:
    one = _id(row["영상ID"])
    model = row["변조모델"].strip().replace("-", "_")
    return Clip(
        uid=f"{NAME}/{one}", path=paths.get(one, f"{one}.mp4"), dataset=NAME, label=1, split=split,
        label_video=1, kind=choose("변조모델", model, _MODELS), generators=(model,),
        identities=(f"{NAME}:{row['타겟UUID']}", f"{NAME}:{row['소스UUID']}"), collection="KoDF",
        source_uid=f"{NAME}/{_id(row['타겟영상'])}",
    )  # fmt: skip
