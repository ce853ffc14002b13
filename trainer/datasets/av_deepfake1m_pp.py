"""AV-Deepfake1M++ (Cai et al., 2025): as AV-Deepfake1M, but with a JSON file beside each clip.

``{train,val}/…/<clip>.mp4`` and ``<clip>.json``, whose fields are those of AV-Deepfake1M's lists;
``test_files.txt`` names the clips of ``test/``, which have no labels.  Clips that come from VoxCeleb2
have their person's ``idXXXXX`` in the path; of others no person is known.
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.av_deepfake1m import clip_of, unlabelled
from avff.trainer.datasets.files import entry, files_below, read_json, refuse_layout, relative

NAME = "av-deepfake1m++"
LAYOUT = "AV-Deepfake1M++: train/ and val/ with a .json beside each .mp4, or test_files.txt with test/"


def scan(root: Path) -> list[Clip]:
    """Read the JSON files and the list of the test set.

    Raises:
        DatasetError: there is none, or an entry is wrong.
    """
    clips: list[Clip] = []
    for split in ("train", "val"):
        for path in files_below(root / split, {".json"}):
            with entry(path, path.stem):
                row = read_json(path, dict)
                clips.append(clip_of(NAME, split, relative(path.with_suffix(".mp4"), root), row))
    clips += unlabelled(NAME, root)
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips
