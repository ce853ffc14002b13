"""Cut aligned face pictures: the same place, size and upright angle in every picture.

A similarity transform maps both eyes and the nose base to fixed places, so that
expression and speech are left untouched.  Its parameters are smoothed over
neighbouring pictures (landmark noise would read as flicker), looking back across
the slice border but never beyond the end of the slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avff.engine.faces.landmarks import MESH_POINTS, NOSE_BASE
from avff.engine.faces.tracker import TrackedFace, eye_centres
from avff.engine.media import Float32, UInt8
from avff.engine.slices import FaceSlice
from avff.engine.spec import SPEC

_EYES_AND_NOSE = np.array([[38.0, 31.0], [90.0, 31.0], [64.0, 70.0]], np.float32) / 128 * SPEC.face_px
"""Where the eyes' centres and the nose base come to lie: brows to chin fill the picture."""
_KERNEL = np.array([0.1, 0.2, 0.4, 0.2, 0.1], np.float32)
_REACH = len(_KERNEL) // 2
_SHRINK_FROM = 1.5
"""From this many source pixels per face pixel on, the source is area-reduced first: no aliasing."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A tracked face together with the picture it was seen in (uint8 ``[height, width, 3]``)."""

    face: TrackedFace
    rgb: UInt8


class FaceSlicer:
    """Turns one track's pictures into face slices, keeping what smoothing needs of the past."""

    def __init__(self, track: int) -> None:
        self._track = track
        self._past: Float32 = np.full((_REACH, 4), np.nan, np.float32)

    def cut(self, seen: list[Seen | None]) -> FaceSlice:
        """Align the pictures of one slice.

        Args:
            seen: one entry per grid picture of the slice, None where the face was not found.
        """
        ok = np.array([s is not None for s in seen])
        points = np.array([s.face.points for s in seen if s is not None], np.float32).reshape(
            -1, MESH_POINTS, 3
        )
        eyes = eye_centres(points)
        raw = np.full((len(seen), 4), np.nan, np.float32)
        raw[ok] = _placements(eyes, points[:, NOSE_BASE, :2])
        course = np.concatenate([self._past, raw])
        to_picture = _smoothed(course)
        faces = np.zeros((len(seen), SPEC.face_px, SPEC.face_px, 3), np.uint8)
        landmarks = np.zeros((len(seen), MESH_POINTS, 3), np.float32)
        motion = np.zeros((len(seen), 6), np.float32)
        for i, s in enumerate(seen):
            if s is not None:
                faces[i] = _warp(s.rgb, to_picture[i])
        landmarks[ok] = _into_face(points, to_picture[ok])
        motion[ok] = _motion(points, course[_REACH - 1 : -1][ok], raw[ok])
        self._past = course[-_REACH:]
        eye_px = float(np.linalg.norm(eyes[0] - eyes[1], axis=1).mean()) if len(points) else 0.0
        return FaceSlice(self._track, faces, landmarks, motion, ok, eye_px, _last_box(seen))


def _placements(eyes: tuple[Float32, Float32], nose: Float32) -> Float32:
    """Least-squares similarities from the aligned face to the picture.

    Args:
        eyes: both centres in picture pixels, float32 ``[n, 2]`` each.
        nose: its base, float32 ``[n, 2]``.

    Returns:
        float32 ``[n, 4]``: a, b, x, y; (u, v) of the face lies at (a u - b v + x, b u + a v + y).
    """
    return np.concatenate([*eyes, nose], axis=1) @ _FIT.T


def _fit() -> Float32:
    """Float32 ``[4, 6]``: from x and y of both eyes and the nose to the similarity nearest to them."""
    ones, zeros = np.ones(3), np.zeros(3)
    u, v = _EYES_AND_NOSE.T.astype(np.float64)
    rows = np.stack([np.stack([u, -v, ones, zeros], axis=1), np.stack([v, u, zeros, ones], axis=1)], axis=1)
    return np.linalg.pinv(rows.reshape(6, 4)).astype(np.float32)


_FIT = _fit()


