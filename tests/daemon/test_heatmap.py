from __future__ import annotations

import dataclasses

import numpy as np

from avff.daemon.canvas import Canvas
from avff.daemon.heatmap import _HEADS, HEIGHT, LEAST_SCALE, WIDTH, draw, middle_face, tinted
from avff.engine.calibration import HYPOTHESES
from avff.engine.explain import Explanation, OcclusionMap, Window
from avff.engine.media import Float32, UInt8
from avff.engine.slices import Slice
from avff.engine.spec import SPEC
from tests.support.engine import make_face, make_slice
from tests.support.scripted import make_prediction

FACE = (slice(124, 508), slice(76, 460))
"""Rows and columns of the drawn face, 384 px a side."""
SOUND = (slice(124, 486), slice(660, 1076))


def _map(values: Float32) -> OcclusionMap:
    rows, columns = values.shape
    return OcclusionMap(values, np.arange(rows, dtype=np.float32), np.arange(columns, dtype=np.float32))


def _spot(shape: tuple[int, int], at: tuple[int, int], value: float) -> OcclusionMap:
    values = np.zeros(shape, np.float32)
    values[at] = value
    return _map(values)


def _slices() -> tuple[Slice, ...]:
    return tuple(make_slice(k, face=make_face(track=1, seed=k)) for k in range(8))


def _explanation(*, value: float = 1.0, face: bool = True, sound: bool = True) -> Explanation:
    said = dataclasses.replace(make_prediction(9, 0.5), frames=np.zeros((64, 3), np.float32))
    return Explanation(
        Window(_slices(), said),
        _spot((14, 14), (10, 4), value) if face else None,
        _spot((10, 16), (7, 12), value) if sound else None,
        _spot((1, 16), (0, 12), value) if sound else None,
        _spot((10, 1), (7, 0), value) if sound else None,
    )


def _warmth(rgb: UInt8) -> Float32:
    """Red minus blue: above 0 in orange, below in blue, 0 in grey."""
    return rgb[..., 0].astype(np.float32) - rgb[..., 2]


def _centre(warm: Float32) -> tuple[float, float]:
    rows, columns = np.nonzero(warm > warm.max() / 2)
    return float(rows.mean() / warm.shape[0]), float(columns.mean() / warm.shape[1])


def test_every_head_has_a_name() -> None:
    """Shares that are told add up to all of the odds."""
    assert tuple(head for head, _ in _HEADS) == HYPOTHESES


def test_colours_lie_where_the_map_is_high() -> None:
    """The face's map from the top, the sound's with the lowest band at the bottom."""
    picture = draw(_explanation(), "clip.mp4")
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(_centre(_warmth(picture[FACE])), (10.5 / 14, 4.5 / 14), atol=0.02)
    np.testing.assert_allclose(_centre(_warmth(picture[SOUND])), (1 - 7.5 / 10, 12.5 / 16), atol=0.02)


def test_what_speaks_against_is_blue() -> None:
    """By sign, on both sides of grey."""
    values = np.array([[-1.0, 0.0, 1.0]], np.float32)
    rgb = tinted(np.full((1, 3), 128, np.uint8), values, 1.0)
    assert [float(np.sign(w)) for w in _warmth(rgb)[0]] == [-1.0, 0.0, 1.0]
    assert rgb[0, 1].tolist() == [128, 128, 128]


def test_trifles_stay_pale() -> None:
    """A map of next to nothing is not stretched to full colour."""
    pale, full = (
        _warmth(draw(_explanation(value=v), "x")[FACE]).max() for v in (LEAST_SCALE / 10, LEAST_SCALE)
    )
    assert pale < 0.2 * full


def test_a_modality_the_score_does_not_rest_on_is_not_drawn() -> None:
    """Its panel says so in words, without a colour."""
    face_only, sound_only = draw(_explanation(sound=False), "x"), draw(_explanation(face=False), "x")
    assert _warmth(face_only[FACE]).max() > 100 > 1 > np.abs(_warmth(face_only[SOUND])).max()
    assert _warmth(sound_only[SOUND]).max() > 100 > 1 > np.abs(_warmth(sound_only[FACE])).max()
    assert (face_only[SOUND] < 200).any()


def test_the_face_is_that_of_the_middle() -> None:
    """Picture 32 of 64, or the nearest that shows the face the score is about."""
    slices = list(_slices())
    said = make_prediction(9, 0.5)
    here = slices[4].face
    assert here is not None
    expected = here.faces[0]
    face = middle_face(Window(tuple(slices), said))
    nearest = [here.faces[0], slices[3].face.faces[7]]  # type: ignore[union-attr]
    assert any(np.array_equal(face, one) for one in nearest)
    slices[3] = make_slice(3, face=make_face(track=2))
    assert np.array_equal(middle_face(Window(tuple(slices), said)), expected)
    slices[4] = make_slice(4, face=make_face(track=1, seed=4, ok=[5, 6]))
    other = slices[4].face
    assert other is not None
    assert np.array_equal(middle_face(Window(tuple(slices), said)), other.faces[5])


def test_a_name_no_font_has_is_drawn_all_the_same() -> None:
    """Long ones are cut; the title stays within the picture."""
    picture = draw(_explanation(), "Ünïcödé 中文 " * 20)
    assert (picture[20:45, : WIDTH - 10] < 100).any()
    assert (picture[20:45, WIDTH - 10 :] > 200).all()


def test_pictures_without_a_logit_have_no_dot() -> None:
    """A gap in the line of suspicion is a gap."""
    whole = _explanation()
    frames = np.full((SPEC.window_frames, 3), np.nan, np.float32)
    blank = Window(whole.window.slices, dataclasses.replace(whole.window.prediction, frames=frames))
    dots, none = (
        (draw(dataclasses.replace(whole, window=w), "x")[572:614, 664:1070] < 80).sum()
        for w in (whole.window, blank)
    )
    assert dots > 64 > none


def test_text_is_anchored() -> None:
    """Where it begins, has its middle, or ends."""
    for anchor, low, high in (("left", 50, 100), ("middle", 20, 80), ("right", 0, 51)):
        canvas = Canvas(100, 30)
        canvas.text("Hello", (50, 20), anchor=anchor)  # type: ignore[arg-type]
        columns = np.flatnonzero((canvas.picture() < 128).any(axis=(0, 2)))
        assert low <= columns.min() < columns.max() <= high
