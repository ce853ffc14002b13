"""A live source that comes back: lost and found again, for ever, on one media timeline.

It makes a new source of the same kind each time, after 0.5 s at first and 30 s at
most, and marks each connection as a stretch of its own: the time between is a gap
in media time, and nothing is joined across it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources.backoff import BackOff
from avff.daemon.sources.base import Connected, Lost, Notice, Source
from avff.engine.media import MediaItem, VideoFrame
from avff.engine.timeline import Timeline

T = TypeVar("T")

STEADY_S = 10.0
"""A connection that gave media for this long was a good one: the next delay is the shortest again."""
_FINAL = (ExitCode.USAGE, ExitCode.CONFIG)
_SLOW = ("unauthorized", "too_large")
"""Reasons that only a person can change.  Cameras lock out who tries passwords quickly."""


class ReconnectingSource:
    """Stands for a source that may be away for a while.

    Args:
        name: of the stream.
        make: makes the source for one connection; each is opened once.
        back_off: delays between attempts.
    """

    live = True

    def __init__(self, name: str, make: Callable[[], Source], back_off: BackOff | None = None) -> None:
        self.name = name
        self.has_video = False
        self.has_audio = False
        self.max_skew_ns: int | None = None
        self._make = make
        self._back_off = back_off or BackOff(Random())
        self._listener: Callable[[Notice], None] = lambda notice: None
        self._stopping = asyncio.Event()
        self._source: Source | None = None
        self._items: AsyncIterator[list[MediaItem]] | None = None
        self._error: SourceError | None = None
        self._timeline = Timeline()
        self._connection = 0
        self._dropped_before = 0
        self._steady_at_s: float | None = None

    @property
    def dropped(self) -> int:
        """Items lost so far, over all connections."""
        return self._dropped_before + (0 if self._source is None else self._source.dropped)

    @property
    def sent_ns(self) -> int | None:
        """Unix time of the newest item by its sender's clock, in ns; None where it does not tell."""
        sent_ns: int | None = getattr(self._source, "sent_ns", None)
        return sent_ns

    def report_to(self, listener: Callable[[Notice], None]) -> None:
        """Tell of each loss and each return."""
        self._listener = listener

    async def __aenter__(self) -> Self:
        """Connect, however long it takes; which tracks there are is settled by the first connection.

        Raises:
            SourceError: trying again is of no use.
        """
        await self._connect()
        if self._source is not None:
            source = self._source
            self.has_video, self.has_audio = source.has_video, source.has_audio
            self.max_skew_ns = source.max_skew_ns
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection, if there is one."""
        self.stop()
        await self._disconnect()

    def stop(self) -> None:
        """End the iteration: after what has arrived, or at once while there is no connection."""
        self._stopping.set()
        if self._source is not None:
            self._source.stop()

    def __aiter__(self) -> Self:
        """Begin; call once."""
        return self

    async def __anext__(self) -> list[MediaItem]:
        """Return the next batch, from this connection or a later one; an empty one when it broke.

        Raises:
            SourceError: trying again is of no use.
        """
        if self._error is not None:
            await self._come_back(self._error)
        while self._source is not None:
            try:
                if self._items is None:
                    self._items = aiter(self._source)
                batch = [self._placed(item) for item in await anext(self._items) if self._wanted(item)]
            except SourceError as error:
                self._error = error
                return []  # what came is not to wait for what will come
            if batch:
                self._steady()
                return batch
        raise StopAsyncIteration

    async def _come_back(self, error: SourceError) -> None:
        self._error = None
        await self._disconnect()
        if await self._wait_after(error):
            await self._connect()

    async def _connect(self) -> None:
        """Open a source, trying until it works or this one is stopped."""
        while not self._stopping.is_set():
            source = self._make()
            try:
                opened = await self._unless_stopped(source.__aenter__())
            except SourceError as error:
                if not await self._wait_after(error):
                    return
                continue
            if opened is None:
                return
            self._source = source
            self._connection += 1
            self._steady_at_s = None
            if self._stopping.is_set():
                source.stop()
            else:
                self._listener(Connected())
            return

    async def _disconnect(self) -> None:
        source, self._source, self._items = self._source, None, None
        if source is not None:
            self._dropped_before += source.dropped
            await source.__aexit__(None, None, None)

    async def _wait_after(self, error: SourceError) -> bool:
        """Wait before the next attempt.

        Returns:
            whether there is to be one: not when this source was stopped.

        Raises:
            SourceError: the error itself, where trying again is of no use.
        """
        if error.exit_code in _FINAL:
            raise error
        if self._stopping.is_set():
            return False
        delay_s = self._back_off.next_s(slow=error.reason in _SLOW)
        self._listener(Lost(error.reason, str(error), self._back_off.attempt, delay_s))
        await self._unless_stopped(asyncio.sleep(delay_s))
        return not self._stopping.is_set()

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """Wait for something, but not beyond :meth:`stop`; None when that came first."""
        doing = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
        return None if doing.cancelled() else doing.result()

    def _wanted(self, item: MediaItem) -> bool:
        """Whether the first connection had this track: the stages behind expect no other."""
        return self.has_video if isinstance(item, VideoFrame) else self.has_audio

    def _placed(self, item: MediaItem) -> MediaItem:
        return self._timeline.place(item, (self._connection, item.stretch))

    def _steady(self) -> None:
        """Take note that media came; forget earlier failures once it has come for a while."""
        now_s = time.monotonic()
        if self._steady_at_s is None:
            self._steady_at_s = now_s + STEADY_S
        elif now_s >= self._steady_at_s:
            self._back_off.reset()
