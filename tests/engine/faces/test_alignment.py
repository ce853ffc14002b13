from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from avff.engine.faces.alignment import FaceSlicer, Seen
from avff.engine.faces.landmarks import LEFT_EYE, NOSE_BASE, RIGHT_EYE
from avff.engine.faces.tracker import FaceTracker, TrackedFace
from avff.engine.media import Float32, UInt8
from avff.engine.slices import FaceSlice
from tests.support.engine import demo_pictures, face_models

PLACES = np.array([[38, 31], [90, 31], [64, 70]], np.float32)
"""Both eyes' centres and the nose base in the aligned face, in px of 128."""
Change = Callable[[UInt8], UInt8]


def _seen(pictures: list[UInt8]) -> list[Seen | None]:
    tracker = FaceTracker(face_models())
    found = [(tracker.process(rgb), rgb) for rgb in pictures]
    return [Seen(faces[0], rgb) if faces else None for faces, rgb in found]


def _cut(seen: list[Seen | None]) -> list[FaceSlice]:
    slicer = FaceSlicer(0)
    return [slicer.cut(seen[k : k + 8]) for k in range(0, len(seen), 8)]


def _anchors(landmarks: Float32) -> Float32:
    """Eyes' centres and nose base, ``[n, 3, 2]``."""
    xy = landmarks[..., :2]
    eyes = [xy[:, list(eye)].mean(axis=1) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.stack([*eyes, xy[:, NOSE_BASE]], axis=1)


def _drawn(scale: float, angle: float, centre: tuple[float, float] = (400.0, 300.0)) -> Seen:
    """A picture with red dots at the eyes and a green one at the nose of a face turned by ``angle``."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    spots = ((PLACES - 64) @ turn.T + centre).astype(np.float32)
    points = np.tile(spots.mean(axis=0), (468, 1))
    points[list(LEFT_EYE)], points[list(RIGHT_EYE)], points[NOSE_BASE] = spots
    rgb = np.zeros((600, 800, 3), np.uint8)
    for spot, colour in zip(spots, [(255, 0, 0), (255, 0, 0), (0, 255, 0)], strict=True):
        at = [round(float(v) * 16) for v in spot]
        cv2.circle(rgb, at, round(16 * 5 * scale), colour, -1, cv2.LINE_AA, shift=4)
    depth = np.zeros((468, 1), np.float32)
    return Seen(TrackedFace(0, np.concatenate([points, depth], axis=1).astype(np.float32)), rgb)


def _centroid(channel: UInt8) -> Float32:
    weight = channel.astype(np.float64)
    y, x = np.indices(channel.shape)
    return np.asarray([(x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()], np.float32)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.45, 1.55, 3.0])
@pytest.mark.parametrize("angle", [0.0, 0.35, -1.0, 3.1])
def test_eyes_and_nose_come_to_their_places(scale: float, angle: float) -> None:
    """A face of any size and angle is brought to the same place, size and upright angle."""
    (cut,) = _cut([_drawn(scale, angle)] * 8)
    np.testing.assert_allclose(_anchors(cut.landmarks), np.tile(PLACES, (8, 1, 1)), atol=0.02)
    for face in cut.faces:
        red, green = face[..., 0], face[..., 1]
        np.testing.assert_allclose(_centroid(red[:, :64]), PLACES[0], atol=0.5)
        np.testing.assert_allclose(_centroid(red[:, 64:]), PLACES[1] - (64, 0), atol=0.5)
        np.testing.assert_allclose(_centroid(green), PLACES[2], atol=0.5)
    assert cut.eye_px == pytest.approx(52 * scale, rel=1e-4)
    np.testing.assert_allclose(np.sin(cut.motion[:, 0] - angle), 0, atol=1e-3)
    np.testing.assert_allclose(cut.motion[:, 3:], 0, atol=1e-3)


def test_a_real_face_comes_to_its_places() -> None:
    """Eyes and nose of the portrait lie within 2 px of their places in every aligned picture."""
    for cut in _cut(_seen(demo_pictures(16))):
        assert cut.ok.all()
        assert np.linalg.norm(_anchors(cut.landmarks) - PLACES, axis=-1).max() < 2
        x, y, width, height = cut.box
        assert (x, y, width, height) == pytest.approx((0.31, 0.23, 0.38, 0.42), abs=0.04)


def _turned(degrees: float) -> Change:
    matrix = cv2.getRotationMatrix2D((240, 220), degrees, 1)
    return lambda rgb: np.asarray(
        cv2.warpAffine(rgb, matrix, (480, 480), borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _scaled(factor: float) -> Change:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return lambda rgb: np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=how), np.uint8)


def _moved(rgb: UInt8) -> UInt8:
    return np.asarray(cv2.copyMakeBorder(rgb, 150, 10, 20, 220, cv2.BORDER_REPLICATE), np.uint8)


@pytest.mark.parametrize(
    ("change", "size"),
    [(_turned(20), 1.0), (_turned(-45), 1.0), (_scaled(0.5), 0.5), (_scaled(2.0), 2.0), (_moved, 1.0)],
    ids=["turned 20", "turned -45", "half", "double", "moved"],
)
def test_alignment_undoes_turning_scaling_and_moving(change: Change, size: float) -> None:
    """The aligned face hardly depends on how the face lies in the picture."""
    pictures = demo_pictures(16)
    plain, changed = _cut(_seen(pictures)), _cut(_seen([change(rgb) for rgb in pictures]))
    for one, other in zip(plain, changed, strict=True):
        assert other.ok.all()
        # Mean difference of two pictures shifted by 3 px against each other is about 17.
        assert np.abs(one.faces.astype(int) - other.faces).mean() < 2.5
        assert np.abs(one.landmarks[..., :2] - other.landmarks[..., :2]).mean() < 0.5
        assert other.eye_px == pytest.approx(one.eye_px * size, rel=0.02)


def _wobbling(count: int) -> list[Seen | None]:
    """Faces whose place jumps from picture to picture, so that smoothing shows."""
    rng = np.random.default_rng(3)
    return [
        _drawn(1.0, float(a), (400 + dx, 300 + dy)) for a, dx, dy in rng.normal(0, (0.02, 3, 3), (count, 3))
    ]


def test_a_slice_does_not_depend_on_the_next() -> None:
    """What follows changes nothing in a slice that was cut: there is no look-ahead."""
    seen = _wobbling(24)
    whole, prefix = _cut(seen), _cut(seen[:16])
    elsewhere = _cut([*seen[:16], *[_drawn(2.0, 1.0)] * 8])
    for others in (prefix, elsewhere):
        for one, other in zip(whole[:2], others[:2], strict=True):
            np.testing.assert_array_equal(one.faces, other.faces)
            np.testing.assert_array_equal(one.landmarks, other.landmarks)
            np.testing.assert_array_equal(one.motion, other.motion)


def test_smoothing_looks_back_across_the_border() -> None:
    """The first pictures of a slice are smoothed with the last ones before it, and no farther back."""
    seen = _wobbling(24)
    second = _cut(seen[:16])[1]
    fresh = FaceSlicer(0).cut(seen[8:16])
    other_past = _cut([*seen[:6], *_wobbling(40)[30:32], *seen[8:16]])[1]
    for alone in (fresh, other_past):
        same = [np.array_equal(a, b) for a, b in zip(second.landmarks, alone.landmarks, strict=True)]
        assert same == [False, False] + [True] * 6
    far_past = _cut([*_wobbling(40)[30:36], *seen[6:16]])[1]
    np.testing.assert_array_equal(second.landmarks, far_past.landmarks)


def test_smoothing_follows_the_weights() -> None:
    """A picture that jumps moves the cut of its neighbours by the weights 0.1, 0.2, 0.4, 0.2, 0.1."""
    still, jump = _drawn(1.0, 0.0), _drawn(1.0, 0.0, (410.0, 300.0))
    (cut,) = _cut([still, still, still, still, jump, still, still, still])
    # The still face's eye seems to move left by as much as the cut moved right.
    moved = PLACES[0, 0] - _anchors(cut.landmarks)[:, 0, 0]
    moved[4] += 10
    np.testing.assert_allclose(moved[:6], [0, 0, 1, 2, 4, 2], atol=0.01)
    # Beyond the end of the slice there is nothing to weigh: 0.1 of 0.9 remains for the last but one.
    np.testing.assert_allclose(moved[6:], [1 / 0.9, 0], atol=0.01)


def test_a_missing_picture_is_blank() -> None:
    """Where the face was not found there are zeros and no smoothing across, and the rest is as ever."""
    seen = _wobbling(8)
    seen[2] = seen[3] = None
    cut = FaceSlicer(5).cut(seen)
    assert cut.track == 5
    assert cut.ok.tolist() == [True, True, False, False, True, True, True, True]
    for values in (cut.faces, cut.landmarks, cut.motion):
        assert not values[2:4].any()
        assert all(values[k].any() for k in (0, 1, 4, 5, 6, 7))
    # The picture after the gap has no picture before it to have moved from.
    assert cut.motion[4, 3:].tolist() == [0, 0, 0]
    assert cut.motion[5, 3:].any()


def test_an_absent_face_gives_zeros() -> None:
    """A slice without the face holds no pixel of it."""
    cut = FaceSlicer(0).cut([None] * 8)
    assert not cut.ok.any()
    assert not cut.faces.any()
    assert (cut.eye_px, cut.box) == (0.0, (0.0, 0.0, 0.0, 0.0))


def test_points_that_are_no_numbers_are_never_made_into_some() -> None:
    """The network must see them, and abstain: a zero would be a still, upright head."""
    seen = _wobbling(8)
    broken = seen[3]
    assert broken is not None
    seen[3] = Seen(TrackedFace(0, np.full_like(broken.face.points, np.nan)), broken.rgb)
    cut = FaceSlicer(0).cut(seen)
    assert np.isnan(cut.landmarks[3]).all()
    assert np.isnan(cut.motion[3]).all()
    others = [k for k in range(8) if k != 3]
    assert np.isfinite(cut.landmarks[others]).all()
    assert np.isfinite(cut.motion[others]).all()


def test_motion_is_measured_in_eye_distances() -> None:
    """Shift and growth do not depend on how many pixels the face has."""
    (cut,) = _cut([_drawn(2.0, 0.0, (400.0, 300.0)), _drawn(2.2, 0.1, (426.0, 287.0)), *[None] * 6])
    roll, _, _, x, y, growth = (float(v) for v in cut.motion[1])
    assert roll == pytest.approx(0.1, abs=1e-4)
    assert (x, y) == pytest.approx((26 / (52 * 2.2), -13 / (52 * 2.2)), abs=0.01)
    assert growth == pytest.approx(np.log(1.1), abs=1e-4)


@pytest.mark.parametrize("centre", [(10.0, 10.0), (790.0, 590.0), (-40.0, 300.0), (900.0, 700.0)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_face_beyond_the_edge_is_cut_anyway(scale: float, centre: tuple[float, float]) -> None:
    """A face that is partly, or wholly, outside the picture gets the nearest pixels and no error."""
    face = _drawn(scale, 0.0, centre)
    face.rgb[:] = 77
    (cut,) = _cut([face] * 8)
    assert (cut.faces == 77).all()
