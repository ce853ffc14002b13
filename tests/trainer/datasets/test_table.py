"""The generic table: every row is checked, and an error says where to look."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from avff.trainer.data.manifest import ManifestError
from avff.trainer.datasets.table import read_table

ROW = {
    "path": "train/a.mp4",
    "split": "train",
    "label": "fake",
    "label_video": "1",
    "label_audio": "",
    "kind": "lip-sync",
    "generator": "Wav2Lip",
    "identity": "s1",
    "source": "GRID",
    "paired_real": "train/b.mp4",
    "duration_s": "3.61",
    "width": "1280",
    "height": "720",
    "fps": "25.0",
    "audio_rate": "48000",
    "sha256": "a" * 64,
}


def write(path: Path, *changes: dict[str, str], leave_out: str = "") -> Path:
    """Write a manifest of one row for each set of changes."""
    columns = [c for c in ROW if c != leave_out]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, "notes"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**ROW, **change, "notes": "a, b"} for change in changes)
    return path


def test_row_becomes_a_clip(tmp_path: Path) -> None:
    """Labels are numbers with 1 for fake, an empty one is unknown, other columns are ignored."""
    (clip,) = read_table(write(tmp_path / "m.csv", {}))
    assert (clip.uid, clip.label, clip.label_video, clip.label_audio) == ("train/a.mp4", 1, 1, None)
    assert (clip.duration_s, clip.width, clip.height, clip.fps, clip.audio_rate) == (
        3.61,
        1280,
        720,
        25.0,
        48_000,
    )
    assert (clip.generators, clip.identities, clip.source_uid) == (("Wav2Lip",), ("s1",), "train/b.mp4")


def test_genuine_is_zero(tmp_path: Path) -> None:
    """``real`` is label 0."""
    change = {"label": "real", "label_video": "0", "label_audio": "0", "generator": ""}
    (clip,) = read_table(write(tmp_path / "m.csv", change))
    assert (clip.label, clip.label_video, clip.label_audio) == (0, 0, 0)


def test_empty_container_facts_are_zero(tmp_path: Path) -> None:
    """A clip without picture or sound has no size and no rate."""
    empty = dict.fromkeys(("width", "height", "fps", "audio_rate"), "")
    (clip,) = read_table(write(tmp_path / "m.csv", empty))
    assert (clip.width, clip.height, clip.fps, clip.audio_rate) == (0, 0, 0.0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "maybe"}, ["label is 'maybe'", "real or fake"]),
        ({"label": "FAKE"}, ["label is 'FAKE'"]),
        ({"label": "1"}, ["label is '1'"]),
        ({"label_video": "2"}, ["label_video is '2'"]),
        ({"label_audio": "real"}, ["label_audio is 'real'"]),
        ({"duration_s": ""}, ["could not convert"]),
        ({"width": "wide"}, ["'wide'"]),
        ({"path": "../elsewhere.mp4"}, ["'../elsewhere.mp4' leaves the data root"]),
        ({"path": "/etc/passwd"}, ["'/etc/passwd' leaves the data root"]),
        ({"sha256": ""}, ["sha256 is ''", "64 hex digits"]),
        ({"sha256": "z" * 64}, ["64 hex digits"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_value_names_file_line_and_value(
    tmp_path: Path, change: dict[str, str], words: list[str]
) -> None:
    """The message says which line of which file holds what."""
    path = write(tmp_path / "m.csv", {}, {"path": "train/c.mp4", **change})
    with pytest.raises(ManifestError) as caught:
        read_table(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line 3: ")
    assert all(word in message for word in words)
    assert "\n" not in message


@pytest.mark.parametrize("column", list(ROW))
def test_missing_column_is_named(tmp_path: Path, column: str) -> None:
    """Every column that the trainer reads has to be there."""
    path = write(tmp_path / "m.csv", {}, leave_out=column)
    with pytest.raises(ManifestError, match=f"line 1: no column '{column}'"):
        read_table(path)


@pytest.mark.parametrize("extra", ["train/d.mp4,train\n", ",".join(["x"] * 30) + "\n"], ids=["short", "long"])
def test_row_of_another_length_is_refused(tmp_path: Path, extra: str) -> None:
    """A row that lost or gained a comma is not guessed at."""
    path = write(tmp_path / "m.csv", {})
    path.write_text(path.read_text() + extra)
    with pytest.raises(ManifestError, match="line 3: has more or fewer values than line 1"):
        read_table(path)


def test_clip_listed_twice_is_refused(tmp_path: Path) -> None:
    """One clip cannot be in two splits."""
    with pytest.raises(ManifestError, match=r"'train/a\.mp4' is listed twice"):
        read_table(write(tmp_path / "m.csv", {}, {"split": "dev"}))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "line 1: no column 'path'"), (b"path\xff\xfe", "is not a table in UTF-8")],
    ids=["missing", "empty", "binary"],
)
def test_file_that_is_no_manifest_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    """The file's name is in the message, and for a missing one the settings that say where it is."""
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ("AVFF_DATA" in str(caught.value)) == (content is None)


@pytest.mark.parametrize(
    ("identity", "person"),
    [("s1", "s1"), ("s1 (by eye)", "s1"), ("Conan O'Brien", "Conan O'Brien"), ("a (b) (c)", "a")],
)
def test_remark_in_brackets_is_no_other_person(tmp_path: Path, identity: str, person: str) -> None:
    """When in doubt it is the same person."""
    (clip,) = read_table(write(tmp_path / "m.csv", {"identity": identity}))
    assert clip.identities == (person,)
