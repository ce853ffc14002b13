"""When to raise an alarm: a sequential test over the evidence of one stream.

The statistic is Page's CUSUM: each window adds its calibrated log-odds, which are the
log-likelihood ratio (LLR) of "something here is fake" since the calibration is for even odds,
and the sum is held at zero from below.  An alarm opens when the sum reaches a threshold h.

*Overlap.*  Windows overlap, so a window counts for the part of it that is new: media time since
the evidence before, over the length of a window.  How often windows come makes no difference.

*What h promises.*  If the LLRs are true and independent, the mean time from one false alarm to
the next, the average run length, is at least exp(h) observations (Lorden, 1971).  One observation
is taken to be one window of media time, 2.56 s, so ``promised_threshold(n)`` = ln(3600 s / (n · 2.56 s))
promises at most n false alarms an hour of scored media: h = 6.6 for n = 2.  That holds for
windows that do not overlap.  For these, which do, it was tried: over independent slices whose true
LLRs are normal, with 0.1 to 4 nats a window, there were at most a sixth of the promised alarms
(``tests/engine/test_alarm.py`` does it again).  LLRs are bounded (``BOUND``): from above that only
lengthens the run; from below it lets the mean of exp(LLR) on genuine windows, 1 by definition, rise
to 1 + exp(-BOUND) at most.

*What it does not promise.*  A calibration that is wrong for one person, camera or codec is wrong in
every window of theirs.  Such errors are not independent, their sum grows for as long as the person
is seen, and no h of this kind holds against them.  How high the sum gets on genuine footage has to
be measured; ``avff-evaluate`` does, and a threshold may be set to what it found.

Sources: E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954); G. Lorden, "Procedures for
reacting to a change in distribution", Ann. Math. Statist. 42 (1971).  Pure: no clock, time comes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from avff.engine.media import NS_PER_S
from avff.engine.rolling import Continuity, Scored, evidence, probability
from avff.engine.spec import SPEC

FALSE_ALARMS_PER_HOUR = 2.0
"""Unless told otherwise."""
BOUND = 3.0
"""Most that the LLR of one window counts, in nats, either way: odds of 20 to 1.  A passage of one
window's length is in 15 windows and adds 15/8 of this at most, which is below the default threshold."""
_PARTS = ("video", "audio", "motion")


class Window(Scored, Protocol):
    """What is asked of a window here; a ``Prediction`` has it.

    Attributes:
        modality: ``av``, ``video`` or ``audio``: what the score rests on.
        parts: calibrated probabilities 0…1 by head.
    """

    @property
    def modality(self) -> str: ...

    @property
    def parts(self) -> Mapping[str, float]: ...


class Cause(StrEnum):
    """Why an alarm closed.  The values are part of the event interface."""

    BELOW = "below"
    """The rolling score stayed low."""
    NO_EVIDENCE = "no_evidence"
    """No window had a score for too long."""
    FACE_CHANGED = "face_changed"
    """Another face: its evidence is its own."""
    ENDED = "ended"
    """The stream is over."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm, open or closed.

    Attributes:
        number: counts the stream's alarms from 1.
        opened_ns: media time of the end of the window that opened it, in ns.
        closed_ns: of the window that closed it, or None while it is open.
        cause: why it closed, or None while it is open.
        peak: highest window probability 0…1 since its evidence began to add up.
        modality: what the window with ``peak`` rests on.
        part: ``video``, ``audio`` or ``motion``, whichever head was highest in that window; None without any.
        track: face that it is about, or None.
    """

    number: int
    opened_ns: int
    closed_ns: int | None
    cause: Cause | None
    peak: float
    modality: str
    part: str | None
    track: int | None


