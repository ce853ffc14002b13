"""One line for people per hop, per alarm that opens or closes, and per change of state, on stdout."""

from __future__ import annotations

from avff.daemon.events import AlarmEvent, Event, ScoreEvent, StateEvent
from avff.daemon.sinks.output import Output
from avff.daemon.sinks.render import OpenAlarms, alarm_line, score_line, state_line


class TextSink:
    """Writes scores, alarms and states as text; the summary is the live view's, on stderr."""

    essential = True
    lossless = True

    def __init__(self, fd: int = 1, name: str = "stdout") -> None:
        self.name = name
        self._output = Output(fd, name)
        self._alarms = OpenAlarms()

    async def write(self, event: Event) -> None:
        """Write a score, an alarm or a state as one line.

        Raises:
            SinkError: the reader is gone, or the disk is full.
        """
        if isinstance(event, ScoreEvent):
            await self._output.write(score_line(event, self._alarms.of(event.stream)) + "\n")
        elif isinstance(event, AlarmEvent):
            self._alarms.follow(event)
            await self._output.write(alarm_line(event) + "\n")
        elif isinstance(event, StateEvent):
            await self._output.write(state_line(event) + "\n")

    async def close(self) -> None:
        """End the writing thread."""
        await self._output.close()
