"""DF-TIMIT: no genuine clips of its own, sound that was never changed, two people in a name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from avff.trainer.datasets.df_timit import scan
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import df_timit, write_tree


def test_genuine_clips_come_from_vidtimit(tmp_path: Path) -> None:
    """Without it there are fakes only; with it, the person is the first folder."""
    root = df_timit(tmp_path)
    assert [c.identities for c in scan(root) if c.label == 0] == [("vidtimit:fadg0",), ("vidtimit:fram1",)]
    shutil.rmtree(root / "VidTIMIT")
    assert {c.label for c in scan(root)} == {1}


def test_sound_of_a_fake_is_genuine(tmp_path: Path) -> None:
    """Faces were swapped, and the sound beside the clip is no clip of its own."""
    fakes = [c for c in scan(df_timit(tmp_path)) if c.label]
    assert [(c.label_video, c.label_audio) for c in fakes] == [(1, 0), (1, 0)]
    assert {Path(c.path).suffix for c in fakes} == {".avi"}


def test_both_qualities_show_folder_and_name(tmp_path: Path) -> None:
    """Target and source are people of VidTIMIT; the quality is another generator."""
    low, high = (c for c in scan(df_timit(tmp_path)) if c.label)
    assert low.identities == high.identities == ("vidtimit:fadg0", "vidtimit:fram1")
    assert (low.generator, high.generator) == ("faceswap-GAN lower_quality", "faceswap-GAN higher_quality")


def test_other_name_is_refused(tmp_path: Path) -> None:
    """Without the source person the clip cannot be grouped."""
    write_tree(df_timit(tmp_path), {}, ["DeepfakeTIMIT/lower_quality/fadg0/sa1.avi"])
    with pytest.raises(DatasetError, match="is not named <utterance>-video-<source>"):
        scan(tmp_path)
