"""Splits without leaks: no person and no generator on both sides.

Clips are joined into groups that must stay together (union-find over identity and
paired footage); whole groups go to validation until it has its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from avff.trainer.data.manifest import Clip


class SplitError(Exception):
    """A split cannot be made, or leaks."""


@dataclass(frozen=True)
class Split:
    """Training and validation clips."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]


def split_clips(clips: Sequence[Clip], *, share: float, held_out: Collection[str], seed: int) -> Split:
    """Split clips by person and generator.

    Args:
        clips: genuine and generated clips.
        share: part of the genuine groups that go to validation, 0…1.
        held_out: generators whose clips are for validation only.
        seed: decides which genuine groups go there.

    Raises:
        SplitError: a generator is unknown, or one side has no genuine or no generated clip.
    """
    unknown = set(held_out) - {c.generator for c in clips}
    if unknown:
        raise SplitError(f"no clip of generator {min(unknown)!r} to hold out")
    groups = group_of(clips)
    genuine = sorted({groups[c.uid] for c in clips if not c.label})
    order = np.random.default_rng(seed).permutation(len(genuine))
    chosen = {genuine[i] for i in order[: round(share * len(genuine))]}
    # A generated clip follows its generator; what shares a group with validation must not train.
    validation = tuple(c for c in clips if (c.generator in held_out if c.label else groups[c.uid] in chosen))
    judged = {groups[c.uid] for c in validation}
    kept_out = {c.uid for c in validation}
    train = tuple(c for c in clips if c.uid not in kept_out and groups[c.uid] not in judged)
    split = Split(train, validation)
    check_split(split)
    return split


def check_split(split: Split) -> None:
    """Check that nothing leaks and no side has one class only.

    Raises:
        SplitError: naming both clips of a leak, or the missing class.
    """
    groups = group_of(split.train + split.validation)
    owner = {groups[c.uid]: c.uid for c in split.train}
    for clip in split.validation:
        if groups[clip.uid] in owner:
            raise SplitError(f"{clip.uid} (validation) and {owner[groups[clip.uid]]} (train) share a person")
    for name, side in (("train", split.train), ("validation", split.validation)):
        labels = Counter(c.label for c in side)
        if not (labels[0] and labels[1]):
            raise SplitError(f"{name} has {labels[0]} genuine and {labels[1]} generated clips; it needs both")


def person_of(clip: Clip) -> str:
    """Return the name of a clip's person; unknown people count one per clip.

    Remarks in brackets ("s1 (by eye)") are dropped: when in doubt it is the same person.
    """
    return clip.identity.split(" (")[0] if clip.identity else f"unknown person of {clip.uid}"


def group_of(clips: Sequence[Clip]) -> dict[str, str]:
    """Return, by uid, the name of the group a clip must not be parted from."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for clip in clips:
        tied = [f"uid:{clip.uid}"]
        if clip.identity:
            tied.append(f"person:{person_of(clip)}")
        if clip.paired_real:
            tied.append(f"uid:{clip.paired_real}")
        for other in tied[1:]:
            parent[root(other)] = root(tied[0])
    return {clip.uid: root(f"uid:{clip.uid}") for clip in clips}
