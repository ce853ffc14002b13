"""In-the-Wild (Müller et al., Interspeech 2022): sound of public figures, for testing only.

``release_in_the_wild/*.wav`` and ``meta.csv`` (``file,speaker,label``).  Genuine is spelt
``bona-fide``, with a hyphen.
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import at_line, find_base, read_named, relative
from avff.trainer.datasets.speech import utterance

NAME = "in-the-wild"
TABLE = "meta.csv"
LAYOUT = f"In-the-Wild: {TABLE} (file,speaker,label) and *.wav"


def scan(root: Path) -> list[Clip]:
    """Read ``meta.csv``.

    Raises:
        DatasetError: it is missing, or a row is wrong.
    """
    base = find_base(root, TABLE, "release_in_the_wild", LAYOUT)
    clips = []
    for line, row in read_named(base / TABLE, ("file", "speaker", "label")):
        with at_line(base / TABLE, line):
            file = row["file"]
            clips.append(
                utterance(NAME, file, {file: relative(base / file, root)}, key=row["label"],
                          speaker=f"{NAME}:{row['speaker']}", system="In-the-Wild", split="test",
                          collection="In-the-Wild")
            )  # fmt: skip
    return clips
