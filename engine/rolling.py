"""From window predictions to the score that people watch.

Pure: media time comes in with each window, there is no clock here.
"""

from __future__ import annotations

import math
from typing import Protocol

from avff.engine.media import NS_PER_S


class Scored(Protocol):
    """What is asked of a window here; a ``Prediction`` has it.

    Attributes:
        end_ns: media time at which the window ends, in ns.
        logit: calibrated log-odds that anything in it is fake, or None.
        track: face track it is about, or None.
    """

    @property
    def end_ns(self) -> int: ...

    @property
    def logit(self) -> float | None: ...

    @property
    def track(self) -> int | None: ...


def probability(logit: float) -> float:
    """Return the probability 0…1 of log-odds, without overflow at either end."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def evidence(window: Scored) -> float | None:
    """Return the window's logit, or None when it is no evidence.

    NaN and infinity are abstentions: a network that broke down has not said anything.
    """
    logit = window.logit
    return logit if logit is not None and math.isfinite(logit) else None


class Continuity:
    """Whether a window's evidence goes on from that before it.

    It does not when the face track changes, when there was no evidence for
    ``reset_after_s``, and when media time jumps back.

    Args:
        reset_after_s: longest gap in evidence that is bridged, in s of media time.
    """

    def __init__(self, reset_after_s: float) -> None:
        if reset_after_s <= 0:
            raise ValueError("the reset time is a positive number of seconds")
        self._reset_after_ns = reset_after_s * NS_PER_S
        self._last_ns: int | None = None
        self.track: int | None = None
        """Face that the evidence is about; None until a window names one."""

    def gap_ns(self, window: Scored) -> int | None:
        """Take in a window with evidence.

        Returns:
            media time since the evidence before, in ns; None when this window starts anew.
        """
        before, self._last_ns = self._last_ns, window.end_ns
        # A window that rests on sound alone has no track; it does not end the face's history.
        switched = None not in (self.track, window.track) and window.track != self.track
        if window.track is not None:
            self.track = window.track
        if before is None or switched:
            return None
        gap_ns = window.end_ns - before
        return gap_ns if 0 <= gap_ns < self._reset_after_ns else None

    def lapsed(self, end_ns: int) -> bool:
        """Return whether the last evidence is too old to be bridged at media time ``end_ns``."""
        return self._last_ns is not None and end_ns - self._last_ns >= self._reset_after_ns


class RollingScore:
    """Exponential average of the logits over media time.

    The average is a weighted mean whose weights halve with age, so that the first
    windows count fully and a constant input gives exactly that constant.  It starts
    anew where :class:`Continuity` ends.

    Args:
        time_constant_s: age at which a window's weight has fallen to 1/e, in s of media time.
        reset_after_s: longest gap in evidence that is bridged, in s of media time.
    """

    def __init__(self, *, time_constant_s: float = 5.0, reset_after_s: float = 10.0) -> None:
        if time_constant_s <= 0:
            raise ValueError("the time constant is a positive number of seconds")
        self._time_constant_ns = time_constant_s * NS_PER_S
        self._continuity = Continuity(reset_after_s)
        self._sum = 0.0
        self._weight = 0.0

    def push(self, window: Scored) -> float | None:
        """Take in one window and return the rolling probability of fake.

        Returns:
            0…1, or None when this window is no evidence: the last score is
            never repeated as current.
        """
        logit = evidence(window)
        if logit is None:
            return None
        gap_ns = self._continuity.gap_ns(window)
        decay = 0.0 if gap_ns is None else math.exp(-gap_ns / self._time_constant_ns)
        self._sum = self._sum * decay + logit
        self._weight = self._weight * decay + 1.0
        return probability(self._sum / self._weight)
