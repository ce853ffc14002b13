"""A source that plays a list: the shipped stand-in for tests and for embedding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from avff.daemon.errors import SourceError
from avff.daemon.mailbox import Mailbox, MailboxClosed, Policy
from avff.engine.media import AudioBlock, MediaItem, VideoFrame


class ScriptedSource:
    """Plays items, then ends, breaks with ``error``, or with ``endless`` waits to be stopped.

    Args:
        items: what to play; which tracks there are follows from it.
        name: of the stream.
        live: whether items are dropped when nobody takes them.
        pause_s: time between items.
        error: raised after the last item.
        capacity: items that wait at most.
        endless: do not end by itself.
    """

    max_skew_ns: int | None = None

    def __init__(
        self,
        items: Sequence[MediaItem],
        *,
        name: str = "scripted",
        live: bool = False,
        pause_s: float = 0.0,
        error: SourceError | None = None,
        capacity: int = 16,
        endless: bool = False,
    ) -> None:
        self.name = name
        self.live = live
        self.has_video = any(isinstance(item, VideoFrame) for item in items)
        self.has_audio = any(isinstance(item, AudioBlock) for item in items)
        self.opened = False
        self.closed = False
        self._items = items
        self._pause_s = pause_s
        self._error = error
        self._endless = endless
        self._box: Mailbox[MediaItem] = Mailbox(capacity, Policy.DROP_OLDEST if live else Policy.WAIT)
        self._playing: asyncio.Task[None] | None = None

    @property
    def dropped(self) -> int:
        """Items lost so far."""
        return self._box.dropped

    async def __aenter__(self) -> Self:
        """Open; always succeeds."""
        self.opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop playing."""
        self.stop()
        if self._playing is not None:
            self._playing.cancel()
        self.closed = True

    def stop(self) -> None:
        """End after what waits."""
        self._error = None
        self._box.close()

    def __aiter__(self) -> Self:
        """Start playing."""
        self._playing = asyncio.get_running_loop().create_task(self._play())
        return self

    async def __anext__(self) -> list[MediaItem]:
        """Return what waits, at least one item."""
        async for batch in self._box.batches(self._box.capacity):
            return batch
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def _play(self) -> None:
        with contextlib.suppress(MailboxClosed):  # stopped
            for item in self._items:
                await self._box.put(item)
                await asyncio.sleep(self._pause_s)
            if not self._endless:
                self._box.close()
