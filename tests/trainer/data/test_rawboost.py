"""RawBoost: noise of channels, impulses and backgrounds."""

from __future__ import annotations

import numpy as np
import pytest

from avff.trainer.data import postchain
from avff.trainer.data.rawboost import convolutive, impulsive, raw_boost, stationary
from avff.trainer.pseudo.vocoder import rms
from tests.support.samples import make_sample

SIGNAL = make_sample(1).audio.astype(np.float64) / np.abs(make_sample(1).audio).max()


def test_sound_stays_as_loud_and_in_step() -> None:
    """Whatever is drawn, the noise is heard and nothing is delayed, though filters are 500 taps long."""
    audio = make_sample(1).audio
    made = [raw_boost(audio, np.random.default_rng(seed)) for seed in range(20)]
    for one in made:
        assert one.dtype == np.float32
        assert one.shape == audio.shape
        assert rms(one) == pytest.approx(rms(audio), rel=1e-3)
        size = 1 << 17
        best = int(np.fft.irfft(np.fft.rfft(one, size) * np.conj(np.fft.rfft(audio, size))).argmax())
        assert min(best, size - best) <= 8
        assert rms(one - audio) > 0.02 * rms(audio)
    assert len({one.tobytes() for one in made}) == 20
    assert np.array_equal(made[3], raw_boost(audio, np.random.default_rng(3)))


def test_silence_stays_silent() -> None:
    """There is no level to measure noise against."""
    assert not raw_boost(np.zeros(41_312, np.float32), np.random.default_rng(0)).any()


def test_both_algorithms_are_drawn() -> None:
    """In parallel nothing varies where the signal is zero; in series there is noise everywhere."""
    audio = make_sample(1).audio.copy()
    audio[20_000:24_000] = 0
    made = [raw_boost(audio, np.random.default_rng(seed)) for seed in range(24)]
    quiet = [float(one[21_000:23_000].std()) for one in made]
    in_parallel = sum(level < 0.003 * rms(audio) for level in quiet)
    assert 6 <= in_parallel <= 18


def test_convolutive_noise_makes_harmonics_and_cuts_notches() -> None:
    """A tone of 500 Hz gets overtones, none above the fifth; white noise loses bands by 10 dB and more."""
    tone = np.sin(2 * np.pi * 500 * np.arange(32_000) / 16_000)
    deepest = []
    for seed in range(6):
        levels = np.abs(np.fft.rfft(convolutive(tone, np.random.default_rng(seed)) * np.hanning(32_000)))
        strong = levels[[1000, 2000, 3000, 4000, 5000, 6000, 7000]] / levels.max()
        assert strong[1:5].max() > 0.003
        assert strong[5:].max() < 1e-3
        hiss = np.random.default_rng(seed + 100).standard_normal(64_000) * 1e-3  # so quiet that powers vanish
        bands = np.abs(np.fft.rfft(convolutive(hiss, np.random.default_rng(seed))))[:32_000].reshape(320, 100)
        deepest.append(
            float(10 * np.log10((bands**2).mean(axis=1).min() / np.median((bands**2).mean(axis=1))))
        )
    assert np.median(deepest) < -10


def test_impulses_hit_a_tenth_at_most_and_grow_with_the_signal() -> None:
    """Few samples change, none by more than twice its value, and zeros stay."""
    signal = SIGNAL.copy()
    signal[:500] = 0
    shares = []
    for seed in range(10):
        made = impulsive(signal, np.random.default_rng(seed))
        shares.append(float((made != signal).mean()))
        assert (np.abs(made - signal) <= 2 * np.abs(signal)).all()
    assert min(shares) > 0
    assert 0.05 < max(shares) <= 0.1


def test_stationary_noise_is_10_to_40_db_down() -> None:
    """Its level is relative to the signal's, and it is as strong where the signal is silent."""
    for seed in range(10):
        noise = stationary(SIGNAL, np.random.default_rng(seed)) - SIGNAL
        ratio_db = 20 * np.log10(np.linalg.norm(SIGNAL) / np.linalg.norm(noise))
        assert 9.9 <= ratio_db <= 40.1
        halves = [np.linalg.norm(part) for part in np.split(noise, 2)]
        assert halves[0] == pytest.approx(halves[1], rel=0.1)


def test_post_chain_draws_it_for_every_label() -> None:
    """It is a step of the sound's chain, with a chance of 0.15."""
    chances = {step: chance for chance, step in postchain._SOUND_STEPS}
    assert chances[raw_boost] == 0.15
