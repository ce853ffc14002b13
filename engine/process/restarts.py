"""When a process that broke down is started again, and when no more.  Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patient to be.

    Attributes:
        most: breakdowns that are followed by a new start; one more is the end.
        within_s: how long a breakdown counts, in time that processes were at work after it.
        first_s: from the first breakdown to the new start; each further one doubles it.
        longest_s: but never more than this.
    """

    most: int = 5
    within_s: float = 60.0
    first_s: float = 0.5
    longest_s: float = 8.0


@dataclass(slots=True)
class Restarts:
    """Counts breakdowns.

    Attributes:
        policy: how many there may be.
    """

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    _failed_s: list[float] = field(default_factory=list)
    """By a clock that runs only while a process is at work: starts and pauses excuse nothing."""
    _worked_s: float = 0.0
    _since_s: float = 0.0

    @property
    def count(self) -> int:
        """Breakdowns that count at present."""
        return len(self._failed_s)

    def started(self, now_s: float) -> None:
        """Note that a process is ready; ``now_s`` is the monotonic clock, in s, as everywhere here."""
        self._since_s = now_s

    def worked(self, now_s: float) -> None:
        """Note that the process has worked until now: breakdowns before may be forgotten in time."""
        self._worked_s += now_s - self._since_s
        self._since_s = now_s

    def failed(self, now_s: float) -> float | None:
        """Note a breakdown.

        Returns:
            when to start again, on the same clock; None to give up.
        """
        self._failed_s = [at for at in self._failed_s if self._worked_s - at < self.policy.within_s]
        self._failed_s.append(self._worked_s)
        if self.count > self.policy.most:
            return None
        return now_s + min(self.policy.longest_s, self.policy.first_s * 2.0 ** (self.count - 1))
