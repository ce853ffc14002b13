"""Is what a slice holds good enough to be looked at: lit, moving, facing the camera, not clipped?

Measures and their limits; :mod:`avff.engine.evidence` makes gates of them.  The
limits were set on genuine clips (docs/decisions/0006-abstention.md has the
figures), so that hardly any genuine window is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from avff.engine.media import Bool, Float32, UInt8
from avff.engine.spec import SPEC

DARK, BRIGHT = 32.0, 224.0
"""Mean luminance 0…255 outside of which a picture may be badly exposed."""
MIN_SPREAD = 10.0
"""Standard deviation of luminance below which such a picture shows nothing: a codec's own error is
about 3, so what is left of the face would be mostly that."""
MAX_YAW_RAD = 0.7
"""A head turned further (40°) begins to hide its other half, and half the mouth with it."""
MAX_PITCH_RAD = 0.6
"""A head bent further (34°) shows its crown or its chin in place of eyes and mouth."""
STILL = 0.1
"""Mean difference of two pictures' faces, in grey levels, up to which they are the same picture.
A photograph stays below when a codec repeats it.  A camera's picture does now and then, where a
codec has skipped one, but not in a row: half of all genuine pairs differ by more than 3."""
MIN_RUN = 8
"""Same pictures in a row that are a standstill.  The grid itself shows one source picture at most
7 times, so this takes pictures that keep arriving, and cannot be a low rate."""
FULL_SCALE = 0.98
"""Magnitude from which a sample is at full scale: resampling lets a clipped peak ripple."""

_POINTS = 32
"""Rows and columns of a face, at most, that are compared."""
_SAMPLES = 16
"""Rows and columns of a picture or a face, at least, whose light is measured, where there are as many."""
_LUMA: Float32 = np.array([0.299, 0.587, 0.114], np.float32)


def light_of_faces(faces: UInt8) -> Float32:
    """Measure how aligned faces are lit.

    Args:
        faces: uint8 ``[n, 128, 128, 3]`` RGB.

    Returns:
        float32 ``[n, 2]``: mean and standard deviation of the luminance, 0…255.
    """
    step = SPEC.face_px // _SAMPLES
    luma = faces[:, ::step, ::step].astype(np.float32).reshape(len(faces), -1, 3) @ _LUMA
    return np.stack([luma.mean(axis=1), luma.std(axis=1)], axis=1)


def light_of_picture(rgb: UInt8) -> Float32:
    """Measure how a whole picture (uint8 ``[height, width, 3]``) is lit.

    Returns:
        float32 ``[2]``: mean and standard deviation of the luminance, 0…255.
    """
    down, right = (max(1, side // _SAMPLES) for side in rgb.shape[:2])
    luma = rgb[::down, ::right].astype(np.float32) @ _LUMA
    return np.array([luma.mean(), luma.std()], np.float32)


def badly_exposed(light: Float32) -> Bool:
    """Return bool ``[n]``: pictures too dark or too bright to show anything.

    Args:
        light: float32 ``[n, 2]`` mean and standard deviation; NaN, where it is not known, is no fault.
    """
    mean, spread = light[:, 0], light[:, 1]
    return ((mean < DARK) | (mean > BRIGHT)) & (spread < MIN_SPREAD)


def turned(motion: Float32) -> Bool:
    """Return bool ``[n]``: heads turned or bent too far (float32 ``[n, 6]``, see ``slices.FaceSlice``)."""
    return (np.abs(motion[:, 1]) > MAX_YAW_RAD) | (np.abs(motion[:, 2]) > MAX_PITCH_RAD)


def same_as_before(pictures: Sequence[UInt8 | None], box: tuple[float, float, float, float]) -> Bool:
    """Tell which pictures show the same face as the picture before, down to the noise.

    Only the face is compared: nothing else has to move, and what else moves does not count.

    Args:
        pictures: n + 1 pictures, uint8 ``[height, width, 3]`` of any size; None where there is no face.
        box: x, y, width, height of the face, as shares 0…1 of the picture.

    Returns:
        bool ``[n]``, one for each picture but the first; False where one of two has no face.
    """
    patches = [None if rgb is None else _patch(rgb, box) for rgb in pictures]
    return np.array([_same(before, now) for before, now in pairwise(patches)])


def _patch(rgb: UInt8, box: tuple[float, float, float, float]) -> np.ndarray:
    """Every few pixels' green, which is most of the luminance, as int16: differences have a sign."""
    height, width = rgb.shape[:2]
    rows, columns = _steps(box[1], box[3], height), _steps(box[0], box[2], width)
    return rgb[rows, columns, 1].astype(np.int16)


def _steps(start: float, length: float, side: int) -> slice:
    first = min(max(0, int(start * side)), side - 1)
    end = max(first + 1, min(side, int((start + length) * side)))
    return slice(first, end, -(-(end - first) // _POINTS))


def _same(before: np.ndarray | None, now: np.ndarray | None) -> bool:
    if before is None or now is None or before.shape != now.shape:
        return False
    return float(np.abs(now - before).mean()) <= STILL


def standing(still: Bool) -> Bool:
    """Return bool ``[n]``: pictures of runs of at least ``MIN_RUN`` in which nothing moves.

    Args:
        still: bool ``[n]``, True where a picture shows the same as the one before.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]])))
    found = np.zeros(len(still), np.bool_)
    for start, end in edges.reshape(-1, 2):
        found[start:end] = end - start >= MIN_RUN
    return found


def clipped_share(audio: Float32) -> float:
    """Return the share 0…1 of a slice's own samples at full scale.

    Args:
        audio: float32 ``[352 + 5120]``, the left context first.
    """
    return float((np.abs(audio[SPEC.context_samples :]) >= FULL_SCALE).mean())
