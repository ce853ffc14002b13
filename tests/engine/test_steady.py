from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from avff.engine.grid import SampleGrid
from avff.engine.media import NS_PER_S, AudioBlock, Float32
from avff.engine.resample import AudioNormaliser, VariableResampler
from avff.engine.steady import DeviceBlock, SteadySound
from tests.support.engine import assembled

RATE_HZ = 48_000
BLOCK = 960
START_NS = 1_000 * NS_PER_S


def _device(sound: Float32, *, ppm: float = 0.0, jitter_ms: float = 0.2) -> Iterator[DeviceBlock]:
    """What a device with such a drift delivers of a sound that is given at its own rate."""
    random = np.random.default_rng(3)
    for first in range(0, len(sound) - BLOCK + 1, BLOCK):
        true_ns = _when(first, ppm)
        stamp_ns = true_ns + round(random.normal(0, jitter_ms) * 1e6)
        yield DeviceBlock(sound[first : first + BLOCK], 0, stamp_ns, true_ns + 20_000_000)


def _when(count: float, ppm: float) -> int:
    return START_NS + round(count * (1 + ppm * 1e-6) * NS_PER_S / RATE_HZ)


def _steady(blocks: Iterable[DeviceBlock]) -> list[AudioBlock]:
    steady = SteadySound(RATE_HZ)
    return [made for block in blocks for made in steady.push(block)] + steady.flush()


def _seams(made: list[AudioBlock]) -> list[int]:
    """How far each block begins after the end of the one before, in ns; 0 where it goes on."""
    off = [b.pts_ns - _end_ns(a) for a, b in itertools.pairwise(made)]
    return [ns for ns in off if abs(ns) > 1]


def _end_ns(block: AudioBlock) -> int:
    return block.pts_ns + len(block.pcm) * NS_PER_S // block.rate_hz


def _clicks(seconds: float) -> tuple[Float32, list[int]]:
    """A click every half second, and their places."""
    sound = np.zeros(round(seconds * RATE_HZ), np.float32)
    places = list(range(RATE_HZ // 4, len(sound) - BLOCK, RATE_HZ // 2))
    sound[places] = 1
    return sound, places


def _heard_ns(made: list[AudioBlock]) -> list[int]:
    heard = []
    for block in made:
        at = int(np.abs(block.pcm).argmax())
        if abs(block.pcm[at]) > 0.4:
            heard.append(block.pts_ns + at * NS_PER_S // block.rate_hz)
    return heard


@pytest.mark.parametrize("ppm", [-1000.0, -100.0, 0.0, 100.0, 1000.0])
def test_clicks_come_when_they_sounded(ppm: float) -> None:
    """To 20 ms from the start, better when the drift is known; nothing is cut or doubled."""
    sound, places = _clicks(50)
    made = _steady(_device(sound, ppm=ppm))
    off_ms = [(heard - _when(place, ppm)) / 1e6 for heard, place in zip(_heard_ns(made), places, strict=True)]
    assert np.abs(off_ms).max() < 20
    assert np.abs(off_ms[80:]).max() < 2
    assert _seams(made) == []
    assert not any(block.gap for block in made)


def test_an_hour_at_100_ppm_stays_in_place() -> None:
    """Drift is taken away, not measured and forgotten: at the end it is off by less than 5 ms."""
    rate_hz = 8_000  # a sixth of the work
    steady, end = SteadySound(rate_hz), None
    second = np.zeros(rate_hz, np.float32)
    for k in range(3600):
        stamp_ns = _when(k * RATE_HZ, 100) + (k % 7 - 3) * 100_000
        for made in steady.push(DeviceBlock(second, 0, stamp_ns, stamp_ns)):
            end = made
    assert end is not None
    in_filter_ns = 240 * NS_PER_S // rate_hz
    assert abs(_end_ns(end) + in_filter_ns - _when(3600 * RATE_HZ, 100)) < 5_000_000
    assert steady.drift_ppm == pytest.approx(100, abs=5)
    assert steady.error_ns is not None
    assert steady.error_ns < 5_000_000
    assert steady.gaps == 0


@pytest.mark.parametrize("ppm", [100.0, 1000.0])
def test_a_tone_has_no_seam(ppm: float) -> None:
    """While the ratio changes a tone stays one: what is not that tone is 60 dB below it."""
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(30 * RATE_HZ) / RATE_HZ)).astype(np.float32)
    line = np.concatenate([block.pcm for block in _steady(_device(tone, ppm=ppm))])
    for first in range(RATE_HZ, len(line) - RATE_HZ, RATE_HZ):
        piece = line[first : first + BLOCK].astype(np.float64)
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(BLOCK)))
        assert np.delete(spectrum, range(15, 26)).max() < spectrum.max() * 1e-3


