"""One media timeline for a live stream, whatever its sender's clock does.

``Leaps`` tells by the time stamps where a sender's clock began anew; ``Timeline``
puts the stretches that follow one after the other, with the gap that there was.
Pure: arrival times come in with the items, there is no clock here.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from avff.engine.media import NS_PER_S, MediaItem, VideoFrame
from avff.engine.spec import SPEC

FORWARD_NS = NS_PER_S
"""Time stamps that gain this much on the arrival clock from one item to the next have leapt."""
BACK_NS = NS_PER_S // 2
"""Decoded items come in order; corrections by the sender's reports are a tenth of this."""
APART_NS = 5 * NS_PER_S
"""Picture and sound of one clock arrive no farther apart."""
LEFTOVER_NS = 2 * NS_PER_S
"""For this long after a leap, the other track may still deliver from before it."""


class Leaps:
    """Numbers the stretches of one connection."""

    def __init__(self) -> None:
        self._number = 0
        self._last: dict[type[MediaItem], MediaItem] = {}
        self._newest: MediaItem | None = None
        self._began: MediaItem | None = None

    def number(self, item: MediaItem) -> int | None:
        """Take in the next item.

        Returns:
            the number of its stretch; None for an item from before the leap that began the stretch.
        """
        before = self._last.get(type(item))
        if before is not None:
            if _leapt(before, item):
                self._begin(item)
        elif self._began is not None and self._is_foreign(item, self._began, self._newest or item):
            if item.captured_ns - self._began.captured_ns < LEFTOVER_NS:
                return None
            self._begin(item)
        self._last[type(item)] = self._newest = item
        self._began = self._began or item
        return self._number

    def _begin(self, item: MediaItem) -> None:
        self._number += 1
        self._last = {}
        self._began = item

    def _is_foreign(self, item: MediaItem, began: MediaItem, newest: MediaItem) -> bool:
        """Whether the first item of a track does not belong to the stretch that the other one is in."""
        latest_ns = newest.pts_ns + APART_NS + item.captured_ns - newest.captured_ns
        return not began.pts_ns - BACK_NS <= item.pts_ns <= latest_ns


def _leapt(before: MediaItem, item: MediaItem) -> bool:
    gained_ns = item.pts_ns - before.pts_ns
    # A pause of the sender makes stamps and arrival jump alike: that is a gap, not a leap.
    return gained_ns < -BACK_NS or gained_ns > FORWARD_NS + (item.captured_ns - before.captured_ns)


class Timeline:
    """Places stretches on the media time of the whole stream.

    The stream's first item is media time 0.  A further stretch begins as long after it as it arrived
    later, and never before the end of the one before it.
    """

    def __init__(self) -> None:
        self._origin: Hashable = None
        self._stretch = -1
        self._offset_ns = 0
        self._zero_captured_ns = 0
        self._reached_ns = 0

    def place(self, item: MediaItem, origin: Hashable) -> MediaItem:
        """Return the item on the timeline, with the number of its stretch.

        Args:
            item: on its sender's clock.
            origin: names the stretch; a new name begins the next one.
        """
        if self._stretch < 0 or origin != self._origin:
            self._begin(item, origin)
        placed = replace(item, pts_ns=item.pts_ns + self._offset_ns, stretch=self._stretch)
        self._reached_ns = max(self._reached_ns, placed.pts_ns + _length_ns(item))
        return placed

    def _begin(self, item: MediaItem, origin: Hashable) -> None:
        if self._stretch < 0:
            self._zero_captured_ns = item.captured_ns
        start_ns = max(item.captured_ns - self._zero_captured_ns, self._reached_ns)
        self._offset_ns = start_ns - item.pts_ns
        self._origin = origin
        self._stretch += 1


def _length_ns(item: MediaItem) -> int:
    return SPEC.frame_ns if isinstance(item, VideoFrame) else len(item.pcm) * NS_PER_S // item.rate_hz
