"""What the speech datasets share: sound only, one speaker, a key."""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import AUDIO, choose, files_below, relative

KEYS = {"bonafide": 0, "bona-fide": 0, "spoof": 1}


def find_utterances(root: Path) -> dict[str, str]:
    """Return the path from the root of every sound file below it, by name without suffix."""
    return {path.stem: relative(path, root) for path in files_below(root, AUDIO)}


def utterance(
    dataset: str,
    file: str,
    paths: dict[str, str],
    *,
    key: str,
    speaker: str,
    system: str,
    split: str,
    collection: str,
    source: str = "",
) -> Clip:
    """Return the clip of one utterance; it has no picture, so ``label_video`` is unknown.

    Args:
        dataset: name of the adapter.
        file: name without suffix, unique in the dataset.
        paths: see :func:`find_utterances`.
        key: ``bonafide`` or ``spoof``.
        speaker: who is heard, with a prefix that says whose numbering it is.
        system: what generated it; unused when genuine.
        split: official split.
        collection: part of the dataset, and codec.
        source: file that it is a copy of.

    Raises:
        ValueError: the key is neither.
    """
    label = choose("key", key, KEYS)
    return Clip(
        uid=f"{dataset}/{file}", path=paths.get(file, f"{file}.flac"), dataset=dataset, label=label,
        split=split, label_audio=label, kind="tts-or-voice-clone" if label else "real",
        generators=(system,) if label else (), identities=(speaker,), collection=collection,
        source_uid=f"{dataset}/{source}" if source else "",
    )  # fmt: skip
