"""DFDC: unknown parts of a fake, footage as the tie, one part or many, and the public test set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avff.trainer.data.splits import group_of
from avff.trainer.datasets.dfdc import scan
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import dfdc, write_tree


def test_which_part_of_a_fake_is_generated_is_unknown(tmp_path: Path) -> None:
    """Picture, sound or both: unknown, not genuine; a clip called REAL is genuine throughout."""
    for clip in scan(dfdc(tmp_path)):
        parts = (clip.label_video, clip.label_audio)
        assert parts == ((None, None) if clip.label else (0, 0))
    assert [c.label for c in scan(tmp_path)] == [0, 1, 1, 0, 1]


def test_siblings_of_one_original_are_one_group(tmp_path: Path) -> None:
    """Also when the original is in no list, and only inside a part: names repeat across parts."""
    clips = {c.path: c for c in scan(dfdc(tmp_path))}
    groups = group_of(list(clips.values()))
    one, two = (f"dfdc/dfdc_train_part_{k}/" for k in range(2))
    assert groups[f"{one}real.mp4"] == groups[f"{one}fake1.mp4"] == groups[f"{one}fake2.mp4"]
    assert len({groups[f"{one}real.mp4"], groups[f"{two}real.mp4"], groups[f"{two}other.mp4"]}) == 3
    assert clips["dfdc_train_part_1/other.mp4"].source_uid == f"{two}gone.mp4"


def test_root_may_be_one_part(tmp_path: Path) -> None:
    """The 400 clips of the sample are one folder with its JSON."""
    part = dfdc(tmp_path) / "dfdc_train_part_0"
    assert [c.path for c in scan(part)] == ["real.mp4", "fake1.mp4", "fake2.mp4"]


def test_public_test_set_has_a_table(tmp_path: Path) -> None:
    """``labels.csv`` instead of JSON, 1 for fake, and no footage named."""
    write_tree(tmp_path, {"labels.csv": "filename,label\na.mp4,0\nb.mp4,1\n"}, ["a.mp4", "b.mp4"])
    clips = scan(tmp_path)
    assert [(c.path, c.label, c.split, c.source_uid) for c in clips] == [
        ("a.mp4", 0, "test", ""),
        ("b.mp4", 1, "test", ""),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"label": "fake"}, "label is 'fake', not REAL or FAKE"),
        ({"split": "train"}, "no key 'label'"),
        ("REAL", "is a str, not an object"),
        ({"label": "FAKE", "original": "/etc/y.mp4"}, "/etc/y.mp4"),
    ],
    ids=["lower case", "no label", "no object", "outside"],
)
def test_wrong_entry_names_file_line_and_clip(tmp_path: Path, row: object, words: str) -> None:
    """The line is that of the entry, where the file has lines."""
    rows = {"a.mp4": {"label": "REAL"}, "b.mp4": row}
    (tmp_path / "metadata.json").write_text(json.dumps(rows, indent=1))
    with pytest.raises(DatasetError) as caught:
        scan(tmp_path)
    line = 5
    assert str(caught.value).startswith(f"{tmp_path / 'metadata.json'}: line {line}: entry 'b.mp4': ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a.mp4":\n oops}', "line 2: is not JSON"),
        ("[]", "holds a list, not a dict"),
        ("\udcff", "is not UTF-8"),
    ],
    ids=["broken", "list", "binary"],
)
def test_file_that_is_no_list_of_clips_is_named(tmp_path: Path, text: str, words: str) -> None:
    """What is wrong, and where."""
    (tmp_path / "metadata.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=words):
        scan(tmp_path)


def test_wrong_row_of_the_table_is_named(tmp_path: Path) -> None:
    """File and line."""
    write_tree(tmp_path, {"labels.csv": "filename,label\na.mp4,0\nb.mp4,2\n"}, [])
    with pytest.raises(DatasetError, match=r"labels\.csv: line 3: label is '2'"):
        scan(tmp_path)
