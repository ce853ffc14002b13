"""Synthetic windows of a talking face, plausible enough to manipulate and to measure."""

from __future__ import annotations

import cv2
import numpy as np

from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo.selfblend import FACE_OVAL

FRAME_SAMPLES = SPEC.rate_hz // SPEC.fps
CONTEXT = SPEC.context_samples
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_PLACES = {
    2: (64, 76),
    1: (64, 70),
    98: (56, 76),
    327: (72, 76),
    168: (64, 48),
    33: (42, 48),
    263: (86, 48),
    13: (64, 89),
    14: (64, 91),
    57: (52, 91),
    287: (76, 91),
    70: (36, 42),
    63: (41, 39),
    105: (47, 38),
    66: (52, 39),
    107: (57, 41),
    336: (71, 41),
    296: (76, 39),
    334: (81, 38),
    293: (87, 39),
    300: (92, 42),
}


def loudness(seed: int, samples: int) -> Float32:
    """Return float32 ``[samples]``: syllables of random strength and length, about 4 per second, 0…1."""
    rng = np.random.default_rng(seed)
    knots = int(samples / SPEC.rate_hz / 0.06) + 3
    strength = rng.uniform(0.3, 1, knots)
    strength[::2] *= 0.1
    moments = np.cumsum(rng.uniform(0.06, 0.2, knots)) - 0.1  # uneven, so that no shift is a period
    return np.interp(np.arange(samples) / SPEC.rate_hz, moments, strength).astype(np.float32)


def speech(seed: int, samples: int) -> Float32:
    """Return float32 ``[samples]`` at 16 kHz: harmonics of a gliding pitch under formants and syllables."""
    rng = np.random.default_rng(seed + 1000)
    time = np.arange(samples) / SPEC.rate_hz
    pitch = rng.uniform(100, 200) * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    turn = 2 * np.pi * np.cumsum(pitch) / SPEC.rate_hz
    formant = 700 + 300 * np.sin(2 * np.pi * 1.3 * time + rng.uniform(0, 6))
    sound = np.zeros(samples)
    for number in range(1, 25):
        weight = np.exp(-(((number * pitch - formant) / 500) ** 2)) + 0.3 / number
        sound += weight * np.sin(number * turn)
    sound += 0.05 * rng.standard_normal(samples)
    return np.asarray(0.6 * sound / np.abs(sound).max() * loudness(seed, samples), np.float32)


def _landmarks(opening: Float32, sway: Float32, rng: np.random.Generator) -> Float32:
    base = np.zeros((468, 3), np.float32)
    base[:, :2] = (64, 62) + rng.uniform(-1, 1, (468, 2)) * (28, 36)
    turn = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    base[list(FACE_OVAL), :2] = np.stack([64 + 44 * np.sin(turn), 64 - 52 * np.cos(turn)], axis=1)
    # The lower arc runs from the lips' right corner (61) to the left one (291), the upper one back.
    around = np.linspace(np.pi, -np.pi, len(LIPS), endpoint=False)
    base[list(LIPS), :2] = np.stack([64 + 14 * np.cos(around), 90 + 5 * np.sin(around)], axis=1)
    for number, place in _PLACES.items():
        base[number, :2] = place
    base[:, 2] = rng.uniform(-5, 5, 468)
    marks = np.repeat(base[None], len(opening), axis=0)
    marks[..., :2] += sway[:, None]
    marks[:, 14, 1] += opening
    marks[:, 17, 1] += opening
    return marks


def _picture(marks: Float32, texture: UInt8, sway: Float32, opening: float) -> UInt8:
    shift = np.array([[1, 0, sway[0]], [0, 1, sway[1]]], np.float64)
    face = np.asarray(cv2.warpAffine(texture, shift, (128, 128), borderMode=cv2.BORDER_REFLECT), np.uint8)
    for eye in (33, 263):
        cv2.circle(face, np.round(marks[eye, :2]).astype(int).tolist(), 5, (60, 40, 30), -1, cv2.LINE_AA)
    middle = marks[[61, 291], :2].mean(axis=0)
    mouth = [round(float(middle[0])), round(float(middle[1]) + opening / 2)]
    cv2.ellipse(face, mouth, (13, 3 + int(opening)), 0, 0, 360, (120, 30, 40), -1, cv2.LINE_AA)
    return face


def make_sample(seed: int = 0, *, missing: tuple[int, ...] = ()) -> Sample:
    """Return a window whose mouth opens with its sound; pictures ``missing`` show no face."""
    rng = np.random.default_rng(seed)
    total = SPEC.window_frames
    samples = CONTEXT + total * FRAME_SAMPLES
    opening = loudness(seed, samples)[CONTEXT::FRAME_SAMPLES][:total] * 10
    phase = np.arange(total)[:, None] / 9 + rng.uniform(0, 6, 2)
    sway = (2 * np.sin(phase)).astype(np.float32)
    spots = rng.uniform(-40, 40, (16, 16, 1)).astype(np.float32)
    grain = np.asarray(cv2.resize(spots, (128, 128), interpolation=cv2.INTER_CUBIC))[..., None]
    texture = np.clip(np.array((190, 150, 130)) + grain, 0, 255).astype(np.uint8)
    marks = _landmarks(opening, sway, rng)
    faces = np.stack([_picture(marks[t], texture, sway[t], opening[t]) for t in range(total)])
    motion = rng.normal(0, 0.02, (total, 6)).astype(np.float32)
    ok = np.ones(total, np.bool_)
    ok[list(missing)] = False
    for values in (faces, marks, motion):
        values[~ok] = 0
    return Sample(faces, ok, marks, motion, speech(seed, samples), uid=f"clip{seed}")


def make_donors(sample: Sample, seed: int = 0, *, around: int = 32_000) -> Donors:
    """Return donors whose clip reaches ``around`` (0…32 000) samples beyond the window on both sides."""
    before, after = (speech(seed + number, 32_000)[:around] for number in (50, 51))
    clip = np.concatenate([before, sample.audio, after])
    return Donors(lambda: make_sample(seed + 60), lambda: make_sample(seed + 61), (clip, around))


def differing(before: UInt8, after: UInt8) -> UInt8:
    """Return uint8 ``[T, 128, 128]``: largest channel difference of two stacks of pictures."""
    return np.asarray(np.abs(before.astype(np.int16) - after).max(axis=-1), np.uint8)
