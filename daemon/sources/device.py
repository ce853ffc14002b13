"""What cameras and microphones have in common: a thread that captures, a mailbox, and time to give up.

A driver may open slowly, hang, or just give nothing any more.  The thread can be abandoned at any moment;
what it has opened, it lets go as soon as it comes back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.mailbox import Mailbox, MailboxClosed, Policy
from avff.daemon.worker import Worker

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
FIRST_S = 5.0
"""Cheap cameras need two seconds and more for exposure, and sound servers after a device came back."""
GONE = ExitCode.UNAVAILABLE
T = TypeVar("T")


class DeviceSource(Generic[T]):
    """One device.  A subclass has ``_open``, ``_capture`` and ``_release``, which run in the thread.

    Args:
        name: of the stream.
        thread: beginning of the thread's name.
        told: the device, for people.
        gives: what it gives, for people.
        hint: what may be why it gives nothing from the start, for people; may be empty.
        capacity: items that wait at most; the oldest goes.
    """

    live = True

    def __init__(self, name: str, *, thread: str, told: str, gives: str, hint: str, capacity: int) -> None:
        self.name = name
        self._told, self._gives, self._hint = told, gives, hint
        self._box: Mailbox[T] = Mailbox(capacity, Policy.DROP_OLDEST)
        self._worker = Worker(f"{thread}:{name}")
        self._stopping = threading.Event()
        self._zero_ns = 0
        self._ignored = 0
        self._tried = False

    @property
    def dropped(self) -> int:
        """Items lost since iteration began because nobody took them in time."""
        return self._box.dropped - self._ignored

    async def __aenter__(self) -> Self:
        """Open the device and wait for the first that it gives.

        Raises:
            SourceError: there is no such device, it is busy, or it gives nothing.
        """
        try:
            await self._start()
        except BaseException:  # a cancellation too: the device must be let go, then it goes on
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the device go in its own thread; a driver that never returns is abandoned."""
        self.stop()
        if self._tried:
            self._tried = False
            # Also when opening took too long: it is let go as soon as it is open.
            self._worker.submit(self._release).add_done_callback(self._retrieve)
        # When nothing comes any more, the error that follows has said so.
        await self._worker.close(warn=False)

    def stop(self) -> None:
        """End the iteration after what already waits."""
        self._stopping.set()
        self._box.close()

    def __aiter__(self) -> Self:
        """Start media time now; what came before is not wanted and not counted."""
        self.begin(time.monotonic_ns())
        return self

    def begin(self, zero_ns: int) -> None:
        """Start media time at ``zero_ns`` of the monotonic clock."""
        self._box.clear()
        self._ignored = self._box.dropped
        self._zero_ns = zero_ns

    def _open(self) -> None:
        """Open the device and keep it.

        Raises:
            SourceError: it cannot be opened.
        """
        raise NotImplementedError

    def _capture(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put into the mailbox what the device gives, until told to stop or there is nothing more."""
        raise NotImplementedError

    def _release(self) -> None:
        """Let the device go; twice is once."""
        raise NotImplementedError

    async def _start(self) -> None:
        self._tried = True
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._worker.run(self._open)
        except TimeoutError:
            raise SourceError(f"{self._told} not open after {OPEN_TIMEOUT_S:g} s", GONE) from None
        capturing = self._worker.submit(self._work, asyncio.get_running_loop())
        capturing.add_done_callback(self._retrieve)
        try:
            await self._next(FIRST_S)
        except SourceError:
            raise SourceError(f"{self._told} gives no {self._gives}{self._hint}", GONE) from None

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._capture(loop)
        finally:
            self._release()
            loop.call_soon_threadsafe(self._box.close)

    async def _next(self, timeout_s: float) -> list[T]:
        """Return what waits, at least one item.

        Raises:
            SourceError: there was nothing for so long, or the driver gave up.
        """
        try:
            return await self._box.get_within(timeout_s)
        except MailboxClosed:
            if self._stopping.is_set():
                raise StopAsyncIteration from None
            raise SourceError(f"{self._told} was closed by its driver; was it unplugged?", GONE) from None
        except TimeoutError:
            raise SourceError(
                f"{self._told}: no {self._gives} for {timeout_s:g} s; was it unplugged?", GONE
            ) from None

    def _retrieve(self, done: asyncio.Future[Any]) -> None:
        """Log what the thread died of; that nothing comes any more is reported where it is waited for."""
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("%s: capture stopped: %s", self._told, error)
