"""The uniform timeline: pictures at 25 fps, samples at 16 kHz, both from true time stamps.

Grid picture ``k`` stands for media time ``k * 40 ms`` and takes the source picture
whose time stamp is nearest.  A slot with no picture within ``HOLD_NS`` is a gap
and stays empty; a slot that takes the same source picture as the slot before is
marked as repeated.  Nothing is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avff.engine.media import Float32, VideoFrame
from avff.engine.spec import SPEC

HOLD_NS = 120_000_000
"""A picture stands in for grid times at most this far away (a camera at 5 fps has none farther)."""


@dataclass(frozen=True, slots=True, eq=False)
class GridFrame:
    """What the grid shows in one slot: a source picture, the one before again, or None for a gap."""

    slot: int
    frame: VideoFrame | None
    repeated: bool


class FrameGrid:
    """Converts any frame rate, constant or not, to the uniform grid.

    Args:
        first_slot: where to begin; pictures before it are only kept as its neighbours.

    Attributes:
        out_of_order: pictures refused because their time stamp did not increase.
    """

    def __init__(self, first_slot: int = 0) -> None:
        self.out_of_order = 0
        self._slot = first_slot
        self._last: VideoFrame | None = None
        self._shown: VideoFrame | None = None

    @property
    def next_slot(self) -> int:
        """The first slot that is not decided yet."""
        return self._slot

    def push(self, frame: VideoFrame) -> list[GridFrame]:
        """Take a source picture and return the slots that it decides."""
        if self._last is not None and frame.pts_ns <= self._last.pts_ns:
            self.out_of_order += 1
            return []
        decided = []
        while self._slot * SPEC.frame_ns <= frame.pts_ns:
            decided.append(self._decide(frame))
        self._last = frame
        return decided

    def advance(self, until_slot: int) -> list[GridFrame]:
        """Decide every slot before ``until_slot`` from what has arrived: at a stall and at the end."""
        decided = []
        while self._slot < until_slot:
            decided.append(self._decide(None))
        return decided

    @property
    def end_slot(self) -> int:
        """One past the last slot that the newest picture can stand for, at the end of a stream."""
        if self._last is None:
            return self._slot
        return max(self._slot, round(self._last.pts_ns / SPEC.frame_ns) + 1)

    def _decide(self, newer: VideoFrame | None) -> GridFrame:
        time_ns = self._slot * SPEC.frame_ns
        candidates = [f for f in (self._last, newer) if f is not None and abs(f.pts_ns - time_ns) <= HOLD_NS]
        nearest = min(candidates, key=lambda f: abs(f.pts_ns - time_ns), default=None)
        decided = GridFrame(self._slot, nearest, nearest is not None and nearest is self._shown)
        self._shown = nearest
        self._slot += 1
        return decided


class SampleGrid:
    """Samples by absolute index; missing ones are zeros and counted as missing.

    Args:
        first_slice: where to begin; of what lies before it only the context is kept.
    """

    def __init__(self, first_slice: int = 0) -> None:
        self._base = first_slice * SPEC.slice_samples - SPEC.context_samples
        self._pcm = np.zeros(SPEC.context_samples, np.float32)
        self._ok = np.zeros(SPEC.context_samples, np.bool_)
        self._slice = first_slice

    @property
    def end(self) -> int:
        """Index one past the newest sample."""
        return self._base + len(self._pcm)

    def write(self, start: int, pcm: Float32) -> None:
        """Place samples; what lies before the current slice's context is too late and dropped."""
        skip = max(0, self._base - start)
        start, pcm = start + skip, pcm[skip:]
        if not len(pcm):
            return
        self._extend(start + len(pcm))
        at = slice(start - self._base, start - self._base + len(pcm))
        self._pcm[at] = pcm
        self._ok[at] = True

    def take(self) -> tuple[Float32, float]:
        """Return the next slice: float32 ``[352 + 5120]`` with context, and the share that arrived."""
        end = (self._slice + 1) * SPEC.slice_samples
        self._extend(end)
        length = SPEC.context_samples + SPEC.slice_samples
        pcm = self._pcm[:length].copy()
        share = float(self._ok[SPEC.context_samples : length].mean())
        drop = SPEC.slice_samples
        self._pcm, self._ok = self._pcm[drop:], self._ok[drop:]
        self._base += drop
        self._slice += 1
        return pcm, share

    def _extend(self, end: int) -> None:
        missing = end - self.end
        if missing > 0:
            self._pcm = np.concatenate([self._pcm, np.zeros(missing, np.float32)])
            self._ok = np.concatenate([self._ok, np.zeros(missing, np.bool_)])
