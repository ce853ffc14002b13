"""Talking photo: one still moved by landmarks, its own or another window's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from avff.engine.media import Float32
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo import portrait
from avff.trainer.pseudo.driving import LOWER_INNER, UPPER_INNER, Course, borrowed, driven, opening, own
from avff.trainer.pseudo.portrait import talking_photo
from avff.trainer.pseudo.warp import field_between, warp_still
from tests.support.samples import differing, make_sample

SEEDS = range(16)


def talker(seed: int = 0, *, missing: tuple[int, ...] = ()) -> Sample:
    """Return a synthetic window whose inner lips have a shape too, 24 px wide."""
    sample = make_sample(seed, missing=missing)
    marks = sample.landmarks
    for number, across in enumerate(np.linspace(-9.6, 9.6, 9)):
        share = np.float32(1 - (across / 12) ** 2)
        for points, middle, side in ((UPPER_INNER, 13, -1), (LOWER_INNER, 14, 1)):
            half = (marks[:, 14, 1] - marks[:, 13, 1]) / 2
            marks[:, points[number], 0] = marks[:, middle, 0] + np.float32(across)
            marks[:, points[number], 1] = (marks[:, 13, 1] + half) + side * half * share
    for corner, across in ((78, -12), (308, 12)):
        marks[:, corner, :2] = (marks[:, 13, :2] + marks[:, 14, :2]) / 2 + np.array([across, 0], np.float32)
    marks[~sample.ok] = 0
    return sample


def givers() -> Donors:
    """Return donors that are talkers."""
    sample = talker()
    return Donors(lambda: talker(60), lambda: talker(61), (sample.audio, 0))


def animated(seed: int, *, missing: tuple[int, ...] = ()) -> tuple[Sample, Sample]:
    """Return window 0 before and after."""
    before = talker(missing=missing)
    return before, talking_photo(before.copy(), np.random.default_rng(seed), givers())


def still_course(sample: Sample) -> Course:
    """Return the course of a face that rests in its first picture throughout."""
    course = own(sample, 0)
    course.marks[:] = course.marks[0]
    return course


def turned(points: Float32, angle: float) -> Float32:
    """Turn points float32 ``[N, 3]`` about an upright axis through the middle of the face, in rad."""
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    middle = np.array([64, 64, 0])
    return np.asarray((points - middle) @ turn + middle, np.float32)


def test_labelled_pictures_are_those_that_differ() -> None:
    """Every picture with a face is another one now, and no other."""
    for seed in SEEDS:
        before, after = animated(seed, missing=(0, 1, 30, 63))
        changed = differing(before.faces, after.faces).any(axis=(1, 2))
        assert np.array_equal(changed, before.ok)
        assert np.array_equal(after.frame_labels[:, 1] == 1, changed)
        assert np.array_equal(after.frame_labels[:, 0], after.frame_labels[:, 1])
        assert not after.frame_labels[:, 2].any()


def test_all_pictures_come_from_one_still() -> None:
    """What only some pictures of the window show is seen in all of them or in none."""
    shown = set()
    for seed in SEEDS:
        before = talker()
        before.faces[:32, 60:66, 20:30] = (0, 255, 0)  # a green patch on the cheek, for half of the time
        after = talking_photo(before, np.random.default_rng(seed), givers())
        around = after.faces[:, 54:72, 14:36].astype(int)
        green = (around[..., 1] - around[..., ::2].max(axis=-1)).max(axis=(1, 2)) > 60
        assert green.all() or not green.any()
        shown.add(bool(green[0]))
    assert shown == {True, False}


def test_eyes_are_where_the_landmarks_say() -> None:
    """The dark eyes follow the driven landmarks; so does the picture, then, and not only the numbers."""
    for seed in SEEDS:
        _, after = animated(seed)
        for t in (0, 21, 42, 63):
            for eye in (33, 263):
                column, row = np.round(after.landmarks[t, eye, :2]).astype(int)
                assert after.faces[t, row, column].max() < 110


def test_own_landmarks_keep_the_lips_in_step_and_borrowed_ones_do_not() -> None:
    """Desync says whether the mouth opens when it did before."""
    alike: dict[float, list[float]] = {0.0: [], 1.0: []}
    for seed in range(24):
        before, after = animated(seed)
        courses = opening(before.landmarks), opening(after.landmarks)
        alike[float(after.labels[3])].append(float(np.corrcoef(*courses)[0, 1]))
    assert len(alike[0.0]) >= 6
    assert len(alike[1.0]) >= 6
    assert min(alike[0.0]) > 0.5
    assert np.mean(alike[1.0]) < 0.4


def test_borrowed_lips_that_move_alike_claim_no_mismatch() -> None:
    """A donor whose mouth opens at the same times is in step."""
    before = talker()
    donors = Donors(lambda: talker(), lambda: talker(), (before.audio, 0))
    for seed in SEEDS:
        after = talking_photo(before.copy(), np.random.default_rng(seed), donors)
        course = opening(after.landmarks) - opening(before.landmarks)
        assert after.labels[3] == float(course.std() > 0.6 and seed_borrows(seed))


def seed_borrows(seed: int) -> bool:
    """Return whether window 0 asks for a donor under this seed."""
    asked = []

    def give() -> Sample:
        asked.append(1)
        return talker()

    before = talker()
    talking_photo(before, np.random.default_rng(seed), Donors(give, give, (before.audio, 0)))
    return bool(asked)


def test_half_of_the_windows_borrow_their_motion() -> None:
    """The others need no donor."""
    borrowing = sum(seed_borrows(seed) for seed in range(40))
    assert 12 <= borrowing <= 28


def test_motion_is_what_the_landmarks_show() -> None:
    """Yaw and pitch follow from the driven points; what is stored as a change is damped, never raised."""
    for seed in SEEDS:
        before, after = animated(seed, missing=(5, 6))
        ok = after.ok
        for column, (one, two) in ((1, (234, 454)), (2, (10, 152))):
            across = after.landmarks[ok, two] - after.landmarks[ok, one]
            expected = np.arctan2(across[:, 2], np.hypot(across[:, 0], across[:, 1]))
            np.testing.assert_allclose(after.motion[ok, column], expected, atol=1e-5)
        assert not after.motion[~ok].any()
        assert not after.motion[7, 3:].any()  # a face found anew has no picture before it
        limit = max(np.abs(make.motion[:, 3:]).max() for make in (before, talker(60), talker(61)))
        assert np.abs(after.motion[:, 3:]).max() <= limit


def test_a_head_that_turns_far_is_held_back() -> None:
    """Damping applies to the head alone, and no point is turned by more than 10 px."""
    sample = talker()
    sample.landmarks[:, :, 2] *= 6  # a face as deep as a face is
    course = still_course(sample)
    course.marks[1:] = np.stack([turned(course.marks[0], angle) for angle in np.linspace(0, 0.7, 63)])
    full = np.linalg.norm((course.marks - course.marks[0])[..., :2], axis=-1).max()
    assert full > 20
    marks, used = driven(course.rest, course, 1.0)
    assert np.linalg.norm((marks - marks[0])[..., :2], axis=-1).max() == pytest.approx(10, abs=0.1)
    assert used == pytest.approx(10 / full, rel=0.02)


def test_damping_leaves_the_expression_alone() -> None:
    """Lips open as far as before, whatever the head is allowed."""
    sample = talker()
    course = own(sample, 0)
    for damping in (0.2, 1.0):
        marks, _ = driven(course.rest, course, damping)
        np.testing.assert_allclose(opening(marks), opening(course.marks), atol=0.2)
    np.testing.assert_allclose(marks, course.marks, atol=1e-3)


def test_borrowed_displacements_keep_the_shape_of_the_face() -> None:
    """A donor of another shape, size and place moves the lips and leaves the proportions."""
    before, donor = talker(), talker(60)
    donor.landmarks[..., 0] = donor.landmarks[..., 0] * 1.15 - 12
    donor.landmarks[..., 1] = donor.landmarks[..., 1] * 0.95 + 5
    still = before.landmarks[0]
    course = borrowed(donor, still)
    assert course is not None
    marks, _ = driven(still, course, 0.5)
    for one, two in ((33, 263), (234, 454), (10, 2)):
        wanted = np.linalg.norm(still[one, :2] - still[two, :2])
        found = np.linalg.norm(marks[:, one, :2] - marks[:, two, :2], axis=-1)
        np.testing.assert_allclose(found, wanted, rtol=0.03)
    assert np.corrcoef(opening(marks), opening(donor.landmarks))[0, 1] > 0.98


def test_lips_do_not_cross() -> None:
    """A still with closed lips, moved by a mouth that closes further, keeps them closed."""
    sample = talker()
    course = still_course(sample)
    course.marks[1:, LOWER_INNER, 1] -= 15
    marks, _ = driven(course.rest, course, 1.0)
    gaps = marks[:, LOWER_INNER, 1] - marks[:, UPPER_INNER, 1]
    assert gaps.min() >= 0


def test_donor_without_a_face_moves_nothing() -> None:
    """The window's own landmarks serve instead, and the lips are in step."""
    before, nobody = talker(), talker(60, missing=tuple(range(64)))
    assert borrowed(nobody, before.landmarks[0]) is None
    for seed in range(6):
        donors = Donors(lambda: nobody, lambda: nobody, (before.audio, 0))
        after = talking_photo(before.copy(), np.random.default_rng(seed), donors)
        assert after.labels.tolist() == [1, 1, 0, 0]


