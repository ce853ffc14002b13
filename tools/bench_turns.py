"""Time several things by turns, so that what else the machine does hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_S = 0.3
"""How long a thing is run for in one of its turns, unless a single run takes longer."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long runs took.

    Attributes:
        p50_ms, p99_ms: of all runs; the second is the slowest one where there are fewer than a hundred.
        runs: that were timed.
        total_s: of all of them.
    """

    p50_ms: float
    p99_ms: float
    runs: int
    total_s: float

    def rate(self, batch: int) -> float:
        """Return the hops a second over all runs, the slow ones too."""
        return batch * self.runs / self.total_s

    def slowest(self) -> str:
        """Return the 99th percentile in words; of fewer than a hundred runs it is the slowest one."""
        return f"{self.p99_ms:.2f}" if self.runs >= 100 else f"{self.p99_ms:.2f} (max of {self.runs})"


def by_turns(things: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time things, each in every round, after one run that does not count.

    Args:
        things: to call, by name.
        rounds: how many turns each gets.
    """
    for run in things.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, run in things.items():
            taken[name] += _turn(run)
    return {name: _times(seconds) for name, seconds in taken.items()}


def _turn(run: Callable[[], object]) -> list[float]:
    seconds: list[float] = []
    while sum(seconds) < LEAST_S:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def _times(seconds: Sequence[float]) -> Times:
    ms = np.array(seconds) * 1e3
    p50, p99 = np.percentile(ms, 50), np.percentile(ms, 99, method="higher")
    return Times(float(p50), float(p99), len(seconds), float(sum(seconds)))
