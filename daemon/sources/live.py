"""Live inputs through PyAV: the thread that reads, the watchdog, one timeline.

FFmpeg's calls block; its own timeouts end most of them, and a thread that stays
in one all the same (name service, a display server that stands still) is left
behind.  The newest picture wins: nothing here waits for the stages behind it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.mailbox import MailboxClosed
from avff.daemon.sources.base import SourceSettings
from avff.daemon.sources.buffer import LiveBuffer
from avff.daemon.sources.pace import Pace
from avff.daemon.worker import Worker, abandoned_threads
from avff.engine.errors import LiveError
from avff.engine.media import NS_PER_S, MediaItem
from avff.engine.timeline import Leaps, Timeline

if TYPE_CHECKING:  # FFmpeg is loaded by the thread that opens, not by an import
    from avff.engine.live import LiveInput, LiveReader

GRACE_S = 1.0
"""FFmpeg's timeouts come first; they know more than a watchdog."""
CLOSE_S = 0.5
MOST_STUCK = 3
"""Threads of one stream that hang in a call without end; only when one returns is there another attempt."""
_FINAL = {"unsupported": ExitCode.USAGE, "not_live": ExitCode.USAGE}
"""Reasons that no second attempt can change."""


class LiveSource:
    """One connection to a network stream or a screen.

    Args:
        make_input: what to open; made when it is opened.
        shown: the input for people, without passwords.
        name: of the stream.
        settings: queue sizes and timeouts.
    """

    live = True
    max_skew_ns: int | None = 2 * NS_PER_S
    """Senders interleave picture and sound within a second; a track that stops must not hold up the other."""

    def __init__(
        self, make_input: Callable[[], LiveInput], shown: str, name: str, settings: SourceSettings
    ) -> None:
        self.name = name
        self.has_video = False
        self.has_audio = False
        self._make_input = make_input
        self._shown = shown
        self._network = settings.network
        self._box = LiveBuffer(settings.queues.live_frames)
        self._worker = Worker(f"live:{name}")
        self._stopping = threading.Event()
        self._reading: asyncio.Future[LiveError | None] | None = None
        self._leaps, self._timeline = Leaps(), Timeline()
        self._unix_ns: int | None = None
        self._newest_pts_ns = 0
        self._zero_ns = 0
        self._ignored = 0

    @property
    def dropped(self) -> int:
        """Pictures and blocks of sound lost since iteration began."""
        return self._box.dropped - self._ignored

    @property
    def sent_ns(self) -> int | None:
        """Unix time of the newest item by its sender's clock, in ns; None while the sender has not told."""
        return None if self._unix_ns is None else self._unix_ns + self._newest_pts_ns

    async def __aenter__(self) -> Self:
        """Connect and find out what is sent; reading begins at once, so that nothing piles up.

        Raises:
            SourceError: it cannot be opened; the reason is a word of ``docs/events.md``.
        """
        if abandoned_threads().count(self._worker.name) >= MOST_STUCK:
            message = f"{self._shown}: {MOST_STUCK} earlier attempts still hang"
            raise SourceError(message, ExitCode.UNAVAILABLE, "timed_out")
        try:
            reader = await self._open()
        except BaseException:  # a cancellation too: the thread is left behind, then it goes on
            await self.__aexit__(None, None, None)
            raise
        self.has_video, self.has_audio = reader.has_video, reader.has_audio
        self._reading = self._worker.submit(self._read, reader, asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection in its own thread; one that does not come back is abandoned."""
        self.stop()
        if self._reading is not None:
            self._reading.cancel()  # an error nobody asks for any more
        await self._worker.close(CLOSE_S, warn=False)

    def stop(self) -> None:
        """End the iteration after what already waits."""
        self._stopping.set()
        self._box.close()

    def __aiter__(self) -> Self:
        """Start media time now; what came before is not wanted and not counted."""
        self._box.clear()
        self._ignored = self._box.dropped
        self._zero_ns = time.monotonic_ns()
        return self

    async def __anext__(self) -> list[MediaItem]:
        """Return what waits, at least one item.

        Raises:
            SourceError: the connection broke, or nothing came for too long.
        """
        while True:
            batch = [item for item in await self._next() if item.captured_ns >= self._zero_ns]
            placed = [item for item in map(self._placed, batch) if item is not None]
            if placed:
                self._newest_pts_ns = batch[-1].pts_ns
                return placed

    async def _open(self) -> LiveReader:
        network = self._network
        limit_s = 2 * network.open_timeout_s + GRACE_S
        try:
            async with asyncio.timeout(limit_s):
                return await self._worker.run(
                    _open, self._make_input, network.open_timeout_s, network.read_timeout_s, self._stopping
                )
        except LiveError as error:
            raise _source_error(error) from None
        except TimeoutError:
            message = f"{self._shown}: no answer within {limit_s:g} s"
            raise SourceError(message, ExitCode.UNAVAILABLE, "timed_out") from None

    async def _next(self) -> list[MediaItem]:
        limit_s = self._network.read_timeout_s + GRACE_S
        try:
            return await self._box.get_within(limit_s)
        except TimeoutError:
            message = f"{self._shown}: nothing came for {limit_s:g} s"
            raise SourceError(message, ExitCode.UNAVAILABLE, "no_media") from None
        except MailboxClosed:
            pass
        if self._stopping.is_set():
            raise StopAsyncIteration
        assert self._reading is not None, "__aenter__ comes first"
        broken = await self._reading
        if broken is not None:
            raise _source_error(broken)
        raise StopAsyncIteration

    def _placed(self, item: MediaItem) -> MediaItem | None:
        stretch = self._leaps.number(item)
        return None if stretch is None else self._timeline.place(item, stretch)

    def _read(self, reader: LiveReader, loop: asyncio.AbstractEventLoop) -> LiveError | None:
        """Hand on what comes until told to stop, in the worker's thread.

        Returns:
            why the connection broke.  Raised, it would hold the last pictures by its traceback, and that
            the error, until the next collection of garbage: much memory at many outages.
        """
        try:
            for item in self._paced(reader) if reader.in_bursts else reader:
                if self._stopping.is_set():
                    break
                self._unix_ns = reader.unix_ns
                loop.call_soon_threadsafe(self._box.put_nowait, item)
        except LiveError as error:
            return error.with_traceback(None)
        finally:
            loop.call_soon_threadsafe(self._box.close)
            reader.close()
        return None

    def _paced(self, reader: LiveReader) -> Iterator[MediaItem]:
        """Hold each item until its time has come; it "arrives" then."""
        pace = Pace()
        for item in reader:
            wait_ns = pace.wait_ns(item.pts_ns, time.monotonic_ns())
            if wait_ns and self._stopping.wait(wait_ns / NS_PER_S):
                return
            yield replace(item, captured_ns=time.monotonic_ns())


def _open(
    make_input: Callable[[], LiveInput], open_s: float, read_s: float, stopping: threading.Event
) -> LiveReader:
    from avff.engine.live import open_live  # loads FFmpeg, so in the thread and on demand

    reader = open_live(make_input(), open_s, read_s)
    if stopping.is_set():  # nobody waits any more, and nobody would close it
        reader.close()
    return reader


def _source_error(error: LiveError) -> SourceError:
    return SourceError(str(error), _FINAL.get(error.reason, ExitCode.UNAVAILABLE), error.reason)
