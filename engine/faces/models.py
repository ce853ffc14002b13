"""Run the face models: BlazeFace finds faces, Face Mesh puts 468 points on one.

References: BlazeFace, arXiv:1907.05047; Face Mesh, arXiv:1907.06724.  Anchors,
input ranges and crop geometry follow MediaPipe's published graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from avff.engine.faces import assets
from avff.engine.faces.landmarks import MESH_POINTS
from avff.engine.media import Float32, UInt8
from avff.engine.quiet import quiet_stderr

_SCORE_LIMIT = 0.5
_SAME_FACE_IOU = 0.3
_MESH_PX = 192
_TO_UNIT = np.float32(1 / 255)
_LOGIT_LIMIT = 80
"""So that exp cannot overflow; the models' logits reach beyond 100."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """A face found in a picture.

    Attributes:
        box: x0, y0, x1, y1 in picture pixels.
        eyes: float32 ``[2, 2]``: the eye on the picture's left, then the other, x and y in pixels.
        score: 0…1.
    """

    box: tuple[float, float, float, float]
    eyes: Float32
    score: float


@dataclass(frozen=True, slots=True)
class Region:
    """A rotated square in picture pixels: centre, side, angle in rad (0 = upright face)."""

    x: float
    y: float
    side: float
    angle: float


class FaceModels:
    """The three interpreters.  Not thread-safe: one instance per thread.

    Raises:
        AssetError: a model file is missing or altered.
    """

    def __init__(self) -> None:
        self._short = _Detector(assets.read_asset(assets.SHORT_RANGE), _short_range_anchors())
        self._full = _Detector(assets.read_asset(assets.FULL_RANGE), _full_range_anchors())
        self._mesh = _Net(assets.read_asset(assets.FACE_MESH))
        self._unit_crop = np.empty((_MESH_PX, _MESH_PX, 3), np.float32)

    def detect(self, rgb: UInt8) -> list[Detection]:
        """Find faces in a picture, best first.

        Args:
            rgb: uint8 ``[height, width, 3]``.
        """
        # The short-range model sees faces that fill the picture, the full-range one those that do not.
        return self._short.detect(rgb) or self._full.detect(rgb)

    def mesh(self, rgb: UInt8, region: Region) -> tuple[Float32, float]:
        """Place the 468 points on the face in a region.

        Returns:
            float32 ``[468, 3]`` in picture pixels (z in the same scale, towards the camera is
            negative), and the probability 0…1 that the region shows a face.
        """
        to_crop = _region_to_crop(region)
        crop = cv2.warpAffine(rgb, to_crop, (_MESH_PX, _MESH_PX), flags=cv2.INTER_LINEAR)
        points, presence = self._mesh.run(np.multiply(crop, _TO_UNIT, out=self._unit_crop))
        local = points.reshape(MESH_POINTS, 3)
        back = cv2.invertAffineTransform(to_crop).astype(np.float32)
        placed = np.empty((MESH_POINTS, 3), np.float32)
        placed[:, :2] = local[:, :2] @ back[:, :2].T + back[:, 2]
        placed[:, 2] = local[:, 2] * (region.side / _MESH_PX)
        return placed, _probability(float(presence.ravel()[0]))


def load_face_models(*, progress: bool = False) -> FaceModels:
    """Fetch the model files if need be, verify and load them.

    Args:
        progress: show a download's progress on stderr.

    Raises:
        AssetError: a file could not be had, or is altered.
    """
    assets.ensure_assets(progress=progress)
    return FaceModels()


class _Net:
    """One loaded model: a picture in, two tensors out."""

    def __init__(self, content: bytes) -> None:
        with quiet_stderr():  # its greeting, which no setting turns off
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        (source,) = self._interpreter.get_input_details()
        first, second = self._interpreter.get_output_details()
        self._input, self._outputs = source["index"], (first["index"], second["index"])
        self.side = int(source["shape"][1])

    def run(self, picture: Float32) -> tuple[Float32, Float32]:
        """Run float32 ``[side, side, 3]``; the tensors returned are copies."""
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._outputs[0]), self._interpreter.get_tensor(self._outputs[1])


class _Detector:
    """One BlazeFace model with its anchors."""

    def __init__(self, content: bytes, anchors: Float32) -> None:
        self._net = _Net(content)
        self._anchors = anchors

    def detect(self, rgb: UInt8) -> list[Detection]:
        height, width = rgb.shape[:2]
        side = self._net.side
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        square = np.zeros((side, side, 3), np.float32)
        square[: size[1], : size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        raw, scores = self._net.run(square / np.float32(127.5) - np.float32(1))
        logits = np.clip(scores.reshape(-1), -_LOGIT_LIMIT, _LOGIT_LIMIT)
        score = np.asarray(1 / (1 + np.exp(-logits)), np.float32)
        keep = score > _SCORE_LIMIT
        # Columns: box centre, box size, six points (eyes first), all in input pixels from the anchor.
        values = raw.reshape(-1, 16)[keep]
        values[:, :2] += self._anchors[keep] * side
        values[:, 4::2] += self._anchors[keep, :1] * side
        values[:, 5::2] += self._anchors[keep, 1:] * side
        return _merge(values / scale, score[keep])


def _merge(values: Float32, scores: Float32) -> list[Detection]:
    """Weighted non-maximum suppression: overlapping boxes are averaged by score."""
    order = np.argsort(-scores)
    values, scores = values[order], scores[order]
    boxes = np.concatenate([values[:, :2] - values[:, 2:4] / 2, values[:, :2] + values[:, 2:4] / 2], axis=1)
    free = np.ones(len(scores), np.bool_)
    found = []
    for i in range(len(scores)):
        if not free[i]:
            continue
        same = free & (_iou(boxes[i], boxes) > _SAME_FACE_IOU)
        same[i] = True
        free &= ~same
        weight = scores[same, None] / scores[same].sum()
        x0, y0, x1, y1 = (float(v) for v in (boxes[same] * weight).sum(axis=0))
        eyes = (values[same, 4:8] * weight).sum(axis=0).reshape(2, 2).astype(np.float32)
        found.append(Detection((x0, y0, x1, y1), eyes, float(scores[i])))
    return found


def _iou(box: Float32, boxes: Float32) -> Float32:
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(shared / np.maximum(areas - shared, 1e-6), np.float32)


def _region_to_crop(region: Region) -> Float32:
    scale = _MESH_PX / region.side
    cos, sin = np.cos(region.angle) * scale, np.sin(region.angle) * scale
    half = _MESH_PX / 2
    return np.array(
        [
            [cos, sin, half - cos * region.x - sin * region.y],
            [-sin, cos, half + sin * region.x - cos * region.y],
        ],
        np.float32,
    )


def _probability(logit: float) -> float:
    """Return the logistic function of one number: numpy would take ten times as long."""
    return 1.0 / (1.0 + math.exp(-min(max(logit, -_LOGIT_LIMIT), _LOGIT_LIMIT)))


def _short_range_anchors() -> Float32:
    """896 anchor centres 0…1: two per cell of 16 x 16, six per cell of 8 x 8."""
    return np.concatenate([_centres(16, 2), _centres(8, 6)])


def _full_range_anchors() -> Float32:
    """2304 anchor centres 0…1: one per cell of 48 x 48."""
    return _centres(48, 1)


def _centres(cells: int, each: int) -> Float32:
    axis = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), each, axis=0)
