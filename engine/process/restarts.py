"""When a process that broke down is started again, and when no more.  Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patient to be.

    Attributes:
        most: breakdowns that are followed by a new start; one more is the end.
        within_s: how long a breakdown counts, if there was work done after it.
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
    _worked: bool = False

    @property
    def count(self) -> int:
        """Breakdowns that count at present."""
        return len(self._failed_s)

    def worked(self) -> None:
        """Note that the process did some work: breakdowns before may be forgotten in time."""
        self._worked = True

    def failed(self, now_s: float) -> float | None:
        """Note a breakdown.

        Args:
            now_s: monotonic clock, in s.

        Returns:
            when to start again, on the same clock; None to give up.
        """
        if self._worked:
            self._failed_s = [at for at in self._failed_s if now_s - at < self.policy.within_s]
        self._worked = False
        self._failed_s.append(now_s)
        if self.count > self.policy.most:
            return None
        return now_s + min(self.policy.longest_s, self.policy.first_s * 2.0 ** (self.count - 1))
