"""LAV-DF: generated passages in seconds, and the footage a fake was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avff.trainer.data.splits import group_of
from avff.trainer.datasets.files import DatasetError
from avff.trainer.datasets.lav_df import scan
from tests.support.replicas import lav_df


def change(root: Path, number: int, **values: Any) -> Path:
    """Change an entry of a replica's list."""
    path = root / "metadata.min.json"
    rows = json.loads(path.read_text())
    rows[number].update(values)
    path.write_text(json.dumps(rows, indent=0))
    return root


def test_passages_are_those_of_the_changed_part(tmp_path: Path) -> None:
    """Seconds as they stand; no passage of an unchanged part is generated."""
    both = ((1.25, 2.0), (4.0, 4.5))
    assert [
        (c.label, c.label_video, c.label_audio, c.fake_video, c.fake_audio) for c in scan(lav_df(tmp_path))
    ] == [
        (0, 0, 0, (), ()),
        (1, 1, 1, both, both),
        (1, 1, 0, ((0.5, 1.0),), ()),
        (1, 0, 1, (), ((5.0, 6.4),)),
    ]


def test_footage_ties_across_official_splits(tmp_path: Path) -> None:
    """All fakes here are of one clip, whichever folder they lie in."""
    clips = scan(lav_df(tmp_path))
    assert len(set(group_of(clips).values())) == 1
    assert [c.split for c in clips] == ["train", "train", "dev", "test"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fake_periods": [[31.0, 50.0]], "n_fakes": 1}, "fake_periods has 31 to 50, in a clip of 6.4 s"),
        ({"fake_periods": [[2.0, 1.0]], "n_fakes": 1}, "fake_periods has 2 to 1"),
        ({"n_fakes": 5}, "n_fakes is 5, with 2 fake_periods"),
        ({"modify_video": 1}, "modify_video is 1, not true or false"),
        ({"fake_periods": [], "n_fakes": 0}, "has 0 fake_periods, but"),
        ({"modify_video": False, "modify_audio": False}, "has 2 fake_periods, but"),
        ({"duration": None}, "float"),
    ],
    ids=["in frames", "backwards", "count", "no bool", "fake without", "genuine with", "no duration"],
)
def test_contradiction_names_the_clip(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    """Passages counted in frames end after the clip, which is how they are told."""
    with pytest.raises(
        DatasetError, match=r"metadata\.min\.json: line \d+: entry 'train/000001\.mp4': "
    ) as caught:
        scan(change(lav_df(tmp_path), 1, **values))
    assert words in str(caught.value)
    assert ": line 1: " not in str(caught.value)


def test_entry_without_file_is_counted(tmp_path: Path) -> None:
    """It has no name, so it has a number."""
    path = lav_df(tmp_path) / "metadata.min.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), {"split": "train"}]))
    with pytest.raises(DatasetError, match="entry 5: no key 'file'"):
        scan(tmp_path)
