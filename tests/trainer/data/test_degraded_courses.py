"""Courses as other cameras, faces and trackers would have shown them; faces turned about."""

from __future__ import annotations

import numpy as np

from avff.engine.faces.landmarks import LEFT_BROW, LEFT_EYE, MODEL_POINTS, RIGHT_BROW, RIGHT_EYE
from avff.engine.features import landmark_tensor
from avff.engine.frontend import Frontend
from avff.engine.spec import SPEC
from avff.trainer.data.courses import _MIRROR, degraded
from avff.trainer.pseudo.courses import Course
from tests.support.engine import demo_items, face_models, run

T = SPEC.window_frames


def swaying() -> Course:
    """A face whose points all go far and slowly to and fro, at different times, and that looks one way."""
    rng = np.random.default_rng(0)
    place = rng.uniform(-1, 1, (89, 2))
    move = np.sin(np.arange(T)[:, None, None] / 9 + rng.uniform(0, 6, (89, 2)))
    return Course((place + move).astype(np.float32), np.ones((T, 6), np.float32))


def is_turned(made: Course) -> bool:
    return bool(made.motion[0, 0] < 0)


def upright(made: Course) -> np.ndarray:
    """Its points, turned back if they were turned."""
    return np.asarray(made.points[:, _MIRROR] * (-1, 1) if is_turned(made) else made.points)


def test_mirror_is_an_involution_that_swaps_sides() -> None:
    """Twice is as before; corners, lids, brows and ears change sides, the midline stays."""
    other = {point: MODEL_POINTS[_MIRROR[place]] for place, point in enumerate(MODEL_POINTS)}
    assert sorted(_MIRROR) == list(range(89))
    assert all(other[other[point]] == point for point in MODEL_POINTS)
    assert {other[point] for point in LEFT_EYE} == set(RIGHT_EYE)
    assert {other[point] for point in LEFT_BROW} == set(RIGHT_BROW)
    pairs = {33: 263, 133: 362, 159: 386, 145: 374, 61: 291, 78: 308, 234: 454, 98: 327, 70: 300, 107: 336}
    assert {point: other[point] for point in pairs} == pairs
    assert [point for point in MODEL_POINTS if other[point] == point] == [17, 0, 14, 13, 1, 2, 168, 6, 152]


def test_mirrored_face_is_a_face() -> None:
    """Of a real one that looks ahead every point is near its place; left where it was, it would be across."""
    face = run(Frontend(face_models(), has_video=True, has_audio=False), demo_items(0.4))[0].face
    assert face is not None
    points = landmark_tensor(face.landmarks, face.motion)[0, :178].reshape(89, 2)
    points = points - points[MODEL_POINTS.index(168)]
    away = np.linalg.norm(points[_MIRROR] * (-1, 1) - points, axis=1)
    assert away.max() < 0.25
    assert np.linalg.norm(points * (-1, 1) - points, axis=1).max() > 1.5


def test_half_are_mirrored_with_their_pose() -> None:
    """Roll, yaw and the way to the side turn round; pitch, the way up and the size do not."""
    made = [degraded(swaying(), np.random.default_rng(seed)) for seed in range(400)]
    for each in made:
        turn = (-1, -1, 1, -1, 1, 1) if is_turned(each) else (1,) * 6
        np.testing.assert_array_equal(np.sign(each.motion), [turn] * T)
    assert abs(sum(map(is_turned, made)) - 200) < 40


def test_moves_are_up_to_15_percent_larger_or_smaller() -> None:
    """All points by the same factor, about where they were."""
    course = swaying()
    spread = course.points.std(axis=0)
    factors = []
    for seed in range(400):
        points = upright(degraded(course, np.random.default_rng(seed)))
        each = points.std(axis=0) / spread
        assert np.ptp(each) < 0.06
        assert np.abs(points.mean(axis=0) - course.points.mean(axis=0)).max() < 0.05
        factors.append(float(each.mean()))
    assert 0.84 < min(factors) < 0.87
    assert 1.13 < max(factors) < 1.16


def test_a_quarter_hold_every_second_or_third_picture() -> None:
    """As an encoder that drops pictures does: the same points twice or three times over."""
    held = {1: 0, 2: 0, 3: 0}
    for seed in range(400):
        points = degraded(swaying(), np.random.default_rng(seed)).points
        news = np.flatnonzero((np.diff(points, axis=0) != 0).any(axis=(1, 2))) + 1
        step = int(news[0])
        np.testing.assert_array_equal(news, np.arange(step, T, step))
        held[step] += 1
    assert abs(held[1] - 300) < 35
    assert min(held[2], held[3]) > 25


def test_half_have_the_noise_of_a_tracker() -> None:
    """New in every picture and for every point, up to 1.2 % of the unit: the rest have none at all."""
    course = swaying()
    loud = []
    for seed in range(400):
        points = upright(degraded(course, np.random.default_rng(seed)))
        jerk = np.diff(points, n=4, axis=0).std() / np.sqrt(70)  # noise of 1 has a 4th difference of sqrt(70)
        if not np.array_equal(points[0], points[1]):
            loud.append(float(jerk))
    quiet = float(np.diff(course.points, n=4, axis=0).std() / np.sqrt(70))
    assert quiet < 1e-4
    noisy = [level for level in loud if level > 5 * quiet]
    assert 0.4 < len(noisy) / len(loud) < 0.6
    assert 0.010 < max(noisy) < 0.013


def test_nothing_else_becomes_of_it() -> None:
    """Shapes and types stay, nothing is lost, and the course that was given is not touched."""
    course = swaying()
    before = course.points.copy(), course.motion.copy()
    for seed in range(50):
        made = degraded(course, np.random.default_rng(seed))
        assert (made.points.shape, made.motion.shape) == ((T, 89, 2), (T, 6))
        assert {str(made.points.dtype), str(made.motion.dtype)} == {"float32"}
        assert np.isfinite(made.points).all()
        assert np.isfinite(made.motion).all()
    np.testing.assert_array_equal(course.points, before[0])
    np.testing.assert_array_equal(course.motion, before[1])
