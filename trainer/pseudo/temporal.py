"""V4: pictures that stand still, are dropped or run at another speed while the sound goes on.

Such faults come from networks as often as from editing, so by themselves they are benign;
what they teach is the ``desync`` head, and the ``any`` head not to fire on them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from avff.trainer.data.sample import Donors, Sample

Index = npt.NDArray[np.intp]

_IN_SYNC_FRAMES = 3
"""Displacement up to which nobody can tell; exactly this much is labelled unknown."""


def retime(sample: Sample, index: Index) -> None:
    """Show picture ``index[t]`` at time ``t``, with its landmarks, its pose and true changes of pose.

    Args:
        sample: window, changed in place; sound and labels stay.
        index: int ``[T]``, each 0…T-1.
    """
    # Position and scale are stored as changes, so a jump has to add up what was skipped.
    travelled = np.cumsum(sample.motion[:, 3:], axis=0, dtype=np.float64)
    first = sample.motion[index[0], 3:].copy()
    sample.faces = sample.faces[index]
    sample.ok = sample.ok[index]
    sample.landmarks = sample.landmarks[index]
    sample.motion = sample.motion[index]
    sample.motion[1:, 3:] = np.diff(travelled[index], axis=0)
    sample.motion[0, 3:] = first
    sample.motion[~sample.ok] = 0


def held(rng: np.random.Generator, total: int, shortest: int, longest: int) -> Index:
    """Return int ``[total]``: one picture held for ``shortest``…``longest`` more, then live again."""
    index = np.arange(total)
    length = int(rng.integers(shortest, longest + 1))
    start = int(rng.integers(0, total - length))
    index[start : start + length + 1] = start
    return index


def _frozen(rng: np.random.Generator, total: int) -> Index:
    """One hold of 2…24 pictures."""
    return held(rng, total, 2, min(24, total - 1))


def _bursts(rng: np.random.Generator, total: int) -> Index:
    """Two to five holds of 1…6 pictures: packet loss with a decoder that repeats."""
    index = np.arange(total)
    for _ in range(int(rng.integers(2, 6))):
        index = np.minimum(index, held(rng, total, 1, 6))
    return index


def _delayed(rng: np.random.Generator, total: int) -> Index:
    """One hold of 2…16 pictures after which the picture stays late."""
    start, length = int(rng.integers(0, total // 2)), int(rng.integers(2, 17))
    moment = np.arange(total)
    return np.where(moment <= start, moment, np.maximum(start, moment - length))


def _skipped(rng: np.random.Generator, total: int) -> Index:
    """A cut of 2…16 pictures after which the picture is early; the last one is held at the end."""
    start, length = int(rng.integers(total // 4, 3 * total // 4)), int(rng.integers(2, 17))
    moment = np.arange(total)
    return np.where(moment < start, moment, np.minimum(total - 1, moment + length))


def _speed(rng: np.random.Generator, total: int) -> Index:
    """Speed 0.85…1.15 from a random moment on, so that the displacement grows with time."""
    start, rate = int(rng.integers(0, total // 2)), rng.uniform(0.85, 1.15)
    moment = np.arange(total)
    late = np.round(start + (moment - start) * rate).astype(np.intp)
    return np.where(moment < start, moment, np.minimum(total - 1, late))


_FAULTS: tuple[Callable[[np.random.Generator, int], Index], ...] = (
    _frozen,
    _bursts,
    _delayed,
    _skipped,
    _speed,
)


def freeze(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Freeze, drop, delay, skip or speed up pictures; the sound stays.

    Args:
        sample: genuine window; changed in place.
        rng: source of every draw.
        donors: not needed.

    Returns:
        The window with labels any 0, video 0, audio 0 and desync 1 where a picture is more than
        3 pictures (120 ms) off its sound, NaN at exactly 3, else 0.
    """
    total = len(sample.ok)
    index = _FAULTS[int(rng.integers(len(_FAULTS)))](rng, total)
    retime(sample, index)
    furthest = int(np.abs(index - np.arange(total)).max())
    desync = np.nan if furthest == _IN_SYNC_FRAMES else float(furthest > _IN_SYNC_FRAMES)
    sample.labels[:] = (0, 0, 0, desync)
    sample.frame_labels[:] = 0
    return sample
