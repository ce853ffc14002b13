"""FaceForensics++: one compression, both people of a name, splits as pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from avff.trainer.datasets.faceforensics import scan
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import faceforensics, write_tree


@pytest.mark.parametrize(
    ("there", "used"),
    [(("c40",), "c40"), (("raw", "c40"), "raw"), (("raw", "c23", "c40"), "c23")],
    ids=["one", "two", "three"],
)
def test_one_compression_is_used_and_stated(tmp_path: Path, there: tuple[str, ...], used: str) -> None:
    """The same clip in two qualities would be counted twice, and the quality decides the score."""
    clips = scan(faceforensics(tmp_path, there))
    assert len(clips) == 6
    assert {c.collection.split()[-1] for c in clips} == {used}
    assert all(f"/{used}/" in c.path for c in clips)


def test_compression_of_both_classes_comes_first(tmp_path: Path) -> None:
    """Genuine clips of one quality and fakes of another would be told by it."""
    root = faceforensics(tmp_path, ("raw",))
    write_tree(root, {}, ["original_sequences/youtube/c23/videos/000.mp4"])
    assert {c.collection.split()[-1] for c in scan(root)} == {"raw"}


def test_both_ids_of_a_name_are_people(tmp_path: Path) -> None:
    """Target and source; the target's clip is what was painted over.  Actors have their own numbers."""
    clips = {Path(c.path).stem: c for c in scan(faceforensics(tmp_path))}
    assert clips["000_003"].identities == ("faceforensics:000", "faceforensics:003")
    assert clips["000_003"].source_uid == clips["000"].uid
    assert clips["003_000"].source_uid == clips["003"].uid
    actors = clips["01_02__walking_outside__YCSEBZO4"]
    assert actors.identities == ("faceforensics:actor 01", "faceforensics:actor 02")
    assert actors.source_uid == clips["01__walking_outside"].uid


def test_there_is_no_sound_to_label(tmp_path: Path) -> None:
    """Unknown, for both classes."""
    assert {(c.label, c.label_video, c.label_audio) for c in scan(faceforensics(tmp_path))} == {
        (0, 0, None),
        (1, 1, None),
    }


def test_splits_are_lists_of_pairs(tmp_path: Path) -> None:
    """Both ids of a pair are in the split; actors are in none."""
    clips = {Path(c.path).stem: c.split for c in scan(faceforensics(tmp_path))}
    assert clips["000"] == clips["003"] == clips["000_003"] == "train"
    assert clips["01__walking_outside"] == ""


def test_split_that_is_no_list_of_pairs_is_named(tmp_path: Path) -> None:
    """File and entry."""
    write_tree(faceforensics(tmp_path), {"splits/val.json": [["1", "2"], ["3"]]}, [])
    with pytest.raises(DatasetError, match=r"val\.json: entry 2: "):
        scan(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["original_sequences/youtube/c23/videos/000_003.mp4", "manipulated_sequences/Deepfakes/c23/videos/7.mp4"],
)
def test_name_of_the_other_class_is_refused(tmp_path: Path, name: str) -> None:
    """A pair among the genuine clips, or one id among the fakes, is a mix-up."""
    write_tree(faceforensics(tmp_path), {}, [name])
    with pytest.raises(DatasetError, match="is not named"):
        scan(tmp_path)
