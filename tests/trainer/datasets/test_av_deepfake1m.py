"""AV-Deepfake1M and its second edition: two spellings, passages per modality, a test set without labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avff.trainer.datasets import av_deepfake1m, av_deepfake1m_pp
from avff.trainer.datasets.files import DatasetError
from tests.support.replicas import av_deepfake1m as write_first
from tests.support.replicas import av_deepfake1m_pp as write_second


def change(path: Path, old: str, new: str) -> None:
    """Change a list of a replica."""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("spelling", ["both_modified", "both-modified"])
def test_both_spellings_mean_both_modalities(tmp_path: Path, spelling: str) -> None:
    """The data have an underscore, the official loader a hyphen."""
    root = write_first(tmp_path)
    change(root / "train_metadata.json", "both_modified", spelling)
    assert [(c.label, c.label_video, c.label_audio) for c in av_deepfake1m.scan(root)[:4]] == [
        (0, 0, 0),
        (1, 1, 0),
        (1, 0, 1),
        (1, 1, 1),
    ]


def test_clips_of_the_test_set_have_no_label(tmp_path: Path) -> None:
    """Unknown throughout, never genuine."""
    test = [c for c in av_deepfake1m.scan(write_first(tmp_path)) if c.split == "test"]
    assert [(c.path, c.label, c.label_video, c.label_audio, c.fake_video) for c in test] == [
        (f"test/00000{k}.mp4", None, None, None, None) for k in range(2)
    ]


def test_person_and_footage_tie(tmp_path: Path) -> None:
    """The folder idXXXXX is VoxCeleb2's person, whom FakeAVCeleb may show too."""
    clips = av_deepfake1m.scan(write_first(tmp_path))
    assert {c.identities for c in clips[:4]} == {("voxceleb2:id00012",)}
    assert {c.source_uid for c in clips[1:4]} == {clips[0].uid}


def test_passages_follow_the_modality(tmp_path: Path) -> None:
    """In seconds, for what was changed only."""
    clips = av_deepfake1m.scan(write_first(tmp_path))
    passage = ((1.0, 1.5),)
    assert [(c.fake_video, c.fake_audio) for c in clips[:4]] == [
        ((), ()),
        (passage, ()),
        ((), passage),
        (passage, passage),
    ]


def test_file_may_be_listed_with_its_split(tmp_path: Path) -> None:
    """``train/id…`` and ``id…`` are the same file."""
    root = write_first(tmp_path)
    before = av_deepfake1m.scan(root)
    change(root / "train_metadata.json", '"id00012', '"train/id00012')
    assert av_deepfake1m.scan(root) == before


def test_unknown_change_names_the_clip(tmp_path: Path) -> None:
    """A fourth way to change a clip is not guessed at."""
    change(write_first(tmp_path) / "val_metadata.json", '"real"', '"face_modified"')
    with pytest.raises(DatasetError, match=r"val_metadata\.json: line 1: .*modify_type is 'face_modified'"):
        av_deepfake1m.scan(tmp_path)


def test_second_edition_has_a_file_beside_each_clip(tmp_path: Path) -> None:
    """The clip is the JSON file's neighbour; people of other sources than VoxCeleb2 are unknown."""
    clips = {c.path: c for c in av_deepfake1m_pp.scan(write_second(tmp_path))}
    fake = clips["train/id00012/abc/00001/fake_video_fake_audio.mp4"]
    assert (fake.label, fake.dataset, fake.fake_audio) == (1, "av-deepfake1m++", ((1.0, 1.5),))
    assert fake.source_uid == clips["train/id00012/abc/00001/real.mp4"].uid
    assert clips["val/lrs3/xyz/00001/real.mp4"].identities == ()
    assert clips["test/0.mp4"].label is None


def test_wrong_file_of_the_second_edition_is_named(tmp_path: Path) -> None:
    """Among millions of files, which."""
    path = write_second(tmp_path) / "val" / "lrs3" / "xyz" / "00001" / "real.json"
    path.write_text(json.dumps({"file": "real.mp4"}))
    with pytest.raises(DatasetError, match="no key 'modify_type'") as caught:
        av_deepfake1m_pp.scan(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
