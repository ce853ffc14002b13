"""Microphones, recorded with PortAudio; its callback only copies, a thread of the source's own does the rest.

A microphone that is unplugged raises nothing: the callbacks just stop.  So the age of the newest sound
decides, whatever the driver says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from avff.daemon.sources.base import SourceSettings
from avff.daemon.sources.device import DeviceSource
from avff.daemon.sources.portaudio import BLOCK_HZ, Recorder, open_recorder
from avff.daemon.sources.ring import SoundRing
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem
from avff.engine.steady import SteadySound

log = logging.getLogger(__name__)

SOUND_TIMEOUT_S = 0.8
"""A lost microphone is to be told within a second; sound comes 50 times a second, in bursts of some."""
WARM_UP_NS = 700_000_000
"""After opening, sound servers tell delays that are wrong by up to 0.3 s; that sound is not used."""
RING_S = 2
POLL_S = 0.1
_SEAM_NS = 1_000_000
"""Blocks that follow each other meet to a fraction of a sample; more is a dropped one."""


def open_mic(rest: str, name: str | None, settings: SourceSettings) -> MicrophoneSource:
    """Return the source for a microphone: nothing = the default one, a number, a name or a part of one."""
    return MicrophoneSource(rest, name or (f"mic:{rest}" if rest else "mic"), settings)


class MicrophoneSource(DeviceSource[AudioBlock]):
    """One microphone.

    Args:
        which: a number, a name or a part of one; empty for the default microphone.
        name: of the stream.
        settings: queue sizes, and how late the microphone is.
        open_device: opens the device, in the recording thread; a seam for tests.
    """

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
        super().__init__(
            name, thread="record", told=f"microphone {which}" if which else "the default microphone",
            gives="sound", hint="", capacity=settings.queues.live_blocks,
        )  # fmt: skip
        self._which = which
        self._offset_ms = settings.microphone.sync_offset_ms
        self._open_device = open_device
        self._recorder: Recorder | None = None
        self._end_ns: int | None = None

    def begin(self, zero_ns: int) -> None:
        """Start media time at ``zero_ns`` of the monotonic clock; sound from before is not wanted."""
        super().begin(zero_ns)
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

    def _open(self) -> None:
        self._recorder = self._open_device(self._which)

    def _capture(self, loop: asyncio.AbstractEventLoop) -> None:
        recorder = self._recorder
        assert recorder is not None, "_open() comes first"
        ring = SoundRing(
            RING_S * BLOCK_HZ, -(-recorder.rate_hz // BLOCK_HZ),
            rate_hz=recorder.rate_hz, delay_s=recorder.delay_s,
        )  # fmt: skip
        steady = SteadySound(recorder.rate_hz)
        try:
            self._record(recorder, ring, steady, loop)
        finally:
            log.debug("%s: drift %.1f ppm, %d gaps", self._told, steady.drift_ppm, steady.gaps)
            if ring.overflows or ring.refused:
                log.warning(
                    "%s: sound was lost: by its driver %d times, here %.2f s",
                    self._told, ring.overflows, ring.refused_s,
                )  # fmt: skip

    def _record(
        self, recorder: Recorder, ring: SoundRing, steady: SteadySound, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Hand sound on until told to stop or the driver gives up."""
        ready_ns: int | None = None
        recorder.start(ring.write)
        while not self._stopping.is_set():
            alive = recorder.alive  # before the ring is emptied: what came last is still taken
            while (block := ring.take()) is not None:
                ready_ns = ready_ns or block.captured_ns + WARM_UP_NS
                for made in steady.push(block) if block.captured_ns >= ready_ns else ():
                    loop.call_soon_threadsafe(self._box.put_nowait, made)
            if not alive:
                return
            ring.wait(POLL_S)

    def _release(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()


def _end_ns(block: AudioBlock) -> int:
    return block.pts_ns + len(block.pcm) * NS_PER_S // block.rate_hz
