from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from avff.engine.faces.tracker import MAX_FACES, FaceTracker, TrackedFace, eye_centres, region_of_points
from avff.engine.media import UInt8
from tests.support.engine import demo_pictures, face_models

PUPILS, CHIN = ((198.0, 172.0), (280.0, 177.0)), (233.0, 310.0)
"""Where they are in the demo clip's first picture, in px, read off by eye; the picture sways a little."""


def _follow(pictures: list[UInt8]) -> list[list[TrackedFace]]:
    tracker = FaceTracker(face_models())
    return [tracker.process(rgb) for rgb in pictures]


def _tracks(followed: list[list[TrackedFace]]) -> list[list[int]]:
    return [[face.track for face in faces] for faces in followed]


def _middle(face: TrackedFace) -> float:
    return (face.box[0] + face.box[2]) / 2


def _side_by_side(pictures: list[UInt8]) -> list[UInt8]:
    """The clip and, at its right, the same clip mirrored and run backwards: two different people."""
    return [
        np.concatenate([one, other[:, ::-1]], axis=1)
        for one, other in zip(pictures, pictures[::-1], strict=True)
    ]


def test_one_face_is_one_track() -> None:
    """A face that is always there keeps one number through every detection."""
    assert _tracks(_follow(demo_pictures(24))) == [[0]] * 24


def test_points_lie_on_the_face() -> None:
    """Eyes and chin of the mesh lie where the portrait has them, in source pixels."""
    for (face,) in _follow(demo_pictures(10)):
        points = face.points
        assert points.shape == (468, 3)
        for eye, place in zip(eye_centres(points), PUPILS, strict=True):
            assert np.linalg.norm(eye - place) < 7
        assert np.linalg.norm(points[152, :2] - CHIN) < 10
        x0, y0, x1, y1 = face.box
        assert (x0, y0) == (points[:, 0].min(), points[:, 1].min())
        assert 150 < x1 - x0 < 220
        assert 170 < y1 - y0 < 240


def test_the_same_pictures_give_the_same_tracks() -> None:
    """Tracking depends on the pictures only: a second run gives the same points to the last bit."""
    pictures = demo_pictures(12)
    for (one,), (other,) in zip(_follow(pictures), _follow(pictures), strict=True):
        np.testing.assert_array_equal(one.points, other.points)


def test_two_faces_keep_their_numbers() -> None:
    """Two faces are two tracks, and neither number wanders to the other face."""
    followed = _follow(_side_by_side(demo_pictures(24)))
    assert {len(faces) for faces in followed} == {2}
    side = {face.track: _middle(face) < 480 for face in followed[0]}
    assert sorted(side.values()) == [False, True]
    for faces in followed:
        assert {face.track: _middle(face) < 480 for face in faces} == side


def test_no_more_faces_than_the_limit() -> None:
    """A crowd is followed up to the limit."""
    pictures = demo_pictures(2)
    crowd = [
        np.tile(cv2.resize(rgb, (240, 240), interpolation=cv2.INTER_AREA), (2, 3, 1)) for rgb in pictures
    ]
    followed = _follow([np.asarray(rgb, np.uint8) for rgb in crowd])
    assert [len(faces) for faces in followed] == [MAX_FACES] * 2


@pytest.mark.parametrize("size", [(480, 480), (1, 1), (2, 600), (600, 2), (37, 91)])
@pytest.mark.parametrize("kind", ["black", "noise", "stripes"])
def test_no_face_is_no_track(kind: str, size: tuple[int, int]) -> None:
    """Pictures of any size that show no face give no track."""
    height, width = size
    rgb = np.zeros((height, width, 3), np.uint8)
    if kind == "noise":
        rgb = np.random.default_rng(0).integers(0, 256, rgb.shape, dtype=np.uint8)
    elif kind == "stripes":
        rgb[::3] = 255
    assert _tracks(_follow([rgb] * 9)) == [[]] * 9


def test_a_face_that_left_comes_back_as_another_track() -> None:
    """A lost face ends its track at once; its return, found within a slice, has a new number."""
    pictures = demo_pictures(20)
    blank = np.full_like(pictures[0], 128)
    tracks = _tracks(_follow([*pictures[:4], *[blank] * 3, *pictures[7:20]]))
    assert tracks[:7] == [[0]] * 4 + [[]] * 3
    assert [] not in tracks[7 + 8 :]
    assert {track for faces in tracks[7:] for track in faces} == {1}


def test_a_face_that_jumps_is_another_track() -> None:
    """A face that is somewhere else in the next picture is a cut, not a movement."""
    pictures = demo_pictures(8)
    left = [cv2.copyMakeBorder(rgb, 0, 0, 0, 480, cv2.BORDER_CONSTANT) for rgb in pictures[:4]]
    right = [cv2.copyMakeBorder(rgb, 0, 0, 480, 0, cv2.BORDER_CONSTANT) for rgb in pictures[4:]]
    followed = _follow([np.asarray(rgb, np.uint8) for rgb in left + right])
    assert _tracks(followed) == [[0]] * 4 + [[1]] * 4
    assert all(_middle(face) > 480 for faces in followed[4:] for face in faces)


def test_a_new_face_is_found_within_a_slice() -> None:
    """A second face is noticed at the next detection, and the first one keeps its number."""
    pictures = demo_pictures(20)
    alone = [np.concatenate([rgb, np.full_like(rgb, 60)], axis=1) for rgb in pictures[:3]]
    tracks = _tracks(_follow(alone + _side_by_side(pictures)[3:]))
    assert tracks[:3] == [[0]] * 3
    assert tracks[3 + 8 :] == [[0, 1]] * 9


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2, 2.0])
def test_the_region_turns_with_the_eyes(angle: float) -> None:
    """The square around a face is centred on its points and upright along its eyes, whatever the angle."""
    (face,) = _follow(demo_pictures(1))[0]
    base = region_of_points(face.points)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = face.points.copy()
    turned[:, :2] = face.points[:, :2] @ np.array([[cos, sin], [-sin, cos]], np.float32)
    region = region_of_points(turned)
    assert region.angle == pytest.approx(base.angle + angle, abs=1e-4)
    assert region.side == pytest.approx(base.side, rel=1e-4)
    expected = np.array([[cos, -sin], [sin, cos]]) @ (base.x, base.y)
    assert (region.x, region.y) == pytest.approx(tuple(expected), abs=0.01)


def test_tracks_of_one_tracker_are_never_reused() -> None:
    """Numbers only grow, however often faces come and go."""
    pictures = demo_pictures(20)
    blank = np.zeros_like(pictures[0])
    sequence = [rgb for k in range(3) for rgb in [*pictures[:2], *[blank] * 8]]
    tracks = [faces[0] for faces in _tracks(_follow(sequence)) if faces]
    assert [track for track, _ in itertools.groupby(tracks)] == [0, 1, 2]
