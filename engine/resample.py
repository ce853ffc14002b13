"""Sound of any rate, placed on the media timeline at 16 kHz.

``AudioNormaliser`` resamples without seams: one soxr stream runs as long as the
time stamps are continuous, and is flushed and begun anew at a gap, so that sound
from both sides of a gap is never glued together (which would shift the voice
against the lips and look like a manipulation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from avff.engine.media import NS_PER_S, AudioBlock, Float32
from avff.engine.spec import SPEC

CONTINUITY_NS = 40_000_000
"""Time stamps this close to the sample count are continuous: containers round
stamps to a millisecond and codecs to a packet (20-23 ms)."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedAudio:
    """16 kHz samples and the index, counted from media time 0, of the first one."""

    start: int
    pcm: Float32


class AudioNormaliser:
    """Turns audio blocks of any rate into 16 kHz samples placed by their time stamps.

    Args:
        rate_hz: output rate.
    """

    def __init__(self, rate_hz: int = SPEC.rate_hz) -> None:
        self._rate_hz = rate_hz
        self._run: _Run | None = None

    def push(self, block: AudioBlock) -> list[PlacedAudio]:
        """Resample one block; what comes out may lag the input by the filter's delay."""
        placed: list[PlacedAudio] = []
        if self._run is not None and not self._run.continues(block):
            placed += self.flush()
        if self._run is None:
            self._run = _Run(block.pts_ns, block.rate_hz, self._rate_hz)
        placed += self._run.push(block.pcm, last=False)
        return placed

    def flush(self) -> list[PlacedAudio]:
        """End the current run and return what the filter still held."""
        if self._run is None:
            return []
        tail = self._run.push(np.zeros(0, np.float32), last=True)
        self._run = None
        return tail


class VariableResampler:
    """One soxr stream whose ratio may change while it runs, without a seam.

    The filter delays by 2 samples of the input, which is less than 0.1 ms and left as it is.

    Attributes:
        taken: input samples that the output so far stands for; more may have been pushed.
        given: output samples so far.
    """

    MAX_RATIO = 1.01
    """Most input samples for one of the output, or the other way round."""

    def __init__(self) -> None:
        self.taken = 0.0
        self.given = 0
        self._ratio = 1.0
        self._stream = soxr.ResampleStream(self.MAX_RATIO, 1.0, 1, dtype="float32", quality="HQ", vr=True)

    def push(self, pcm: Float32, ratio: float) -> Float32:
        """Resample.

        Args:
            pcm: the next input.
            ratio: input samples for one of the output, from now on.
        """
        self._ratio = min(self.MAX_RATIO, max(1 / self.MAX_RATIO, ratio))
        self._stream.set_io_ratio(self._ratio, 1.0)
        return self._counted(self._stream.resample_chunk(pcm))

    def flush(self) -> Float32:
        """Return what the filter still held; nothing can be pushed afterwards."""
        return self._counted(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))

    def _counted(self, out: Float32) -> Float32:
        self.given += len(out)
        self.taken += len(out) * self._ratio
        return np.asarray(out, np.float32)


class _Run:
    """One stretch of continuous sound and its resampler."""

    def __init__(self, start_ns: int, in_hz: int, out_hz: int) -> None:
        self._start_ns = start_ns
        self._in_hz = in_hz
        self._taken = 0
        self._next = round(start_ns * out_hz / NS_PER_S)
        self._stream = (
            None if in_hz == out_hz else soxr.ResampleStream(in_hz, out_hz, 1, dtype="float32", quality="HQ")
        )

    def continues(self, block: AudioBlock) -> bool:
        expected_ns = self._start_ns + self._taken * NS_PER_S // self._in_hz
        return (
            not block.gap
            and block.rate_hz == self._in_hz
            and abs(block.pts_ns - expected_ns) <= CONTINUITY_NS
        )

    def push(self, pcm: Float32, *, last: bool) -> list[PlacedAudio]:
        self._taken += len(pcm)
        out = pcm if self._stream is None else self._stream.resample_chunk(pcm, last=last)
        if not len(out):
            return []
        placed = PlacedAudio(self._next, np.asarray(out, np.float32))
        self._next += len(out)
        return [placed]
