"""Pseudo-fakes for the motion head: a genuine face's points, moved as generators would move them.

They change points and pose only, never a pixel, and need no generator: lips that follow the sound too
well or not at all, a head that moves as another's, hardly, or too smoothly.  All numbers are in
units of the landmark vector (``engine.features.landmark_tensor``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter1d

from avff.engine.faces.landmarks import (
    JAW,
    LEFT_BROW,
    LEFT_EYE,
    LIPS_INNER,
    LIPS_OUTER,
    MODEL_POINTS,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
)
from avff.engine.media import Float32


def _places(points: tuple[int, ...]) -> list[int]:
    return [MODEL_POINTS.index(point) for point in points]


_LIPS = _places(LIPS_OUTER + LIPS_INNER + JAW)
_UPPER = _places(LEFT_EYE + RIGHT_EYE + LEFT_BROW + RIGHT_BROW)
_NOSE = _places(NOSE[:4])


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How the points of a face move through a window.

    Attributes:
        points: float32 ``[T, 89, 2]``.
        motion: float32 ``[T, 6]``: pose, and its change since the picture before.
    """

    points: Float32
    motion: Float32


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """A genuine window to take from.

    Attributes:
        course: of its face.
        by_sound: float32 ``[T, 57, 2]``: how its lips would move by its sound, about 0; made by a
            predictor that has not seen its person.
    """

    course: Course
    by_sound: Float32


Stranger: TypeAlias = Callable[[], Actor]
"""Draws a window of somebody else."""


def lips_by_sound(actor: Actor, rng: np.random.Generator, stranger: Stranger) -> Course:
    """Move the lips as the sound has it, with 0…60 % of what is left of genuine motion, own or foreign."""
    predicted = actor.by_sound * np.float32(rng.uniform(0.8, 1.8))
    if rng.random() < 0.3:
        predicted = _smoothed(predicted, rng.uniform(0.5, 1.5))
    source = actor if rng.random() < 0.5 else stranger()
    rest = _centred(_lips(source.course)) - source.by_sound
    if rng.random() < 0.4:
        rest = _smoothed(rest, rng.uniform(1, 3))
    moved = _with_lips(actor.course, predicted + rest * np.float32(rng.uniform(0, 0.6)))
    return stiff_head(replace(actor, course=moved), rng, stranger) if rng.random() < 0.3 else moved


def foreign_lips(actor: Actor, rng: np.random.Generator, stranger: Stranger) -> Course:
    """Move the lips as somebody else's, 0.4…1.2 times as far."""
    foreign = _centred(_lips(stranger().course)) * np.float32(rng.uniform(0.4, 1.2))
    if rng.random() < 0.4:
        foreign = _smoothed(foreign, rng.uniform(0.5, 2))
    moved = _with_lips(actor.course, foreign)
    return stiff_head(replace(actor, course=moved), rng, stranger) if rng.random() < 0.3 else moved


def stiff_head(actor: Actor, rng: np.random.Generator, stranger: Stranger) -> Course:
    """Move head, eyes and brows as somebody else's, hardly, or smoothly."""
    way = rng.random()
    if way < 0.35:
        return _foreign_head(actor.course, stranger().course, rng)
    if way < 0.7:
        return _damped(actor.course, head=rng.uniform(0, 0.6), upper=rng.uniform(0, 0.7))
    sigma = rng.uniform(1, 4)
    points = actor.course.points.copy()
    points[:, _UPPER] = _smoothed(points[:, _UPPER], sigma)
    return Course(points, _smoothed(actor.course.motion, sigma))


def unsteady(actor: Actor, rng: np.random.Generator, stranger: Stranger) -> Course:
    """Let every point drift by itself, or smooth them all over time."""
    del stranger
    points = actor.course.points
    if rng.random() < 0.5:
        return replace(actor.course, points=_smoothed(points, rng.uniform(0.7, 2)))
    drift = _smoothed(rng.standard_normal(points.shape).astype(np.float32), rng.uniform(0.5, 1.5))
    drift *= np.float32(rng.uniform(0.01, 0.04)) / (drift.std() + 1e-6)
    return replace(actor.course, points=points + drift)


CourseRecipe: TypeAlias = Callable[[Actor, np.random.Generator, Stranger], Course]
COURSES: MappingProxyType[str, CourseRecipe] = MappingProxyType(
    {
        "lips_by_sound": lips_by_sound,
        "foreign_lips": foreign_lips,
        "stiff_head": stiff_head,
        "unsteady": unsteady,
    }
)
"""Every pseudo-fake of this kind by the name that ``motion.mix`` uses."""


def _foreign_head(own: Course, other: Course, rng: np.random.Generator) -> Course:
    scale = np.float32(rng.uniform(0.3, 1))
    motion = other.motion * scale
    motion[:, :3] += own.motion[:1, :3] - motion[:1, :3]
    points = own.points.copy()
    upper = _centred(other.points[:, _UPPER]) * np.float32(rng.uniform(0.3, 1))
    points[:, _UPPER] = points[:, _UPPER].mean(axis=0) + upper
    return Course(points, motion)


def _damped(own: Course, *, head: float, upper: float) -> Course:
    motion = own.motion * np.float32(head)
    motion[:, :3] += own.motion[:, :3].mean(axis=0) * np.float32(1 - head)
    points = own.points.copy()
    points[:, _UPPER] = points[:, _UPPER].mean(axis=0) + _centred(points[:, _UPPER]) * np.float32(upper)
    return Course(points, motion)


def _lips(course: Course) -> Float32:
    """Return lips and jaw relative to the nose, float32 ``[T, 57, 2]``."""
    nose = course.points[:, _NOSE].mean(axis=1, keepdims=True)
    return np.asarray(course.points[:, _LIPS] - nose, np.float32)


def _with_lips(course: Course, moves: Float32) -> Course:
    """Return a course whose lips move by ``moves`` ``[T, 57, 2]`` about their mean place."""
    points = course.points.copy()
    nose = points[:, _NOSE].mean(axis=1, keepdims=True)
    points[:, _LIPS] = nose + _lips(course).mean(axis=0) + moves
    return replace(course, points=points)


def _centred(values: Float32) -> Float32:
    return np.asarray(values - values.mean(axis=0), np.float32)


def _smoothed(values: Float32, sigma: float) -> Float32:
    return np.asarray(gaussian_filter1d(values, sigma, axis=0, mode="nearest"), np.float32)
