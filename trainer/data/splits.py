"""Splits without leaks: no person, no footage and no generator that is to stay unseen on both sides.

Clips are joined into groups that must stay together (union-find over people and footage).  There are
three ways to split: with generators held out, by the dataset's own lists, or stratified; the last
also gives the folds of a cross-validation.  Clips without a label are in no split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avff.trainer.data.manifest import Clip


class SplitError(Exception):
    """A split cannot be made."""


class LeakError(SplitError):
    """Both sides of a split share a person or footage; the message names a clip of either."""


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
    clips = labelled(clips)
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
    return _checked(train, validation)


def split_official(clips: Sequence[Clip], *, train: Collection[str], validation: Collection[str]) -> Split:
    """Split clips by the dataset's own lists.

    Args:
        clips: genuine and generated clips.
        train: names of official splits to train on.
        validation: names of those to validate on; clips of any other take no part.

    Raises:
        SplitError: no clip has one of the names, the lists leak (some published ones do), or one side
            has no genuine or no generated clip.
    """
    names = {c.split for c in clips}
    for name in (*train, *validation):
        if name not in names:
            there = ", ".join(repr(n) for n in sorted(names))
            raise SplitError(f"no clip of split {name!r}; there are {there}")
    sides = (tuple(c for c in labelled(clips) if c.split in chosen) for chosen in (train, validation))
    return _checked(*sides)


def split_groups(clips: Sequence[Clip], *, share: float, seed: int) -> Split:
    """Split whole groups so that both sides are as alike as these allow; see :func:`folds`.

    Args:
        clips: genuine and generated clips.
        share: part of the clips that goes to validation, 0…1; 0.2 puts 80 of 400 there.
        seed: decides between groups of one size.

    Raises:
        SplitError: the share is 0 or 1, or one side has no genuine or no generated clip.
    """
    if not 0 < share < 1:
        raise SplitError(f"the share of validation is {share:g}, not between 0 and 1")
    clips = labelled(clips)
    side = _deal(clips, (1 - share, share), seed)
    return _checked(*(tuple(c for c in clips if side[c.uid] == number) for number in range(2)))


def folds(clips: Sequence[Clip], k: int, seed: int) -> list[Split]:
    """Return ``k`` splits such that every clip validates in one of them.

    Groups are dealt one by one, the largest first, each to the fold that is furthest from having its
    share of all clips, of either class and of every generator in the group.  ``seed`` decides the order
    of groups of one size.

    Raises:
        SplitError: ``k`` is below 2, or a fold has no genuine or no generated clip.
    """
    if k < 2:
        raise SplitError(f"{k} folds; there must be at least 2")
    clips = labelled(clips)
    fold = _deal(clips, (1 / k,) * k, seed)
    return [
        _checked(
            tuple(c for c in clips if fold[c.uid] != number),
            tuple(c for c in clips if fold[c.uid] == number),
        )
        for number in range(k)
    ]


def labelled(clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips whose label is known."""
    return [c for c in clips if c.label is not None]


def check_split(split: Split) -> None:
    """Check that nothing leaks and no side has one class only.

    Raises:
        SplitError: naming both clips of a leak, or the missing class.
    """
    for clip, other, what in shared_by(split.validation, split.train):
        raise LeakError(f"{clip.uid} (validation) and {other.uid} (train) share {what}")
    for name, side in (("train", split.train), ("validation", split.validation)):
        labels = Counter(c.label for c in side)
        if not (labels[0] and labels[1]):
            raise SplitError(f"{name} has {labels[0]} genuine and {labels[1]} generated clips; it needs both")


def shared_by(one: Sequence[Clip], others: Sequence[Clip]) -> Iterator[tuple[Clip, Clip, str]]:
    """Yield pairs of a clip of either side with what they share: ``a person`` or ``footage``."""
    owner = {tie: clip for clip in others for tie in _ties(clip)}
    for clip in one:
        for tie in _ties(clip):
            if tie in owner:
                yield clip, owner[tie], "a person" if tie.startswith(_PERSON) else "footage"


def overlap(split: Split) -> int:
    """Return the number of groups that are on both sides; 0 unless the split leaks."""
    groups = group_of(split.train + split.validation)
    train, validation = ({groups[c.uid] for c in side} for side in (split.train, split.validation))
    return len(train & validation)


def describe(split: Split) -> list[str]:
    """Return a line for each side, with its clips of each class and generator, and one for the overlap."""
    lines = []
    for name, side in (("train", split.train), ("validation", split.validation)):
        made = Counter(c.generator for c in side if c.label)
        counts = [f"{generator} {made[generator]}" for generator in sorted(made)]
        genuine = sum(c.label == 0 for c in side)
        line = f"{name}: {len(side)} clips, {genuine} genuine, {made.total()} generated"
        lines.append(f"{line} ({', '.join(counts)})" if counts else line)
    return [*lines, f"overlap: {overlap(split)} groups on both sides"]


def group_of(clips: Sequence[Clip]) -> dict[str, str]:
    """Return, by uid, the name of the group a clip must not be parted from."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            # Halving the way up keeps it short: one person may have many thousand clips.
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for clip in clips:
        first, *others = _ties(clip)
        for other in others:
            parent[root(other)] = root(first)
    return {clip.uid: root(f"{_FOOTAGE}{clip.uid}") for clip in clips}


_PERSON, _FOOTAGE = "person:", "uid:"


def _ties(clip: Clip) -> Iterator[str]:
    """Yield what a clip shares with others of its group: itself, its people, and its source."""
    yield f"{_FOOTAGE}{clip.uid}"
    for name in clip.identities:
        yield f"{_PERSON}{name}"
    if clip.source_uid:
        yield f"{_FOOTAGE}{clip.source_uid}"


def _checked(train: tuple[Clip, ...], validation: tuple[Clip, ...]) -> Split:
    split = Split(train, validation)
    check_split(split)
    return split


def _deal(clips: Sequence[Clip], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Return, by uid, the number of the bin that a clip's group is dealt to; see :func:`folds`."""
    names, counts = _count(clips)
    wanted = np.outer(shares, counts.sum(axis=0))  # [bins, strata] clips
    have = np.zeros_like(wanted)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order, 0], kind="stable")]
    bin_of = {}
    for number in order:
        group = counts[number]
        # How much the squared relative distance from the wanted counts grows with this group in a bin.
        growth = (group * (2 * (have - wanted) + group) / wanted).sum(axis=1)
        chosen = int(growth.argmin())
        have[chosen] += group
        bin_of[names[number]] = chosen
    groups = group_of(clips)
    return {clip.uid: bin_of[groups[clip.uid]] for clip in clips}


def _count(clips: Sequence[Clip]) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return the groups' names and their clips ``[groups, strata]``: all, genuine, fakes, each generator."""
    groups = group_of(clips)
    names = sorted(set(groups.values()))
    row = {name: number for number, name in enumerate(names)}
    generators = sorted({c.generator for c in clips if c.label})
    column = {generator: number for number, generator in enumerate(generators, start=3)}
    counts = np.zeros((len(names), 3 + len(generators)))
    for clip in clips:
        strata = [0, 2, column[clip.generator]] if clip.label else [0, 1]
        counts[row[groups[clip.uid]], strata] += 1
    return names, counts[:, counts.any(axis=0)]
