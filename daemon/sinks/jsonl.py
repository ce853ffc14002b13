"""One JSON line an event on stdout: the interface for programs."""

from __future__ import annotations

from avff.daemon.events import Event, to_line
from avff.daemon.sinks.output import Output


class JsonlSink:
    """Writes every event, scores and summaries, as ``docs/events.md`` has it."""

    essential = True
    lossless = True

    def __init__(self, fd: int = 1, name: str = "stdout") -> None:
        self.name = name
        self._output = Output(fd, name)

    async def write(self, event: Event) -> None:
        """Write one line.

        Raises:
            SinkError: the reader is gone, or the disk is full.
        """
        await self._output.write(to_line(event))

    async def close(self) -> None:
        """End the writing thread."""
        await self._output.close()
