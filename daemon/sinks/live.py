"""What people see on stderr: one line that follows the score, lost and found streams, and a summary."""

from __future__ import annotations

import os
import time

from avff.daemon.events import AlarmEvent, Event, ScoreEvent, StateEvent, SummaryEvent
from avff.daemon.sinks.output import Output
from avff.daemon.sinks.render import (
    CLEAR_LINE,
    OpenAlarms,
    connection_text,
    live_line,
    live_state_line,
    summary_text,
)
from avff.daemon.status import State

UNKNOWN_COLUMNS = 80
REDRAW_S = 0.1
"""Faster changes cannot be read; a file at full speed makes a hundred a second."""


class LiveSink:
    """A live line while it runs, if wanted, and always the summary and what becomes of lost streams.

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
        self._lost: dict[str, str | None] = {}
        """Streams that are away, and the reason that was told."""

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
        if isinstance(event, StateEvent):
            await self._show_state(event)
            return
        now_s = time.monotonic()
        if self._follow and now_s - self._drawn_at_s >= REDRAW_S:
            self._drawn_at_s, self._line_is_dirty = now_s, True
            await self._output.write(CLEAR_LINE + self._line(event))

    async def close(self) -> None:
        """Leave a clean line and end the writing thread."""
        await self._output.close()

    async def _show_state(self, event: StateEvent) -> None:
        if self._is_news(event):
            await self._output.write(self._cleared() + connection_text(event))
        if self._follow and event.change.status.state not in (State.LIVE, State.DEGRADED):
            self._drawn_at_s, self._line_is_dirty = time.monotonic(), True
            line = live_state_line(event, _columns(self._fd))
            await self._output.write(CLEAR_LINE + line)

    def _is_news(self, event: StateEvent) -> bool:
        """Whether a stream went away for a reason not told yet, or came back; not each attempt is news."""
        status, stream = event.change.status, event.stream
        if status.state is State.RECONNECTING:
            known = stream in self._lost and self._lost[stream] == status.reason
            self._lost[stream] = status.reason
            return not known
        was_lost = self._lost.pop(stream, None) is not None
        return was_lost and status.state is State.STARTING

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
