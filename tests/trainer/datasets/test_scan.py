"""Scanning a data root: every adapter on its layout, and one clear line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from avff.trainer.data.manifest import ManifestError, read_manifest, write_manifest
from avff.trainer.data.splits import group_of
from avff.trainer.datasets import DATASETS, DatasetError, scan
from tests.support.replicas import REPLICAS, dfdc, fakeavceleb, folder, write_tree


def test_every_dataset_has_a_replica() -> None:
    """No adapter goes untested; the table has rows of its own in its test."""
    assert set(DATASETS) == {*REPLICAS, "table"}


@pytest.mark.parametrize("name", REPLICAS)
def test_replica_is_read_without_a_warning(tmp_path: Path, name: str) -> None:
    """Every file of the layout becomes a clip of that dataset, and the manifest of all reads back."""
    root = REPLICAS[name](tmp_path / "data")
    found = scan(name, root)
    assert found.warnings == []
    assert {c.dataset for c in found.clips} == {name}
    assert all(c.generators if c.label else not c.generators for c in found.clips if c.label is not None)
    assert all(not c.sha256 and not c.duration_s for c in found.clips)
    write_manifest(tmp_path / "m.jsonl", found.clips)
    assert read_manifest(tmp_path / "m.jsonl") == found.clips


@pytest.mark.parametrize("name", REPLICAS)
def test_fake_is_in_the_group_of_its_footage(tmp_path: Path, name: str) -> None:
    """Where the genuine clip is there, its uid is what the fake names."""
    clips = scan(name, REPLICAS[name](tmp_path)).clips
    groups, known = group_of(clips), {c.uid for c in clips}
    for clip in clips:
        if clip.source_uid in known:
            assert groups[clip.uid] == groups[clip.source_uid]
    sets = {
        "dfdc",
        "dfdc-preview",
        "fakeavceleb",
        "lav-df",
        "av-deepfake1m",
        "faceforensics",
        "celeb-df-v2",
        "kodf",
    }
    assert any(c.source_uid in known for c in clips) or name not in sets


@pytest.mark.parametrize("name", DATASETS)
def test_other_layout_is_refused_with_what_is_expected(tmp_path: Path, name: str) -> None:
    """The message names the folder and what should be in it, or the list that is missing."""
    write_tree(tmp_path, {}, ["holiday/video.mp4"])
    with pytest.raises(ManifestError, match=r"expected|manifest\.csv") as caught:
        scan(name, tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("DFDC", "dfdc"), ("lavdf", "lav-df"), ("celebdf", "celeb-df-v2"), ("asvspoof", "asvspoof5")],
)
def test_unknown_name_is_refused_with_the_nearest(tmp_path: Path, name: str, near: str) -> None:
    """A slip of the pen is no riddle."""
    with pytest.raises(DatasetError, match=f"no dataset '{name}'; did you mean '{near}'"):
        scan(name, tmp_path)


def test_name_unlike_any_lists_them_all(tmp_path: Path) -> None:
    """What there is, is said."""
    with pytest.raises(DatasetError, match=r"no dataset 'xyz'; there are dfdc, .*, table"):
        scan("xyz", tmp_path)


def test_missing_root_is_named(tmp_path: Path) -> None:
    """The folder is in the message."""
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        scan("dfdc", tmp_path / "nowhere")


def test_listed_clips_that_are_not_there_are_left_out_and_counted(tmp_path: Path) -> None:
    """A download of some parts is usable; the warning counts and names the first."""
    root = dfdc(tmp_path)
    (root / "dfdc_train_part_0" / "fake1.mp4").unlink()
    (root / "dfdc_train_part_1" / "other.mp4").unlink()
    found = scan("dfdc", root)
    assert sorted(Path(c.path).name for c in found.clips) == ["fake2.mp4", "real.mp4", "real.mp4"]
    (line,) = found.warnings
    assert "2 of 5 listed clips are not there, the first is dfdc_train_part_0/fake1.mp4" in line


def test_most_clips_missing_is_an_error(tmp_path: Path) -> None:
    """More than half missing means that the lists belong to another folder."""
    root = dfdc(tmp_path)
    for name in ("real", "fake1", "fake2"):
        (root / "dfdc_train_part_0" / f"{name}.mp4").unlink()
    with pytest.raises(DatasetError, match=r"3 of 5 listed clips are not there.*unpack the rest"):
        scan("dfdc", root)


def test_files_in_no_list_are_left_out_and_counted(tmp_path: Path) -> None:
    """Without a row there is no label; files of other types and hidden ones are nobody's business."""
    root = write_tree(dfdc(tmp_path), {"notes.txt": "x"}, ["stray.mp4", "dfdc_train_part_0/._real.mp4"])
    found = scan("dfdc", root)
    assert len(found.clips) == 5
    (line,) = found.warnings
    assert "1 files are in no list, the first is stray.mp4" in line


def test_empty_dataset_is_an_error(tmp_path: Path) -> None:
    """Folders without clips are no dataset."""
    (tmp_path / "real").mkdir()
    with pytest.raises(DatasetError, match="folder has no clips here"):
        scan("folder", tmp_path)


def test_clip_listed_twice_is_an_error(tmp_path: Path) -> None:
    """One file cannot have two rows."""
    table = fakeavceleb(tmp_path) / "FakeAVCeleb" / "meta_data.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    with pytest.raises(ManifestError, match="is listed twice"):
        scan("fakeavceleb", tmp_path)


def test_symbolic_links_to_clips_count_as_there(tmp_path: Path) -> None:
    """Large datasets are often linked from another disk."""
    root = folder(tmp_path / "data")
    (root / "real" / "a.mp4").rename(tmp_path / "elsewhere.mp4")
    (root / "real" / "a.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    assert len(scan("folder", root).clips) == 4