def test_smoothing_takes_the_tremble_out() -> None:
    """Differences from picture to picture shrink; the mean place stays."""
    course = own(talker(), 0)
    course.marks[:] += np.random.default_rng(0).normal(0, 1, (64, 1, 3)).astype(np.float32)
    smooth = course.smoothed(2.0)
    assert np.abs(np.diff(smooth.marks, axis=0)).mean() < 0.35 * np.abs(np.diff(course.marks, axis=0)).mean()
    assert abs(float(smooth.marks.mean() - course.marks.mean())) < 0.3


@pytest.mark.parametrize("bite_px", [0.0, 3.0])
def test_mouth_that_opens_wider_than_the_still_is_filled(bite_px: float) -> None:
    """Between the lips it is dark, with teeth above if there are any; elsewhere not a bit changes."""
    faces = np.full((3, 128, 128, 3), 200, np.uint8)
    marks = np.repeat(talker().landmarks[:1], 3, axis=0)
    for number, across in enumerate(np.linspace(-9.6, 9.6, 9)):
        marks[:, UPPER_INNER[number], :2] = (64 + across, 85)
        marks[:, LOWER_INNER[number], :2] = (64 + across, 97)
    marks[:, 78, :2], marks[:, 308, :2] = (52, 91), (76, 91)
    mouth = portrait._Mouth(np.array([40, 20, 20], np.uint8), np.array([180, 180, 170], np.uint8), bite_px, 3)
    portrait._fill(faces, marks, np.array([0.0, 0.5, 2.0], np.float32), mouth)
    assert (faces[0] == 200).all()
    assert (faces[:, :80] == 200).all()
    assert (faces[:, 102:] == 200).all()
    assert (faces[:, :, :48] == 200).all()
    assert faces[2, 94, 64].max() < 45
    assert 100 < faces[1, 94, 64].mean() < 140
    assert (faces[2, 86, 64].mean() > 140) == (bite_px > 0)


