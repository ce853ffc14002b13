"""The face and voice of the demo clip, to be written again in any format."""

from __future__ import annotations

from collections.abc import Sequence

import av
import cv2
import numpy as np
import numpy.typing as npt

from avff.engine.media import AudioBlock, UInt8
from tests.support.engine import blocks_of, demo_items, demo_pictures
from tests.support.media import Picture

SECONDS = 3.2
"""Ten slices: seven that are too short for a window, then three windows."""
FPS = 25


def talking(
    size: tuple[int, int] = (480, 480),
    *,
    times_s: Sequence[float] | None = None,
    quarter_turns: int = 0,
    reduced: int = 1,
) -> Picture:
    """Return what draws the talking photo, cut to ``size`` around its middle or set on black.

    Args:
        size: width and height in px.
        times_s: time of each picture; 25 a second by default.
        quarter_turns: clockwise, as a phone that is held so stores it; the size is that of the upright
            picture.
        reduced: how much smaller the photo is drawn.
    """
    pictures = demo_pictures(round(SECONDS * FPS))

    def draw(k: int) -> UInt8:
        index = k if times_s is None else round(times_s[k] * FPS)
        rgb = pictures[min(index, len(pictures) - 1)]
        small = cv2.resize(rgb, None, fx=1 / reduced, fy=1 / reduced, interpolation=cv2.INTER_AREA)
        rgb = _fitted(np.asarray(small, np.uint8), size)
        return np.ascontiguousarray(np.rot90(rgb, -quarter_turns))

    return draw


def speech(rate_hz: int, layout: str) -> npt.NDArray[np.int16]:
    """Return the demo clip's voice, int16 ``[channels, n]``; in surround it comes from the centre."""
    resampler = av.AudioResampler("s16p", layout, rate_hz)
    made = [piece for block in blocks_of(demo_items(SECONDS)) for piece in resampler.resample(_frame(block))]
    made += resampler.resample(None)
    return np.concatenate([piece.to_ndarray() for piece in made], axis=1).astype(np.int16, copy=False)


def _frame(block: AudioBlock) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(block.pcm[None], format="fltp", layout="mono")
    frame.sample_rate = block.rate_hz
    return frame


def _fitted(rgb: UInt8, size: tuple[int, int]) -> UInt8:
    width, height = size
    high, wide = rgb.shape[:2]
    x, y = max(0, (wide - width) // 2), max(0, (high - height) // 2)
    part = rgb[y : y + height, x : x + width]
    left, top = (width - part.shape[1]) // 2, (height - part.shape[0]) // 2
    right, bottom = width - part.shape[1] - left, height - part.shape[0] - top
    return np.asarray(cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT), np.uint8)
