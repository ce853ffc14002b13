from __future__ import annotations

import time

import numpy as np
import pytest

from avff.daemon.sources.ring import SoundRing
from avff.engine.media import Float32

RATE_HZ = 48_000
LENGTH = 960


def _ring(blocks: int = 4) -> SoundRing:
    return SoundRing(blocks, LENGTH, rate_hz=RATE_HZ, delay_s=0.1)


def _block(value: float, channels: int = 1, length: int = LENGTH) -> Float32:
    return np.full((length, channels), value, np.float32)


def test_blocks_come_out_in_order_and_are_copies() -> None:
    """The driver may use its memory again at once."""
    ring, memory = _ring(), _block(0.0)
    for value in (0.1, 0.2, 0.3):
        memory[:] = value
        ring.write(memory, 0.0, 0.0, False)
    taken = [ring.take() for _ in range(4)]
    assert [None if b is None else round(float(b.pcm[0]), 3) for b in taken] == [0.1, 0.2, 0.3, None]


def test_channels_are_mixed() -> None:
    """Two channels become their mean."""
    ring, stereo = _ring(), _block(0.0, channels=2)
    stereo[:, 0], stereo[:, 1] = 0.2, 0.6
    ring.write(stereo, 0.0, 0.0, False)
    block = ring.take()
    assert block is not None
    np.testing.assert_allclose(block.pcm, 0.4, rtol=1e-6)


def test_a_full_ring_refuses_and_the_next_block_tells() -> None:
    """What was refused is known to the sample, also when it was of another length."""
    ring = _ring(2)
    for length in (LENGTH, LENGTH, LENGTH, 100):
        ring.write(_block(0.0, length=length), 0.0, 0.0, False)
    assert ring.refused == LENGTH + 100
    assert ring.take() is not None
    ring.write(_block(0.0), 0.0, 0.0, False)
    lost = [block.lost for block in (ring.take(), ring.take()) if block is not None]
    assert lost == [0, LENGTH + 100]


def test_driver_losses_are_counted_and_flagged() -> None:
    """A flag that comes with a refused block is not forgotten."""
    ring = _ring(1)
    ring.write(_block(0.0), 0.0, 0.0, True)
    ring.write(_block(0.0), 0.0, 0.0, True)
    first = ring.take()
    ring.write(_block(0.0), 0.0, 0.0, False)
    second = ring.take()
    ring.write(_block(0.0), 0.0, 0.0, False)
    third = ring.take()
    assert [b is not None and b.flagged for b in (first, second, third)] == [True, True, False]
    assert ring.overflows == 2


@pytest.mark.parametrize(
    ("adc_s", "current_s", "delay_ms"),
    [
        (1_795_864_209.04, 1_795_864_209.09, 50),
        (7.5, 7.5, 0),
        (0.0, 7.5, 100),
        (7.4, 0.0, 100),
        (9.0, 7.5, 100),
        (1.0, 7.5, 100),
    ],
    ids=["wall clock", "no delay", "no capture time", "no current time", "in the future", "too old"],
)
def test_capture_time_is_taken_from_differences(adc_s: float, current_s: float, delay_ms: float) -> None:
    """The driver's clock may be any; where it says nothing sensible, its general delay counts."""
    ring = _ring()
    ring.write(_block(0.0), adc_s, current_s, False)
    block = ring.take()
    assert block is not None
    assert (block.captured_ns - block.stamp_ns) / 1e6 == pytest.approx(delay_ms, abs=0.01)
    assert 0 <= time.monotonic_ns() - block.captured_ns < 10**10
