"""DFDC preview: lower-case labels, and both people of a swap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avff.trainer.data.splits import group_of
from avff.trainer.datasets.dfdc_preview import scan
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import dfdc_preview


def test_fake_shows_target_and_swapped_person(tmp_path: Path) -> None:
    """Who is on either side of a swap ties its clips: here all three are one group."""
    clips = scan(dfdc_preview(tmp_path))
    assert [c.identities for c in clips] == [
        ("dfdc-preview:643049",),
        ("dfdc-preview:643049", "dfdc-preview:1260311"),
        ("dfdc-preview:1260311", "dfdc-preview:22"),
    ]
    assert len(set(group_of(clips).values())) == 1
    assert clips[1].source_uid == clips[0].uid


def test_labels_are_in_lower_case(tmp_path: Path) -> None:
    """DFDC's upper-case labels are not this dataset's; splits are the official ones."""
    clips = scan(dfdc_preview(tmp_path))
    assert [(c.label, c.split, c.generator) for c in clips] == [
        (0, "train", ""),
        (1, "train", "DFDC method_A"),
        (1, "test", "DFDC method_B"),
    ]
    path = tmp_path / "dfdc_preview_set" / "dataset.json"
    rows = json.loads(path.read_text())
    rows["method_B/1/B.mp4"]["label"] = "FAKE"
    path.write_text(json.dumps(rows))
    with pytest.raises(
        DatasetError, match=r"line 1: entry 'method_B/1/B.mp4': label is 'FAKE', not real or fake"
    ):
        scan(tmp_path)


def test_root_may_be_the_inner_folder(tmp_path: Path) -> None:
    """Paths follow the root that was given."""
    clips = scan(dfdc_preview(tmp_path) / "dfdc_preview_set")
    assert clips[1].path == "method_A/1/A.mp4"
    assert clips[1].source_uid == clips[0].uid
