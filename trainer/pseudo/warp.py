"""Move a still picture so that its points come to lie where other points are, without tears.

The backward displacement that the points ask for is fitted on grids from coarse to fine, each
taking what the ones before it left over (as multilevel B-splines: Lee, Wolberg and Shin, IEEE
TVCG 1997).  Motion that all points share is smooth; only lips and lids reach the finest grid.
No triangle can fold, and the cost does not depend on how the points lie.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import csr_matrix

from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC

_SIDE = SPEC.face_px
_GRID = 64
"""Cells along a side of the finest grid: 2 px each, about half the distance of neighbouring points."""
_LEVELS = (3, 1, 0)
"""Halvings of the finest grid: cells of 16, 4 and 2 px."""
_EMPTY = 0.1
"""Weight, in points per cell, of the answer that nothing is left over."""
_ANCHOR = 0.3
"""Weight, against a landmark's 1, with which the border of the picture stays where it is."""
_NO_MAP = np.empty(0, np.float32)
"""Tells ``cv2.remap`` that x and y are in one map."""


def field_between(source: Float32, target: Float32) -> Float32:
    """Return where each place of a picture comes from, relative to that place.

    Args:
        source: float32 ``[N, 2]``, points in pixels of the still face picture of 128 px.
        target: float32 ``[T, N, 2]``, where they are to come to lie.

    Returns:
        float32 ``[T, 64, 64, 2]``, x and y in pixels of the face picture; cell ``c`` covers its
        pixels ``2 c`` and ``2 c + 1``.
    """
    count, rim = len(target), _rim()
    at = np.concatenate([target, np.broadcast_to(rim, (count, *rim.shape))], axis=1)
    left = np.zeros_like(at)
    left[:, : len(source)] = source - target
    left = left.reshape(-1, 2)
    weight = np.ones(at.shape[:2], np.float32)
    weight[:, len(source) :] = _ANCHOR
    read = _reading(at)
    write = read.multiply(weight.reshape(-1, 1)).T.tocsr()
    sums = np.empty((count * _GRID**2, 3), np.float32)
    sums[:, 0] = write @ np.ones(len(left), np.float32)
    field = np.zeros((count, _GRID, _GRID, 2), np.float32)
    for level in _LEVELS:
        sums[:, 1:] = write @ left
        part = _fitted(sums, count, level)
        left -= read @ part.reshape(-1, 2)
        field += part
    return field


def warp_still(still: UInt8, field: Float32) -> UInt8:
    """Draw a still picture through displacement fields, at its own resolution.

    Args:
        still: uint8 ``[side, side, 3]``: the face picture at any resolution.
        field: float32 ``[T, 64, 64, 2]`` of :func:`field_between`.

    Returns:
        uint8 ``[T, side, side, 3]``.
    """
    side = len(still)
    scale = side / _SIDE
    row, column = np.mgrid[:side, :side].astype(np.float32)
    here = np.stack([column, row], axis=-1)
    out = np.empty((len(field), *still.shape), np.uint8)
    for index, coarse in enumerate(field):
        fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
        there = cv2.scaleAdd(fine, scale, here)
        cv2.remap(still, there, _NO_MAP, cv2.INTER_LINEAR, out[index], cv2.BORDER_REPLICATE)
    return out


def _rim() -> Float32:
    """Return float32 ``[n, 2]``: places along the border of the picture, 8 px apart."""
    along = np.arange(0, _SIDE, 8, dtype=np.float32)
    low, high = np.zeros_like(along), np.full_like(along, _SIDE - 1)
    sides = [(along, low), (along, high), (low, along), (high, along)]
    return np.concatenate([np.stack(side, axis=-1) for side in sides])


def _reading(at: Float32) -> csr_matrix:
    """Return what reads fields at points: its product with ``[T * 64 * 64, 2]`` is ``[T * N, 2]``.

    Args:
        at: float32 ``[T, N, 2]`` in pixels.
    """
    # The middle of cell c is at 2 c + 0.5; points outside the picture count at its border.
    place = np.clip((at + np.float32(0.5)) * (_GRID / _SIDE) - 0.5, 0, _GRID - 1.001).astype(np.float32)
    first = place.astype(np.int32)
    right, down = np.moveaxis(place - first, -1, 0)
    start = np.arange(len(at), dtype=np.int32)[:, None] * _GRID
    corner = (start + first[..., 1]) * _GRID + first[..., 0]
    cells = corner[..., None] + np.array([0, 1, _GRID, _GRID + 1], np.int32)
    left, up = 1 - right, 1 - down
    weights = np.stack([left * up, right * up, left * down, right * down], axis=-1)
    rows = np.arange(corner.size + 1, dtype=np.int32) * 4
    shape = (corner.size, len(at) * _GRID**2)
    return csr_matrix((weights.ravel(), cells.ravel(), rows), shape=shape)


def _fitted(sums: Float32, count: int, level: int) -> Float32:
    """Fit what is left over at the points on one grid.

    Args:
        sums: float32 ``[T * 64 * 64, 3]``: points in each cell, and what is left over there, added up.
        count: T.
        level: halvings of the finest grid.

    Returns:
        float32 ``[T, 64, 64, 2]``.
    """
    side = _GRID >> level
    if level:
        # Whole cells of one picture each: the stack of pictures may be shrunk as one.
        tall = sums.reshape(count * _GRID, _GRID, 3)
        sums = np.asarray(cv2.resize(tall, (side, count * side), interpolation=cv2.INTER_AREA)) * 4**level
    made = np.empty((count, _GRID, _GRID, 2), np.float32)
    for index, own in enumerate(sums.reshape(count, side, side, 3)):
        near = cv2.GaussianBlur(own, (3, 3), 0.8)
        mean = near[..., 1:] / (near[..., :1] + np.float32(_EMPTY))
        made[index] = cv2.resize(mean, (_GRID, _GRID), interpolation=cv2.INTER_CUBIC) if level else mean
    return made
