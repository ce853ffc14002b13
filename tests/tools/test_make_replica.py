"""The replicas play, and are what the adapters of the real datasets read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avff.engine.decode import open_media
from avff.engine.media import AudioBlock, VideoFrame
from avff.trainer.data.splits import describe, split_groups
from avff.trainer.datasets import scan
from tools.make_replica import main


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both replicas, of four people in FakeAVCeleb and of four pieces of footage in DFDC."""
    folder = tmp_path_factory.mktemp("replicas")
    for name in ("dfdc", "fakeavceleb"):
        assert main([name, str(folder / name), "--clips", "16", "--seconds", "1"]) == 0
    return {name: folder / name for name in ("dfdc", "fakeavceleb")}


@pytest.mark.parametrize("name", ["dfdc", "fakeavceleb"])
def test_replica_scans_and_splits(roots: dict[str, Path], name: str) -> None:
    """Nothing is missing or left over, and whole groups make two sides of both classes."""
    found = scan(name, roots[name])
    assert found.warnings == []
    assert sum(clip.label == 0 for clip in found.clips) == 4
    split = split_groups(found.clips, share=0.3, seed=0)
    assert describe(split)[-1] == "overlap: 0 groups on both sides"
    assert len(found.clips) == 16


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a clip's pictures and sound."""
    with open_media(path) as reader:
        items = list(reader)
    pictures = np.stack([i.rgb for i in items if isinstance(i, VideoFrame)])
    return pictures, np.concatenate([i.pcm for i in items if isinstance(i, AudioBlock)])


def test_fakes_differ_from_their_footage_in_what_their_category_says(roots: dict[str, Path]) -> None:
    """Genuine parts are the footage's, up to encoding; generated ones are not."""
    clips = scan("fakeavceleb", roots["fakeavceleb"]).clips
    genuine = next(c for c in clips if not c.label)
    pictures, sound = read(roots["fakeavceleb"] / genuine.path)
    assert len(pictures) == 25
    siblings = [c for c in clips if c.source_uid == genuine.uid]
    assert len(siblings) == 3
    for clip in siblings:
        seen, heard = read(roots["fakeavceleb"] / clip.path)
        size = min(len(sound), len(heard))
        assert (np.abs(seen.astype(int) - pictures).mean() > 0.5) == bool(clip.label_video)
        assert (np.corrcoef(sound[:size], heard[:size])[0, 1] < 0.98) == bool(clip.label_audio)


def test_full_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in it might be the real dataset."""
    (tmp_path / "precious.mp4").touch()
    with pytest.raises(SystemExit) as caught:
        main(["dfdc", str(tmp_path)])
    assert caught.value.code == 2
    assert "is not empty; give another folder" in capsys.readouterr().err


def test_path_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and the exit code of what cannot be created."""
    (tmp_path / "file").touch()
    assert main(["dfdc", str(tmp_path / "file" / "out"), "--clips", "4"]) == 73
    assert capsys.readouterr().err.startswith("make_replica: cannot write ")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--clips", "3", "--clips is 3, not at least 4"), ("--seconds", "60", "--seconds is 60, not 1 to 10")],
    ids=["clips", "seconds"],
)
def test_value_out_of_range_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    """Fewer clips than one of each kind, or more of the demo clip than there is."""
    with pytest.raises(SystemExit):
        main(["dfdc", str(tmp_path), option, value])
    assert words in capsys.readouterr().err
