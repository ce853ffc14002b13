"""Perturbations of the sound: noise, rooms, level.  The pictures pass unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy.signal import fftconvolve

from avff.engine.evidence import SILENCE_DBFS
from avff.engine.media import AudioBlock, Float32, MediaItem, VideoFrame

_LISTEN_S = 1.0
"""Sound above silence from which the level of the speech is taken."""
_WAIT_S = 4.0
"""So much sound is held back at most to hear that; less than the front-end waits for a late modality."""


def white_noise(items: Iterable[MediaItem], snr_db: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Add steady white noise ``snr_db`` below the speech with which the stream begins.

    A stream whose first 4 s are silent gets none: nothing is there that it could be compared with.
    """
    held: list[AudioBlock] = []
    level: float | None = None
    for item in items:
        if isinstance(item, VideoFrame):
            yield item
            continue
        held.append(item)
        if level is None and _heard_enough(held):
            level = _speech_rms(held) * 10 ** (-snr_db / 20)
        if level is not None:
            for block in held:
                yield _noisy(block, level, rng)
            held = []
    level = _speech_rms(held) * 10 ** (-snr_db / 20)
    for block in held:  # a stream that ended before enough was heard
        yield _noisy(block, level, rng)


def _heard_enough(blocks: list[AudioBlock]) -> bool:
    return _seconds(b for b in blocks if _is_loud(b)) >= _LISTEN_S or _seconds(blocks) >= _WAIT_S


def _seconds(blocks: Iterable[AudioBlock]) -> float:
    return sum(len(b.pcm) / b.rate_hz for b in blocks)


def _is_loud(block: AudioBlock) -> bool:
    return _power(block.pcm) > 10 ** (SILENCE_DBFS / 10)


def _power(pcm: Float32) -> float:
    return float(np.mean(np.square(pcm, dtype=np.float64))) if len(pcm) else 0.0


def _speech_rms(blocks: list[AudioBlock]) -> float:
    """Return the RMS of what is louder than silence; 0 when nothing is."""
    loud = [b.pcm for b in blocks if _is_loud(b)]
    return float(np.sqrt(_power(np.concatenate(loud)))) if loud else 0.0


def _noisy(block: AudioBlock, level: float, rng: np.random.Generator) -> AudioBlock:
    noise = rng.standard_normal(len(block.pcm), np.float32) * np.float32(level)
    return replace(block, pcm=np.clip(block.pcm + noise, -1, 1))


def reverb(items: Iterable[MediaItem], t60_s: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Put the sound into a room whose echo falls by 60 dB in ``t60_s``.

    Direct sound and echo, exponentially decaying noise, are equally strong; the level stays.
    Blocks are taken to adjoin.
    """
    rate_hz = 0
    room = tail = np.zeros(0, np.float32)
    for item in items:
        if isinstance(item, VideoFrame):
            yield item
            continue
        if item.rate_hz != rate_hz:
            rate_hz = item.rate_hz
            room = _room(t60_s, rate_hz, rng)
            tail = np.zeros(len(room) - 1, np.float32)
        if not len(item.pcm):
            continue
        wet = np.asarray(fftconvolve(item.pcm, room), np.float32)
        wet[: len(tail)] += tail
        tail = wet[len(item.pcm) :]
        yield replace(item, pcm=np.clip(wet[: len(item.pcm)], -1, 1))


def _room(t60_s: float, rate_hz: int, rng: np.random.Generator) -> Float32:
    """Return an impulse response of unit energy, the undelayed direct sound first."""
    time_s = np.arange(int(t60_s * rate_hz)) / rate_hz
    room = rng.standard_normal(time_s.size) * 10 ** (-3 * time_s / t60_s)
    room[0] = 0
    room /= np.linalg.norm(room)
    room[0] = 1
    return np.asarray(room / np.sqrt(2), np.float32)


def gain(items: Iterable[MediaItem], gain_db: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Change the level by ``gain_db``; what is too loud afterwards is clipped."""
    del rng
    factor = np.float32(10 ** (gain_db / 20))
    for item in items:
        if isinstance(item, VideoFrame):
            yield item
        else:
            yield replace(item, pcm=np.clip(item.pcm * factor, -1, 1))