@pytest.mark.parametrize("lost", [1, 480, BLOCK, 10 * BLOCK])
def test_known_loss_is_a_gap(lost: int) -> None:
    """However short it is: the sound after it comes at its time, and is not joined to the sound before."""
    sound, _ = _clicks(6)
    blocks = list(_device(sound))
    after = [
        DeviceBlock(b.pcm, lost if k == 0 else 0, b.stamp_ns + lost * NS_PER_S // RATE_HZ, b.captured_ns)
        for k, b in enumerate(blocks[150:])
    ]
    made = _steady(blocks[:150] + after)
    assert sum(block.gap for block in made) == 1
    assert sum(_seams(made)) == pytest.approx(lost * NS_PER_S / RATE_HZ, abs=1_500_000)


def test_flagged_loss_is_measured_by_the_stamp() -> None:
    """The driver says that something is missing, and the stamp says how much."""
    blocks = list(_device(np.zeros(6 * RATE_HZ, np.float32)))
    later_ns = 15_000_000
    after = [
        DeviceBlock(b.pcm, 0, b.stamp_ns + later_ns, b.captured_ns, flagged=k == 0)
        for k, b in enumerate(blocks[150:])
    ]
    made = _steady(blocks[:150] + after)
    assert sum(block.gap for block in made) == 1
    assert sum(_seams(made)) == pytest.approx(later_ns, abs=2_000_000)


@pytest.mark.parametrize("later_ms", [60, 500, 30_000])
def test_silent_loss_is_a_gap(later_ms: int) -> None:
    """A device that was suspended says nothing; stamps that stay late do."""
    blocks = list(_device(np.zeros(8 * RATE_HZ, np.float32)))
    after = [DeviceBlock(b.pcm, 0, b.stamp_ns + later_ms * 1_000_000, b.captured_ns) for b in blocks[200:]]
    made = _steady(blocks[:200] + after)
    assert sum(block.gap for block in made) == 1
    assert sum(_seams(made)) / 1e6 == pytest.approx(later_ms, abs=3)


def test_late_stamps_alone_are_no_gap() -> None:
    """When a program was busy its callbacks come late, and then catch up."""
    late_ms = np.zeros(400)
    late_ms[200:208] = np.linspace(160, 10, 8)
    blocks = [
        DeviceBlock(b.pcm, 0, b.stamp_ns + round(late_ms[k] * 1e6), b.captured_ns)
        for k, b in enumerate(_device(np.zeros(8 * RATE_HZ, np.float32)))
    ]
    made = _steady(blocks)
    assert _seams(made) == []
    assert not any(block.gap for block in made)


def test_time_never_runs_back() -> None:
    """A device that gives some samples twice loses them; blocks never overlap."""
    blocks = list(_device(np.zeros(8 * RATE_HZ, np.float32)))
    after = [DeviceBlock(b.pcm, 0, b.stamp_ns - 300_000_000, b.captured_ns) for b in blocks[200:]]
    made = _steady(blocks[:200] + after)
    assert all(b.pts_ns >= _end_ns(a) - 1 for a, b in itertools.pairwise(made))
    assert abs(_end_ns(made[-1]) - after[-1].stamp_ns - 20_000_000) < 3_000_000


def test_nothing_is_glued_on_the_timeline() -> None:
    """The engine's own resampler leaves silence that it knows to be missing, even of 20 ms."""
    sound = np.full(6 * RATE_HZ, 0.25, np.float32)
    blocks = list(_device(sound, jitter_ms=0))
    after = [
        DeviceBlock(b.pcm, BLOCK if k == 0 else 0, b.stamp_ns + 20_000_000, b.captured_ns)
        for k, b in enumerate(blocks[150:])
    ]
    normaliser, grid = AudioNormaliser(), SampleGrid()
    placed = []
    for made in _steady(blocks[:150] + after):
        moved = AudioBlock(made.pts_ns - START_NS, made.pcm, RATE_HZ, 0, gap=made.gap)
        placed += normaliser.push(moved)
    placed += normaliser.flush()
    start, line = assembled((p.start, p.pcm) for p in placed)
    for p in placed:
        grid.write(p.start, p.pcm)
    missing = np.flatnonzero(np.abs(line) < 1e-6) + start
    assert len(missing) == pytest.approx(320, abs=40)
    assert missing.mean() == pytest.approx((3.0 + 0.01) * 16_000, abs=80)
    shares = [grid.take()[1] for _ in range(15)]
    assert sum(share < 1 for share in shares) == 1


@pytest.mark.parametrize("ratio", [0.999, 1.0, 1.002])
def test_variable_resampler_knows_what_it_took(ratio: float) -> None:
    """An impulse comes out where the counters say, at any ratio and across a change of it."""
    sound = np.zeros(2 * RATE_HZ, np.float32)
    sound[[20_000, 80_000]] = 1
    resampler = VariableResampler()
    out, taken = [], []
    for k in range(0, len(sound), BLOCK):
        given, before = resampler.given, resampler.taken
        out.append(resampler.push(sound[k : k + BLOCK], 1.0 if k < 40_000 else ratio))
        taken += list(before + (resampler.taken - before) * np.arange(len(out[-1])) / max(1, len(out[-1])))
        assert resampler.given == given + len(out[-1])
    out.append(resampler.flush())
    line = np.concatenate(out)
    assert resampler.taken == pytest.approx(len(sound), abs=2)
    for place in (20_000, 80_000):
        near = int(np.searchsorted(taken, place))
        peak = near - 50 + int(line[near - 50 : near + 50].argmax())
        assert taken[peak] == pytest.approx(place, abs=4)