def promised_threshold(false_alarms_per_hour: float) -> float:
    """Return the threshold in nats that promises a rate of false alarms, as the module says.

    Raises:
        ValueError: not a positive number, or as many as there are windows.
    """
    windows = 3600 * NS_PER_S / SPEC.window_ns
    if not 0 < false_alarms_per_hour < windows:
        raise ValueError(f"false alarms per hour are above 0 and below {windows:.0f}, the windows of an hour")
    return math.log(windows / false_alarms_per_hour)


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """When an alarm opens and when it closes.

    Attributes:
        threshold: h, in nats.
        minimum_s: least evidence that an alarm rests on: scored media time, in s, since the sum left zero.
        close_below: rolling probability 0…1 below which the evidence is taken to be over …
        close_after_s: … when it stayed there for this long, in s of media time.
        reset_after_s: longest gap in evidence that is bridged, in s; after it an alarm closes and the
            sum starts at zero.
    """

    threshold: float = promised_threshold(FALSE_ALARMS_PER_HOUR)
    minimum_s: float = 5.0
    close_below: float = 0.5
    close_after_s: float = 5.0
    reset_after_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse a threshold that the sum has reached before anything was seen.

        Raises:
            ValueError: it is not above zero.
        """
        if not self.threshold > 0:
            raise ValueError(f"the threshold of an alarm is {self.threshold}, not above 0")


class AlarmDetector:
    """Follows the alarms of one stream.

    Attributes:
        statistic: the sum, in nats; rests while an alarm is open.
    """

    def __init__(self, rule: AlarmRule) -> None:
        self._rule = rule
        self._continuity = Continuity(rule.reset_after_s)
        self._end_ns: int | None = None
        self._alarm: Alarm | None = None
        self._count = 0
        self._restart()

    def push(self, window: Window, rolling: float | None) -> list[Alarm]:
        """Take in the next window.

        Args:
            window: with a score or without; one without adds nothing.
            rolling: rolling probability 0…1 after it, or None when it has no score.

        Returns:
            what changed, in order: an alarm that closed, one that opened, usually nothing.

        Raises:
            ValueError: the window does not end after the one before.
        """
        end_ns = window.end_ns
        if self._end_ns is not None and end_ns <= self._end_ns:
            raise ValueError(f"a window ends at {end_ns} ns, which is not after {self._end_ns} ns")
        self._end_ns = end_ns
        changes = self._close(Cause.NO_EVIDENCE) if self._continuity.lapsed(end_ns) else []
        llr = evidence(window)
        if llr is None:
            return changes
        gap_ns = self._continuity.gap_ns(window)
        if gap_ns is None:
            changes += self._close(Cause.FACE_CHANGED)
            self._restart()
        if self._alarm is None:
            self._add(llr, SPEC.window_ns if gap_ns is None else min(gap_ns, SPEC.window_ns))
            self._note(llr, window)
            return changes + self._maybe_open(end_ns)
        self._note(llr, window)
        self._alarm = self._told(self._alarm.opened_ns)
        return changes + self._maybe_close(rolling, end_ns)

    def lapse(self) -> list[Alarm]:
        """No window came for longer than gaps are bridged: return the alarm that this closes, if any."""
        return self._close(Cause.NO_EVIDENCE)

    def finish(self) -> list[Alarm]:
        """End the stream: return the alarm that this closes, if one was open."""
        return self._close(Cause.ENDED)

    def _restart(self) -> None:
        self.statistic = 0.0
        self._added_ns = 0
        self._strongest: tuple[float, str, str | None] = (0.0, "", None)
        self._low_since_ns: int | None = None

    def _add(self, llr: float, new_ns: int) -> None:
        """Add a window of which ``new_ns`` of media time were in none before."""
        total = self.statistic + max(-BOUND, min(BOUND, llr)) * new_ns / SPEC.window_ns
        if total <= 0:
            self._restart()
            return
        self.statistic = total
        self._added_ns += new_ns

    def _note(self, llr: float, window: Window) -> None:
        """Keep probability, modality and part of the strongest window since the sum left zero."""
        score = probability(llr)
        if score > self._strongest[0]:
            self._strongest = (score, window.modality, _higher(window.parts))

    def _maybe_open(self, end_ns: int) -> list[Alarm]:
        if self.statistic < self._rule.threshold or self._added_ns < self._rule.minimum_s * NS_PER_S:
            return []
        self._count += 1
        self._alarm = self._told(end_ns)
        return [self._alarm]

    def _maybe_close(self, rolling: float | None, end_ns: int) -> list[Alarm]:
        if rolling is None or rolling >= self._rule.close_below:
            self._low_since_ns = None
            return []
        if self._low_since_ns is None:
            self._low_since_ns = end_ns
        long_enough = end_ns - self._low_since_ns >= self._rule.close_after_s * NS_PER_S
        return self._close(Cause.BELOW) if long_enough else []

    def _close(self, cause: Cause) -> list[Alarm]:
        if self._alarm is None:
            return []
        closed = replace(self._alarm, closed_ns=self._end_ns, cause=cause)
        self._alarm = None
        self._restart()
        return [closed]

    def _told(self, opened_ns: int) -> Alarm:
        return Alarm(self._count, opened_ns, None, None, *self._strongest, self._continuity.track)


def _higher(parts: Mapping[str, float]) -> str | None:
    """Return the head of picture or sound that is higher; lips out of step are not asked."""
    return max((name for name in _PARTS if name in parts), key=lambda name: parts[name], default=None)
