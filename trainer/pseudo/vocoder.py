"""A1: copy-synthesis — genuine speech taken apart and put together again, in eight ways.

Detectors trained on vocoded copies of genuine speech transfer to real synthesis (Wang &
Yamagishi, arXiv:2210.10570).  No weights are needed: the ways below lose phase, excitation
or envelope detail as vocoders do.  One is drawn per window, so that no single artefact
stands for "synthetic".  Words, timing and loudness stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torchaudio.functional as taf
from scipy.linalg import solve_toeplitz
from scipy.signal import resample, resample_poly

from avff.engine.media import Float32
from avff.engine.spec import SPEC
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo.source_filter import source_filter

Float64 = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_RATE = SPEC.rate_hz
_TINY = 1e-7


def rms(audio: Float32) -> float:
    """Return the root mean square of ``audio`` float32 ``[n]``, 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


@lru_cache(maxsize=8)
def _window(size: int) -> torch.Tensor:
    return torch.hann_window(size)


@lru_cache(maxsize=8)
def _mel_pair(size: int, bands: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mel filterbank ``[bands, size/2+1]`` and its pseudo-inverse."""
    bank = taf.melscale_fbanks(size // 2 + 1, 0.0, _RATE / 2, bands, _RATE).T
    return bank, torch.linalg.pinv(bank)


def _stft(audio: torch.Tensor, size: int, hop: int) -> torch.Tensor:
    return torch.stft(audio, size, hop, window=_window(size), return_complex=True)


def _istft(spectra: torch.Tensor, size: int, hop: int, length: int) -> torch.Tensor:
    return torch.istft(spectra, size, hop, window=_window(size), length=length)


def _griffin_lim(
    magnitude: torch.Tensor, phase: torch.Tensor, hop: int, rounds: int, momentum: float, length: int
) -> Float32:
    """Find sound with the given magnitudes (Griffin & Lim 1984; momentum: Perraudin et al. 2013).

    Args:
        magnitude: float32 ``[bins, frames]``.
        phase: float32 ``[bins, frames]`` to start from, in rad.
        hop: samples between frames.
        rounds: iterations.
        momentum: 0 for the classic method, below 1.
        length: samples wanted.

    Returns:
        float32 ``[length]``.
    """
    size = 2 * (len(magnitude) - 1)
    angles, before = torch.polar(torch.ones_like(magnitude), phase), torch.zeros(1)
    for _ in range(rounds):
        now = _stft(_istft(magnitude * angles, size, hop, length), size, hop)
        angles = now - before * (momentum / (1 + momentum))
        angles = angles / (angles.abs() + _TINY)
        before = now
    return np.asarray(_istft(magnitude * angles, size, hop, length).numpy(), np.float32)


def _random_phase(like: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-np.pi, np.pi, tuple(like.shape)).astype(np.float32))


def mel_griffin_lim(audio: Float32, rng: np.random.Generator) -> Float32:
    """Rebuild from 64…128 mel bands, 6…16 rounds."""
    size, hop, bands = 1024, 256, int(rng.choice([64, 80, 128]))
    bank, inverse = _mel_pair(size, bands)
    mel = bank @ _stft(torch.from_numpy(audio), size, hop).abs()
    magnitude = (inverse @ mel).clamp(min=0)
    rounds, momentum = int(rng.integers(6, 17)), float(rng.choice([0.0, 0.99]))
    return _griffin_lim(magnitude, _random_phase(magnitude, rng), hop, rounds, momentum, audio.size)


def linear_griffin_lim(audio: Float32, rng: np.random.Generator) -> Float32:
    """Rebuild from linear magnitudes, 3…10 rounds."""
    size, hop = 512, 128
    magnitude = _stft(torch.from_numpy(audio), size, hop).abs()
    rounds = int(rng.integers(3, 11))
    return _griffin_lim(magnitude, _random_phase(magnitude, rng), hop, rounds, 0.0, audio.size)


def _excitation(
    pitch_lag: Float64, voiced: Float64, first: int, hop: int, size: int, rng: np.random.Generator
) -> Float64:
    """Return float64 ``[size]``: pulses at the pitch where voiced, noise elsewhere, power 1.

    Args:
        pitch_lag: float64 ``[F]``, samples per period.
        voiced: float64 ``[F]``, 0…1.
        first: sample in the middle of frame 0.
        hop: samples between frames.
        size: samples wanted.
        rng: source of the noise.
    """
    at, centres = np.arange(size), first + np.arange(len(pitch_lag)) * hop
    lag = np.interp(at, centres, pitch_lag)
    turns = np.floor(np.cumsum(1 / lag))
    pulses = np.diff(turns, prepend=0.0) * np.sqrt(lag)  # one pulse per period, power 1
    share = np.interp(at, centres, voiced)
    mixed = np.sqrt(share) * pulses + np.sqrt(1 - share) * rng.standard_normal(size)
    return np.asarray(mixed, np.float64)


def lpc(audio: Float32, rng: np.random.Generator) -> Float32:
    """Linear prediction of order 16…24 in 25 ms frames every 10 ms, pulse and noise excitation."""
    order, frame, hop, size = int(rng.integers(16, 25)), _RATE // 40, _RATE // 100, 1024
    padded = np.pad(audio.astype(np.float64), (frame // 2, frame))
    starts = np.arange(0, audio.size + hop, hop)
    taper = np.hanning(frame)
    take = starts[:, None] + np.arange(frame)
    frames = padded[take] * taper
    lags = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2)
    lags[:, 0] = lags[:, 0] * 1.0001 + _TINY
    taps = np.stack([solve_toeplitz(row[:order], row[1 : order + 1]) for row in lags])
    power = np.maximum(lags[:, 0] - (taps * lags[:, 1 : order + 1]).sum(axis=1), 0)
    near, far = _RATE // 400, _RATE // 70
    peak = lags[:, near:far].argmax(axis=1) + near
    strength = lags[np.arange(len(lags)), peak] / lags[:, 0]
    voiced = np.clip(strength * 2 - 0.5, 0, 1)
    drive = _excitation(peak.astype(np.float64), voiced, frame // 2, hop, padded.size, rng)
    polynomial = np.concatenate([np.ones((len(taps), 1)), -taps], axis=1)
    filters = np.sqrt(power / (taper**2).sum())[:, None] / np.fft.rfft(polynomial, size)
    pieces = np.fft.irfft(np.fft.rfft(drive[take] * taper, size) * filters)
    out = np.zeros(padded.size + size)
    for start, piece in zip(starts, pieces, strict=True):
        out[start : start + size] += piece
    return out[frame // 2 : frame // 2 + audio.size].astype(np.float32)


def _stretch(audio: torch.Tensor, rate: float, length: int) -> torch.Tensor:
    """Return ``length`` samples of ``audio`` played ``rate`` times as fast at the same pitch."""
    size, hop = 768, 96  # short frames: 1024 by 256 moved the loudness curve by up to 8 ms
    advance = torch.linspace(0, torch.pi * hop, size // 2 + 1)[:, None]
    # Silence at the end: the last frame of the stretched sound may lie past the last one there is.
    spectra = _stft(torch.nn.functional.pad(audio, (0, size)), size, hop)
    slow = taf.phase_vocoder(spectra, rate, advance)
    return _istft(slow, size, hop, length)


def phase_vocoder(audio: Float32, rng: np.random.Generator) -> Float32:
    """Shift the pitch by ±0.5…3 semitones, or stretch by that ratio and back."""
    ratio = 2 ** (rng.uniform(0.5, 3) * rng.choice([-1, 1]) / 12)
    # A length made of small factors keeps the Fourier resampling fast.
    stretched = round(audio.size * ratio / 64) * 64
    slow = _stretch(torch.from_numpy(audio), audio.size / stretched, stretched)
    if rng.random() < 0.5:
        return np.asarray(_stretch(slow, stretched / audio.size, audio.size).numpy(), np.float32)
    return np.asarray(resample(slow.numpy(), audio.size), np.float32)


def _cepstrum(magnitude: Float64) -> Float64:
    """Return the real cepstrum float64 ``[frames, size]`` of magnitudes ``[frames, size/2+1]``."""
    return np.fft.irfft(np.log(magnitude + _TINY))


def envelope(audio: Float32, rng: np.random.Generator) -> Float32:
    """Smooth towards a cepstral envelope of 20…40 coefficients, then 0…3 rounds of phase repair."""
    size, hop, keep = 512, 128, int(rng.integers(20, 41))
    spectra = _stft(torch.from_numpy(audio), size, hop)
    magnitude = spectra.abs().numpy().T.astype(np.float64)
    cepstrum = _cepstrum(magnitude)
    cepstrum[:, keep : size - keep + 1] *= rng.uniform(0.2, 0.7)
    smooth = np.exp(np.fft.rfft(cepstrum).real).T.astype(np.float32)
    rounds = int(rng.integers(0, 4))
    return _griffin_lim(torch.from_numpy(smooth), spectra.angle(), hop, rounds, 0.0, audio.size)


def rephase(audio: Float32, rng: np.random.Generator) -> Float32:
    """Keep magnitudes, and give each frame minimum phase, or random phase above 0…2 kHz."""
    size, hop = 512, 128
    spectra = _stft(torch.from_numpy(audio), size, hop)
    magnitude = spectra.abs()
    if rng.random() < 0.5:
        noise = _random_phase(magnitude, rng) * float(rng.uniform(0.4, 1.0))
        noise[: int(rng.uniform(0, 2000) * size / _RATE)] = 0
        return _griffin_lim(magnitude, spectra.angle() + noise, hop, 0, 0.0, audio.size)
    cepstrum = _cepstrum(magnitude.numpy().T.astype(np.float64))
    cepstrum[:, 1 : size // 2] *= 2
    cepstrum[:, size // 2 + 1 :] = 0
    phase = np.fft.rfft(cepstrum).imag.T
    # Minimum phase puts the energy at time 0 of the frame, where the window is zero: move it mid-frame.
    phase = phase + np.pi * np.arange(len(phase))[:, None]
    started = torch.from_numpy(phase.astype(np.float32))
    return _griffin_lim(magnitude, started, hop, int(rng.integers(1, 4)), 0.0, audio.size)


def band_limit(audio: Float32, rng: np.random.Generator) -> Float32:
    """Take the sound to 8 or 10.67 kHz and back, then rebuild its phase in a few rounds."""
    up, down = ((1, 2), (2, 3))[int(rng.integers(2))]
    low = resample_poly(resample_poly(audio, up, down), down, up)[: audio.size]
    return linear_griffin_lim(np.asarray(low, np.float32), rng)


VOCODERS: tuple[Callable[[Float32, np.random.Generator], Float32], ...] = (
    mel_griffin_lim,
    linear_griffin_lim,
    lpc,
    source_filter,
    phase_vocoder,
    envelope,
    rephase,
    band_limit,
)
"""Each takes and returns float32 ``[n]`` at 16 kHz, same length, in step within 5 ms."""


def revoice(audio: Float32, rng: np.random.Generator) -> Float32:
    """Return ``audio`` float32 ``[n]`` after one random vocoder, as loud as before, within -1…1."""
    made = VOCODERS[int(rng.integers(len(VOCODERS)))](np.ascontiguousarray(audio, np.float32), rng)
    gain = rms(audio) / (rms(made) + 1e-9)
    return np.asarray(np.clip(made * gain, -1, 1), np.float32)


def copy_synthesis(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Replace all sound of the window by its vocoded copy.

    Args:
        sample: genuine window, ``audio`` float32 ``[352 + T * 640]`` at 16 kHz.
        rng: source of every draw.
        donors: not needed.

    Returns:
        The window with labels any 1, video 0, audio 1, desync 0.
    """
    sample.audio = revoice(sample.audio, rng)
    sample.labels[:] = (1, 0, 1, 0)
    sample.frame_labels[:] = (1, 0, 1)
    return sample
