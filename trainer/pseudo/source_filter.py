"""Speech taken apart into pitch, spectral envelope and aperiodicity, and put together again.

The same three parts every 5 ms as in WORLD (Morise, Yokomori and Ozawa, IEICE 2016), each by
a simpler estimator: pitch from the normalised autocorrelation (Boersma 1993), the envelope by
CheapTrick's lifter on the cepstrum (Morise 2015), aperiodicity from what one period leaves of
the next, band by band.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.signal import resample_poly

from avff.engine.media import Float32
from avff.engine.spec import SPEC

Complex64 = npt.NDArray[np.complex64]

_RATE = SPEC.rate_hz
_HOP = _RATE // 200
_SIZE = 512
_SLOW = 4
"""The pitch is looked for at a quarter of the rate."""
_LOWEST_HZ, _HIGHEST_HZ = 70, 400
_FINE = 2
"""Steps of the autocorrelation per sample: at 320 Hz half a sample off is a peak too low."""
_CALM_HZ = 600.0
"""Harmonics above about this weigh little in the autocorrelation: their peaks are narrower than a sample."""
_UNVOICED_HZ = 200.0
"""Pitch that decides the smoothing where there is none."""
_BANDS_HZ = (0, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-9


def source_filter(audio: Float32, rng: np.random.Generator) -> Float32:
    """Rebuild from pitch, envelope and aperiodicity in frames every 5 ms.

    Drawn: smoothing of the pitch over 15…45 ms, its shift by up to a semitone (p 0.3), and the
    aperiodicity's exponent 0.6…1.6.

    Args:
        audio: float32 ``[n]`` at 16 kHz.
        rng: source of every draw and of the noise.

    Returns:
        float32 ``[n]``, in step with ``audio``.
    """
    count = audio.size // _HOP + 2
    lag, voiced = _pitch(audio, count)
    spectra, noisy = _analysed(audio, lag, voiced)
    steady = uniform_filter1d(lag, 2 * int(rng.integers(1, 5)) + 1)
    shift = 2 ** (rng.uniform(-1, 1) * (rng.random() < 0.3) / 12)
    noisy = noisy ** np.float32(rng.uniform(0.6, 1.6))
    pulses = _pulses((steady * shift).astype(np.float32), count * _HOP)
    noise = rng.standard_normal(pulses.size).astype(np.float32)
    filters = _minimum_phase(spectra, lag, voiced)
    drive = np.sqrt(1 - noisy) * _pieces(pulses) + np.sqrt(noisy) * _pieces(noise)
    return _added((drive * filters).astype(np.complex64), audio.size)


def _framed(audio: Float32, count: int, size: int, hop: int) -> Float32:
    """Return float32 ``[count, size]``: frames whose middles are ``hop`` apart, the first at sample 0."""
    padded = np.pad(audio, (size // 2, size // 2 + count * hop))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[: count * hop : hop]


def _pitch(audio: Float32, count: int) -> tuple[Float32, Float32]:
    """Return samples per period, and how voiced, 0…1: float32 ``[count]`` each."""
    step_hz = _RATE // _SLOW * _FINE
    slow = np.asarray(resample_poly(audio, 1, _SLOW), np.float32)
    window, near, far = _pitch_window(), step_hz // _HIGHEST_HZ, step_hz // _LOWEST_HZ + 2
    frames = _framed(slow, count, window.size, _HOP // _SLOW)
    likeness = _autocorrelation((frames - frames.mean(axis=1, keepdims=True)) * window)
    likeness = likeness[:, : far + 1] / (likeness[:, :1] + np.float32(1e-6))
    fading = _autocorrelation(window[None])[:, : far + 1]
    likeness /= fading / fading[:, :1]
    # Long periods fit as well as short ones: take the shorter of two that are nearly alike.
    lags = np.arange(near, far)
    best = (likeness[:, near:far] - 0.15 * lags / far).argmax(axis=1) + near
    before, at, after = (likeness[np.arange(count), best + k] for k in (-1, 0, 1))
    bend = np.minimum(before - 2 * at + after, -1e-3)
    exact = best + np.clip((before - after) / bend / 2, -0.5, 0.5)
    lag = median_filter(exact * (_RATE / step_hz), 5, mode="nearest")
    voiced = median_filter(np.clip((at - 0.35) / 0.3, 0, 1), 3, mode="nearest")
    return lag.astype(np.float32), voiced.astype(np.float32)


def _autocorrelation(frames: Float32) -> Float32:
    """Return the autocorrelation of rows float32 ``[F, size]``, size at most 256, every half sample."""
    hz = np.arange(_SIZE // 2 + 1, dtype=np.float32) * (_RATE // _SLOW / _SIZE)
    power = np.abs(fft.rfft(frames, _SIZE, axis=1)) ** 2 * np.exp(-((hz / _CALM_HZ) ** 2))
    return np.asarray(fft.irfft(power, _FINE * _SIZE, axis=1), np.float32)


@lru_cache(maxsize=1)
def _pitch_window() -> Float32:
    """A Hann window of 50 ms at the slow rate: three and a half of the longest periods."""
    return np.hanning(_RATE // _SLOW // 20).astype(np.float32)


def _analysed(audio: Float32, lag: Float32, voiced: Float32) -> tuple[Float32, Float32]:
    """Return power spectra at three periods' width, and the share of noise in each bin.

    Args:
        audio: float32 ``[n]``.
        lag: float32 ``[F]``, samples per period.
        voiced: float32 ``[F]``, 0…1.

    Returns:
        float32 ``[F, 257]`` power per sample; float32 ``[F, 257]``, 0…1.
    """
    count = len(lag)
    place = np.arange(_SIZE, dtype=np.float32) - _SIZE // 2
    half = np.minimum(1.5 * np.where(voiced > 0, lag, _RATE / _UNVOICED_HZ), _SIZE / 2)[:, None]
    inside = np.abs(place) < half
    windows = np.where(inside, 0.5 + 0.5 * np.cos(np.pi * place / half), 0).astype(np.float32)
    frames = _framed(audio, count, _SIZE, _HOP)
    # One period later: the frame of the moment nearest to it.
    moments = np.arange(count) * _HOP + np.round(lag).astype(int)
    padded = np.pad(audio, (_SIZE // 2, 2 * _SIZE + count * _HOP - audio.size))
    later = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[moments]
    now, then = (fft.rfft(part * windows, axis=1) for part in (frames, later))
    power = (np.abs(now) ** 2).astype(np.float32)
    left = np.abs(now - then) ** 2
    both = power + np.abs(then) ** 2
    noisy = _by_band(left, both) * voiced[:, None] + (1 - voiced[:, None])
    energy = (windows**2).sum(axis=1, keepdims=True)
    return power / energy, np.clip(noisy, 0, 1).astype(np.float32)


def _by_band(left: Float32, both: Float32) -> Float32:
    """Return float32 ``[F, 257]``: what a period leaves of the next, 0 nothing … 1 all, band means joined."""
    edges = [round(hz * _SIZE / _RATE) for hz in _BANDS_HZ]
    shares = [
        left[:, low:high].sum(axis=1) / (both[:, low:high].sum(axis=1) + _TINY)
        for low, high in pairwise(edges)
    ]
    middles = (np.array(edges[:-1]) + np.array(edges[1:])) / 2
    weights = np.stack([np.interp(np.arange(_SIZE // 2 + 1), middles, row) for row in np.eye(len(middles))])
    return np.asarray(np.stack(shares, axis=1) @ weights, np.float32)


def _minimum_phase(power: Float32, lag: Float32, voiced: Float32) -> Complex64:
    """Smooth power spectra over one pitch distance and give them minimum phase.

    Args:
        power: float32 ``[F, 257]``.
        lag: float32 ``[F]``, samples per period.
        voiced: float32 ``[F]``, 0…1.

    Returns:
        complex64 ``[F, 257]``, the frames' filters.
    """
    cepstrum = fft.irfft(np.log(power + np.float32(_TINY)) / 2, axis=1)
    quefrency = np.arange(_SIZE // 2 + 1, dtype=np.float32)
    periods = quefrency / np.where(voiced > 0, lag, _RATE / _UNVOICED_HZ)[:, None]
    # CheapTrick's constants: the second factor makes up for what the first one smooths too much.
    lifter = np.sinc(periods) * (1.18 - 0.18 * np.cos(2 * np.pi * periods))
    causal = np.zeros_like(cepstrum)
    causal[:, : _SIZE // 2 + 1] = cepstrum[:, : _SIZE // 2 + 1] * lifter
    causal[:, 1 : _SIZE // 2] *= 2
    return np.asarray(np.exp(fft.rfft(causal, axis=1)), np.complex64)


def _pulses(lag: Float32, size: int) -> Float32:
    """Return float32 ``[size]``: a pulse per period, power 1."""
    length = np.interp(np.arange(size), np.arange(len(lag)) * _HOP, lag)
    turns = np.floor(np.cumsum(1 / length))
    return np.asarray(np.diff(turns, prepend=0.0) * np.sqrt(length), np.float32)


def _pieces(drive: Float32) -> Complex64:
    """Return the spectra complex64 ``[F, 257]`` of an excitation cut into 10 ms that add up to it."""
    taper = np.hanning(2 * _HOP + 1)[:-1].astype(np.float32)
    frames = _framed(drive, drive.size // _HOP, 2 * _HOP, _HOP) * taper
    return np.asarray(fft.rfft(frames, _SIZE, axis=1), np.complex64)


def _added(spectra: Complex64, size: int) -> Float32:
    """Overlap-add frames complex64 ``[F, 257]`` to float32 ``[size]``."""
    pieces = fft.irfft(spectra, axis=1)
    count = len(pieces)
    out = np.zeros((count + _SIZE // _HOP + 1) * _HOP, np.float32)
    for part in range(0, _SIZE, _HOP):
        # All frames' samples of one hop at once: they do not overlap.
        chunk = np.zeros((count, _HOP), np.float32)
        chunk[:, : min(_HOP, _SIZE - part)] = pieces[:, part : part + _HOP]
        out[part : part + count * _HOP] += chunk.ravel()
    return out[_HOP : _HOP + size]
