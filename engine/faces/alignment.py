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

from avff.engine.faces.landmarks import NOSE_BASE
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
        self._past: list[Float32 | None] = [None] * _REACH

    def cut(self, seen: list[Seen | None]) -> FaceSlice:
        """Align the pictures of one slice.

        Args:
            seen: one entry per grid picture of the slice, None where the face was not found.
        """
        raw = self._past + [None if s is None else _placement(s.face.points) for s in seen]
        faces = np.zeros((len(seen), SPEC.face_px, SPEC.face_px, 3), np.uint8)
        landmarks = np.zeros((len(seen), 468, 3), np.float32)
        motion = np.zeros((len(seen), 6), np.float32)
        for i, s in enumerate(seen):
            if s is None:
                continue
            to_picture = _smoothed(raw, i + _REACH)
            faces[i] = _warp(s.rgb, to_picture)
            landmarks[i] = _into_face(s.face.points, to_picture)
            motion[i] = _motion(s.face.points, raw[i + _REACH - 1], raw[i + _REACH])
        self._past = raw[-_REACH:]
        return FaceSlice(
            self._track, faces, landmarks, motion,
            ok=np.array([s is not None for s in seen]),
            eye_px=_mean_eye_distance(seen),
            box=_last_box(seen),
        )  # fmt: skip


def _placement(points: Float32) -> Float32:
    """Least-squares similarity from the aligned face to the picture: [a, b, x, y].

    (u, v) of the face lies at (a u - b v + x, b u + a v + y) in the picture.
    """
    left, right = eye_centres(points)
    target = np.stack([left, right, points[NOSE_BASE, :2]])
    source = _EYES_AND_NOSE
    s_mid, t_mid = source.mean(axis=0), target.mean(axis=0)
    s, t = source - s_mid, target - t_mid
    norm = (s**2).sum()
    a = (s * t).sum() / norm
    b = (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum() / norm
    x = t_mid[0] - a * s_mid[0] + b * s_mid[1]
    y = t_mid[1] - b * s_mid[0] - a * s_mid[1]
    return np.array([a, b, x, y], np.float32)


def _smoothed(raw: list[Float32 | None], at: int) -> Float32:
    """Weighted mean of the placements around ``at``; missing neighbours lose their weight."""
    total, weights = np.zeros(4, np.float32), np.float32(0)
    for offset, weight in zip(range(-_REACH, _REACH + 1), _KERNEL, strict=True):
        near = raw[at + offset] if at + offset < len(raw) else None
        if near is not None:
            total += weight * near
            weights += weight
    return total / weights


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
    inverse = cv2.invertAffineTransform(_matrix(to_picture)).astype(np.float32)
    placed = np.empty_like(points)
    placed[:, :2] = points[:, :2] @ inverse[:, :2].T + inverse[:, 2]
    placed[:, 2] = points[:, 2] / np.hypot(to_picture[0], to_picture[1])
    return placed


def _motion(points: Float32, before: Float32 | None, now: Float32 | None) -> Float32:
    """Head pose in rad, and its shift and change of log scale since the picture before."""
    assert now is not None, "called for pictures with a face only"
    ear, other_ear, forehead, chin = points[234], points[454], points[10], points[152]
    yaw = np.arctan2(other_ear[2] - ear[2], np.hypot(*(other_ear - ear)[:2]))
    pitch = np.arctan2(chin[2] - forehead[2], np.hypot(*(chin - forehead)[:2]))
    roll = np.arctan2(now[1], now[0])
    if before is None:
        return np.array([roll, yaw, pitch, 0, 0, 0], np.float32)
    middle = np.array([SPEC.face_px / 2, SPEC.face_px / 2, 1], np.float32)
    size = np.hypot(now[0], now[1])
    eye_distance = size * (_EYES_AND_NOSE[1, 0] - _EYES_AND_NOSE[0, 0])
    shift = (_matrix(now) - _matrix(before)) @ middle / eye_distance
    growth = np.log(size / np.hypot(before[0], before[1]))
    return np.array([roll, yaw, pitch, shift[0], shift[1], growth], np.float32)


def _mean_eye_distance(seen: list[Seen | None]) -> float:
    distances = [
        float(np.linalg.norm(np.subtract(*eye_centres(s.face.points)))) for s in seen if s is not None
    ]
    return float(np.mean(distances)) if distances else 0.0


def _last_box(seen: list[Seen | None]) -> tuple[float, float, float, float]:
    last = next((s for s in reversed(seen) if s is not None), None)
    if last is None:
        return (0.0, 0.0, 0.0, 0.0)
    x0, y0, x1, y1 = last.face.box
    height, width = last.rgb.shape[:2]
    return (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
