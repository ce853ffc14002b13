"""FakeAVCeleb v1.2 (Khalid et al., NeurIPS Datasets 2021): ``meta_data.csv`` beside four folders.

``FakeAVCeleb/{Real,Fake}Video-{Real,Fake}Audio/<race>/<men or women>/idXXXXX/*.mp4``.

The header of the table is shifted: it ends in ``gender,path,`` but the column named ``path`` holds
the file's name and the one without a name its folder.  Other copies end in ``filename,path,``.
``target1`` is a second person, ``target2`` a number.  People are VoxCeleb2's, which
AV-Deepfake1M shows as well.  The voice of every generated sound is SV2TTS, called ``rtvc``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import (
    DatasetError,
    at_line,
    check_length,
    choose,
    find_base,
    read_csv,
    relative,
)

NAME = "fakeavceleb"
TABLE = "meta_data.csv"
FOLDER = "FakeAVCeleb"
LAYOUT = f"FakeAVCeleb: {TABLE} and RealVideo-RealAudio/, FakeVideo-RealAudio/, …"
COLUMNS = ["source", "target1", "target2", "method", "category", "type", "race", "gender"]
_ENDS = (["path"], ["filename", "path"])
_TYPES = {
    "RealVideo-RealAudio": ("A", 0, 0),
    "RealVideo-FakeAudio": ("B", 0, 1),
    "FakeVideo-RealAudio": ("C", 1, 0),
    "FakeVideo-FakeAudio": ("D", 1, 1),
}
_VOICE = "rtvc"


def scan(root: Path) -> list[Clip]:
    """Read ``meta_data.csv``.

    Raises:
        DatasetError: it is missing, has another header, or a row is wrong.
    """
    base = find_base(root, TABLE, FOLDER, LAYOUT)
    (_, header), *rows = read_csv(base / TABLE)
    if [h for h in header if h] not in [COLUMNS + end for end in _ENDS]:
        raise DatasetError(f"{base / TABLE}: line 1: the columns are not those of FakeAVCeleb v1.2")
    clips = []
    for line, row in rows:
        with at_line(base / TABLE, line):
            clips.append(_clip(root, base, row[:-1] if row[-1] == "" else row))
    return clips


def _clip(root: Path, base: Path, row: list[str]) -> Clip:
    check_length(row, len(COLUMNS) + 2)
    source, target, _, method, category, kind, race, gender, name, place = (value.strip() for value in row)
    letter, video, audio = choose("type", kind, _TYPES)
    if category != letter:
        raise ValueError(f"category is {category!r}, but {kind} is {letter!r}")
    parts = PurePosixPath(place).parts
    folder = base.joinpath(*(parts[1:] if parts[:1] == (FOLDER,) else parts))
    path = relative(folder / name, root)
    # A fake's name begins with that of the genuine clip: 00109_10_id00476_wavtolip.mp4, of 00109.mp4.
    genuine = Path("RealVideo-RealAudio", race, gender, source, name.split("_")[0]).with_suffix(".mp4")
    fake = int(video or audio)
    tools = () if method == "real" else tuple(method.split("-"))
    return Clip(
        uid=f"{NAME}/{path}", path=path, dataset=NAME, label=fake, label_video=video, label_audio=audio,
        kind=_kind(tools), generators=tools + ((_VOICE,) if audio and _VOICE not in tools else ()),
        identities=tuple(f"voxceleb2:{person}" for person in (source, target) if person not in ("", "-")),
        collection=f"FakeAVCeleb {kind}",
        source_uid=f"{NAME}/{relative(base / genuine, root)}" if fake else "",
    )  # fmt: skip


def _kind(tools: tuple[str, ...]) -> str:
    if not tools:
        return "real"
    if tools[0] == _VOICE:
        return "tts-or-voice-clone"
    return "lip-sync" if tools[0] == "wav2lip" else "face-swap"
