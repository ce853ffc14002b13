"""FakeAVCeleb: the shifted header in both variants, two people in a swap, four categories."""

from __future__ import annotations

from pathlib import Path

import pytest

from avff.trainer.datasets.fakeavceleb import scan
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import FAKEAVCELEB_HEADER, fakeavceleb


def change(root: Path, old: str, new: str) -> Path:
    """Change the table of a replica."""
    table = root / "FakeAVCeleb" / "meta_data.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    return root


def test_column_named_path_holds_the_file_name(tmp_path: Path) -> None:
    """And the one without a name its folder: together they are the files that are there."""
    root = fakeavceleb(tmp_path)
    on_disk = {p.relative_to(root).as_posix() for p in root.rglob("*.mp4")}
    assert {c.path for c in scan(root)} == on_disk


@pytest.mark.parametrize("end", ["filename,path,", "filename,path"])
def test_header_of_the_other_variant_reads_the_same(tmp_path: Path, end: str) -> None:
    """Copies with a column ``filename`` give the same clips, also with a blank at the end of each row."""
    before = scan(fakeavceleb(tmp_path))
    table = tmp_path / "FakeAVCeleb" / "meta_data.csv"
    header, *rows = table.read_text().splitlines()
    comma = "," if end.endswith(",") else ""
    table.write_text("\n".join([header.removesuffix("path,") + end, *(row + comma for row in rows)]))
    assert scan(tmp_path) == before


def test_other_header_is_refused(tmp_path: Path) -> None:
    """A table of another version is not guessed at."""
    with pytest.raises(DatasetError, match=r"line 1: the columns are not those of FakeAVCeleb v1\.2"):
        scan(change(fakeavceleb(tmp_path), FAKEAVCELEB_HEADER, "a,b,c"))


def test_categories_say_which_part_is_generated(tmp_path: Path) -> None:
    """A to D: neither, sound, picture, both; tools in order, the voice last."""
    assert [
        (c.label, c.label_video, c.label_audio, c.kind, c.generators) for c in scan(fakeavceleb(tmp_path))
    ] == [
        (0, 0, 0, "real", ()),
        (1, 0, 1, "tts-or-voice-clone", ("rtvc",)),
        (1, 1, 0, "face-swap", ("faceswap",)),
        (1, 1, 1, "lip-sync", ("wav2lip", "rtvc")),
        (1, 1, 1, "face-swap", ("fsgan", "wav2lip", "rtvc")),
    ]


def test_source_and_first_target_are_people(tmp_path: Path) -> None:
    """The second target is a number, and - is nobody."""
    assert [c.identities for c in scan(fakeavceleb(tmp_path))] == [
        ("voxceleb2:id00076",),
        ("voxceleb2:id00076",),
        ("voxceleb2:id00076", "voxceleb2:id00166"),
        ("voxceleb2:id00076", "voxceleb2:id00476"),
        ("voxceleb2:id00076", "voxceleb2:id00476"),
    ]


def test_fakes_name_the_genuine_clip_they_begin_with(tmp_path: Path) -> None:
    """00109_10_id00476_wavtolip.mp4 is of 00109.mp4."""
    genuine, *fakes = scan(fakeavceleb(tmp_path))
    assert {f.source_uid for f in fakes} == {genuine.uid}


def test_root_may_be_the_inner_folder(tmp_path: Path) -> None:
    """The table's folders begin with the dataset's name, which is not below itself."""
    inner = fakeavceleb(tmp_path) / "FakeAVCeleb"
    assert scan(inner)[0].path == "RealVideo-RealAudio/African/men/id00076/00109.mp4"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rtvc,B,", "rtvc,A,", "line 3: category is 'A', but RealVideo-FakeAudio is 'B'"),
        ("C,FakeVideo-RealAudio,", "C,FakeVideo,", "line 4: type is 'FakeVideo'"),
        ("real,A,", "real,", "line 2: has 9 values, not 10"),
    ],
    ids=["category", "type", "short"],
)
def test_wrong_row_names_file_and_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    """Category and type say the same twice; when they differ, one is wrong."""
    with pytest.raises(DatasetError, match=words):
        scan(change(fakeavceleb(tmp_path), old, new))
