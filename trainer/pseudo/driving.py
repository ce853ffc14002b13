"""What moves a talking photo: a face's course over time, laid over another face.

Displacements are carried over, not places, so that the still keeps its own shape (relative
motion transfer, as in Siarohin et al., First Order Motion Model, NeurIPS 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from avff.engine.media import Bool, Float32
from avff.trainer.data.sample import Sample
from avff.trainer.pseudo.selfblend import nearest_ok

_RIGID = [10, 21, 251, 54, 284, 127, 356, 234, 454, 168, 6, 197, 195, 5, 1, 2, 98, 327, 33, 133, 362, 263]
"""Forehead, temples, nose and eye corners: points that speech does not move."""
UPPER_INNER = [191, 80, 81, 82, 13, 312, 311, 310, 415]
LOWER_INNER = [95, 88, 178, 87, 14, 317, 402, 318, 324]
"""Points of the inner lips above one another, without the corners."""
MIDDLE = 4
_TURN_PX = 10.0
"""A still has no other side: the head turns at most so far that no point moves further than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How a face moves.

    Attributes:
        marks: float32 ``[T, 468, 3]``, valid in every picture.
        motion: float32 ``[T, 6]``, see ``engine.slices.FaceSlice``.
        rest: float32 ``[468, 3]``, the shape from which displacements count.
        roll: at rest, in rad.
    """

    marks: Float32
    motion: Float32
    rest: Float32
    roll: float

    def smoothed(self, sigma: float) -> Course:
        """Return the course smoothed over time by a Gaussian of ``sigma`` pictures."""
        marks, motion = (
            np.asarray(gaussian_filter1d(x, sigma, axis=0, mode="nearest"), np.float32)
            for x in (self.marks, self.motion)
        )
        return Course(marks, motion, self.rest, self.roll)


def opening(marks: Float32) -> Float32:
    """Return float32 ``[T]``: gap between the inner lips, in pixels."""
    gap = marks[:, LOWER_INNER[MIDDLE], :2] - marks[:, UPPER_INNER[MIDDLE], :2]
    return np.asarray(np.linalg.norm(gap, axis=1), np.float32)


def _valid(sample: Sample) -> tuple[Float32, Float32]:
    """Return landmarks and motion, the pose valid in every picture; neither is shared with the sample."""
    near, motion = nearest_ok(sample.ok), sample.motion.copy()
    motion[:, :3] = motion[near, :3]
    return sample.landmarks[near], motion


def own(sample: Sample, still: int) -> Course:
    """Return the window's own course, at rest in picture ``still``."""
    marks, motion = _valid(sample)
    return Course(marks, motion, sample.landmarks[still].copy(), float(motion[still, 0]))


def _onto(marks: Float32, rest: Float32, goal: Float32) -> tuple[Float32, Float32]:
    """Move a whole course by the one similarity that fits its shape at rest on another face.

    Args:
        marks: float32 ``[T, 468, 3]``.
        rest: float32 ``[468, 3]``.
        goal: float32 ``[468, 3]``, the other face.

    Returns:
        Both moved, same shapes.
    """
    given, wanted = (np.ascontiguousarray(x[_RIGID, :2]) @ np.array([1, 1j]) for x in (rest, goal))
    centre = given.mean()
    power = float((np.abs(given - centre) ** 2).sum())
    factor = ((wanted - wanted.mean()) * (given - centre).conj()).sum() / power
    turn = np.array([[factor.real, factor.imag], [-factor.imag, factor.real]])
    shift = wanted.mean() - factor * centre

    def move(points: Float32) -> Float32:
        flat = points[..., :2] @ turn + np.array([shift.real, shift.imag])
        return np.concatenate([flat, points[..., 2:] * abs(factor)], axis=-1).astype(np.float32)

    return move(marks), move(rest)


def borrowed(donor: Sample, still: Float32) -> Course | None:
    """Return another window's course laid over the face ``still`` float32 ``[468, 3]``; None without a face.

    It rests where its mouth is open as far as the still's, else closed lips would be moved by
    displacements that belong to parted ones.
    """
    if not donor.ok.any():
        return None
    marks, motion = _valid(donor)
    off = np.abs(opening(marks) - opening(still[None]))
    alike = np.argsort(off, kind="stable")[: max(1, len(marks) // 4)]
    marks, rest = _onto(marks, marks[alike].mean(axis=0), still)
    return Course(marks, motion, rest, float(motion[donor.ok, 0].mean()))


def driven(still: Float32, course: Course, damping: float) -> tuple[Float32, float]:
    """Move a face by another course's displacements, head and expression apart.

    The head's part is the affine map, over points that speech leaves alone, from the shape at
    rest to each picture's (a weak-perspective camera); the rest is expression.

    Args:
        still: float32 ``[468, 3]``.
        course: what moves it.
        damping: factor 0…1 on the head's part.

    Returns:
        float32 ``[T, 468, 3]``; the factor that was used, which is less where the head turned far.
    """
    rest, face = (np.column_stack([x, np.ones(len(x), np.float32)]) for x in (course.rest, still))
    poses = np.linalg.pinv(rest[_RIGID].astype(np.float64)) @ course.marks[:, _RIGID]
    expression = course.marks - rest @ poses
    turned = face @ poses - still
    used = min(damping, _TURN_PX / (float(np.linalg.norm(turned[..., :2], axis=-1).max()) + 1e-9))
    return _parted((still + used * turned + expression).astype(np.float32)), used


def _parted(marks: Float32) -> Float32:
    """Keep the lower lip below the upper one: displacements of another face may cross them."""
    above, below = marks[:, UPPER_INNER, 1], marks[:, LOWER_INNER, 1]
    middle = (above + below) / 2
    crossed = above > below
    marks[:, UPPER_INNER, 1] = np.where(crossed, middle, above)
    marks[:, LOWER_INNER, 1] = np.where(crossed, middle, below)
    return marks


def motion_of(marks: Float32, course: Course, roll: float, damping: float, ok: Bool) -> Float32:
    """Return float32 ``[T, 6]``: yaw and pitch as the landmarks show them, the rest of the course damped.

    Args:
        marks: float32 ``[T, 468, 3]``, driven.
        course: what drove them.
        roll: of the still, in rad.
        damping: that was used.
        ok: bool ``[T]``.
    """
    motion = course.motion * np.float32(damping)
    motion[:, 0] = roll + damping * (course.motion[:, 0] - course.roll)
    for column, (one, two) in ((1, (234, 454)), (2, (10, 152))):
        across = marks[:, two] - marks[:, one]
        motion[:, column] = np.arctan2(across[:, 2], np.hypot(across[:, 0], across[:, 1]))
    # A tracker that finds a face anew knows no picture before it.
    motion[1:][~ok[:-1], 3:] = 0
    motion[~ok] = 0
    return motion
