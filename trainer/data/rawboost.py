"""RawBoost: channel, impulse and background noise for the post-chain, on genuine and made sound alike.

Written from the paper (Tak, Kamble, Patino, Todisco and Evans, ICASSP 2022, arXiv:2111.04433)
with its ranges.  It is no pseudo-fake: a window keeps its labels.  Two things differ: filters
have no delay, because the sound must stay in step with the picture, and loudness is kept,
because the post-chain has a step for it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.signal import firwin, oaconvolve

from avff.engine.media import Float32
from avff.engine.spec import SPEC

Float64 = npt.NDArray[np.float64]

_RATE = SPEC.rate_hz
_NOTCHES = 5
_ORDERS = 5
"""Powers of the signal that a non-linear device mixes."""


def raw_boost(audio: Float32, rng: np.random.Generator) -> Float32:
    """Add the three noises in series, or the first two side by side (algorithms 4 and 5), half and half.

    Args:
        audio: float32 ``[n]`` at 16 kHz.
        rng: source of every draw.

    Returns:
        float32 ``[n]``, in step with ``audio`` and as loud.
    """
    loud = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    if loud == 0:
        return audio
    clean = audio / np.abs(audio).max().astype(np.float64)
    if rng.random() < 0.5:
        made = stationary(impulsive(convolutive(clean, rng), rng), rng)
    else:
        made = convolutive(clean, rng) + impulsive(clean, rng)
    return np.asarray(made * (loud / np.sqrt(np.mean(np.square(made)) + 1e-20)), np.float32)


def _notches(rng: np.random.Generator) -> Float64:
    """Return the taps of 5 notch filters in a row: 20 Hz…8 kHz, 100…1000 Hz wide, 10…100 taps each.

    Linear phase and an odd number of taps: the middle one is time 0.  The highest gain is 1.
    """
    taps = np.ones(1)
    for _ in range(_NOTCHES):
        middle, width = rng.uniform(20, _RATE / 2), rng.uniform(100, 1000)
        low, high = max(middle - width / 2, 1.0), min(middle + width / 2, _RATE / 2 - 1.0)
        count = int(rng.integers(10, 101)) | 1
        taps = np.convolve(taps, firwin(count, [low, high], fs=_RATE, pass_zero="bandstop"))
    return np.asarray(taps / np.abs(np.fft.rfft(taps, 1024)).max(), np.float64)


def convolutive(signal: Float64, rng: np.random.Generator) -> Float64:
    """Pass powers 1…5 of a signal through notch filters of their own and add them up.

    Powers above 1 are 5…20 dB weaker: the harmonics of amplifiers and microphones.

    Args:
        signal: float64 ``[n]``, peak about 1.
        rng: source of every draw.

    Returns:
        float64 ``[n]`` without a constant part.
    """
    made = np.zeros_like(signal)
    for order in range(1, _ORDERS + 1):
        gain_db = 0.0 if order == 1 else -rng.uniform(5, 20)
        made += 10 ** (gain_db / 20) * oaconvolve(signal**order, _notches(rng), mode="same")
    return np.asarray(made - made.mean(), np.float64)


def impulsive(signal: Float64, rng: np.random.Generator) -> Float64:
    """Disturb up to a tenth of the samples by up to twice their own value, as clipping and lost bits do.

    Args:
        signal: float64 ``[n]``.
        rng: source of every draw.

    Returns:
        float64 ``[n]``.
    """
    made = signal.copy()
    count = int(rng.uniform(0, 0.1) * signal.size)
    hit = rng.choice(signal.size, count, replace=False)
    made[hit] += 2 * signal[hit] * rng.uniform(-1, 1, count) * rng.uniform(-1, 1, count)
    return made


def stationary(signal: Float64, rng: np.random.Generator) -> Float64:
    """Add notch-filtered white noise, 10…40 dB below the signal.

    Args:
        signal: float64 ``[n]``.
        rng: source of every draw.

    Returns:
        float64 ``[n]``.
    """
    noise = oaconvolve(rng.standard_normal(signal.size), _notches(rng), mode="same")
    ratio = 10 ** (-rng.uniform(10, 40) / 20)
    return np.asarray(signal + noise * (np.linalg.norm(signal) / np.linalg.norm(noise) * ratio), np.float64)
