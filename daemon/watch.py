"""Follows the state of one live stream beside its stages, and publishes each change."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from avff.daemon.errors import DaemonError, SourceError
from avff.daemon.events import StateEvent
from avff.daemon.mailbox import Mailbox, Policy
from avff.daemon.sinks.base import Publisher
from avff.daemon.sources.base import Connected, Notice, Reporting, Source
from avff.daemon.states import StateMachine
from avff.daemon.status import Change
from avff.engine.media import NS_PER_S, MediaItem, VideoFrame
from avff.engine.slices import Prediction

TICK_S = 0.1
WAITING_EVENTS = 64
"""Changes that wait for the next tick; a source makes a few in a second."""


class StateWatch:
    """One stream's state, fed by its stages.  For a source that is not live it says nothing.

    Args:
        source: whose stream it is.
        publisher: takes the events.
    """

    def __init__(self, source: Source, publisher: Publisher) -> None:
        self._source = source
        self._publisher = publisher
        self._machine = StateMachine()
        self._changed: Mailbox[StateEvent] = Mailbox(WAITING_EVENTS, Policy.DROP_OLDEST)
        self._publishing = asyncio.Lock()
        self._reached_ns = 0
        self._scoring = False
        self._closed = asyncio.Event()
        if isinstance(source, Reporting):
            source.report_to(self._noticed)

    def begin(self) -> None:
        """The stream is starting."""
        self._note(self._machine.tick(time.monotonic_ns()))

    async def run(self) -> None:
        """Publish changes, those that time alone makes included, until closed."""
        while self._source.live and not self._closed.is_set():
            self._note(self._machine.tick(time.monotonic_ns()))
            await self._publish()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._closed.wait()

    def close(self) -> None:
        """End :meth:`run`; what was told is out."""
        self._closed.set()

    @property
    def silent_s(self) -> float:
        """How long no media has come, in s."""
        return self._machine.silent_ns(time.monotonic_ns()) / NS_PER_S

    def scoring_begins(self) -> None:
        """Media is taken from now on."""
        self._scoring = True
        self._machine.has_both = self._source.has_video and self._source.has_audio
        self._note(self._machine.connected(time.monotonic_ns()))

    def media(self, items: Sequence[MediaItem]) -> None:
        """Media arrived; nothing, at the end of a stretch, is none."""
        if not items:
            return
        pictures = sum(isinstance(item, VideoFrame) for item in items)
        self._reached_ns = max(self._reached_ns, *(item.pts_ns for item in items))
        self._note(self._machine.media(time.monotonic_ns(), pictures))

    async def judged(self, prediction: Prediction, reason: str | None, dropped: int) -> None:
        """A window was judged and its event is out."""
        now_ns = time.monotonic_ns()
        captured_ns, modality = prediction.captured_ns, prediction.modality
        self._note(self._machine.judged(now_ns, captured_ns, reason, modality, dropped))
        await self._publish()

    async def over(self, reason: str, error: DaemonError | None = None) -> None:
        """The stream ended, or failed with an error; the first word counts."""
        now_ns = time.monotonic_ns()
        if error is None or not error.exit_code:
            self._note(self._machine.ended(now_ns, reason))
        else:
            why = error.reason if isinstance(error, SourceError) else reason
            self._note(self._machine.failed(now_ns, why, str(error)))
        await self._publish()

    def _noticed(self, notice: Notice) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(notice, Connected):
            self._note(self._machine.connected(now_ns, taken=self._scoring))
        else:
            self._note(
                self._machine.lost(now_ns, notice.reason, notice.message, notice.attempt, notice.retry_s)
            )

    def _note(self, change: Change | None) -> None:
        if change is None or not self._source.live:
            return
        sent_ns = self._source.sent_ns if isinstance(self._source, Reporting) else None
        self._changed.put_nowait(StateEvent(self._source.name, self._reached_ns, change, sent_ns))

    async def _publish(self) -> None:
        async with self._publishing:  # one at a time, so that the order stays
            while len(self._changed):
                await self._publisher.publish(await self._changed.get())