def test_field_brings_points_to_their_places() -> None:
    """Points land within 0.4 px on average; the corners of the picture stay."""
    grid = np.stack(np.meshgrid(np.arange(24, 105, 5), np.arange(24, 105, 5)), axis=-1)
    source: Float32 = grid.reshape(-1, 2).astype(np.float32)
    wave: Float32 = (4 * np.sin(source[:, ::-1] / 15)).astype(np.float32)
    field = field_between(source, (source + wave)[None])
    column, row = np.round((source + wave - 0.5) / 2).astype(int).T
    assert np.abs(field[0, row, column] + wave).mean() < 0.4
    assert np.abs(field[0, [0, 0, 63, 63], [0, 63, 0, 63]]).max() < 0.6


def test_field_of_a_shared_shift_is_smooth() -> None:
    """Where all points move alike nothing tears: neighbouring cells differ little inside the face."""
    sample = talker()
    source = sample.landmarks[0, :, :2]
    field = field_between(source, source[None] + np.float32(6))
    inside = field[0, 18:46, 22:42]
    np.testing.assert_allclose(inside.mean(axis=(0, 1)), -6, atol=0.3)
    assert np.abs(np.diff(inside, axis=0)).max() < 1


@pytest.mark.parametrize("side", [128, 80])
def test_warp_moves_the_picture_by_the_field(side: int) -> None:
    """A field of 6 px to the left in the 128-px picture shows the still 6 px further right, at any size."""
    face = np.zeros((128, 128, 3), np.uint8)
    cv2.circle(face, (60, 64), 8, (255, 255, 255), -1)
    still = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    field = np.zeros((2, 64, 64, 2), np.float32)
    field[1, ..., 0] = -6
    made = warp_still(still, field).astype(float)[..., 0]
    centres = (made.sum(1) * np.arange(side)).sum(1) / made.sum((1, 2))
    assert np.array_equal(warp_still(still, field)[0], still)
    assert (centres[1] - centres[0]) * 128 / side == pytest.approx(6, abs=0.1)
