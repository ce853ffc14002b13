"""How windows, losses and pictures go over time: what a state rests on besides this very moment.

Pure: the time is an argument, in ns of one monotonic clock that never goes back.
"""

from __future__ import annotations

from collections import deque

from avff.daemon.status import State, Status
from avff.engine.media import NS_PER_S
from avff.engine.slices import Reason

SETTLE_NS = NS_PER_S
"""How long windows have to say something else before the state follows: one alone is noise."""
LOW_FPS = 12.5
"""Pictures a second below which every second picture of the grid repeats the one before."""
_FPS_NS = 2 * NS_PER_S
_DROPS_APART_NS = 3 * NS_PER_S


class Evidence:
    """What windows say, once they have said it for ``SETTLE_NS``; the first that matters counts at once."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nothing was said yet."""
        self.current: Status | None = None
        self._next: Status | None = None
        self._state_since_ns = self._reason_since_ns = 0

    def stopped(self, now_ns: int) -> None:
        """Media came to a stop for so long that nothing of what was said holds."""
        self.current = self._next = Status(State.ABSTAIN, Reason.NO_MEDIA)
        self._state_since_ns = self._reason_since_ns = now_ns

    def judged(self, now_ns: int, said: Status) -> None:
        """Take in what a window says."""
        if self.current is None:
            if said.reason != Reason.TOO_SHORT:
                self.current = said
        elif self._next is None or said.state != self._next.state:
            self._state_since_ns = self._reason_since_ns = now_ns
        elif said.reason != self._next.reason:
            self._reason_since_ns = now_ns
        self._next = said
        self.settle(now_ns)

    def settle(self, now_ns: int) -> None:
        """Let what is said become what holds, once it is old enough."""
        if self.current is None or self._next is None or self._next == self.current:
            return
        same_state = self._next.state == self.current.state
        since_ns = self._reason_since_ns if same_state else self._state_since_ns
        if now_ns - since_ns >= SETTLE_NS:
            self.current = self._next


class Drops:
    """Whether media is lost again and again; once is a hiccup."""

    def __init__(self) -> None:
        self._total = 0
        self._first_ns: int | None = None
        self._last_ns = 0

    def count(self, now_ns: int, total: int) -> None:
        """Take in how much was lost so far."""
        if self._first_ns is not None and now_ns - self._last_ns > _DROPS_APART_NS:
            self._first_ns = None
        if total > self._total:
            self._total, self._last_ns = total, now_ns
            self._first_ns = now_ns if self._first_ns is None else self._first_ns

    def persist(self, now_ns: int) -> bool:
        """Return whether losses have gone on for a while and have not stopped."""
        return (
            self._first_ns is not None
            and self._last_ns - self._first_ns >= SETTLE_NS
            and now_ns - self._last_ns <= _DROPS_APART_NS
        )


class Rate:
    """Pictures a second as they arrive."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[int, int]] = deque(maxlen=1024)
        self._since_ns: int | None = None

    def restart(self, now_ns: int) -> None:
        """Measure anew."""
        self._arrived.clear()
        self._since_ns = now_ns

    def add(self, now_ns: int, pictures: int) -> None:
        """Take in an arrival."""
        self._since_ns = now_ns if self._since_ns is None else self._since_ns
        self._arrived.append((now_ns, pictures))
        while self._arrived[0][0] <= now_ns - _FPS_NS:
            self._arrived.popleft()

    def is_low(self, now_ns: int) -> bool:
        """Return whether there were few of them lately; False while it is not known, or without any."""
        if self._since_ns is None or now_ns - self._since_ns < _FPS_NS:
            return False
        lately = sum(pictures for at_ns, pictures in self._arrived if at_ns > now_ns - _FPS_NS)
        return 0 < lately < LOW_FPS * _FPS_NS / NS_PER_S
