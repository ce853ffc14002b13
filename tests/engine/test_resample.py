from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import soxr

from avff.engine.media import NS_PER_S, AudioBlock, Float32
from avff.engine.resample import CONTINUITY_NS, AudioNormaliser, PlacedAudio
from tests.support.engine import assembled

OUT_HZ = 16_000


def _noise(seconds: float, rate_hz: int) -> Float32:
    return np.random.default_rng(1).uniform(-0.5, 0.5, round(seconds * rate_hz)).astype(np.float32)


def _impulse(seconds: float, rate_hz: int, at_s: float) -> Float32:
    pcm = np.zeros(round(seconds * rate_hz), np.float32)
    pcm[round(at_s * rate_hz)] = 1
    return pcm


def _blocks(pcm: Float32, rate_hz: int, sizes: Sequence[int], start_ns: int = 0) -> Iterator[AudioBlock]:
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(pcm):
            return
        yield AudioBlock(start_ns + at * NS_PER_S // rate_hz, pcm[at : at + size], rate_hz, captured_ns=0)
        at += size


def _place(blocks: Iterator[AudioBlock] | Sequence[AudioBlock]) -> list[PlacedAudio]:
    normaliser = AudioNormaliser()
    return [placed for block in blocks for placed in normaliser.push(block)] + normaliser.flush()


def _line(placed: Sequence[PlacedAudio]) -> tuple[int, Float32]:
    return assembled((p.start, p.pcm) for p in placed)


def _peak(placed: Sequence[PlacedAudio]) -> int:
    start, pcm = _line(placed)
    return start + int(np.abs(pcm).argmax())


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 22_050, 8_000, 16_000])
@pytest.mark.parametrize("sizes", [(1024,), (1, 7, 333, 2000), (20_000,)], ids=["codec", "odd", "large"])
def test_chunks_equal_one_shot(rate_hz: int, sizes: tuple[int, ...]) -> None:
    """Sound resampled in pieces of any size equals the same sound resampled at once."""
    pcm = _noise(0.7, rate_hz)
    start, line = _line(_place(_blocks(pcm, rate_hz, sizes)))
    expected = pcm if rate_hz == OUT_HZ else soxr.resample(pcm, rate_hz, OUT_HZ, quality="HQ")
    assert start == 0
    assert line.dtype == np.float32
    np.testing.assert_allclose(line, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 8_000, 16_000])
def test_pieces_are_placed_without_seams(rate_hz: int) -> None:
    """Of one run each piece begins where the one before ended."""
    placed = _place(_blocks(_noise(0.5, rate_hz), rate_hz, (441,), start_ns=2 * NS_PER_S))
    assert placed[0].start == 2 * OUT_HZ
    assert all(b.start == a.start + len(a.pcm) for a, b in itertools.pairwise(placed))


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 8_000, 16_000])
@pytest.mark.parametrize("start_ns", [0, 1_234_567_890, -21_333_333])
def test_an_impulse_stays_at_its_time(rate_hz: int, start_ns: int) -> None:
    """What sounds at a known media time comes out at that time, within one sample."""
    blocks = _blocks(_impulse(0.6, rate_hz, 0.4), rate_hz, (480,), start_ns)
    assert abs(_peak(_place(blocks)) - (start_ns / NS_PER_S + 0.4) * OUT_HZ) <= 1


@pytest.mark.parametrize("rate_hz", [48_000, 16_000])
def test_a_gap_is_not_glued(rate_hz: int) -> None:
    """Sound after a gap lands at its own time stamp, and nothing lies in the gap."""
    before = _blocks(_noise(0.5, rate_hz) * 0.1, rate_hz, (480,))
    after = _blocks(_impulse(0.3, rate_hz, 0.1), rate_hz, (480,), start_ns=900_000_000)
    placed = _place([*before, *after])
    start, line = _line(placed)
    assert abs(_peak(placed) - OUT_HZ) <= 1
    assert start == 0
    assert len(line) == pytest.approx(1.2 * OUT_HZ, abs=1)
    covered = sum(len(p.pcm) for p in placed)
    assert covered == pytest.approx(0.8 * OUT_HZ, abs=2)
    assert not line[int(0.51 * OUT_HZ) : int(0.89 * OUT_HZ)].any()


