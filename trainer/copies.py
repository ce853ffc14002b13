"""Clips on two sides of a run that look and sound all but the same.

Lists of people and footage part what they know of.  A clip that was uploaded twice, or re-encoded
under another name, is on no list: what it shows and sounds like tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from avff.engine.spec import SPEC
from avff.trainer.config import RunSettings
from avff.trainer.data.duplicates import Signature, near_duplicates, signature
from avff.trainer.data.manifest import Clip
from avff.trainer.data.prepare import prepare
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.splits import group_of
from avff.trainer.distributed import say
from avff.trainer.run_data import RunData

TRAINING, VALIDATION, JUDGING = "training", "validation", "judging"
_COMPARED_S = 10


@dataclass(frozen=True)
class Copies:
    """Two clips that are all but the same.

    Attributes:
        one, other: their uids.
        sides: what each is for: ``training``, ``validation`` or ``judging``.
        distance: see :func:`avff.trainer.data.duplicates.near_duplicates`; 0 is the same.
    """

    one: str
    other: str
    sides: tuple[str, str]
    distance: float


def with_judges(settings: RunSettings, data: RunData) -> RunData:
    """Return a run's data with the clips that judge in its store.

    Training has no use for them there.  They are prepared into the run's cache, unless the clips come
    from a folder that holds them all; those that cannot be prepared are left out and named.

    Raises:
        ShardError: the disk is too small, or a shard is damaged.
    """
    if settings.data.prepared is not None:
        return data
    # All of a run's clips: what is prepared is not made again, and what failed stays on the list.
    clips = [*data.split.train, *data.split.validation, *data.judges]
    done = prepare(clips, data.root, settings.output / "cache", workers=max(1, settings.data.workers))
    for uid, reason in done.bad.items():
        say(f"left out {uid}: {reason}")
    judges = tuple(done.clips[c.uid] for c in data.judges if c.uid in done.clips)
    return replace(data, store=done.store, judges=judges)


def near_copies(data: RunData) -> list[Copies]:
    """Return pairs of clips of different sides that are all but the same, the closest first.

    Reads up to 10 s of every clip, some 25 ms each.

    Args:
        data: all its clips are in its store, see :func:`with_judges`.
    """
    sides = {TRAINING: data.split.train, VALIDATION: data.split.validation, JUDGING: data.judges}
    side_of = {clip.uid: name for name, side in sides.items() for clip in side}
    clips = [clip for side in sides.values() for clip in side]
    signatures = {clip.uid: _signature(clip, data.store) for clip in clips}
    return [
        Copies(one, other, (side_of[one], side_of[other]), distance)
        for one, other, distance in near_duplicates(signatures, side_of, group_of(clips))
    ]


def copies_page(pairs: Sequence[Copies]) -> str:
    """Return the pairs as Markdown, with the side that each clip is on."""
    lines = [
        "# Near-copies",
        "",
        "Pairs of clips on different sides (training, validation, judging) that look and sound all but the "
        f"same: {len(pairs)}.",
        "A distance of 0 is the same clip.",
    ]
    if pairs:
        lines += ["", "| clip | side | clip | side | distance |", "|---|---|---|---|---:|"]
    for pair in pairs:
        one, other = (uid.replace("|", r"\|") for uid in (pair.one, pair.other))
        lines.append(f"| {one} | {pair.sides[0]} | {other} | {pair.sides[1]} | {pair.distance:.2f} |")
    return "\n".join(lines) + "\n"


def _signature(clip: Clip, store: ShardStore) -> Signature:
    length = min(store.facts(clip.uid).length, _COMPARED_S * SPEC.fps)
    prepared = store.cut(clip.uid, 0, length)
    return signature(prepared.faces, prepared.audio)
