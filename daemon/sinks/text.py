"""One line for people per hop on stdout."""

from __future__ import annotations

from avff.daemon.events import Event, ScoreEvent
from avff.daemon.sinks.output import Output
from avff.daemon.sinks.render import score_line


class TextSink:
    """Writes scores as text; the summary is the live view's, on stderr."""

    essential = True
    lossless = True

    def __init__(self, fd: int = 1, name: str = "stdout") -> None:
        self.name = name
        self._output = Output(fd, name)

    async def write(self, event: Event) -> None:
        """Write a score event as one line.

        Raises:
            SinkError: the reader is gone, or the disk is full.
        """
        if isinstance(event, ScoreEvent):
            await self._output.write(score_line(event) + "\n")

    async def close(self) -> None:
        """End the writing thread."""
        await self._output.close()
