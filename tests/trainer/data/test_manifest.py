"""The manifest: every row is checked, and an error says where to look."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from avff.trainer.data.manifest import Clip, ManifestError, manifest_sha256, read_manifest, write_manifest

ROW: dict[str, Any] = {"uid": "a", "path": "train/a.mp4", "dataset": "dfdc", "label": 1}
FULL = Clip(
    "a", "train/a.mp4", "dfdc", 1, split="train", label_video=1, label_audio=None, kind="face-swap",
    generators=("fsgan", "wav2lip"), identities=("id1", "id2"), collection="part_0", source_uid="b",
    fake_video=((0.5, 1.25),), fake_audio=None, duration_s=10.0, width=1920, height=1080, fps=29.97,
    audio_rate=44_100, codec_video="h264", codec_audio="aac", sha256="a" * 64,
)  # fmt: skip


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_clips_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Unknown labels and passages stay unknown, tuples stay tuples."""
    clips = [FULL, Clip("b", "Ünïcode/b.mp4", "dfdc", None)]
    write_manifest(tmp_path / "m.jsonl", clips)
    assert read_manifest(tmp_path / "m.jsonl") == clips
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_generators_and_people_have_one_name() -> None:
    """Several generators read as one; without an identity a clip is its own person."""
    assert (FULL.generator, FULL.person) == ("fsgan + wav2lip", "id1")
    assert Clip("b", "b.mp4", "x", 0).person != Clip("c", "c.mp4", "x", 0).person


def test_clip_without_a_label_is_neither(tmp_path: Path) -> None:
    """Unknown is not genuine: whoever asks is told."""
    (clip,) = read_manifest(write(tmp_path / "m.jsonl", {**ROW, "label": None}))
    with pytest.raises(ValueError, match="a has no label"):
        _ = clip.is_fake


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**ROW, "label": 2}, "label is 2, not 0, 1 or null"),
        ({**ROW, "label_audio": "real"}, "label_audio is 'real'"),
        ({**ROW, "label": 0, "label_video": 1}, "label says genuine"),
        ({**ROW, "path": "../a.mp4"}, "leaves the data root"),
        ({**ROW, "path": "/a.mp4"}, "leaves the data root"),
        ({**ROW, "path": ""}, "leaves the data root"),
        ({**ROW, "sha256": "z"}, "64 hex digits"),
        ({**ROW, "duration_s": "long"}, "could not convert"),
        ({**ROW, "identities": 5}, "not iterable"),
        ({**ROW, "lable": 1}, "unknown key 'lable'"),
        ({"uid": "a", "path": "a", "label": 1}, "no key 'dataset'"),
        (["a"], "is not a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_row_names_file_and_line(tmp_path: Path, row: Any, words: str) -> None:
    """The message says which line of which file holds what."""
    path = write(tmp_path / "m.jsonl", {**ROW, "uid": "first"}, row)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: line 2: ")
    assert words in str(caught.value)


def test_clip_listed_twice_is_refused(tmp_path: Path) -> None:
    """One clip cannot have two labels."""
    with pytest.raises(ManifestError, match="'a' is listed twice"):
        read_manifest(write(tmp_path / "m.jsonl", ROW, {**ROW, "label": 0}))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"{", "line 1: "), (b"\xff\xfe", "is not UTF-8 text")],
    ids=["missing", "torn", "binary"],
)
def test_file_that_is_no_manifest_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    """The file's name is in the message."""
    path = tmp_path / "m.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=words) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_hash_is_of_the_files_bytes(tmp_path: Path) -> None:
    """A report's manifest hash can be checked with sha256sum."""
    path = write(tmp_path / "m.jsonl", ROW)
    assert manifest_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
