"""A white sheet with a few things to draw on it: OpenCV is all the base installation has.

Positions and sizes are in px of the finished picture; everything is drawn twice as large and
reduced at the end, which is what makes OpenCV's strokes and letters smooth.
"""

from __future__ import annotations

import unicodedata
from typing import Literal, TypeAlias

import cv2
import numpy as np

from avff.engine.media import UInt8

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
BLACK, GREY, LIGHT = (32, 32, 32), (110, 110, 110), (205, 205, 205)
_OVER = 2
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PX_PER_SCALE = 22.0
"""Height of the font's capitals at scale 1."""


class Canvas:
    """An RGB picture under construction.

    Args:
        width, height: in px.
    """

    def __init__(self, width: int, height: int) -> None:
        self._pixels = np.full((height * _OVER, width * _OVER, 3), 255, np.uint8)

    def picture(self) -> UInt8:
        """Return what was drawn, uint8 ``[height, width, 3]`` RGB."""
        height, width = self._pixels.shape[:2]
        size = (width // _OVER, height // _OVER)
        return np.asarray(cv2.resize(self._pixels, size, interpolation=cv2.INTER_AREA), np.uint8)

    def image(self, rgb: UInt8, left: int, top: int) -> None:
        """Put a picture in place, as large as it is."""
        large = cv2.resize(rgb, None, fx=_OVER, fy=_OVER, interpolation=cv2.INTER_LINEAR)
        height, width = large.shape[:2]
        self._pixels[top * _OVER : top * _OVER + height, left * _OVER : left * _OVER + width] = large

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour = LIGHT) -> None:
        """Draw a frame."""
        cv2.rectangle(self._pixels, _at((left, top)), _at((right, bottom)), colour, 2, cv2.LINE_AA)

    def line(self, points: list[Point], colour: Colour = BLACK, width: float = 1.0) -> None:
        """Draw a line through points."""
        corners = np.array([_at(point) for point in points], np.int32)
        cv2.polylines(self._pixels, [corners], False, colour, round(width * _OVER), cv2.LINE_AA)

    def dot(self, at: Point, radius: float, colour: Colour) -> None:
        """Draw a filled circle."""
        cv2.circle(self._pixels, _at(at), round(radius * _OVER), colour, cv2.FILLED, cv2.LINE_AA)

    def text(
        self,
        words: str,
        at: Point,
        *,
        size: float = 11,
        anchor: Literal["left", "middle", "right"] = "left",
        colour: Colour = BLACK,
        bold: bool = False,
    ) -> None:
        """Write one line.

        Args:
            words: what the font lacks, all but ASCII, is replaced.
            at: where it begins, has its middle, or ends; y of its base line.
            size: height of its capitals, px.
            anchor: which of the three.
            colour: of the letters.
            bold: thicker.
        """
        plain = _ascii(words)
        scale, thickness = size * _OVER / _PX_PER_SCALE, 3 if bold else 2
        (wide, _), _ = cv2.getTextSize(plain, _FONT, scale, thickness)
        x, y = _at(at)
        x -= {"left": 0, "middle": wide // 2, "right": wide}[anchor]
        cv2.putText(self._pixels, plain, (x, y), _FONT, scale, colour, thickness, cv2.LINE_AA)

    def upright(self, words: str, at: Point, *, size: float = 11, colour: Colour = BLACK) -> None:
        """Write one line from bottom to top with its middle at ``at``."""
        plain, scale = _ascii(words), size * _OVER / _PX_PER_SCALE
        (wide, high), base = cv2.getTextSize(plain, _FONT, scale, 2)
        label = np.full((high + 2 * base, wide, 3), 255, np.uint8)
        cv2.putText(label, plain, (0, high + base // 2), _FONT, scale, colour, 2, cv2.LINE_AA)
        turned = np.ascontiguousarray(label.transpose(1, 0, 2)[::-1])
        x, y = _at(at)
        top, left = y - turned.shape[0] // 2, x - turned.shape[1] // 2
        self._pixels[top : top + turned.shape[0], left : left + turned.shape[1]] = turned


def _ascii(words: str) -> str:
    """Letters without their accents, and a question mark for what the font does not have."""
    bare = (c for c in unicodedata.normalize("NFKD", words) if not unicodedata.combining(c))
    return "".join(bare).encode("ascii", "replace").decode()


def _at(point: Point) -> tuple[int, int]:
    return round(point[0] * _OVER), round(point[1] * _OVER)
