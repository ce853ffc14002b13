from __future__ import annotations

import numpy as np
import pytest

from avff.engine.claps import LoudnessMeter, MotionMeter, clap_offset
from avff.engine.errors import SyncError
from avff.engine.media import NS_PER_S, AudioBlock, VideoFrame
from tests.support.claps import bangs, clap_times_s, hands

SIZE = (320, 240)
RATE_HZ = 48_000


def _seen(claps_s: list[float], seconds: float, fps: float = 25.0, phase_s: float = 0.0) -> MotionMeter:
    meter, draw = MotionMeter(), hands(SIZE, claps_s, fps=fps, delay_s=phase_s)
    for k in range(round(seconds * fps)):
        meter.push(VideoFrame(round(k * NS_PER_S / fps), draw(k), 0))
    return meter


def _heard(claps_s: list[float], seconds: float, later_s: float = 0.0, **how: float) -> LoudnessMeter:
    meter = LoudnessMeter()
    sound = bangs(seconds, [s + later_s for s in claps_s], rate_hz=RATE_HZ, **how)
    for first in range(0, len(sound), 961):  # blocks do not fit the meter's hops
        pcm = sound[first : first + 961]
        meter.push(AudioBlock(first * NS_PER_S // RATE_HZ, pcm, RATE_HZ, 0))
    return meter


@pytest.mark.parametrize("later_ms", [-180.0, -40.0, 0.0, 25.0, 250.0])
@pytest.mark.parametrize("fps", [25.0, 30.0, 15.0])
def test_offset_is_found(later_ms: float, fps: float) -> None:
    """To well below a picture, whatever the camera's rate."""
    claps = clap_times_s(12)
    found = clap_offset(_seen(claps, 12, fps, 0.0), _heard(claps, 12, later_ms / 1000))
    assert found.offset_ns / 1e6 == pytest.approx(later_ms, abs=12)
    assert found.claps >= 8
    assert found.spread_ns < 20_000_000


@pytest.mark.parametrize("phase_ms", [0, 10, 20, 30])
def test_pictures_between_claps_do_not_matter(phase_ms: int) -> None:
    """Where between two pictures hands meet differs from clap to clap, and in the end cancels out."""
    claps = clap_times_s(16)
    found = clap_offset(_seen(claps, 16, 25.0, phase_ms / 1000), _heard(claps, 16, 0.1))
    assert found.offset_ns / 1e6 == pytest.approx(100 - phase_ms, abs=12)


def test_a_clap_that_was_not_seen_is_left_out() -> None:
    """And one that was not heard, too."""
    claps = clap_times_s(14)
    found = clap_offset(_seen(claps[:3] + claps[4:], 14), _heard(claps[:6] + claps[7:], 14, 0.05))
    assert found.claps == len(claps) - 2
    assert found.offset_ns / 1e6 == pytest.approx(50, abs=12)


def test_sound_after_a_gap_keeps_its_time() -> None:
    """What was carried over from before a gap is not joined to what follows."""
    meter = LoudnessMeter()
    meter.push(AudioBlock(0, np.zeros(1000, np.float32), RATE_HZ, 0))
    meter.push(AudioBlock(NS_PER_S, np.ones(960, np.float32), RATE_HZ, 0, gap=True))
    times, level = meter.measured()
    assert times[level > 0][0] == NS_PER_S


def test_too_few_claps_are_refused() -> None:
    """The message says what to do."""
    claps = clap_times_s(5)
    with pytest.raises(SyncError, match=r"heard [1-4] claps, and 5 are needed"):
        clap_offset(_seen(claps, 5), _heard(claps, 5))


def test_silence_before_a_still_picture_is_refused() -> None:
    """Nothing at all is no offset of 0."""
    with pytest.raises(SyncError, match="heard 0 claps"):
        clap_offset(_seen([], 2), LoudnessMeter())
    with pytest.raises(SyncError, match="nothing moved"):
        clap_offset(MotionMeter(), _heard(clap_times_s(10), 10))


@pytest.mark.parametrize("seed", range(4))
def test_claps_of_somebody_else_are_refused(seed: int) -> None:
    """Sounds that have nothing to do with what moves give no number."""
    random = np.random.default_rng(seed)
    other = list(np.cumsum(random.uniform(0.5, 1.6, 14)))
    with pytest.raises(SyncError, match=r"only \d+ of them seen|differ by"):
        clap_offset(_seen(clap_times_s(16), 16), _heard([s for s in other if s < 15], 16))
