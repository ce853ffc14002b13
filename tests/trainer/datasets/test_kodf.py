"""KoDF: Korean names in either Unicode form, byte order marks, two people in a fake."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from avff.trainer.datasets.files import DatasetError
from avff.trainer.datasets.kodf import scan
from tests.support.replicas import kodf


def test_fake_shows_target_and_source(tmp_path: Path) -> None:
    """And names the genuine clip it was painted over."""
    clips = {c.uid: c for c in scan(kodf(tmp_path))}
    assert clips["kodf/f1"].identities == ("kodf:u1", "kodf:u2")
    assert clips["kodf/f1"].source_uid == "kodf/u1_001"
    assert clips["kodf/u1_001"].identities == ("kodf:u1",)


def test_table_with_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Else the first column would have another name."""
    (clip,) = (c for c in scan(kodf(tmp_path)) if c.split == "validation")
    assert (clip.uid, clip.label) == ("kodf/u9_001", 0)


def test_names_that_macos_wrote_in_parts_are_found(tmp_path: Path) -> None:
    """macOS stores Hangul decomposed, so the same name has other bytes."""
    before = {c.uid for c in scan(kodf(tmp_path))}
    for path in tmp_path.rglob("*.csv"):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    assert {c.uid for c in scan(tmp_path)} == before


def test_id_may_lack_its_suffix(tmp_path: Path) -> None:
    """Tables of some releases write u1_001, others u1_001.mp4."""
    before = scan(kodf(tmp_path))
    for path in tmp_path.rglob("*.csv"):
        path.write_text(path.read_text().replace(".mp4", ""))
    assert scan(tmp_path) == before


def test_sound_of_a_fake_is_unknown(tmp_path: Path) -> None:
    """The tables do not say where it comes from."""
    assert {(c.label, c.label_video, c.label_audio, c.kind) for c in scan(kodf(tmp_path))} == {
        (0, 0, 0, "real"),
        (1, 1, None, "face-swap"),
        (1, 1, None, "lip-sync"),
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",dfl,", ",magic,", "line 2: 변조모델 is 'magic'"),
        ("타겟UUID", "타겟", "line 1: no column '타겟UUID'"),
        ("f2.mp4,", "", "line 3: has 6 values, not 7"),
    ],
    ids=["model", "column", "short"],
)
def test_wrong_table_names_file_and_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    """In the table's own words."""
    (path,) = kodf(tmp_path).rglob("변조영상_training_메타데이터.csv")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DatasetError, match=words):
        scan(tmp_path)
