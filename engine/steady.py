"""A microphone's blocks, made steady: exactly their nominal rate, on the monotonic clock.

``SteadySound`` takes what a sound card delivers, with the card's counter and stamps, and gives blocks whose
time stamps are true and follow each other without a seam: the card's drift is resampled away, a little at a
time.  Where samples are missing the next block says so and begins at its own true time.  Nothing is glued.

Pure: time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from avff.engine.clock import DeviceClock
from avff.engine.media import NS_PER_S, AudioBlock, Float32
from avff.engine.resample import VariableResampler

JUMP_NS = 40_000_000
"""A stamp this far off the counter's line may mean that samples are missing; or it is just late."""
FLAGGED_NS = 5_000_000
"""The same where the driver says that it lost something."""
CONFIRM_NS = 200_000_000
"""Sound whose stamps are all off waits this long for one that is not; then samples are missing."""
SETTLE_NS = 5 * NS_PER_S
"""Time constant with which sound is moved to where the line says it belongs."""
MAX_PULL = 2e-3
"""Most that sound is stretched for that, besides the drift: 3 cents, which nobody hears."""
MAX_OFF_NS = 80_000_000
"""Further than this it is not moved, but begins anew."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBlock:
    """What a device delivers at a time.

    Attributes:
        pcm: float32 ``[n]``, mono.
        lost: samples before it that are known to be missing.
        stamp_ns: monotonic time at which the first sample was captured, as far as the device knows.
        captured_ns: monotonic time of arrival.
        flagged: whether the driver says that it lost samples before these, without saying how many.
    """

    pcm: Float32
    lost: int
    stamp_ns: int
    captured_ns: int
    flagged: bool = False


class SteadySound:
    """Puts one device's sound on the monotonic clock; media time begins where the caller wants it.

    Args:
        rate_hz: nominal rate of the device.

    Attributes:
        gaps: places so far where sound does not go on from the sound before.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._clock = DeviceClock(rate_hz)
        self._count = 0
        self._waiting: list[DeviceBlock] = []
        self._run: _Run | None = None
        self._end_ns: int | None = None
        self._captured_ns = 0
        self.gaps = 0

    @property
    def drift_ppm(self) -> float:
        """How much slower than the monotonic clock the device runs, in parts per million."""
        return self._clock.drift_ppm

    @property
    def error_ns(self) -> int | None:
        """How far off the blocks' times may be, in ns; None as long as nothing can be said."""
        error_ns = self._clock.error_ns
        if error_ns is None or self._run is None:
            return None
        return error_ns + abs(self._run.off_ns(self._clock))

    def push(self, block: DeviceBlock) -> list[AudioBlock]:
        """Take in the device's next block; what comes out has ``pts_ns`` on the monotonic clock."""
        made: list[AudioBlock] = []
        if block.lost:
            made += [*self._release(), *self._end_run()]
            self._count += block.lost
        self._waiting.append(block)
        off_ns = self._off_ns(block)
        if abs(off_ns) <= (FLAGGED_NS if block.flagged else JUMP_NS):
            self._clock.observe(self._count_of_last(), block.stamp_ns)
        elif block.flagged or self._waited_ns() >= CONFIRM_NS:
            made += self._end_run()
            self._jump()
        else:
            return made
        return [*made, *self._release()]

    def flush(self) -> list[AudioBlock]:
        """Return what is left: the device was closed."""
        return [*self._release(), *self._end_run()]

    def _off_ns(self, block: DeviceBlock) -> int:
        """Return how much later the stamp of the newest block is than its count; 0 for the first."""
        if not self._clock.started:
            return 0
        return block.stamp_ns - self._clock.time_ns(self._count_of_last())

    def _count_of_last(self) -> int:
        return self._count + sum(len(block.pcm) for block in self._waiting[:-1])

    def _waited_ns(self) -> int:
        return sum(len(block.pcm) for block in self._waiting) * NS_PER_S // self._rate_hz

    def _jump(self) -> None:
        """Count the samples that the stamps say are missing (or fewer, where the device gave some twice)."""
        count, off = self._count, []
        for block in self._waiting:
            off.append(block.stamp_ns - self._clock.time_ns(count))
            count += len(block.pcm)
        missing_ns = min(off, key=abs)
        self._count += round(missing_ns * self._rate_hz / NS_PER_S)

    def _release(self) -> Iterator[AudioBlock]:
        """Resample what waits."""
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            yield from self._resample(block)
            self._count += len(block.pcm)

    def _resample(self, block: DeviceBlock) -> Iterator[AudioBlock]:
        if self._run is not None and abs(self._run.off_ns(self._clock)) > MAX_OFF_NS:
            yield from self._end_run()
        pcm = block.pcm
        if self._run is None:
            pcm = pcm[self._overlap() :]
            if not len(pcm):
                return
            first = self._count + len(block.pcm) - len(pcm)
            self._run = _Run(first, self._clock.time_ns(first), self._rate_hz)
            self.gaps += self._end_ns is not None
        yield from self._block(*self._run.push(pcm, self._clock), block.captured_ns)

    def _overlap(self) -> int:
        """Return how many of the next samples belong before the end of the sound so far."""
        if self._end_ns is None:
            return 0
        early_ns = self._end_ns - self._clock.time_ns(self._count)
        return max(0, -(-early_ns * self._rate_hz // NS_PER_S))

    def _end_run(self) -> Iterator[AudioBlock]:
        if self._run is not None:
            yield from self._block(*self._run.flush(), self._captured_ns)
        self._run = None

    def _block(self, start_ns: int, pcm: Float32, captured_ns: int) -> Iterator[AudioBlock]:
        assert self._run is not None, "only a run makes sound"
        self._captured_ns = captured_ns
        if not len(pcm):
            return
        gap, self._run.fresh = self._run.fresh and self._end_ns is not None, False
        self._end_ns = self._run.end_ns
        yield AudioBlock(start_ns, pcm, self._rate_hz, captured_ns, gap=gap, error_ns=self.error_ns)


class _Run:
    """One stretch of sound without a gap.

    Args:
        first: count of its first sample.
        start_ns: monotonic time of that sample.
        rate_hz: of what goes in and comes out.

    Attributes:
        fresh: whether nothing came out yet.
    """

    def __init__(self, first: int, start_ns: int, rate_hz: int) -> None:
        self.fresh = True
        self._first = first
        self._start_ns = start_ns
        self._rate_hz = rate_hz
        self._resampler = VariableResampler()

    @property
    def end_ns(self) -> int:
        """Time of the first sample that has not come out yet."""
        return self._start_ns + self._resampler.given * NS_PER_S // self._rate_hz

    def off_ns(self, clock: DeviceClock) -> int:
        """Return how much later the sound at the end of what came out belongs than it was placed."""
        return clock.time_ns(self._first + self._resampler.taken) - self.end_ns

    def push(self, pcm: Float32, clock: DeviceClock) -> tuple[int, Float32]:
        """Resample with the clock's drift, and a pull to where the sound belongs; return start and sound."""
        pull = min(MAX_PULL, max(-MAX_PULL, self.off_ns(clock) / SETTLE_NS))
        start_ns = self.end_ns
        return start_ns, self._resampler.push(pcm, 1 / (1 + clock.drift_ppm * 1e-6 + pull))

    def flush(self) -> tuple[int, Float32]:
        """Return start and sound of what the filter still held."""
        start_ns = self.end_ns
        return start_ns, self._resampler.flush()
