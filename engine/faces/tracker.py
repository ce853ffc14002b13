"""Follow faces from picture to picture and number them.

Detection is rare (once a slice, and when a face is lost); between detections each
face's own points give the region for the next picture.  Pure but for the models:
no clock, no thread, and the same pictures always give the same tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avff.engine.faces.landmarks import LEFT_EYE, MESH_POINTS, RIGHT_EYE
from avff.engine.faces.models import Detection, FaceModels, Region
from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC

MAX_FACES = 4
"""Faces followed at once; more cost time on every picture."""
PRESENCE_LIMIT = 0.5
_DETECT_EVERY = SPEC.slice_frames
_REGION_MARGIN = 1.5
_SAME_FACE_IOU = 0.2
_ONE_FACE_IOU = 0.6
"""Two followed faces that overlap this much are one; below, people may stand close."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFace:
    """A face in one picture: its track number and float32 ``[468, 3]`` points in picture pixels."""

    track: int
    points: Float32

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of all points, in picture pixels."""
        low, high = self.points[:, :2].min(axis=0), self.points[:, :2].max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


class FaceTracker:
    """Gives every face in a stream of grid pictures a stable number."""

    def __init__(self, models: FaceModels) -> None:
        self._models = models
        self._tracks: list[TrackedFace] = []
        self._next_track = 0
        self._since_detection = _DETECT_EVERY

    def process(self, rgb: UInt8) -> list[TrackedFace]:
        """Return the faces of the next picture, in the order they were first seen.

        Args:
            rgb: uint8 ``[height, width, 3]``.
        """
        followed = [t for t in (self._follow(rgb, track) for track in self._tracks) if t is not None]
        followed = _distinct(followed)
        lost = len(followed) < len(self._tracks)
        self._tracks = followed
        self._since_detection += 1
        if lost or self._since_detection >= _DETECT_EVERY:
            self._since_detection = 0
            self._tracks += self._find_new(rgb)
        return list(self._tracks)

    def forget(self) -> None:
        """Follow nobody any more: what comes next does not go on from what came before."""
        self._tracks = []
        self._since_detection = _DETECT_EVERY

    def _follow(self, rgb: UInt8, track: TrackedFace) -> TrackedFace | None:
        points, presence = self._models.mesh(rgb, region_of_points(track.points))
        return None if presence < PRESENCE_LIMIT else TrackedFace(track.track, points)

    def _find_new(self, rgb: UInt8) -> list[TrackedFace]:
        found: list[TrackedFace] = []
        for detection in self._models.detect(rgb):
            known = self._tracks + found
            if len(known) >= MAX_FACES:
                break
            if any(_overlap(detection.box, face.box) > _SAME_FACE_IOU for face in known):
                continue
            points, presence = self._models.mesh(rgb, region_of_detection(detection))
            if presence >= PRESENCE_LIMIT:
                found.append(TrackedFace(self._next_track, points))
                self._next_track += 1
        return found


def _distinct(faces: list[TrackedFace]) -> list[TrackedFace]:
    """Drop tracks that have run onto a face that an older track follows."""
    kept: list[TrackedFace] = []
    for face in faces:
        if all(_overlap(face.box, other.box) <= _ONE_FACE_IOU for other in kept):
            kept.append(face)
    return kept


def region_of_detection(detection: Detection) -> Region:
    """Return the square around a detected face, upright along its eyes."""
    x0, y0, x1, y1 = detection.box
    dx, dy = detection.eyes[1] - detection.eyes[0]
    side = max(x1 - x0, y1 - y0) * _REGION_MARGIN
    return Region((x0 + x1) / 2, (y0 + y1) / 2, side, float(np.arctan2(dy, dx)))


def region_of_points(points: Float32) -> Region:
    """Return the square around a face's points (float32 ``[468, 3]``), upright along its eyes."""
    left, right = eye_centres(points)
    angle = float(np.arctan2(*(right - left)[::-1]))
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points[:, :2] @ np.array([[cos, -sin], [sin, cos]], np.float32)
    low, high = turned.min(axis=0), turned.max(axis=0)
    centre = (low + high) / 2
    x, y = np.array([[cos, -sin], [sin, cos]]) @ centre
    return Region(float(x), float(y), float((high - low).max()) * _REGION_MARGIN, angle)


def eye_centres(points: Float32) -> tuple[Float32, Float32]:
    """Return both eyes' centres, float32 ``[..., 2]`` each, in the unit of the points ``[..., 468, 3]``."""
    centres = (_EYE_MEANS @ points)[..., :2]
    return centres[..., 0, :], centres[..., 1, :]


def _mean_of(indices: Sequence[int]) -> Float32:
    """Weights that take the mean of some points of the mesh."""
    weights = np.zeros(MESH_POINTS, np.float32)
    weights[list(indices)] = 1 / len(indices)
    return weights


_EYE_MEANS = np.stack([_mean_of(LEFT_EYE), _mean_of(RIGHT_EYE)])
"""Float32 ``[2, 468]``: one product for both centres, which every picture needs several times."""


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (both - shared)
