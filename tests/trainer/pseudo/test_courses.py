"""Pseudo-fakes for the motion head: each moves what its name says, and leaves the rest alone."""

from __future__ import annotations

import numpy as np
import pytest

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
from avff.engine.spec import SPEC
from avff.trainer.motion_stage import MotionSettings
from avff.trainer.pseudo.courses import COURSES, Actor, Course

T, SEEDS = SPEC.window_frames, range(60)


def places(*points: int) -> list[int]:
    return [MODEL_POINTS.index(point) for point in points]


LIPS = places(*LIPS_OUTER, *LIPS_INNER, *JAW)
UPPER = places(*LEFT_EYE, *RIGHT_EYE, *LEFT_BROW, *RIGHT_BROW)
MIDDLE = places(*NOSE)
LIP_RECIPES = ("lips_by_sound", "foreign_lips")


def waves(rng: np.random.Generator, *shape: int) -> Float32:
    """Slow courses ``[T, *shape]`` about 0, each of its own: smoothing hardly changes them."""
    phase = np.arange(T).reshape(-1, *(1 for _ in shape)) * rng.uniform(0.08, 0.11, shape)
    wave = np.sin(phase + rng.uniform(0, 6.28, shape))
    return np.asarray(wave - wave.mean(axis=0), np.float32)


def make_actor(seed: int = 0) -> Actor:
    """A face whose every point and whose head go their own ways, which have nothing to do with its sound."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (89, 2)).astype(np.float32) + np.float32(0.2) * waves(rng, 89, 2)
    motion = 0.3 * rng.uniform(-1, 1, 6).astype(np.float32) + waves(rng, 6)
    return Actor(Course(points, motion.astype(np.float32)), np.float32(0.2) * waves(rng, 57, 2))


class ScriptedStranger:
    """Somebody else, the same one each time; counts how often they are asked for."""

    def __init__(self) -> None:
        self.actor, self.times = make_actor(1), 0

    def __call__(self) -> Actor:
        self.times += 1
        return self.actor


def made(
    name: str, seed: int, actor: Actor | None = None, stranger: ScriptedStranger | None = None
) -> Course:
    return COURSES[name](actor or make_actor(), np.random.default_rng(seed), stranger or ScriptedStranger())


def lips(course: Course) -> Float32:
    """Course of lips and jaw as seen from the nose, about 0, ``[T, 114]``."""
    nose = course.points[:, places(*NOSE[:4])].mean(axis=1, keepdims=True)
    seen = (course.points[:, LIPS] - nose).reshape(T, -1)
    return np.asarray(seen - seen.mean(axis=0), np.float32)


def keeps_head(course: Course) -> bool:
    return np.array_equal(course.motion, make_actor().course.motion)


def correlation(one: Float32, other: Float32) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("name", COURSES)
def test_courses_stay_courses(name: str) -> None:
    """Same shapes and types, every number a number, and nobody's own course is changed in place."""
    for seed in SEEDS:
        actor, stranger = make_actor(), ScriptedStranger()
        course = made(name, seed, actor, stranger)
        assert (course.points.shape, course.motion.shape) == ((T, 89, 2), (T, 6))
        assert {str(course.points.dtype), str(course.motion.dtype)} == {"float32"}
        assert np.isfinite(course.points).all()
        assert np.isfinite(course.motion).all()
        for mine, before in ((actor, make_actor()), (stranger.actor, make_actor(1))):
            np.testing.assert_array_equal(mine.course.points, before.course.points)
            np.testing.assert_array_equal(mine.course.motion, before.course.motion)
            np.testing.assert_array_equal(mine.by_sound, before.by_sound)


@pytest.mark.parametrize("name", COURSES)
def test_same_generator_gives_the_same_course(name: str) -> None:
    """And another one another."""
    one, other, third = made(name, 3), made(name, 3), made(name, 4)
    np.testing.assert_array_equal(one.points, other.points)
    np.testing.assert_array_equal(one.motion, other.motion)
    assert not np.array_equal(one.points, third.points)


@pytest.mark.parametrize("name", LIP_RECIPES)
def test_lip_recipes_move_the_lips_alone(name: str) -> None:
    """Eyes, brows and head stay in seven of ten, else a stiff head is applied too; the nose stays."""
    own = make_actor().course
    kept = 0
    for seed in SEEDS:
        course = made(name, seed)
        np.testing.assert_array_equal(course.points[:, MIDDLE], own.points[:, MIDDLE])
        assert np.abs(lips(course) - lips(own)).max() > 0.05
        assert keeps_head(course) == np.array_equal(course.points[:, UPPER], own.points[:, UPPER])
        kept += keeps_head(course)
    assert 0.5 < kept / len(SEEDS) < 0.9


def test_stiff_head_leaves_the_lips_alone() -> None:
    """Lips, jaw and nose to the bit, while head, eyes and brows change every time."""
    own = make_actor().course
    for seed in SEEDS:
        course = made("stiff_head", seed)
        np.testing.assert_array_equal(course.points[:, LIPS + MIDDLE], own.points[:, LIPS + MIDDLE])
        assert not np.array_equal(course.points[:, UPPER], own.points[:, UPPER])
        assert not keeps_head(course)


