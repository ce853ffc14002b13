"""A2, A3, AV1, AV2: sound cut in, exchanged or displaced while the picture stays.

``splice`` follows the local edits of AV-Deepfake1M (Cai et al. 2024), ``local_desync`` the
local inconsistencies of Astrid et al. (BMVC 2024).  Picture ``t`` covers the samples
``352 + 640 t`` … ``352 + 640 (t + 1)``.
"""

from __future__ import annotations

import numpy as np

from avff.engine.media import Bool, Float32
from avff.engine.spec import SPEC
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo.vocoder import revoice, rms

FRAME_SAMPLES = SPEC.rate_hz // SPEC.fps
_CONTEXT = SPEC.context_samples
_MS = SPEC.rate_hz // 1000
_SHORTEST, _LONGEST = int(0.4 * SPEC.rate_hz), int(1.2 * SPEC.rate_hz)
_MIN_SHIFT, _MAX_SHIFT = 6, 30


def _quietest(audio: Float32, at: int) -> int:
    """Return the sample within 50 ms of ``at`` around which 10 ms of sound are quietest."""
    reach, block = 50 * _MS, 10 * _MS
    starts = np.arange(max(at - reach, block), min(at + reach, audio.size - block) + 1, block // 2)
    if starts.size == 0:
        return at
    energy = [rms(audio[start - block // 2 : start + block // 2]) for start in starts]
    return int(starts[int(np.argmin(energy))])


def _speech_span(audio: Float32, rng: np.random.Generator) -> tuple[int, int]:
    """Return first and last + 1 sample of a 0.4…1.2 s edit, cut where it is quiet, with sound inside.

    A forged silence would be a label that nobody can see, so the loudest of four spans is taken.
    """
    margin = 50 * _MS  # _quietest moves either cut by as much
    length = int(rng.integers(_SHORTEST + 2 * margin, _LONGEST - 2 * margin + 1))
    starts = rng.integers(_CONTEXT, audio.size - length + 1, 4)
    start = int(max(starts, key=lambda first: rms(audio[first : first + length])))
    cut = max(_quietest(audio, start), _CONTEXT)
    return cut, _quietest(audio, start + length)


def _insert(audio: Float32, patch: Float32, start: int, rng: np.random.Generator) -> None:
    """Write ``patch`` into ``audio`` at ``start``, as loud as what it replaces, cross-faded by 5…20 ms.

    The loudness wanted has a floor at 0.3 of the whole window's, so that the edit can be heard.
    """
    stop = start + patch.size
    wanted = max(rms(audio[start:stop]), 0.3 * rms(audio))
    gain = min(wanted / (rms(patch) + 1e-9), 10.0)
    fade = int(rng.integers(5 * _MS, 20 * _MS + 1))
    weight = np.ones(patch.size, np.float32)
    weight[:fade] = np.linspace(0, 1, fade, dtype=np.float32)
    weight[-fade:] = weight[:fade][::-1]
    mixed = audio[start:stop] * (1 - weight) + np.clip(patch * gain, -1, 1) * weight
    audio[start:stop] = mixed.astype(np.float32)


def frames_of(start: int, stop: int, total: int) -> Bool:
    """Return bool ``[total]``: pictures of which samples ``start``…``stop`` cover half or more."""
    first = _CONTEXT + np.arange(total) * FRAME_SAMPLES
    covered = np.minimum(first + FRAME_SAMPLES, stop) - np.maximum(first, start)
    return np.asarray(covered * 2 >= FRAME_SAMPLES, np.bool_)


def _mark_edit(sample: Sample, start: int, stop: int, desync: float) -> None:
    sample.labels[:] = (1, 0, 1, desync)
    sample.frame_labels[:] = 0
    sample.frame_labels[frames_of(start, stop, len(sample.ok))] = (1, 0, 1)


def splice(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Replace 0.4…1.2 s of sound by its vocoded version, or by other words of the same or another voice.

    Args:
        sample: genuine window, ``audio`` float32 ``[352 + T * 640]``; changed in place.
        rng: source of every draw.
        donors: asked for a window half of the time.

    Returns:
        The window with labels any 1, video 0, audio 1, and desync 1 where other words were cut in.
    """
    start, stop = _speech_span(sample.audio, rng)
    kind = rng.choice(["own", "same", "other"], p=[0.5, 0.3, 0.2])
    if kind == "own":
        patch = revoice(sample.audio, rng)[start:stop]
    else:
        donor = (donors.same if kind == "same" else donors.other)().audio
        first, _ = _speech_span(donor, rng)
        first = min(first, donor.size - (stop - start))
        patch = donor[first : first + stop - start]
    _insert(sample.audio, patch, start, rng)
    _mark_edit(sample, start, stop, float(kind != "own"))
    return sample


def audio_swap(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Take all sound from another window, of the same person or another, half and half.

    Args:
        sample: genuine window; changed in place.
        rng: source of every draw.
        donors: asked for one window.

    Returns:
        The window with labels any 1, desync 1; video and audio NaN, since each alone is genuine.
    """
    donor = donors.same() if rng.random() < 0.5 else donors.other()
    sample.audio = donor.audio.copy()
    sample.labels[:] = (1, np.nan, np.nan, 1)
    sample.frame_labels[:] = (1, np.nan, np.nan)
    return sample


def _rotated(audio: Float32, shift: int) -> Float32:
    """Return ``audio`` turned left by ``shift`` samples, faded over 10 ms on both sides of the seam."""
    out = np.roll(audio, -shift)
    seam, fade = (-shift) % audio.size, 10 * _MS
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    out[seam : seam + fade] *= ramp
    out[seam - fade : seam] *= ramp[::-1]
    return out


def desync(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Displace all sound by ±6…30 pictures (0.24…1.2 s).

    The sound comes from the clip around the window; the sign is turned where the clip ends, and
    a clip too short for either sign has the window's own sound turned in a circle.

    Args:
        sample: genuine window; changed in place.
        rng: source of every draw.
        donors: its ``clip_audio`` is used.

    Returns:
        The window with labels any 0, video 0, audio 0 (benign by itself: bad muxing), desync 1.
    """
    clip, origin = donors.clip_audio
    count = sample.audio.size
    magnitude = int(rng.integers(_MIN_SHIFT, _MAX_SHIFT + 1)) * FRAME_SAMPLES
    sign = int(rng.choice([-1, 1]))
    starts = [origin + sign * magnitude, origin - sign * magnitude]
    fitting = [start for start in starts if start >= 0 and start + count <= clip.size]
    if fitting:
        sample.audio = clip[fitting[0] : fitting[0] + count].astype(np.float32)
    else:
        sample.audio = _rotated(sample.audio, sign * magnitude)
    sample.labels[:] = (0, 0, 0, 1)
    sample.frame_labels[:] = 0
    return sample


def local_desync(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Replace 0.4…0.8 s of sound by another piece of the same clip, 0.24 s or more away.

    Args:
        sample: genuine window; changed in place.
        rng: source of every draw.
        donors: its ``clip_audio`` is used; the window's own sound where the clip is shorter than it.

    Returns:
        The window with labels any 1, video 0, audio 1, desync 1; per picture only inside the piece.
    """
    clip, origin = donors.clip_audio
    if clip.size < sample.audio.size:
        clip, origin = sample.audio.copy(), 0
    length = int(rng.integers(int(0.4 * SPEC.rate_hz), int(0.8 * SPEC.rate_hz) + 1))
    start = int(rng.integers(_CONTEXT, sample.audio.size - length + 1))
    candidates = np.arange(0, clip.size - length + 1, 10 * _MS)
    away = np.abs(candidates - (origin + start)) >= _MIN_SHIFT * FRAME_SAMPLES
    first = int(rng.choice(candidates[away]))
    _insert(sample.audio, clip[first : first + length], start, rng)
    _mark_edit(sample, start, start + length, 1.0)
    return sample
