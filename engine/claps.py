"""How much later a microphone is than a camera, from claps before both.

Hands that clap move faster and faster and stand still from one moment to the next; that moment is also when
they sound.  It is found in either track, and one shift is sought that brings most of them together.

Pure: meters take in media, and keep at most ``MAX_S`` of it as a few numbers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avff.engine.errors import SyncError
from avff.engine.media import NS_PER_S, AudioBlock, Float32, VideoFrame

MAX_S = 120
MAX_OFFSET_MS = 500
MIN_CLAPS = 5
MAX_SPREAD_NS = 30_000_000
"""Single claps differ by a third of a picture; more than this, and it was not the claps that moved."""

_MAX_FPS = 60
_POINTS = 96
"""Rows and columns of a picture that are compared."""
_HOP_S = 0.002
_BACKGROUND = 150
"""Hops of 2 ms before a clap that it must stand out of."""
_LOUDER, _LEAST = 6.0, 0.02
_REFRACTORY_NS = 300_000_000
_NEAR_NS = 80_000_000
_WIDTH_NS = 30_000_000

Times = npt.NDArray[np.int64]
Levels = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClapOffset:
    """What claps say.

    Attributes:
        offset_ns: how much later sound is than the picture of the same moment.
        spread_ns: how much single claps differ (standard deviation, robust).
        claps: how many it rests on.
    """

    offset_ns: int
    spread_ns: int
    claps: int


class MotionMeter:
    """How much moves from picture to picture."""

    def __init__(self) -> None:
        self._before: npt.NDArray[np.int16] | None = None
        self._points: deque[tuple[int, float]] = deque(maxlen=MAX_S * _MAX_FPS)

    def push(self, frame: VideoFrame) -> None:
        """Take in the next picture."""
        down, right = (-(-side // _POINTS) for side in frame.rgb.shape[:2])
        now = frame.rgb[::down, ::right, 1].astype(np.int16)
        if self._before is not None and self._before.shape == now.shape:
            self._points.append((frame.pts_ns, float(np.abs(now - self._before).mean())))
        self._before = now

    def measured(self) -> tuple[Times, Levels]:
        """Return times in ns and mean differences in grey levels since the picture before."""
        return _columns(self._points)


class LoudnessMeter:
    """How loud it is, every 2 ms."""

    def __init__(self) -> None:
        self._points: deque[tuple[int, float]] = deque(maxlen=round(MAX_S / _HOP_S))
        self._rest: Float32 = np.zeros(0, np.float32)

    def push(self, block: AudioBlock) -> None:
        """Take in the next block."""
        rest = self._rest[:0] if block.gap else self._rest
        hop = round(block.rate_hz * _HOP_S)
        pcm = np.concatenate([rest, block.pcm])
        first_ns = block.pts_ns - len(rest) * NS_PER_S // block.rate_hz
        count = len(pcm) // hop
        level = np.sqrt(np.square(pcm[: count * hop].reshape(count, hop), dtype=np.float64).mean(axis=1))
        self._points.extend(
            (first_ns + k * hop * NS_PER_S // block.rate_hz, float(level[k])) for k in range(count)
        )
        self._rest = pcm[count * hop :]

    def measured(self) -> tuple[Times, Levels]:
        """Return times in ns and RMS levels."""
        return _columns(self._points)


def clap_offset(motion: MotionMeter, loudness: LoudnessMeter) -> ClapOffset:
    """Find the shift between the claps that were seen and those that were heard.

    Raises:
        SyncError: too few claps, or seen and heard ones do not match.
    """
    heard = _bangs(*loudness.measured())
    if len(heard) < MIN_CLAPS:
        raise SyncError(f"heard {len(heard)} claps, and {MIN_CLAPS} are needed; clap louder, one at a time")
    seen, strength = _stops(*motion.measured())
    if len(seen) < MIN_CLAPS:
        raise SyncError("nothing moved before the camera")
    shift_ns = _best_shift(heard, seen, strength)
    gap = heard[:, None] - shift_ns - seen[None, :]
    nearest = np.abs(gap).argmin(axis=1)
    matched = np.abs(gap[np.arange(len(heard)), nearest]) <= _NEAR_NS
    offsets = (heard - seen[nearest])[matched]
    spread_ns = _spread(offsets) if len(offsets) else 0
    if len(offsets) < max(MIN_CLAPS, 0.6 * len(heard)) or spread_ns > MAX_SPREAD_NS:
        raise SyncError(
            f"{len(heard)} claps were heard, but only {len(offsets)} of them seen"
            if spread_ns <= MAX_SPREAD_NS
            else f"claps differ by {spread_ns / 1e6:.0f} ms; clap nearer to the camera, in more light"
        )
    return ClapOffset(round(float(np.median(offsets))), spread_ns, len(offsets))


def _columns(points: deque[tuple[int, float]]) -> tuple[Times, Levels]:
    return np.array([p[0] for p in points], np.int64), np.array([p[1] for p in points], np.float64)


def _bangs(times: Times, level: Levels) -> Times:
    """Return the times at which it suddenly becomes loud."""
    found: list[int] = []
    for k in range(_BACKGROUND, len(level)):
        if level[k] < _LEAST or (found and times[k] - found[-1] < _REFRACTORY_NS):
            continue
        if level[k] > _LOUDER * np.median(level[k - _BACKGROUND : k]):
            found.append(int(times[k]))
    return np.array(found, np.int64)


def _stops(times: Times, motion: Levels) -> tuple[Times, Levels]:
    """Return the moments at which motion ends, and how suddenly, 0…1.

    The last step before a stop is shorter than the one before it: by that, the moment is known more finely
    than pictures come.
    """
    if len(motion) < 4:
        return times[:0], motion[:0]
    moving = np.maximum(motion - np.median(motion), 0)
    drop = np.maximum(np.maximum(moving[1:-1], moving[:-2]) - moving[2:], 0)
    share = np.clip(moving[1:-1] / np.maximum(moving[:-2], 1e-6), 0, 1)
    when = times[:-2] + np.round(share * (times[1:-1] - times[:-2])).astype(np.int64)
    peak = np.percentile(drop, 99)
    keep = drop > 0.1 * peak
    return when[keep], np.minimum(drop[keep] / max(peak, 1e-6), 1)


def _best_shift(heard: Times, seen: Times, strength: Levels) -> int:
    """Return the shift in ns at which most that is heard has something that is seen."""
    gap = (heard[:, None] - seen[None, :]).astype(np.float64)
    shifts = np.arange(-MAX_OFFSET_MS, MAX_OFFSET_MS + 1, 2) * 1e6
    match = [
        float((strength * np.exp(-np.square((gap - shift) / _WIDTH_NS))).max(axis=1).sum())
        for shift in shifts
    ]
    return round(float(shifts[int(np.argmax(match))]))


def _spread(offsets: Times) -> int:
    return round(1.4826 * float(np.median(np.abs(offsets - np.median(offsets)))))
