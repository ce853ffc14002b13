"""The alarms of one stream, and what its summary says of them."""

from __future__ import annotations

from dataclasses import dataclass

from avff.engine.alarm import Alarm, AlarmDetector, AlarmRule
from avff.engine.slices import Prediction

MAX_ALARMS = 50


@dataclass(frozen=True, slots=True)
class AlarmSummary:
    """The alarms of a whole stream.

    Attributes:
        count: how many there were.
        listed: in order of time; the ``MAX_ALARMS`` with the highest peaks.
    """

    count: int
    listed: tuple[Alarm, ...]


class AlarmWatch:
    """Looks for alarms, and keeps a bounded list of them however long the stream runs.

    Args:
        rule: when they open and close; None to look for none.
    """

    def __init__(self, rule: AlarmRule | None) -> None:
        self._detector = None if rule is None else AlarmDetector(rule)
        self._count = 0
        self._listed: list[Alarm] = []

    def push(self, prediction: Prediction, rolling: float | None) -> list[Alarm]:
        """Take in the next prediction and the rolling probability after it; return what changed."""
        return [] if self._detector is None else self._kept(self._detector.push(prediction, rolling))

    def lapse(self) -> list[Alarm]:
        """No window came for too long; return the alarm that this closes, if one was open."""
        return [] if self._detector is None else self._kept(self._detector.lapse())

    def finish(self) -> list[Alarm]:
        """End the stream; return the alarm that this closes, if one was open."""
        return [] if self._detector is None else self._kept(self._detector.finish())

    def summary(self) -> AlarmSummary | None:
        """Return the alarms that have closed so far; None when none are looked for."""
        return None if self._detector is None else AlarmSummary(self._count, tuple(self._listed))

    def _kept(self, changes: list[Alarm]) -> list[Alarm]:
        for alarm in changes:
            if alarm.closed_ns is not None:
                self._count += 1
                self._listed.append(alarm)
        if len(self._listed) > MAX_ALARMS:
            self._listed.remove(min(self._listed, key=lambda alarm: alarm.peak))
        return changes
