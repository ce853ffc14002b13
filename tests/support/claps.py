"""Somebody who claps, drawn and sounded: hands that speed up, meet and stand still."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.support.media import Picture

CLOSING_S, TOGETHER_S, OPENING_S = 0.25, 0.15, 0.4


def clap_times_s(seconds: float) -> list[float]:
    """Claps about once a second, as people do it: never quite."""
    random = np.random.default_rng(5)
    times = [1.0]
    while times[-1] + 1.2 < seconds:
        times.append(times[-1] + float(random.uniform(0.85, 1.15)))
    return times


def distance(at_s: float, claps_s: list[float]) -> float:
    """Return how far the hands are apart at a time, 0…1."""
    apart = 1.0
    for clap_s in claps_s:
        since_s = at_s - clap_s
        if -CLOSING_S <= since_s < 0:
            apart = 1 - (1 + since_s / CLOSING_S) ** 2
        elif 0 <= since_s < TOGETHER_S:
            apart = 0.0
        elif TOGETHER_S <= since_s < TOGETHER_S + OPENING_S:
            apart = (since_s - TOGETHER_S) / OPENING_S
    return apart


def hands(size: tuple[int, int], claps_s: list[float], *, fps: float = 25.0, delay_s: float = 0.0) -> Picture:
    """Draw pictures, numbered from time 0, of two bright hands before a noisy wall."""
    width, height = size
    random = np.random.default_rng(2)
    wall = random.integers(60, 90, (8, height, width, 1), np.uint8)

    def draw(k: int) -> npt.NDArray[np.uint8]:
        rgb = np.repeat(wall[k % len(wall)], 3, axis=2)
        away = round(distance(k / fps - delay_s, claps_s) * width / 4)
        top, wide = height // 3, width // 10
        for left in (width // 2 - away - wide, width // 2 + away):
            rgb[top : 2 * top, max(0, left) : left + wide] = 220
        return rgb

    return draw


def bangs(
    seconds: float, claps_s: list[float], *, rate_hz: int, noise: float = 0.002
) -> npt.NDArray[np.float32]:
    """Return mono sound: a short burst at each clap, in a room that is not quite silent."""
    random = np.random.default_rng(3)
    sound = noise * random.standard_normal(round(seconds * rate_hz))
    length = round(0.08 * rate_hz)
    burst = 0.7 * random.standard_normal(length) * np.exp(-np.arange(length) / (0.015 * rate_hz))
    for clap_s in claps_s:
        first = round(clap_s * rate_hz)
        sound[first : first + length] += burst[: max(0, len(sound) - first)]
    return np.clip(sound, -1, 1).astype(np.float32)
