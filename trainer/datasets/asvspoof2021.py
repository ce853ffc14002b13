"""ASVspoof 2021 LA and DF (Liu et al., TASLP 2023): sound only, through codecs, for evaluation.

``flac`` files below any folder and ``keys/{LA,DF}/CM/trial_metadata.txt``.  The columns are in another
order than in 2019: ``speaker file codec channel-or-source attack key trim subset``, and DF has
more after these.  Speakers are those of 2019.  Nearly all of DF is spoofed (prior 96 %).
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import at_line, read_text, refuse_layout
from avff.trainer.datasets.speech import find_utterances, utterance

NAME = "asvspoof2021"
LAYOUT = "ASVspoof 2021: keys/LA/CM/trial_metadata.txt or keys/DF/CM/trial_metadata.txt, and flac/ folders"
COLUMNS = 8


def scan(root: Path) -> list[Clip]:
    """Read the keys that are there.

    Raises:
        DatasetError: there are none, or a line is wrong.
    """
    paths = find_utterances(root)
    clips: list[Clip] = []
    for task in ("LA", "DF"):
        for path in sorted(root.rglob(f"{task}/CM/trial_metadata.txt")):
            clips += _task(path, task, paths)
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips


def _task(path: Path, task: str, paths: dict[str, str]) -> list[Clip]:
    clips = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        row = text.split()
        with at_line(path, line):
            if len(row) < COLUMNS:
                raise ValueError(f"has {len(row)} values, not at least {COLUMNS}")
            speaker, file, codec, _, attack, key, _, subset = row[:COLUMNS]
            clips.append(
                utterance(NAME, file, paths, key=key, speaker=f"asvspoof:{speaker}", system=attack,
                          split=subset, collection=f"ASVspoof 2021 {task} {codec}")
            )  # fmt: skip
    return clips
