"""A camera and a microphone as one stream: one zero of media time for both, from the monotonic clock.

Either may be lost while the other goes on; it is opened again, later and later, for as long as it takes.
Only when both are gone at once is the stream lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from random import Random
from types import TracebackType
from typing import Any, Protocol, Self

from avff.daemon.errors import SourceError
from avff.daemon.sources.backoff import BackOff
from avff.daemon.sources.base import Source
from avff.engine.media import MediaItem

log = logging.getLogger(__name__)

MAX_SKEW_NS = 800_000_000
"""Sound comes a few hundred milliseconds late where a sound server collects it first, and a measured offset
may add to that."""


class Device(Source, Protocol):
    """A live source whose media time can be made to begin at a given moment."""

    def begin(self, zero_ns: int) -> None:
        """Start media time at ``zero_ns`` of the monotonic clock."""
        ...

    async def __anext__(self) -> list[MediaItem]:
        """Return the next batch."""
        ...


class CameraAndMicrophone:
    """Plays two devices on one timeline, each in order, as they come.

    Args:
        name: of the stream.
        make_camera, make_microphone: make a source that was not open yet; called again after a loss.
    """

    live = True
    has_video = True

    def __init__(
        self, name: str, make_camera: Callable[[], Device], make_microphone: Callable[[], Device]
    ) -> None:
        self.name = name
        self.has_audio = False
        self._camera = _Side(f"{name}: picture", make_camera)
        self._microphone = _Side(f"{name}: sound", make_microphone)
        self._waiting: dict[asyncio.Task[list[MediaItem] | None], _Side] = {}
        self._stopped = False

    @property
    def max_skew_ns(self) -> int | None:
        """How far picture and sound may arrive apart."""
        return MAX_SKEW_NS if self.has_audio else self._camera.device.max_skew_ns

    @property
    def dropped(self) -> int:
        """Pictures and blocks of sound lost so far because nobody took them in time."""
        return self._camera.dropped + self._microphone.dropped

    async def __aenter__(self) -> Self:
        """Open both at the same time; without a microphone it is a camera alone, with a warning.

        Raises:
            SourceError: the camera cannot be opened.
        """
        opening = [asyncio.ensure_future(side.open()) for side in (self._camera, self._microphone)]
        try:
            camera, microphone = opening
            await camera
            try:
                await microphone
                self.has_audio = True
            except SourceError as error:
                log.warning("%s: pictures only: %s", self.name, error)
        except BaseException:  # a cancellation too: what is open is let go, then it goes on
            await self._close(opening)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let both devices go."""
        await self._close(self._waiting)

    def stop(self) -> None:
        """End the iteration after what already waits."""
        self._stopped = True
        self._camera.device.stop()
        self._microphone.device.stop()
        for task, side in self._waiting.items():
            if side.lost:  # nothing waits there, and opening again may take long
                task.cancel()

    def __aiter__(self) -> Self:
        """Start media time now, for both."""
        zero_ns = time.monotonic_ns()
        for side in (self._camera, self._microphone) if self.has_audio else (self._camera,):
            side.begin(zero_ns)
            self._await(side)
        return self

    async def __anext__(self) -> list[MediaItem]:
        """Return the next batch of either device.

        Raises:
            SourceError: both are lost.
        """
        while self._waiting:
            done, _ = await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)
            # One at a time, and first the one that has waited longest: neither can starve the other.
            task = next(task for task in self._waiting if task in done)
            side = self._waiting.pop(task)
            batch = await self._taken(task, side)
            if batch is not None:
                return batch
        raise StopAsyncIteration

    async def _taken(self, task: asyncio.Task[list[MediaItem] | None], side: _Side) -> list[MediaItem] | None:
        """Return a side's batch and wait for its next; None when it has ended, or is to be opened again."""
        if task.cancelled():
            return None
        error = task.exception()
        if error is None:
            if task.result() is not None:
                self._await(side)
            return task.result()
        if self._stopped and isinstance(error, SourceError):
            return None
        if not isinstance(error, SourceError) or all(other.lost for other in self._waiting.values()):
            raise error
        log.warning("%s lost, the other goes on: %s", side.name, error)
        side.lost = True
        self._await(side)
        return None

    def _await(self, side: _Side) -> None:
        self._waiting[asyncio.ensure_future(side.next())] = side

    async def _close(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting.clear()
        await asyncio.gather(self._camera.close(), self._microphone.close())


class _Side:
    """One of the two devices, through its losses.

    Attributes:
        name: for log lines.
        device: the source that is, or will be, open.
        lost: whether it is gone and to be opened again.
    """

    def __init__(self, name: str, make: Callable[[], Device]) -> None:
        self.name = name
        self.device = make()
        self.lost = False
        self._make = make
        self._open = False
        self._zero_ns = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped + self.device.dropped

    async def open(self) -> None:
        await self.device.__aenter__()
        self._open = True

    async def close(self) -> None:
        if self._open:
            self._open = False
            await self.device.__aexit__(None, None, None)

    def begin(self, zero_ns: int) -> None:
        self._zero_ns = zero_ns
        self.device.begin(zero_ns)

    async def next(self) -> list[MediaItem] | None:
        """Return the next batch, or None after the last; a lost device is opened again first.

        Raises:
            SourceError: it was lost just now.
        """
        if self.lost:
            await self._recover()
        try:
            return await anext(self.device)
        except StopAsyncIteration:
            return None

    async def _recover(self) -> None:
        """Open the device anew, for as long as it takes."""
        await self.close()
        back_off = BackOff(Random())
        while not self._open:
            await asyncio.sleep(back_off.next_s())
            self._dropped += self.device.dropped
            self.device = self._make()
            with contextlib.suppress(SourceError):  # still gone
                await self.open()
        self.device.begin(self._zero_ns)
        self.lost = False
        log.warning("%s is back", self.name)