def test_stiff_head_is_foreign_still_or_smooth() -> None:
    """Eyes and brows follow a stranger's, or their own less far, where they were; so does the head."""
    own, stranger = make_actor().course, make_actor(1).course
    ways = {"foreign": 0, "own": 0}
    for seed in SEEDS:
        asked = ScriptedStranger()
        course = made("stiff_head", seed, stranger=asked)
        source, way = (stranger, "foreign") if asked.times else (own, "own")
        ways[way] += 1
        upper = course.points[:, UPPER] - course.points[:, UPPER].mean(axis=0)
        theirs = source.points[:, UPPER] - source.points[:, UPPER].mean(axis=0)
        assert float(upper.std()) == 0 or correlation(upper, theirs) > 0.99
        assert upper.std() < 1.01 * theirs.std()
        drift = np.abs(course.points[:, UPPER].mean(axis=0) - own.points[:, UPPER].mean(axis=0))
        assert drift.max() < 0.03
        turn = course.motion - course.motion.mean(axis=0)
        their_turn = source.motion - source.motion.mean(axis=0)
        assert float(turn.std()) == 0 or correlation(turn, their_turn) > 0.99
        if asked.times:
            np.testing.assert_allclose(course.motion[0, :3], own.motion[0, :3], atol=1e-6)
    assert 0.2 < ways["foreign"] / len(SEEDS) < 0.5


@pytest.mark.parametrize("name", LIP_RECIPES)
def test_lips_stay_where_they_are(name: str) -> None:
    """Their mean place as seen from the nose is the person's own: nothing is pasted elsewhere."""
    own = make_actor().course
    nose = places(*NOSE[:4])
    for seed in SEEDS:
        course = made(name, seed)
        before, after = (
            (c.points[:, LIPS] - c.points[:, nose].mean(axis=1, keepdims=True)).mean(axis=0)
            for c in (own, course)
        )
        np.testing.assert_allclose(after, before, atol=0.02)


def test_foreign_lips_are_the_strangers() -> None:
    """They follow a stranger's, 0.4 to 1.2 times as far, and have nothing of their own."""
    theirs, own = lips(make_actor(1).course), lips(make_actor().course)
    factors = []
    for seed in SEEDS:
        moved = lips(made("foreign_lips", seed))
        assert correlation(moved, theirs) > 0.99
        assert abs(correlation(moved, own)) < 0.2
        factors.append(float(moved.std() / theirs.std()))
    assert 0.35 < min(factors) < 0.5
    assert 1.1 < max(factors) < 1.25


def test_lips_by_sound_follow_the_sound_and_something_of_what_is_left() -> None:
    """0.8 to 1.8 times what the sound has them do, 0…0.6 of what it leaves of their own or a stranger's."""
    own, other = make_actor(), make_actor(1)
    sources = [own.by_sound, lips(own.course), other.by_sound, lips(other.course)]
    basis = np.stack([x.ravel() for x in sources], axis=1)
    ways = {"own": 0, "foreign": 0}
    following = []
    for seed in SEEDS:
        moved = lips(made("lips_by_sound", seed))
        voice, mine, their_voice, theirs = np.linalg.lstsq(basis, moved.ravel(), rcond=None)[0]
        assert their_voice == pytest.approx(-theirs, abs=0.03)
        assert min(abs(mine), abs(theirs)) < 0.03
        ways["own" if abs(mine) > abs(theirs) else "foreign"] += 1
        assert -0.03 < mine + theirs < 0.63
        following.append(float(voice + mine))
    assert 0.75 < min(following) < 1.0
    assert 1.6 < max(following) < 1.85
    assert min(ways.values()) > 15


def test_unsteady_points_drift_or_are_smoothed() -> None:
    """The head stays; every point drifts on its own by 0.01 to 0.04, or nothing but quick moves are lost."""
    own = make_actor().course
    amounts = []
    for seed in SEEDS:
        course = made("unsteady", seed)
        np.testing.assert_array_equal(course.motion, own.motion)
        change = course.points - own.points
        inner = change[8:-8]  # smoothing also pulls in the ends
        if float(inner.std()) < 0.008:
            assert correlation(course.points[8:-8], own.points[8:-8]) > 0.999
            continue
        amounts.append(float(change.std()))
        assert abs(correlation(change[:, 0], change[:, 1])) < 0.6
        assert (change.std(axis=0) > 0).all()
    assert 15 < len(amounts) < 45
    assert 0.0095 < min(amounts) < max(amounts) < 0.041


def test_smoothing_takes_away_what_a_tracker_adds() -> None:
    """A point that trembles from picture to picture hardly does so afterwards."""
    actor = make_actor()
    actor.course.points[::2, 0] += 0.1
    steps = [
        float(np.abs(np.diff(made("unsteady", seed, actor).points[:, 0], axis=0)).mean()) for seed in SEEDS
    ]
    assert min(steps) < 0.05
    assert max(steps) > 0.09


def test_every_course_has_a_name_in_the_settings() -> None:
    """Nothing is written and never drawn."""
    assert set(MotionSettings().mix) == {*COURSES, "generated"}
