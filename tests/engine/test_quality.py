from __future__ import annotations

import itertools

import numpy as np
import pytest

from avff.engine.media import Bool, Float32, UInt8
from avff.engine.quality import (
    BRIGHT,
    DARK,
    FULL_SCALE,
    MAX_PITCH_RAD,
    MAX_YAW_RAD,
    MIN_RUN,
    MIN_SPREAD,
    STILL,
    badly_exposed,
    clipped_share,
    light_of_faces,
    light_of_picture,
    same_as_before,
    standing,
    turned,
)
from avff.engine.spec import SPEC

MIDDLE = (0.25, 0.25, 0.5, 0.5)
"""The box of a face in the middle half of the picture."""


def _noise(height: int = 200, width: int = 320, *, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(20, 200, (height, width, 3), dtype=np.uint8)


def _grey(level: int) -> UInt8:
    return np.full((SPEC.face_px, SPEC.face_px, 3), level, np.uint8)


def _halves(low: int, high: int) -> UInt8:
    rgb = _grey(low)
    rgb[:, SPEC.face_px // 2 :] = high
    return rgb


def test_light_is_the_luminance_s_mean_and_spread() -> None:
    """Grey is as bright as its level and has no spread; two halves spread by half their difference."""
    faces = np.stack([_grey(90), _halves(100, 140)])
    expected = [[90, 0], [120, 20]]
    np.testing.assert_allclose(light_of_faces(faces), expected, atol=1e-3)
    np.testing.assert_allclose([light_of_picture(rgb) for rgb in faces], expected, atol=1e-3)


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.299), (1, 0.587), (2, 0.114)])
def test_colours_count_as_the_eye_sees_them(channel: int, weight: float) -> None:
    """Luminance is that of BT.601: a picture lit in red is not dark."""
    rgb = _grey(0)
    rgb[..., channel] = 200
    assert light_of_picture(rgb)[0] == pytest.approx(200 * weight, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (720, 1280)])
def test_pictures_of_any_size_have_light(size: tuple[int, int]) -> None:
    """Also pictures of fewer pixels than are looked at."""
    assert light_of_picture(np.full((*size, 3), 50, np.uint8)).tolist() == pytest.approx([50, 0])


@pytest.mark.parametrize(
    ("mean", "spread", "bad"),
    [
        (DARK - 1, MIN_SPREAD - 1, True),
        (DARK, MIN_SPREAD - 1, False),
        (DARK - 1, MIN_SPREAD, False),
        (BRIGHT + 1, MIN_SPREAD - 1, True),
        (BRIGHT, MIN_SPREAD - 1, False),
        (BRIGHT + 1, MIN_SPREAD, False),
        (0, 0, True),
        (255, 0, True),
        (128, 0, False),
        (np.nan, np.nan, False),
    ],
)
def test_dark_or_bright_without_contrast_is_badly_exposed(mean: float, spread: float, bad: bool) -> None:
    """A dim picture that still shows something is good enough, and grey is neither dark nor bright."""
    assert badly_exposed(np.array([[mean, spread]], np.float32)).tolist() == [bad]


@pytest.mark.parametrize(
    ("roll", "yaw", "pitch", "too_far"),
    [
        (0, MAX_YAW_RAD - 0.01, 0, False),
        (0, MAX_YAW_RAD + 0.01, 0, True),
        (0, -MAX_YAW_RAD - 0.01, 0, True),
        (0, 0, MAX_PITCH_RAD - 0.01, False),
        (0, 0, MAX_PITCH_RAD + 0.01, True),
        (0, 0, -MAX_PITCH_RAD - 0.01, True),
        (3.0, 0, 0, False),
    ],
)
def test_a_head_may_turn_so_far(roll: float, yaw: float, pitch: float, too_far: bool) -> None:
    """Yaw and pitch have limits to both sides; roll has none, alignment undoes it."""
    assert turned(np.array([[roll, yaw, pitch, 0, 0, 0]], np.float32)).tolist() == [too_far]


def _same(before: UInt8 | None, now: UInt8 | None) -> bool:
    return bool(same_as_before([before, now], MIDDLE)[0])


