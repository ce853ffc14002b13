"""A folder sorted by hand: the folder is the label, the one below the generator."""

from __future__ import annotations

from pathlib import Path

from avff.trainer.datasets.folder import scan
from tests.support.replicas import folder, write_tree


def test_folders_are_labels_and_generators(tmp_path: Path) -> None:
    """Genuine at any depth; a fake's generator is the first folder, which part is generated is unknown."""
    clips = {c.path: (c.label, c.label_video, c.label_audio, c.generator) for c in scan(folder(tmp_path))}
    assert clips == {
        "real/a.mp4": (0, 0, 0, ""),
        "real/deep/b.mov": (0, 0, 0, ""),
        "fake/Sora/x/c.mp4": (1, None, None, "Sora"),
        "fake/d.wav": (1, None, None, "unnamed"),
    }


def test_other_files_are_no_clips(tmp_path: Path) -> None:
    """Notes, pictures and what macOS leaves behind."""
    write_tree(folder(tmp_path), {"real/notes.txt": "x"}, ["fake/._d.wav", "real/x.jpg"])
    assert len(scan(tmp_path)) == 4
