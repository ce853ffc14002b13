"""Microphones, recorded with PortAudio; its callback only copies, a thread of the source's own does the rest.

A microphone that is unplugged raises nothing: the callbacks just stop.  So the age of the newest sound
decides, whatever the driver says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.mailbox import Mailbox, MailboxClosed, Policy
from avff.daemon.sources.base import SourceSettings
from avff.daemon.sources.portaudio import BLOCK_HZ, Recorder, open_recorder
from avff.daemon.sources.ring import SoundRing
from avff.daemon.worker import Worker
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem
from avff.engine.steady import SteadySound

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
FIRST_SOUND_S = 5.0
"""Sound servers need up to two seconds after a device came back."""
SOUND_TIMEOUT_S = 0.8
"""A lost microphone is to be told within a second; sound comes 50 times a second, in bursts of some."""
WARM_UP_NS = 700_000_000
"""After opening, sound servers tell delays that are wrong by up to 0.3 s; that sound is not used."""
RING_S = 2
POLL_S = 0.1
_GONE = ExitCode.UNAVAILABLE
_SEAM_NS = 1_000_000
"""Blocks that follow each other meet to a fraction of a sample; more is a dropped one."""


def open_mic(rest: str, name: str | None, settings: SourceSettings) -> MicrophoneSource:
    """Return the source for a microphone: nothing = the default one, a number, a name or a part of one."""
    return MicrophoneSource(rest, name or (f"mic:{rest}" if rest else "mic"), settings)


class MicrophoneSource:
    """One microphone.

    Args:
        which: a number, a name or a part of one; empty for the default microphone.
        name: of the stream.
        settings: queue sizes, and how late the microphone is.
        open_device: opens the device, in the recording thread; a seam for tests.
    """

    live = True
    has_video = False
    has_audio = True
    max_skew_ns: int | None = None

    def __init__(
        self,
        which: str,
        name: str,
        settings: SourceSettings,
        open_device: Callable[[str], Recorder] = open_recorder,
    ) -> None:
        self.name = name
        self._which = which
        self._offset_ms = settings.microphone.sync_offset_ms
        self._open_device = open_device
        self._box: Mailbox[AudioBlock] = Mailbox(settings.queues.live_blocks, Policy.DROP_OLDEST)
        self._worker = Worker(f"record:{name}")
        self._stopping = threading.Event()
        self._ring: SoundRing | None = None
        self._zero_ns = 0
        self._end_ns: int | None = None
        self._ignored = 0

    @property
    def dropped(self) -> int:
        """Blocks lost since iteration began because nobody took them in time."""
        return self._box.dropped - self._ignored

    async def __aenter__(self) -> Self:
        """Open the microphone and wait for its first sound.

        Raises:
            SourceError: there is no PortAudio, no such microphone, it is busy, or it gives no sound.
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
        """Let the microphone go in its own thread; a driver that never returns is abandoned."""
        self.stop()
        await self._worker.close(warn=False)
        if self._ring is not None and (self._ring.overflows or self._ring.refused):
            log.warning(
                "%s: sound was lost: by its driver %d times, here %.2f s",
                self._told(), self._ring.overflows, self._ring.refused_s,
            )  # fmt: skip
            self._ring = None

    def stop(self) -> None:
        """End the iteration after the sound that already waits."""
        self._stopping.set()
        self._box.close()

    def __aiter__(self) -> Self:
        """Start media time now."""
        self.begin(time.monotonic_ns())
        return self

    def begin(self, zero_ns: int) -> None:
        """Start media time at ``zero_ns`` of the monotonic clock; sound from before is not wanted."""
        self._box.clear()
        self._ignored = self._box.dropped
        self._zero_ns = zero_ns
        self._end_ns = None

    async def __anext__(self) -> list[MediaItem]:
        """Return the sound that waits, at least one block.

        Raises:
            SourceError: the microphone gave none for ``SOUND_TIMEOUT_S``, or was closed by its driver.
        """
        while True:
            blocks = await self._next(SOUND_TIMEOUT_S)
            batch: list[MediaItem] = [b for b in map(self._on_media_time, blocks) if _end_ns(b) > 0]
            if batch:
                return batch

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                recorder = await self._worker.run(self._open_device, self._which)
        except TimeoutError:
            raise SourceError(f"{self._told()} not open after {OPEN_TIMEOUT_S:g} s", _GONE) from None
        self._ring = SoundRing(
            RING_S * BLOCK_HZ,
            -(-recorder.rate_hz // BLOCK_HZ),
            rate_hz=recorder.rate_hz,
            delay_s=recorder.delay_s,
        )
        recording = self._worker.submit(self._record, recorder, self._ring, asyncio.get_running_loop())
        recording.add_done_callback(self._retrieve)
        try:
            await self._next(FIRST_SOUND_S)
        except SourceError:
            raise SourceError(f"{self._told()} gives no sound", _GONE) from None

    async def _next(self, timeout_s: float) -> list[AudioBlock]:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._box.get_many(self._box.capacity)
        except MailboxClosed:
            if self._stopping.is_set():
                raise StopAsyncIteration from None
            raise SourceError(f"{self._told()} was closed by its driver; was it unplugged?", _GONE) from None
        except TimeoutError:
            if len(self._box):  # the event loop was busy, not the microphone gone
                return await self._box.get_many(self._box.capacity)
            raise SourceError(
                f"{self._told()}: no sound for {timeout_s:g} s; was it unplugged?", _GONE
            ) from None

    def _on_media_time(self, block: AudioBlock) -> AudioBlock:
        """Move a block to media time; after one that was dropped, it is not joined to the one before."""
        offset_ns = round((self._offset_ms or 0.0) * 1e6)
        missed = self._end_ns is not None and block.pts_ns - self._end_ns > _SEAM_NS
        self._end_ns = _end_ns(block)
        return replace(
            block,
            pts_ns=block.pts_ns - self._zero_ns - offset_ns,
            gap=block.gap or missed,
            # What the driver does not say of its delay, nor the camera's of its own, nobody knows
            # until it is measured.
            error_ns=None if self._offset_ms is None else block.error_ns,
        )

    def _record(self, recorder: Recorder, ring: SoundRing, loop: asyncio.AbstractEventLoop) -> None:
        """Hand sound on until told to stop or the driver gives up, in the worker's thread."""
        steady = SteadySound(recorder.rate_hz)
        ready_ns: int | None = None
        try:
            recorder.start(ring.write)
            while not self._stopping.is_set():
                alive = recorder.alive  # before the ring is emptied: what came last is still taken
                while (block := ring.take()) is not None:
                    ready_ns = ready_ns or block.captured_ns + WARM_UP_NS
                    for made in steady.push(block) if block.captured_ns >= ready_ns else ():
                        loop.call_soon_threadsafe(self._box.put_nowait, made)
                if not alive:
                    break
                ring.wait(POLL_S)
        finally:
            recorder.close()
            loop.call_soon_threadsafe(self._box.close)
        log.debug("%s: drift %.1f ppm, %d gaps", self._told(), steady.drift_ppm, steady.gaps)

    def _retrieve(self, recording: asyncio.Future[None]) -> None:
        """Log what a recording thread died of; the watchdog reports the missing sound."""
        if not recording.cancelled() and (error := recording.exception()) is not None:
            log.warning("%s: recording stopped: %s", self._told(), error)

    def _told(self) -> str:
        return f"microphone {self._which}" if self._which else "the default microphone"


def _end_ns(block: AudioBlock) -> int:
    return block.pts_ns + len(block.pcm) * NS_PER_S // block.rate_hz