def test_the_same_picture_is_the_same() -> None:
    """Equal pixels are the same picture, whether it is the same object or not."""
    rgb = _noise()
    assert _same(rgb, rgb)
    assert _same(rgb, rgb.copy())


def test_noise_of_a_camera_is_a_difference() -> None:
    """A grey level of noise, which the quietest camera has, makes it another picture."""
    rgb = _noise()
    rng = np.random.default_rng(1)
    noisy = np.clip(rgb + rng.normal(0, 1, rgb.shape).round(), 0, 255).astype(np.uint8)
    assert not _same(rgb, noisy)


@pytest.mark.parametrize(("share", "same"), [(0.8 * STILL, True), (1.2 * STILL, False)])
def test_the_limit_of_sameness(share: float, same: bool) -> None:
    """What a codec adds to a photograph, up to a tenth of a grey level in the mean, is no difference."""
    rgb = _noise(400, 640)
    changed = rgb.copy()
    changed[np.random.default_rng(2).random(rgb.shape[:2]) < share] += 1
    assert _same(rgb, changed) is same


def test_only_the_face_counts() -> None:
    """A ticker beside a frozen face does not make it move; a room that stands hides no face that moves."""
    rgb = _noise()
    around, inside = rgb.copy(), rgb.copy()
    around[:40] = 0
    inside[60:140, 100:200] = 0
    assert _same(rgb, around)
    assert not _same(rgb, inside)


def test_what_cannot_be_compared_is_not_the_same() -> None:
    """Without a face on both sides, or with a change of size, there is no standstill."""
    rgb = _noise()
    assert not _same(None, rgb)
    assert not _same(rgb, None)
    assert not _same(rgb, np.repeat(np.repeat(rgb, 3, axis=0), 3, axis=1)[:599])
    assert same_as_before([None, rgb, rgb, None, rgb, rgb], MIDDLE).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("box", [(-0.2, -0.2, 0.5, 0.5), (0.9, 0.9, 0.4, 0.4), (1.2, 1.2, 0.1, 0.1)])
def test_faces_at_the_edge(box: tuple[float, float, float, float]) -> None:
    """Points of a face may lie outside of the picture; what is left of it is compared."""
    rgb = _noise()
    assert same_as_before([rgb, rgb.copy(), rgb // 2], box).tolist() == [True, False]


def _course(*lengths: int) -> Bool:
    """Runs of pictures, moving and still in turn, moving first."""
    turns = itertools.cycle((False, True))
    return np.concatenate([np.full(n, still) for n, still in zip(lengths, turns, strict=False)])


def test_a_standstill_is_a_run() -> None:
    """Shorter runs are a low rate or a moment's rest."""
    course = _course(3, MIN_RUN - 1, 1, MIN_RUN, 2, MIN_RUN + 5)
    expected = _course(3 + MIN_RUN, MIN_RUN, 2, MIN_RUN + 5)
    np.testing.assert_array_equal(standing(course), expected)
    assert standing(np.ones(64, np.bool_)).all()
    assert not standing(np.zeros(64, np.bool_)).any()


@pytest.mark.parametrize("hold", [2, 3, 5, MIN_RUN])
def test_low_rates_are_no_standstill(hold: int) -> None:
    """A grid that shows each picture ``hold`` times never stands: 12.5 pictures a second, 8, 5, 3."""
    still = np.arange(64) % hold != 0
    assert not standing(still).any()


@pytest.mark.parametrize(
    ("peak", "share"), [(FULL_SCALE - 0.001, 0), (FULL_SCALE + 0.001, 0.25), (1.5, 0.25)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_samples_at_full_scale_are_counted(peak: float, share: float, sign: int) -> None:
    """From full scale on, to both sides, and only in the slice itself."""
    pcm: Float32 = np.zeros(SPEC.context_samples + SPEC.slice_samples, np.float32)
    pcm[: SPEC.context_samples] = 1
    pcm[-SPEC.slice_samples // 4 :] = sign * peak
    assert clipped_share(pcm) == share
