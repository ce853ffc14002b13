"""ASVspoof 5 (Wang et al., ASVspoof Workshop 2024), track 1: sound only.

``flac_{T,D,E}/*.flac`` (the last is also called ``flac_E_eval``) and ``ASVspoof5.train.tsv``,
``ASVspoof5.{dev,eval}.track_1.tsv``.  In spite of its name the table is parted by blanks; the ten
columns are speaker, file, gender, codec, its quality, the utterance it is a coded copy of,
condition, attack, key and one that is not used.
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import at_line, read_spaced, refuse_layout
from avff.trainer.datasets.speech import find_utterances, utterance

NAME = "asvspoof5"
TABLES = {
    "train": "ASVspoof5.train.tsv",
    "dev": "ASVspoof5.dev.track_1.tsv",
    "eval": "ASVspoof5.eval.track_1.tsv",
}
LAYOUT = "ASVspoof 5: ASVspoof5.train.tsv (or dev.track_1, eval.track_1) and flac_T/, flac_D/, flac_E/"


def scan(root: Path) -> list[Clip]:
    """Read the tables that are there.

    Raises:
        DatasetError: there is none, or a line is wrong.
    """
    paths = find_utterances(root)
    clips: list[Clip] = []
    for split, name in TABLES.items():
        for table in sorted(root.rglob(name)):
            for line, row in read_spaced(table, 10):
                speaker, file, _, codec, _, source, _, attack, key, _ = row
                with at_line(table, line):
                    clips.append(
                        utterance(NAME, file, paths, key=key, speaker=f"{NAME}:{speaker}",
                                  system=f"ASVspoof5 {attack}",
                                  split=split, collection=f"ASVspoof 5 {codec}".removesuffix(" -"),
                                  source="" if source == "-" else source)
                    )  # fmt: skip
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips
