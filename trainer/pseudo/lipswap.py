"""V3: the mouth comes from another moment, or is rendered anew in place.

Lip-sync generators (Wav2Lip, LatentSync and their kin) paste a lower face of low
resolution over the true one.  Here the patch comes from the same person, so that the seam
and the resolution are what differs.  With the patch from another moment the lips also
contradict the sound; with the patch in place they do not, as with a good generator.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo.selfblend import (
    CHIN,
    LOWER_FACE,
    NOSE_BASE,
    blend,
    nearest_ok,
    polygon_mask,
    random_span,
)

Index = npt.NDArray[np.intp]

_STABLE = [NOSE_BASE, 1, 98, 327, 168, 33, 263]
"""Nose and outer eye corners: points that speech does not move."""
_UPPER_LIP, _LOWER_LIP = 13, 14
_JAW_RIGHT, _JAW_LEFT = 58, 288
_SIDE = SPEC.face_px
_STILL_PX = 0.6
"""Mouth openings this close, on average, are no evidence of a mismatch."""


def _ellipse(points: Float32, size: float) -> UInt8:
    top, bottom = points[NOSE_BASE], points[CHIN]
    width = float(points[_JAW_LEFT, 0] - points[_JAW_RIGHT, 0])
    centre = (top + bottom) / 2
    axes = (0.5 * abs(width) * size, 0.5 * float(np.linalg.norm(bottom - top)))
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    at, radii = np.round(centre * 16).astype(int), np.round(np.array(axes) * 16).astype(int)
    cv2.ellipse(mask, at.tolist(), radii.tolist(), 0, 0, 360, (255,), -1, cv2.LINE_AA, shift=4)
    return mask


def _rectangle(points: Float32, size: float) -> UInt8:
    left, right = points[_JAW_RIGHT, 0], points[_JAW_LEFT, 0]
    middle, half = (left + right) / 2, abs(right - left) / 2 * size
    top, bottom = points[NOSE_BASE, 1], points[CHIN, 1] + 4
    corners = [(middle - half, top), (middle + half, top), (middle + half, bottom), (middle - half, bottom)]
    return polygon_mask(np.array(corners, np.float32))


def _jaw(points: Float32, size: float) -> UInt8:
    corners = points[list(LOWER_FACE)].copy()
    centre = corners.mean(axis=0)
    corners = centre + (corners - centre) * size
    corners[:, 1] = np.maximum(corners[:, 1], points[NOSE_BASE, 1])
    return polygon_mask(corners.astype(np.float32))


_SHAPES: tuple[Callable[[Float32, float], UInt8], ...] = (_ellipse, _rectangle, _jaw)


def _masks(landmarks: Float32, rng: np.random.Generator) -> Float32:
    """Return float32 ``[T, 128, 128]``, 0…1: one shape of lower-face mask, feathered by 5…13 px."""
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    size, feather = rng.uniform(0.8, 1.05), int(rng.integers(2, 7)) * 2 + 1
    masks = np.empty((len(landmarks), _SIDE, _SIDE), np.float32)
    for index, points in enumerate(landmarks[..., :2]):
        masks[index] = cv2.GaussianBlur(shape(points, size), (feather, feather), 0)
    return masks / np.float32(255)


def _constant(rng: np.random.Generator, count: int) -> Index:
    """Return int ``[count]``: ±5…20 pictures of displacement, constant in each of 1…3 segments."""
    cuts = np.sort(rng.integers(1, count, int(rng.integers(0, 3))))
    segment = np.searchsorted(cuts, np.arange(count), side="right")
    return np.asarray((rng.integers(5, 21, 3) * rng.choice([-1, 1], 3))[segment], np.intp)


def _wander(rng: np.random.Generator, count: int) -> Index:
    """Return int ``[count]``: a displacement walking smoothly between 5 and 20 pictures, one sign."""
    steps = np.cumsum(rng.normal(0, 0.6, count)) + rng.uniform(7, 18)
    path = 12.5 + 7.5 * np.sin((steps - 12.5) / 7.5)  # folds the walk back into 5…20
    return np.asarray(np.round(path * rng.choice([-1, 1])), np.intp)


def _align(landmarks: Float32, source: Float32) -> tuple[npt.NDArray[np.complex128], Float32]:
    """Fit ``source`` on ``landmarks`` by a similarity over the points that speech leaves alone.

    Args:
        landmarks: float32 ``[T, 468, 3]``.
        source: float32 ``[T, 468, 3]``.

    Returns:
        complex ``[T, 2]``: factor and shift of ``x + iy``; float32 ``[T, 468, 3]``: ``source`` moved.
    """
    wanted = landmarks[..., 0] + 1j * landmarks[..., 1].astype(np.float64)
    given = source[..., 0] + 1j * source[..., 1].astype(np.float64)
    goal, start = wanted[:, _STABLE], given[:, _STABLE]
    goal_mean, start_mean = goal.mean(1, keepdims=True), start.mean(1, keepdims=True)
    centred = start - start_mean
    power = (np.abs(centred) ** 2).sum(1, keepdims=True) + 1e-9
    factor = ((goal - goal_mean) * centred.conj()).sum(1, keepdims=True) / power
    shift = goal_mean - factor * start_mean
    moved = factor * given + shift
    depth = source[..., 2] * np.abs(factor)
    out = np.stack([moved.real, moved.imag, depth], axis=-1).astype(np.float32)
    return np.concatenate([factor, shift], axis=1), out


def _warp(faces: UInt8, fit: npt.NDArray[np.complex128]) -> UInt8:
    """Move faces uint8 ``[T, 128, 128, 3]`` by the similarities complex ``[T, 2]``."""
    out = np.empty_like(faces)
    for index, (factor, shift) in enumerate(fit):
        move = np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
        cv2.warpAffine(faces[index], move, (_SIDE, _SIDE), out[index], borderMode=cv2.BORDER_REPLICATE)
    return out


def _render(faces: UInt8, rng: np.random.Generator) -> UInt8:
    """Pass faces through a generator's small picture: 40…112 px, bicubic, sometimes sharpened."""
    small, amount = int(rng.integers(40, 113)), rng.uniform(0.2, 0.8) * (rng.random() < 0.4)
    gain, lift = rng.uniform(0.97, 1.03), rng.uniform(-4, 4)
    out = np.empty_like(faces)
    for index, face in enumerate(faces):
        tiny = cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA)
        big = cv2.resize(tiny, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        if amount > 0:
            big = cv2.addWeighted(big, 1 + amount, cv2.GaussianBlur(big, (5, 5), 0), -amount, 0)
        out[index] = cv2.addWeighted(big, gain, big, 0, lift)
    return out


def _steady(faces: UInt8) -> UInt8:
    """Average each picture with its neighbours in time (1, 2, 1), as generators smooth texture."""
    kernel, one = np.array([0.25, 0.5, 0.25]), np.ones(1)
    flat = cv2.sepFilter2D(faces.reshape(len(faces), -1), -1, one, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(flat, np.uint8).reshape(faces.shape)


def _paste(sample: Sample, chosen: Index, made: UInt8, marks: Float32 | None, masks: Float32) -> None:
    """Put faces and, where given, landmarks of pictures ``chosen`` in place, weighted by ``masks``."""
    sample.faces[chosen] = blend(sample.faces[chosen], made, masks)
    if marks is None:
        return
    own = sample.landmarks[chosen]
    column, row = np.clip(np.round(np.moveaxis(own[..., :2], 2, 0)).astype(int), 0, _SIDE - 1)
    weight = masks[np.arange(len(chosen))[:, None], row, column][..., None]
    sample.landmarks[chosen] = own + weight * (marks - own)


def _opening(landmarks: Float32) -> Float32:
    """Return float32 ``[T]``: gap between the inner lips in pixels."""
    gap = landmarks[:, _LOWER_LIP, :2] - landmarks[:, _UPPER_LIP, :2]
    return np.asarray(np.linalg.norm(gap, axis=1), np.float32)


def lip_swap(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Replace the lower face by one from another moment, or by a coarser one in place.

    Variants: in place (p 0.4), constant displacement of ±5…20 pictures (0.25), wandering
    displacement (0.15), another window of the same person (0.2).  With p = 0.4 only 16…48
    pictures in a row are touched.  Landmarks follow the picture; sound stays.

    Args:
        sample: genuine window, ``faces`` uint8 ``[T, 128, 128, 3]``; changed in place.
        rng: source of every draw.
        donors: ``same`` is asked for a window in the last variant.

    Returns:
        The window with labels any 1, video 1, audio 0; desync 0 in place, 1 where the lips move
        differently now, NaN where they hardly moved, so that a mismatch cannot be
        seen.  A window without a face comes back as it was.
    """
    total = len(sample.ok)
    span = random_span(rng, 16, 48, total) if rng.random() < 0.4 else slice(0, total)
    chosen = np.flatnonzero(sample.ok[span]) + span.start
    if chosen.size == 0:  # no face in the span: take every face there is, so that the label holds
        chosen = np.flatnonzero(sample.ok)
    if chosen.size == 0:
        return sample
    variant = rng.choice(["place", "constant", "wander", "donor"], p=[0.4, 0.25, 0.15, 0.2])
    giver, index = sample, np.arange(total)
    if variant == "donor":
        giver = donors.same()
    elif variant != "place":
        # A circular index keeps every displacement at 5 pictures or more, which clipping would not.
        index = (index + (_constant if variant == "constant" else _wander)(rng, total)) % total
    index = nearest_ok(giver.ok)[index][chosen]
    masks = _masks(sample.landmarks[chosen], rng)
    before = _opening(sample.landmarks[chosen])
    if variant == "place":
        made = sample.faces[chosen]
        made = _steady(made) if rng.random() < 0.5 else made
        _paste(sample, chosen, _render(made, rng), None, masks)
    else:
        fit, marks = _align(sample.landmarks[chosen], giver.landmarks[index])
        _paste(sample, chosen, _render(_warp(giver.faces[index], fit), rng), marks, masks)
    moved = np.abs(_opening(sample.landmarks[chosen]) - before)
    desync = 0.0 if variant == "place" else 1.0 if float(moved.mean()) > _STILL_PX else np.nan
    sample.labels[:] = (1, 1, 0, desync)
    sample.frame_labels[:] = 0
    sample.frame_labels[chosen, :2] = 1
    return sample
