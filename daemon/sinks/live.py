"""What people see on stderr: one line that follows the score, and a summary at the end."""

from __future__ import annotations

import os
import time

from avff.daemon.events import AlarmEvent, Event, ScoreEvent, SummaryEvent
from avff.daemon.sinks.output import Output
from avff.daemon.sinks.render import CLEAR_LINE, OpenAlarms, live_line, summary_text

UNKNOWN_COLUMNS = 80
REDRAW_S = 0.1
"""Faster changes cannot be read; a file at full speed makes a hundred a second."""


class LiveSink:
    """A live line while it runs, if wanted, and always the summary.

    Args:
        fd: descriptor of stderr.
        follow: whether to draw the live line: only on a terminal.
    """

    essential = False
    lossless = False

    def __init__(self, fd: int = 2, *, follow: bool) -> None:
        self.name = "stderr"
        self._fd = fd
        self._follow = follow
        self._output = Output(fd, self.name)
        self._drawn_at_s = float("-inf")
        self._line_is_dirty = False
        self._alarms = OpenAlarms()

    async def write(self, event: Event) -> None:
        """Redraw the line, or write the summary below it.

        Raises:
            SinkError: stderr is gone.
        """
        if isinstance(event, SummaryEvent):
            await self._output.write(self._cleared() + summary_text(event))
            return
        if isinstance(event, AlarmEvent):
            self._alarms.follow(event)
            self._drawn_at_s = float("-inf")  # the score after it is drawn at once
            return
        now_s = time.monotonic()
        if self._follow and now_s - self._drawn_at_s >= REDRAW_S:
            self._drawn_at_s, self._line_is_dirty = now_s, True
            await self._output.write(CLEAR_LINE + self._line(event))

    async def close(self) -> None:
        """Leave a clean line and end the writing thread."""
        await self._output.close()

    def _line(self, event: ScoreEvent) -> str:
        return live_line(event, _columns(self._fd), self._alarms.of(event.stream))

    def _cleared(self) -> str:
        was_dirty, self._line_is_dirty = self._line_is_dirty, False
        return CLEAR_LINE if was_dirty else ""


def _columns(fd: int) -> int:
    try:
        return os.get_terminal_size(fd).columns or UNKNOWN_COLUMNS
    except OSError:
        return UNKNOWN_COLUMNS
