"""ASVspoof 2019 LA (Wang et al., Computer Speech & Language 2020): sound only.

``ASVspoof2019_LA_{train,dev,eval}/flac/*.flac`` and, in ``ASVspoof2019_LA_cm_protocols/``,
``ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt`` with lines ``SPEAKER FILE - SYSTEM KEY``.

Leading and trailing silence tells the classes apart in part.
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import at_line, read_spaced, refuse_layout
from avff.trainer.datasets.speech import find_utterances, utterance

NAME = "asvspoof2019"
PROTOCOLS = {split: f"ASVspoof2019.LA.cm.{split}.{end}.txt" for split, end in
             (("train", "trn"), ("dev", "trl"), ("eval", "trl"))}  # fmt: skip
LAYOUT = "ASVspoof 2019 LA: ASVspoof2019.LA.cm.train.trn.txt (or dev, eval) and flac/ folders"


def scan(root: Path) -> list[Clip]:
    """Read the protocols that are there.

    Raises:
        DatasetError: there is none, or a line is wrong.
    """
    paths = find_utterances(root)
    clips: list[Clip] = []
    for split, name in PROTOCOLS.items():
        for protocol in sorted(root.rglob(name)):
            for line, (speaker, file, _, system, key) in read_spaced(protocol, 5):
                with at_line(protocol, line):
                    clips.append(
                        utterance(NAME, file, paths, key=key, speaker=f"asvspoof:{speaker}", system=system,
                                  split=split, collection="ASVspoof 2019 LA")
                    )  # fmt: skip
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips
