"""When to hand on items that come in bursts, so that none is pushed out by the next.  Pure."""

from __future__ import annotations

from avff.engine.media import NS_PER_S

LATE_NS = NS_PER_S
"""Tracks are interleaved by less; what is later was held up on the way, and so will be what follows."""
EARLY_NS = 5 * NS_PER_S
"""Time stamps that are ahead by more have leapt."""


class Pace:
    """Hands on one stream at the speed of its time stamps."""

    def __init__(self) -> None:
        self._zero_ns: int | None = None
        """Clock at time stamp 0."""

    def wait_ns(self, pts_ns: int, now_ns: int) -> int:
        """Return how long the next item is to wait, in ns."""
        early_ns = 0 if self._zero_ns is None else self._zero_ns + pts_ns - now_ns
        if self._zero_ns is None or not -LATE_NS <= early_ns <= EARLY_NS:
            self._zero_ns = now_ns - pts_ns
            return 0
        return max(0, early_ns)
