"""How long to wait before something that was lost is tried again.  Pure but for the chance it is given."""

from __future__ import annotations

from random import Random

FIRST_S = 0.5
LONGEST_S = 30.0
JITTER = 0.25
"""Part of a delay that is left to chance, so that many clients do not come back at the same moment."""


class BackOff:
    """Delays that double, bounded, with jitter.

    Args:
        random: where the jitter comes from.
        first_s, longest_s: bounds of the delay, in s.
    """

    def __init__(self, random: Random, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._random = random
        self._first_s, self._longest_s = first_s, longest_s
        self.attempt = 0
        """Attempts since the last good connection."""

    def next_s(self, *, slow: bool = False) -> float:
        """Count an attempt and return the time until it, in s."""
        delay_s = self._longest_s
        if not slow and self.attempt < 32:  # beyond, the power is needlessly large
            delay_s = min(self._longest_s, self._first_s * 2**self.attempt)
        self.attempt += 1
        return delay_s * (1 - JITTER * self._random.random())

    def reset(self) -> None:
        """Begin with the shortest delay again."""
        self.attempt = 0
