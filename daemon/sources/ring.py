"""From a sound card's callback to the thread that works: a ring that neither waits nor allocates."""

from __future__ import annotations

import threading
import time

import numpy as np

from avff.engine.media import NS_PER_S, Float32
from avff.engine.steady import DeviceBlock

MAX_DELAY_S = 2.0
"""A driver that claims to be further behind than this does not know its delay."""


class SoundRing:
    """Blocks from one callback to one reader.  A full ring refuses blocks and counts their samples.

    Args:
        blocks: most that wait.
        length: most samples in one.
        rate_hz: of the device.
        delay_s: from a sample's capture to its callback, for drivers that do not tell.

    Attributes:
        refused: samples lost because the ring was full.
        overflows: times that the driver said it lost samples.
    """

    def __init__(self, blocks: int, length: int, *, rate_hz: int, delay_s: float) -> None:
        self._pcm = np.zeros((blocks, length), np.float32)
        self._facts: list[tuple[int, int, int, int, bool]] = [(0, 0, 0, 0, False)] * blocks
        self._rate_hz = rate_hz
        self._delay_s = delay_s
        self._written = 0
        self._read = 0
        self._lost = 0
        self._flagged = False
        self._arrived = threading.Event()
        self.refused = 0
        self.overflows = 0

    @property
    def refused_s(self) -> float:
        """Sound lost because the ring was full, in s."""
        return self.refused / self._rate_hz

    def write(self, indata: Float32, adc_s: float, current_s: float, overflow: bool) -> None:
        """Copy a block in; for the callback.

        Args:
            indata: float32 ``[n, channels]``, no longer than the ring's blocks.
            adc_s, current_s: the driver's clock at the first sample's capture, and now; 0 where not known.
            overflow: whether the driver lost samples before this block.
        """
        now_ns = time.monotonic_ns()
        length = len(indata)
        self.overflows += overflow
        self._flagged |= overflow
        if self._written - self._read >= len(self._facts):
            self._lost += length
            self.refused += length
            return
        at = self._written % len(self._facts)
        np.mean(indata, axis=1, out=self._pcm[at, :length])
        stamp_ns = now_ns - round(self._delay(adc_s, current_s, length) * NS_PER_S)
        self._facts[at] = (length, self._lost, stamp_ns, now_ns, self._flagged)
        self._lost, self._flagged = 0, False
        self._written += 1  # last: from here on the reader may take it
        self._arrived.set()

    def wait(self, timeout_s: float) -> None:
        """Wait for a block; for the reader."""
        self._arrived.wait(timeout_s)
        self._arrived.clear()

    def take(self) -> DeviceBlock | None:
        """Return the oldest block, or None; for the reader."""
        if self._read == self._written:
            return None
        at = self._read % len(self._facts)
        length, lost, stamp_ns, captured_ns, flagged = self._facts[at]
        block = DeviceBlock(self._pcm[at, :length].copy(), lost, stamp_ns, captured_ns, flagged)
        self._read += 1  # last: from here on the callback may write over it
        return block

    def _delay(self, adc_s: float, current_s: float, length: int) -> float:
        """Return how long ago the first sample was captured; of the driver's clock only differences count."""
        delay_s = current_s - adc_s
        if adc_s > 0 and current_s > 0 and 0 <= delay_s <= MAX_DELAY_S:
            return delay_s
        return max(self._delay_s, length / self._rate_hz)