def _smoothed(course: Float32) -> Float32:
    """Weighted means of neighbouring placements; missing ones lose their weight.

    Args:
        course: float32 ``[_REACH + n, 4]``, NaN where the face was not found; the past comes first.

    Returns:
        float32 ``[n, 4]``; zeros where neither a picture nor its neighbours show the face.
    """
    n = len(course) - _REACH
    there = np.zeros((n + 2 * _REACH, 1), np.float32)
    there[: len(course), 0] = ~np.isnan(course[:, 0])
    known = np.zeros((n + 2 * _REACH, 4), np.float32)
    known[: len(course)] = np.nan_to_num(course)
    near = range(len(_KERNEL))
    total = np.sum([_KERNEL[k] * known[k : k + n] for k in near], axis=0)
    weights = np.sum([_KERNEL[k] * there[k : k + n] for k in near], axis=0)
    return np.asarray(total / np.where(weights > 0, weights, 1), np.float32)


def _matrix(placement: Float32) -> Float32:
    a, b, x, y = placement
    return np.array([[a, -b, x], [b, a, y]], np.float32)


def _warp(rgb: UInt8, to_picture: Float32) -> UInt8:
    scale = float(np.hypot(to_picture[0], to_picture[1]))
    matrix = _matrix(to_picture)
    if scale > _SHRINK_FROM:
        rgb, matrix = _shrunk(rgb, matrix, scale)
    warped = cv2.warpAffine(
        rgb, matrix, (SPEC.face_px, SPEC.face_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(warped, np.uint8)


def _shrunk(rgb: UInt8, matrix: Float32, scale: float) -> tuple[UInt8, Float32]:
    """Cut out the face's surroundings and area-reduce them to about one pixel per face pixel."""
    side = SPEC.face_px
    corners = matrix @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]], np.float32)
    height, width = rgb.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(axis=1)) - 2, 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=1)) + 2, [x0 + 1, y0 + 1], [width, height]).astype(int)
    size = (max(1, round((x1 - x0) / scale)), max(1, round((y1 - y0) / scale)))
    small = cv2.resize(rgb[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    ratio = np.array([[size[0] / (x1 - x0)], [size[1] / (y1 - y0)]], np.float32)
    moved = matrix.copy()
    moved[:, 2] -= (x0, y0)
    # Pixel centres sit at +0.5: keep them in place through the change of scale.
    return np.asarray(small, np.uint8), np.concatenate(
        [moved[:, :2] * ratio, (moved[:, 2:] + 0.5) * ratio - 0.5], axis=1
    )


def _into_face(points: Float32, to_picture: Float32) -> Float32:
    """Move points (float32 ``[n, 468, 3]``) by the inverse of similarities (float32 ``[n, 4]``)."""
    a, b, x, y = to_picture.T[:, :, None]
    squared = a * a + b * b
    from_left, from_top = points[..., 0] - x, points[..., 1] - y
    placed = [a * from_left + b * from_top, a * from_top - b * from_left, points[..., 2] * np.sqrt(squared)]
    return np.asarray(np.stack(placed, axis=-1) / squared[..., None], np.float32)


def _motion(points: Float32, before: Float32, now: Float32) -> Float32:
    """Head pose in rad, and its shift and change of log scale since the picture before.

    Args:
        points: float32 ``[n, 468, 3]``.
        before, now: float32 ``[n, 4]`` placements; NaN before where there is none.

    Returns:
        float32 ``[n, 6]``, as in :class:`avff.engine.slices.FaceSlice`.
    """
    across, down = points[:, 454] - points[:, 234], points[:, 152] - points[:, 10]
    yaw = np.arctan2(across[:, 2], np.hypot(across[:, 0], across[:, 1]))
    pitch = np.arctan2(down[:, 2], np.hypot(down[:, 0], down[:, 1]))
    roll = np.arctan2(now[:, 1], now[:, 0])
    size = np.hypot(now[:, 0], now[:, 1])
    eye_distance = size * (_EYES_AND_NOSE[1, 0] - _EYES_AND_NOSE[0, 0])
    a, b, x, y = (now - before).T
    middle = SPEC.face_px / 2
    right = (a * middle - b * middle + x) / eye_distance
    below = (b * middle + a * middle + y) / eye_distance
    growth = np.log(size / np.hypot(before[:, 0], before[:, 1]))
    moved = np.stack([right, below, growth], axis=1)
    moved[np.isnan(before[:, 0])] = 0
    return np.concatenate([np.stack([roll, yaw, pitch], axis=1), moved], axis=1).astype(np.float32)


def _last_box(seen: list[Seen | None]) -> tuple[float, float, float, float]:
    last = next((s for s in reversed(seen) if s is not None), None)
    if last is None:
        return (0.0, 0.0, 0.0, 0.0)
    x0, y0, x1, y1 = last.face.box
    height, width = last.rgb.shape[:2]
    return (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
