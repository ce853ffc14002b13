"""Perturbations of single pictures, on the whole frame, before any face is cut out.

Severities and formulas are those of DeeperForensics-1.0 (Jiang et al., CVPR 2020, arXiv:2001.03024) but
for ``resize``.  The blocks are why the frame must be whole: under 256 px there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from avff.engine.media import MediaItem, UInt8, VideoFrame

Change = Callable[[UInt8, float, np.random.Generator], UInt8]
"""From a picture uint8 ``[height, width, 3]`` RGB, the severity and a source of chance to a picture."""

_BLOCK_PX = 8
_GREY = 128
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def each(
    change: Change,
) -> Callable[[Iterable[MediaItem], float, np.random.Generator], Iterator[MediaItem]]:
    """Return the perturbation of a stream that changes every picture and leaves the sound alone."""

    def perturb(items: Iterable[MediaItem], severity: float, rng: np.random.Generator) -> Iterator[MediaItem]:
        for item in items:
            if isinstance(item, VideoFrame):
                yield replace(item, rgb=change(item.rgb, severity, rng))
            else:
                yield item

    return perturb


def saturation(rgb: UInt8, factor: float, rng: np.random.Generator) -> UInt8:
    """Shrink colour towards grey by ``factor``; 0 leaves none."""
    del rng
    matrix = np.eye(3) * factor + (1 - factor) * np.tile(_LUMA, (3, 1))
    return np.asarray(cv2.transform(rgb, matrix), np.uint8)


def contrast(rgb: UInt8, factor: float, rng: np.random.Generator) -> UInt8:
    """Multiply every value by ``factor``, which darkens too."""
    del rng
    return np.asarray(cv2.LUT(rgb, (np.arange(256) * factor).astype(np.uint8)), np.uint8)


def blocks(rgb: UInt8, per_256_px: float, rng: np.random.Generator) -> UInt8:
    """Cover random places with grey squares of 8 px, ``per_256_px`` for each 256 px of the shorter side."""
    changed = rgb.copy()
    height, width = rgb.shape[:2]
    count = min(height, width) // 256 * int(per_256_px)
    tops = rng.integers(0, max(1, height - _BLOCK_PX), count)
    lefts = rng.integers(0, max(1, width - _BLOCK_PX), count)
    for top, left in zip(tops, lefts, strict=True):
        changed[top : top + _BLOCK_PX, left : left + _BLOCK_PX] = _GREY
    return changed


def noise(rgb: UInt8, variance: float, rng: np.random.Generator) -> UInt8:
    """Add Gaussian noise of ``variance`` (of values 0…1) to luma and chroma, new in every picture."""
    planes = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), np.float32)
    planes += rng.standard_normal(rgb.shape, np.float32) * np.float32(255 * np.sqrt(variance))
    clipped = np.clip(np.round(planes), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(clipped, cv2.COLOR_YCrCb2RGB), np.uint8)


def blur(rgb: UInt8, kernel_px: float, rng: np.random.Generator) -> UInt8:
    """Blur with a Gaussian kernel of ``kernel_px``, odd; sigma is a sixth of it."""
    del rng
    side = int(kernel_px)
    return np.asarray(cv2.GaussianBlur(rgb, (side, side), side / 6), np.uint8)


def pixelation(rgb: UInt8, factor: float, rng: np.random.Generator) -> UInt8:
    """Make the picture ``factor`` times smaller and enlarge it again, both bilinear."""
    del rng
    height, width = rgb.shape[:2]
    small = (max(1, int(width // factor)), max(1, int(height // factor)))
    return np.asarray(cv2.resize(cv2.resize(rgb, small), (width, height)), np.uint8)


def resize(rgb: UInt8, lines: float, rng: np.random.Generator) -> UInt8:
    """Make the picture ``lines`` high, as a sender that has too little bandwidth; never enlarge it."""
    del rng
    height, width = rgb.shape[:2]
    if height <= lines:
        return rgb
    size = (max(1, round(width * lines / height)), int(lines))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
