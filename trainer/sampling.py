"""The order in which clips are drawn: as they are, or balanced; the same on every machine.

An order depends on seed and epoch alone and is dealt out to the processes of a distributed
run like cards.  Batch ``b`` of all processes together is therefore batch ``b`` of one process
with the batch size of all, and nothing is lost or drawn twice.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from avff.trainer.data.manifest import Clip

Index = npt.NDArray[np.int64]


class NaturalOrder:
    """Every clip once an epoch, in random order.

    Args:
        count: number of clips.
        seed: of the run.
    """

    def __init__(self, count: int, *, seed: int) -> None:
        self._count, self._seed = count, seed

    def indices(self, epoch: int, rank: int = 0, world: int = 1) -> Index:
        """Return this process's part of an epoch, int64 ``[n]``.

        Lengths differ by at most one between processes.

        Args:
            epoch: counted from 0.
            rank: of this process, 0…world - 1.
            world: number of processes.
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return _dealt(order, rank, world)


class BalancedOrder:
    """A fixed number of draws an epoch by :func:`balanced_weights`.

    The draws are spread over the clips (systematic sampling) instead of independent: every class,
    dataset, generator, person and clip gets its share of an epoch to within one draw.

    Args:
        clips: labelled clips.
        size: draws in an epoch.
        seed: of the run.

    Raises:
        ValueError: a clip has no label, or there is none.
    """

    def __init__(self, clips: Sequence[Clip], *, size: int, seed: int) -> None:
        paths = [_path(clip) for clip in clips]
        # Sorted, so that every class, dataset, generator and person is one stretch of the line.
        places = {path: place for place, path in enumerate(sorted(set(paths)))}
        self._places = np.array([places[path] for path in paths])
        self._weights, self._size, self._seed = balanced_weights(clips), size, seed

    def indices(self, epoch: int, rank: int = 0, world: int = 1) -> Index:
        """Return this process's part of an epoch, int64 ``[n]``; see :meth:`NaturalOrder.indices`."""
        rng = np.random.default_rng([self._seed, epoch])
        line = np.lexsort((rng.random(len(self._places)), self._places))
        ends = np.cumsum(self._weights[line]) * self._size
        marks = np.arange(self._size) + rng.random()
        # Rounding may leave the last end a hair below the last mark.
        drawn = line[np.minimum(np.searchsorted(ends, marks, side="right"), len(line) - 1)]
        return _dealt(rng.permutation(drawn), rank, world)


def balanced_weights(clips: Sequence[Clip]) -> npt.NDArray[np.float64]:
    """Return each clip's share of the draws, float64 ``[n]`` with sum 1.

    Both classes get the same; within a class every dataset, within that every generator, within
    that every person, within that every clip.  Datasets with both classes then have the same
    share of either, so that the look of a dataset says nothing of the label.

    Raises:
        ValueError: a clip has no label, or there is none.
    """
    if not clips:
        raise ValueError("no clips to draw from")
    paths = [_path(clip) for clip in clips]
    branches: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths:
        for level, name in enumerate(path):
            branches[path[:level]].add(name)
    clips_at = Counter(paths)
    ways = [
        clips_at[path] * math.prod(len(branches[path[:level]]) for level in range(len(path)))
        for path in paths
    ]
    return 1 / np.array(ways, np.float64)


def _path(clip: Clip) -> tuple[str, str, str, str]:
    """Class, dataset, generator and person; without a name, a person is known by the footage."""
    owner = clip.identities[0] if clip.identities else clip.source_uid or clip.uid
    return str(int(clip.is_fake)), clip.dataset, clip.generator, owner


def _dealt(order: npt.NDArray[np.integer], rank: int, world: int) -> Index:
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} processes")
    return order[rank::world].astype(np.int64)
