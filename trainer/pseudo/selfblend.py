"""V1/V2: faces blended with an altered copy of themselves, alike through the whole window.

A face swap leaves a seam inside which colour, sharpness and geometry differ from the
outside.  Blending a picture with its own altered copy gives that seam and nothing else
(self-blended images: Shiohara & Yamasaki, CVPR 2022).  Parameters are drawn once per
window (video-consistent variant: FakeSTormer, Nguyen et al. 2025); only the offset of the
mask trembles, as the masks of real swaps do.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d

from avff.engine.media import Bool, Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.data.sample import Donors, Sample

NOSE_BASE, CHIN = 2, 152
FACE_OVAL = (
    10,
    338,
    297,
    332,
    284,
    251,
    389,
    356,
    454,
    323,
    361,
    288,
    397,
    365,
    379,
    378,
    400,
    377,
    152,
    148,
    176,
    149,
    150,
    136,
    172,
    58,
    132,
    93,
    234,
    127,
    162,
    21,
    54,
    103,
    67,
    109,
)
"""Outline of the face in MediaPipe FaceMesh, clockwise from the forehead."""
LOWER_FACE = (*FACE_OVAL[10:27], NOSE_BASE)
"""Jaw from ear lobe to ear lobe, closed by the nose base."""
INNER_FACE = (
    70,
    63,
    105,
    66,
    107,
    336,
    296,
    334,
    293,
    300,
    33,
    263,
    61,
    291,
    57,
    287,
    17,
    84,
    314,
)
"""Brows, eyes, nose and mouth without forehead, cheeks and chin."""

_HULLS: tuple[tuple[int, ...], ...] = (FACE_OVAL, tuple(range(468)), LOWER_FACE, INNER_FACE)
_HULL_CHANCE = (0.35, 0.2, 0.2, 0.25)
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
_SIDE = SPEC.face_px


def nearest_ok(ok: Bool) -> npt.NDArray[np.intp]:
    """Return int ``[T]``: for each picture the nearest one with a face (all 0 when none has)."""
    found = np.flatnonzero(ok)
    if found.size == 0:
        return np.zeros(ok.size, np.intp)
    distance = np.abs(np.arange(ok.size)[:, None] - found[None])
    return np.asarray(found[np.argmin(distance, axis=1)], np.intp)


def random_span(rng: np.random.Generator, shortest: int, longest: int, total: int) -> slice:
    """Return a random run of ``shortest``…``longest`` pictures out of ``total``."""
    length = int(rng.integers(shortest, min(longest, total) + 1))
    start = int(rng.integers(0, total - length + 1))
    return slice(start, start + length)


def polygon_mask(points: Float32) -> UInt8:
    """Return uint8 ``[128, 128]``, 255 inside the convex hull of float ``[n, 2]`` pixel positions."""
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    # Four fraction bits keep sub-pixel motion of the hull, or the seam would jump in whole pixels.
    corners = np.round(points * 16).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(corners), (255,), cv2.LINE_AA, shift=4)
    return mask


def blend(below: UInt8, above: UInt8, weight: Float32) -> UInt8:
    """Mix two stacks of pictures.

    Args:
        below: uint8 ``[T, 128, 128, 3]``, kept bit for bit where ``weight`` is 0.
        above: uint8 ``[T, 128, 128, 3]``.
        weight: float32 ``[T, 128, 128]``, share 0…1 of ``above``.

    Returns:
        uint8 ``[T, 128, 128, 3]``.
    """
    tall = weight.reshape(-1, _SIDE)
    mixed = cv2.blendLinear(below.reshape(-1, _SIDE, 3), above.reshape(-1, _SIDE, 3), 1 - tall, tall)
    return np.asarray(mixed, np.uint8).reshape(below.shape)


def _tremble(rng: np.random.Generator, count: int) -> Float32:
    """Return float32 ``[count, 1, 2]``: AR(1) offsets in pixels, stationary sigma 0.3…1."""
    memory, sigma = 0.8, rng.uniform(0.3, 1.0)
    kicks = rng.standard_normal((count, 2)) * sigma * np.sqrt(1 - memory**2)
    path = np.empty((count, 2))
    at = rng.standard_normal(2) * sigma
    for index, kick in enumerate(kicks):
        at = memory * at + kick
        path[index] = at
    return path[:, None].astype(np.float32)


def _bend(rng: np.random.Generator, mean: Float32) -> Float32:
    """Return float32 ``[n, 2]``: a smooth random displacement in pixels at positions ``mean``."""
    knots = rng.standard_normal((5, 5, 2)).astype(np.float32) * rng.uniform(1.0, 4.0)
    field = np.asarray(cv2.resize(knots, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC), np.float32)
    column, row = np.clip(np.round(mean.T).astype(int), 0, _SIDE - 1)
    return np.asarray(field[row, column], np.float32)


def _masks(landmarks: Float32, rng: np.random.Generator) -> Float32:
    """Draw the soft face masks of one window.

    Args:
        landmarks: float32 ``[T, 468, 3]`` in pixels, valid in every picture.
        rng: source of the hull, its bend, erosion, softness and tremble.

    Returns:
        float32 ``[T, 128, 128]``, 0…1.
    """
    points = uniform_filter1d(landmarks[..., :2], 5, axis=0, mode="nearest")
    hull = list(_HULLS[int(rng.choice(len(_HULLS), p=_HULL_CHANCE))])
    offset = _tremble(rng, len(points))
    if rng.random() < 0.5:
        offset = offset + _bend(rng, points[:, hull].mean(axis=0))[None]
    erosion = int(rng.integers(1, 5)) * 2 - 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (erosion, erosion))
    soft = int(rng.integers(2, 9)) * 2 + 1
    masks = np.empty((len(points), _SIDE, _SIDE), np.float32)
    for index, corners in enumerate(points[:, hull] + offset):
        inner = cv2.erode(polygon_mask(corners), kernel)
        masks[index] = cv2.GaussianBlur(inner, (soft, soft), soft / 4)
    return masks / np.float32(255)


def _recolour(faces: UInt8, rng: np.random.Generator) -> UInt8:
    """Shift hue, saturation, brightness, contrast and sometimes the primaries of all pictures alike."""
    levels = np.arange(256, dtype=np.float32)
    contrast, lift = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1) * 255
    primaries = rng.uniform(-20, 20, 3) * (rng.random() < 0.3)
    curves = (levels[:, None] - 128) * contrast + 128 + lift + primaries
    hue, chroma = rng.uniform(-8, 8), rng.uniform(0.75, 1.25)
    hsv_curves = np.stack([(levels + hue) % 180, levels * chroma, levels], axis=1)
    tall = cv2.LUT(faces.reshape(-1, _SIDE, 3), np.clip(curves, 0, 255).astype(np.uint8)[None])
    hsv = cv2.LUT(cv2.cvtColor(tall, cv2.COLOR_RGB2HSV), np.clip(hsv_curves, 0, 255).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8).reshape(faces.shape)


def _source(faces: UInt8, rng: np.random.Generator) -> UInt8:
    """Return the altered copy: other colours, other sharpness, slightly moved."""
    made = _recolour(faces, rng)
    angle, scale = rng.uniform(-2, 2), np.exp(rng.uniform(-0.05, 0.05))
    move = cv2.getRotationMatrix2D((_SIDE / 2, _SIDE / 2), angle, scale)
    move[0, 2] += rng.uniform(-0.03, 0.03) * _SIDE
    move[1, 2] += rng.uniform(-0.015, 0.015) * _SIDE
    coarse, amount = int(_SIDE / rng.uniform(1.3, 4)), rng.uniform(0.3, 0.9)
    resample = rng.random() < 0.5
    down = cv2.INTER_NEAREST if rng.random() < 0.5 else cv2.INTER_AREA
    for index, face in enumerate(made):
        if resample:
            small = cv2.resize(face, (coarse, coarse), interpolation=down)
            altered = cv2.resize(small, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
        else:
            altered = cv2.addWeighted(face, 1 + amount, cv2.GaussianBlur(face, (5, 5), 0), -amount, 0)
        cv2.warpAffine(altered, move, (_SIDE, _SIDE), made[index], borderMode=cv2.BORDER_REFLECT)
    return made


def self_blend(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Blend every face with an altered copy of itself inside a soft mask.

    With p = 0.2 only 12…48 pictures in a row are touched.  Sound, landmarks and motion stay.
    Sources: self-blended images (CVPR 2022), FakeSTormer's video-consistent form.

    Args:
        sample: genuine window, ``faces`` uint8 ``[T, 128, 128, 3]``; changed in place.
        rng: source of every draw.
        donors: not needed.

    Returns:
        The window with labels any 1, video 1, audio 0, desync 0; a window without a
        face comes back as it was.
    """
    total = len(sample.ok)
    span = random_span(rng, 12, 48, total) if rng.random() < 0.2 else slice(0, total)
    touched = np.zeros(total, np.bool_)
    touched[span] = sample.ok[span]
    if not touched.any():  # no face in the span: take every face there is, so that the label holds
        touched = sample.ok.copy()
    if not touched.any():
        return sample
    masks = _masks(sample.landmarks[nearest_ok(sample.ok)], rng) * np.float32(rng.choice(_RATIOS))
    made = _source(sample.faces[touched], rng)
    sample.faces[touched] = blend(sample.faces[touched], made, masks[touched])
    sample.labels[:] = (1, 1, 0, 0)
    sample.frame_labels[:] = 0
    sample.frame_labels[touched, :2] = 1
    return sample
