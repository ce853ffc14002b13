from __future__ import annotations

import numpy as np
import pytest

from avff.engine.clock import BINS, MAX_DRIFT, MIN_BINS, DeviceClock
from avff.engine.media import NS_PER_S

RATE_HZ = 48_000
BLOCK = 960
START_NS = 5_000 * NS_PER_S + 123


def _true_ns(count: int, ppm: float) -> int:
    return START_NS + round(count * (1 + ppm * 1e-6) * NS_PER_S / RATE_HZ)


def _clock(late_ms: np.ndarray, ppm: float = 0.0) -> DeviceClock:
    """A clock that has seen blocks of 20 ms whose stamps are late by so much."""
    clock = DeviceClock(RATE_HZ)
    for k, late in enumerate(late_ms):
        clock.observe(k * BLOCK, _true_ns(k * BLOCK, ppm) + round(late * 1e6))
    return clock


def _off_ms(clock: DeviceClock, count: int, ppm: float = 0.0) -> float:
    return (clock.time_ns(count) - _true_ns(count, ppm)) / 1e6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ppm", [-1000.0, -100.0, 0.0, 20.0, 100.0, 1000.0])
def test_drift_and_offset_are_found(ppm: float, seed: int) -> None:
    """From stamps that are a little off, whatever the drift."""
    blocks = 60 * 50
    clock = _clock(np.random.default_rng(seed).normal(0, 0.5, blocks), ppm)
    assert clock.drift_ppm == pytest.approx(ppm, abs=10)
    assert abs(_off_ms(clock, blocks * BLOCK, ppm)) < 1
    assert clock.error_ns is not None
    assert clock.error_ns < 3_000_000


@pytest.mark.parametrize("ppm", [0.0, 1000.0])
@pytest.mark.parametrize("seed", range(5))
def test_time_is_known_after_ten_seconds(ppm: float, seed: int) -> None:
    """To ± 20 ms where stamps come up to 40 ms late, as those of callbacks do."""
    late_ms = np.random.default_rng(seed).uniform(0, 40, 10 * 50)
    clock = _clock(late_ms, ppm)
    assert abs(_off_ms(clock, 500 * BLOCK, ppm)) < 20
    assert clock.error_ns is not None


@pytest.mark.parametrize("outlier_ms", [-500.0, 300.0, 5000.0])
@pytest.mark.parametrize("seed", range(3))
def test_few_bad_stamps_do_not_bend_the_line(outlier_ms: float, seed: int) -> None:
    """One in ten may be anything."""
    random = np.random.default_rng(seed)
    late_ms = random.normal(0, 0.3, 30 * 50)
    late_ms[random.random(len(late_ms)) < 0.1] = outlier_ms
    late_ms[0] = 0
    clock = _clock(late_ms, 100.0)
    assert abs(_off_ms(clock, 1500 * BLOCK, 100.0)) < 2
    assert clock.drift_ppm == pytest.approx(100, abs=30)


def test_a_busy_second_does_not_bend_the_line() -> None:
    """When nobody could answer callbacks for a second, all of its stamps are late."""
    late_ms = np.zeros(40 * 50)
    late_ms[1000:1050] = np.linspace(1000, 0, 50)
    assert abs(_off_ms(_clock(late_ms), 2000 * BLOCK)) < 0.1


def test_error_is_not_known_at_first_and_grows_with_the_spread() -> None:
    """Nothing is said before there are some seconds; worse stamps are told apart."""
    assert _clock(np.zeros(10)).error_ns is None
    assert _clock(np.zeros(MIN_BINS * 50)).error_ns is None  # the last second is not over
    good, bad = (
        _clock(np.random.default_rng(1).uniform(0, spread_ms, 20 * 50)).error_ns for spread_ms in (1, 60)
    )
    assert good is not None
    assert bad is not None
    assert good < 2_000_000 < 20_000_000 < bad


def test_drift_follows_a_change() -> None:
    """A crystal that warms up is followed within the time that is kept."""
    clock = DeviceClock(RATE_HZ)
    now_ns = START_NS
    for k in range((BINS + 60) * 2 * 50):
        ppm = 20 if k < 3000 else 60
        clock.observe(k * BLOCK, now_ns)
        now_ns += round(BLOCK * (1 + ppm * 1e-6) * NS_PER_S / RATE_HZ)
    assert clock.drift_ppm == pytest.approx(60, abs=1)


def test_drift_is_bounded() -> None:
    """A line that no crystal draws is not believed."""
    assert _clock(np.zeros(30 * 50), 50_000.0).drift_ppm == pytest.approx(MAX_DRIFT * 1e6)


def test_memory_does_not_grow() -> None:
    """Of three hours of stamps no more is kept than of ten minutes; huge counts lose no precision."""
    clock = DeviceClock(RATE_HZ)
    for k in range(3 * 3600):  # one stamp a second
        clock.observe(k * RATE_HZ, _true_ns(k * RATE_HZ, 100))
    assert len(clock._points) <= BINS
    assert len(clock._filling) <= 2
    count = 3 * 3600 * RATE_HZ
    assert abs(_off_ms(clock, count, 100)) < 0.01
    assert clock.time_ns(count + 0.5) - clock.time_ns(count) == pytest.approx(NS_PER_S / RATE_HZ / 2, abs=2)
