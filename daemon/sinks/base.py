"""The seam behind which all events go out, and the mailbox in front of each sink.

To add a sink: one file here, one line in ``sinks/__init__.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

from avff.daemon.events import Event
from avff.daemon.mailbox import Mailbox, MailboxClosed, Policy

log = logging.getLogger(__name__)


class SinkError(Exception):
    """The sink cannot be written any more.  Without a message nobody needs to be told."""


class Sink(Protocol):
    """Where events go.

    Attributes:
        name: for log lines.
        essential: whether scoring is of use without it; when the last essential sink
            is gone, the daemon stops.
        lossless: whether a file is held back rather than an event lost.
    """

    name: str
    essential: bool
    lossless: bool

    async def write(self, event: Event) -> None:
        """Write one event.

        Raises:
            SinkError: this sink is of no further use.
        """
        ...

    async def close(self) -> None:
        """Write what is left and release everything; called once."""
        ...


OnGone: TypeAlias = "Callable[[Outlet, SinkError], None]"


class Outlet:
    """A sink behind its own mailbox, so that a slow one delays no other.

    Args:
        sink: is closed when the outlet's run ends.
        policy: wait for room, or drop the oldest event and count it.
        capacity: events that wait.
        on_gone: called once if the sink fails.
    """

    def __init__(self, sink: Sink, policy: Policy, capacity: int, on_gone: OnGone) -> None:
        self.sink = sink
        self._box: Mailbox[Event] = Mailbox(capacity, policy)
        self._on_gone = on_gone

    @property
    def dropped(self) -> int:
        """Events lost because the sink was too slow."""
        return self._box.dropped

    @property
    def gone(self) -> bool:
        """Whether nothing more is written."""
        return self._box.closed

    async def put(self, event: Event) -> None:
        """Hand over an event; does nothing when the sink is gone."""
        try:
            await self._box.put(event)
        except MailboxClosed:
            return

    async def run(self) -> None:
        """Write events until closed and empty; a failing sink ends alone."""
        try:
            async for event in self._box:
                await self.sink.write(event)
        except SinkError as error:
            self._box.close()
            self._box.clear()
            self._on_gone(self, error)
        finally:
            await self.sink.close()
        if self.dropped:
            log.warning("%s was too slow: %d events were lost there", self.sink.name, self.dropped)

    def close(self) -> None:
        """Take no more events; those that wait are still written."""
        self._box.close()


class Publisher:
    """Hands each event to every outlet."""

    def __init__(self, outlets: list[Outlet]) -> None:
        self.outlets = outlets

    @property
    def useless(self) -> bool:
        """Whether there were essential sinks and all of them are gone."""
        essential = [outlet for outlet in self.outlets if outlet.sink.essential]
        return bool(essential) and all(outlet.gone for outlet in essential)

    async def publish(self, event: Event) -> None:
        """Put an event into every mailbox, waiting where the policy is to wait."""
        for outlet in self.outlets:
            await outlet.put(event)

    def close(self) -> None:
        """Take no more events."""
        for outlet in self.outlets:
            outlet.close()
