"""The state of one live stream, from what happens to it.  Pure: the time is an argument.

    starting ──► live ◄──► degraded ◄──► abstain      by what windows say
       ▲           └─ no media for 1 s ─► stale ─ for 3 s ─► abstain
       └─ open ── reconnecting ◄─ the source broke
    ended, failed: the last word

What is true now decides, not the path that led there: facts are taken in, and the
state is derived from them.
"""

from __future__ import annotations

from avff.daemon.course import Drops, Evidence, Rate
from avff.daemon.status import Change, Flaw, State, Status
from avff.engine.media import NS_PER_S
from avff.engine.slices import Reason

STALE_NS = NS_PER_S
"""Without media for this long, nothing is known of the present."""
ABSTAIN_NS = 3 * NS_PER_S
"""Longer than a window: nothing of what was scored is left in it."""
_FINAL = (State.ENDED, State.FAILED)


class StateMachine:
    """Follows one stream.  Every method takes in a fact and returns the change that it makes, or None.

    Times are of one monotonic clock, in ns, and never go back.

    Args:
        has_both: whether scores are expected to rest on picture and sound; may be set later.
    """

    def __init__(self, *, has_both: bool = False) -> None:
        self.has_both = has_both
        self._told: Status | None = None
        self._outage: Status | None = None
        self._end: Status | None = None
        self._waiting_since_ns: int | None = None
        """Since when media is expected; None while nothing is connected."""
        self._media_ns: int | None = None
        self._evidence = Evidence()
        self._drops = Drops()
        self._rate = Rate()

    def silent_ns(self, now_ns: int) -> int:
        """Return how long no media has come, in ns; 0 before the first."""
        return 0 if self._media_ns is None else now_ns - self._media_ns

    def connected(self, now_ns: int, *, taken: bool = True) -> Change | None:
        """The source is open.

        Args:
            now_ns: when.
            taken: whether its media is taken from now on; not while models load.
        """
        self._outage = None
        self._waiting_since_ns = now_ns if taken else None
        self._evidence.forget()
        self._rate.restart(now_ns)
        return self._tell(now_ns)

    def lost(self, now_ns: int, reason: str, message: str, attempt: int, retry_s: float) -> Change | None:
        """The source broke, or could not be opened, and will be tried again."""
        self._outage = Status(State.RECONNECTING, reason, message, attempt, retry_s)
        self._waiting_since_ns = None
        return self._tell(now_ns)

    def media(self, now_ns: int, pictures: int) -> Change | None:
        """Media arrived, among it so many pictures."""
        if self._is_silent(now_ns, ABSTAIN_NS):
            self._evidence.stopped(now_ns)
        if self._is_silent(now_ns, STALE_NS):
            self._rate.restart(now_ns)
        self._media_ns = now_ns
        self._rate.add(now_ns, pictures)
        return self._tell(now_ns)

    def judged(
        self, now_ns: int, captured_ns: int, reason: str | None, modality: str, dropped: int
    ) -> Change | None:
        """A window was judged.  One from before an outage says nothing about the stream as it is now.

        Args:
            now_ns: when.
            captured_ns: when the newest item in it had arrived.
            reason: why it has no score; None when it has one.
            modality: what the score rests on: ``av``, ``video`` or ``audio``.
            dropped: items lost in this stream so far.
        """
        self._drops.count(now_ns, dropped)
        if self._waiting_since_ns is None or captured_ns < self._waiting_since_ns:
            return None
        self._evidence.judged(now_ns, self._said(now_ns, reason, modality))
        return self._tell(now_ns)

    def tick(self, now_ns: int) -> Change | None:
        """Time passed."""
        self._evidence.settle(now_ns)
        return self._tell(now_ns)

    def ended(self, now_ns: int, reason: str) -> Change | None:
        """The stream is over."""
        self._end = self._end or Status(State.ENDED, reason)
        return self._tell(now_ns)

    def failed(self, now_ns: int, reason: str, message: str) -> Change | None:
        """The stream cannot go on without a person."""
        self._end = self._end or Status(State.FAILED, reason, message)
        return self._tell(now_ns)

    def _said(self, now_ns: int, reason: str | None, modality: str) -> Status:
        if reason is not None:
            return Status(State.ABSTAIN, reason)
        flaw = self._flaw(now_ns, modality)
        return Status(State.LIVE) if flaw is None else Status(State.DEGRADED, flaw)

    def _flaw(self, now_ns: int, modality: str) -> Flaw | None:
        if self.has_both and modality != "av":
            return Flaw.VIDEO_ONLY if modality == "video" else Flaw.AUDIO_ONLY
        if self._drops.persist(now_ns):
            return Flaw.DROPPING
        return Flaw.LOW_FPS if modality != "audio" and self._rate.is_low(now_ns) else None

    def _is_silent(self, now_ns: int, limit_ns: int) -> bool:
        """Whether no media came for so long although a source is connected."""
        if self._waiting_since_ns is None:
            return False
        return now_ns - max(self._waiting_since_ns, self._media_ns or 0) >= limit_ns

    def _status(self, now_ns: int) -> Status:
        if self._end is not None:
            return self._end
        if self._outage is not None:
            return self._outage
        if self._is_silent(now_ns, ABSTAIN_NS):
            return Status(State.ABSTAIN, Reason.NO_MEDIA)
        came = self._media_ns is not None and self._media_ns >= (self._waiting_since_ns or 0)
        if came and self._is_silent(now_ns, STALE_NS):
            return Status(State.STALE, Reason.NO_MEDIA)
        return self._evidence.current or Status(State.STARTING)

    def _tell(self, now_ns: int) -> Change | None:
        status = self._status(now_ns)
        before = self._told
        if status == before or (before is not None and before.state in _FINAL):
            return None
        self._told = status
        age_ns = None if self._media_ns is None else now_ns - self._media_ns
        return Change(status, None if before is None else before.state, age_ns)
