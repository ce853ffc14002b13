"""Celeb-DF v2: the list says 1 for real, and names hold the people."""

from __future__ import annotations

from pathlib import Path

import pytest

from avff.trainer.datasets import scan as scan_root
from avff.trainer.datasets.celeb_df import LIST, scan
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import celeb_df, write_tree


def test_one_in_the_list_means_real(tmp_path: Path) -> None:
    """Listed clips are the test set; the folder and the list agree on every label."""
    clips = scan(celeb_df(tmp_path))
    assert {c.path: c.label for c in clips if c.split == "test"} == {
        "YouTube-real/00170.mp4": 0,
        "Celeb-real/id0_0001.mp4": 0,
        "Celeb-synthesis/id0_id16_0001.mp4": 1,
    }
    assert {c.path: c.label for c in clips if c.split == "train"} == {
        "Celeb-real/id2_0003.mp4": 0,
        "Celeb-synthesis/id2_id3_0003.mp4": 1,
    }


def test_list_with_turned_labels_is_refused(tmp_path: Path) -> None:
    """A copy whose list was "corrected" to 1 for fake would be read the wrong way round."""
    path = celeb_df(tmp_path) / LIST
    path.write_text(path.read_text().replace("1 Celeb-real", "0 Celeb-real"))
    with pytest.raises(DatasetError, match=r"line 2: 0 for Celeb-real/id0_0001\.mp4; in this list 1 is real"):
        scan(tmp_path)


def test_names_hold_target_and_source(tmp_path: Path) -> None:
    """id0_id16_0001 has the face of id16 on clip 0001 of id0; YouTube's people are unknown."""
    clips = {Path(c.path).stem: c for c in scan(celeb_df(tmp_path))}
    assert clips["id0_id16_0001"].identities == ("celeb-df-v2:id0", "celeb-df-v2:id16")
    assert clips["id0_id16_0001"].source_uid == clips["id0_0001"].uid
    assert clips["00170"].identities == ()


def test_listed_clip_that_is_missing_is_counted(tmp_path: Path) -> None:
    """The list knows clips that the folders do not hold."""
    (celeb_df(tmp_path) / "YouTube-real" / "00170.mp4").unlink()
    assert "1 of 5 listed clips are not there" in scan_root("celeb-df-v2", tmp_path).warnings[0]


def test_other_name_is_refused(tmp_path: Path) -> None:
    """Without its people a clip cannot be kept apart from theirs."""
    write_tree(celeb_df(tmp_path), {}, ["Celeb-synthesis/swap.mp4"])
    with pytest.raises(DatasetError, match=r"swap\.mp4: is not named as in Celeb-DF v2"):
        scan(tmp_path)