def _stamped(pcm: Float32, rate_hz: int, size: int, jitter_ns: Sequence[int]) -> list[AudioBlock]:
    exact = list(_blocks(pcm, rate_hz, (size,)))
    return [
        AudioBlock(b.pts_ns + j, b.pcm, b.rate_hz, b.captured_ns)
        for b, j in zip(exact, itertools.cycle(jitter_ns), strict=False)
    ]


@pytest.mark.parametrize("rate_hz", [48_000, 16_000])
def test_jitter_below_40_ms_is_not_a_gap(rate_hz: int) -> None:
    """Stamps that wander by less than 40 ms about the sample count change nothing."""
    pcm = _noise(0.6, rate_hz)
    wander = [0, CONTINUITY_NS - 1, -CONTINUITY_NS + 1, 20_000_000, -1_000_000]
    start, line = _line(_place(_stamped(pcm, rate_hz, 480, wander)))
    expected_start, expected = _line(_place(_blocks(pcm, rate_hz, (480,))))
    assert start == expected_start
    np.testing.assert_array_equal(line, expected)


@pytest.mark.parametrize("leap_ns", [CONTINUITY_NS + 1_000_000, -CONTINUITY_NS - 1_000_000])
def test_a_leap_of_more_than_40_ms_begins_a_new_run(leap_ns: int) -> None:
    """A stamp farther off than 40 ms, in either direction, is believed."""
    first = AudioBlock(0, np.zeros(16_000, np.float32), OUT_HZ, 0)
    second = AudioBlock(NS_PER_S + leap_ns, np.ones(160, np.float32), OUT_HZ, 0)
    placed = _place([first, second])
    assert [p.start for p in placed] == [0, OUT_HZ + leap_ns * OUT_HZ // NS_PER_S]


def test_a_drifting_clock_is_followed() -> None:
    """Sound whose stamps run 1 % fast never ends up farther off than the tolerance and a sample."""
    normaliser = AudioNormaliser()
    farthest = 0.0
    for k in range(500):
        pts_ns = k * 20_200_000
        for placed in normaliser.push(AudioBlock(pts_ns, np.full(320, 0.1, np.float32), OUT_HZ, 0)):
            farthest = max(farthest, abs(placed.start / OUT_HZ - pts_ns / NS_PER_S))
    assert 0.03 < farthest <= CONTINUITY_NS / NS_PER_S + 1 / OUT_HZ


def test_a_change_of_rate_restarts() -> None:
    """A block of another rate begins a new run at its own stamp, and the old run's tail is kept."""
    slow = _blocks(np.full(8_000, 0.25, np.float32), 16_000, (320,))
    fast = _blocks(_impulse(0.5, 48_000, 0.25), 48_000, (24_000,), start_ns=NS_PER_S // 2)
    placed = _place([*slow, *fast])
    assert abs(_peak(placed) - 0.75 * OUT_HZ) <= 1
    assert len(_line(placed)[1]) == pytest.approx(OUT_HZ, abs=1)


def test_a_tone_above_8_khz_is_removed() -> None:
    """Sound that 16 kHz cannot hold is filtered out, not folded down into the speech band."""
    time_s = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 11_000 * time_s).astype(np.float32)
    _, line = _line(_place(_blocks(tone, 48_000, (1024,))))
    assert np.abs(line[2000:-2000]).max() < 1e-3


def test_flush_without_sound_is_empty() -> None:
    """A stream that never had sound has no tail, and flushing twice adds nothing."""
    normaliser = AudioNormaliser()
    assert normaliser.flush() == []
    normaliser.push(AudioBlock(0, np.zeros(4800, np.float32), 48_000, 0))
    assert len(normaliser.flush()) == 1
    assert normaliser.flush() == []
