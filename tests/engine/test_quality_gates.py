"""Picture and sound of poor quality are no evidence; what is left is scored, or the reason is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from avff.engine.evidence import MAX_CLIPPED, MIN_EYE_PX, MIN_FPS, SliceFacts, modality_of, window_coverage
from avff.engine.slices import Reason, Slice
from avff.engine.spec import SPEC
from tests.support.engine import make_face, make_slice

ALL, AV_ONLY = ("av", "video", "audio"), ("av",)
FRONTAL, TURNED = (0.0, 0.0, 0.0), (0.0, 0.9, 0.0)
LIT, DARK = (130.0, 40.0), (8.0, 3.0)
Window = Callable[[int], Slice]


def _judged(make: Window, scored: Sequence[str] = ALL, count: int = 8) -> tuple[str, Reason | None]:
    facts = [SliceFacts.of(make(k)) for k in range(count)]
    track = next((f.track for f in reversed(facts) if f.track is not None), None)
    return modality_of(facts, track, window_coverage(facts, track), scored)


def _in_slice(pictures: int, k: int) -> int:
    """How many of the window's first ``pictures`` lie in slice ``k``."""
    return min(8, max(0, pictures - 8 * k))


def _spoilt(pictures: dict[str, int]) -> Window:
    """A window of which the first pictures are turned, dark or frozen, as many as given."""

    def make(k: int) -> Slice:
        face = make_face(pose=FRONTAL)
        face.motion[: _in_slice(pictures.get("turned", 0), k), :3] = TURNED
        piece = make_slice(k, face=face, still=range(_in_slice(pictures.get("frozen", 0), k)))
        piece.light[: _in_slice(pictures.get("dark", 0), k)] = DARK
        return piece

    return make


REASONS = {"turned": Reason.FACE_TURNED, "dark": Reason.BAD_EXPOSURE, "frozen": Reason.FROZEN}


@pytest.mark.parametrize(("kind", "reason"), REASONS.items())
@pytest.mark.parametrize(("pictures", "enough"), [(0, True), (19, True), (20, False), (64, False)])
def test_70_percent_of_the_pictures_must_be_good(
    kind: str, reason: Reason, pictures: int, enough: bool
) -> None:
    """45 of 64 good pictures are enough, 44 are not; then sound alone is left."""
    make = _spoilt({kind: pictures})
    assert _judged(make) == (("av", None) if enough else ("audio", None))
    assert _judged(make, AV_ONLY) == (("av", None) if enough else ("audio", reason))


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ({"turned": 10, "dark": 9}, None),
        ({"turned": 20, "dark": 30}, Reason.BAD_EXPOSURE),
        ({"turned": 30, "dark": 20}, Reason.FACE_TURNED),
        ({"turned": 64, "dark": 64, "frozen": 64}, Reason.FROZEN),
        ({"turned": 64, "dark": 64}, Reason.BAD_EXPOSURE),
    ],
)
def test_the_reason_is_what_spoils_the_most(pictures: dict[str, int], reason: Reason | None) -> None:
    """Of several faults the largest is named; of equal ones the one that explains the others."""
    assert _judged(_spoilt(pictures), AV_ONLY)[1] == reason


def test_faults_in_different_pictures_add_up() -> None:
    """A picture is good when nothing is wrong with it."""

    def make(k: int) -> Slice:
        return make_slice(k, face=make_face(pose=TURNED if k < 2 else FRONTAL), light=DARK if k > 6 else LIT)

    assert _judged(make, AV_ONLY) == ("audio", Reason.FACE_TURNED)


def test_faults_of_another_face_do_not_count() -> None:
    """What the former face did is no fault of the present one's pictures."""

    def make(k: int) -> Slice:
        face = make_face(track=int(k > 1), pose=TURNED if k < 2 else FRONTAL)
        return make_slice(k, face=face)

    assert _judged(make) == ("av", None)


def _at_fps(fps: float) -> Window:
    """A face whose picture changes ``fps`` times a second."""
    shown = np.floor(np.arange(SPEC.window_frames) * fps / SPEC.fps + 1e-9)
    still = np.diff(shown, prepend=-1) == 0

    def make(k: int) -> Slice:
        return make_slice(k, face=make_face(), still=np.flatnonzero(still[8 * k : 8 * k + 8]).tolist())

    return make


@pytest.mark.parametrize(
    ("fps", "enough"),
    [(25, True), (15, True), (12.5, True), (10, True), (MIN_FPS + 0.4, True), (MIN_FPS - 0.4, False),
     (5, False), (4, False)],
)  # fmt: skip
def test_lips_need_pictures(fps: float, enough: bool) -> None:
    """From 8 different pictures a second on the picture is evidence; a low rate is never a standstill."""
    assert _judged(_at_fps(fps)) == (("av", None) if enough else ("audio", None))
    assert _judged(_at_fps(fps), AV_ONLY) == (("av", None) if enough else ("audio", Reason.LOW_FPS))


def _two_a_second(k: int) -> Slice:
    """A picture every 12 or 13 grid times stands for six of them; the rest are gaps."""
    first = (0, 4, 1, 5, 2, 6, 3, 7)[k]
    ok = [j for j in range(first, min(8, first + 6))]
    piece = make_slice(k, face=make_face(ok=ok), still=ok[1:])
    piece.picture_ok[:] = np.isin(np.arange(8), ok)
    return piece


def test_pictures_that_hardly_come_are_a_low_rate() -> None:
    """At 2 pictures a second most of the window is gaps, and the reason is the rate."""
    assert _judged(_two_a_second, AV_ONLY) == ("audio", Reason.LOW_FPS)


@pytest.mark.parametrize("stop", [0, 1, 2, 9, 40])
def test_pictures_that_stopped_are_no_low_rate(stop: int) -> None:
    """Pictures at the full rate, then none: what is missing is the picture, not its rate."""

    def make(k: int) -> Slice:
        there = range(_in_slice(stop + 3, k))
        piece = make_slice(k, face=make_face(ok=there) if there else None)
        piece.picture_ok[:] = np.isin(np.arange(8), there)
        piece.still[_in_slice(stop, k) : len(there)] = True
        return piece

    assert _judged(make, AV_ONLY) == ("audio", Reason.UNSUPPORTED_MODALITY)


def _overdriven(share: float) -> Window:
    """A face and a voice of which this share of the samples is at full scale."""

    def make(k: int) -> Slice:
        piece = make_slice(k, face=make_face())
        piece.audio[-round(share * SPEC.slice_samples) :] = 1
        return piece

    return make


@pytest.mark.parametrize(("share", "enough"), [(0.9 * MAX_CLIPPED, True), (1.1 * MAX_CLIPPED, False)])
def test_sound_may_hardly_clip(share: float, enough: bool) -> None:
    """One sample of a hundred at full scale is the limit; beyond, the picture alone is left."""
    assert _judged(_overdriven(share)) == (("av", None) if enough else ("video", None))
    assert _judged(_overdriven(share), AV_ONLY) == (("av", None) if enough else ("video", Reason.CLIPPING))


def test_a_single_loud_slice_does_not_spoil_a_window() -> None:
    """The share is that of the window."""
    clean, loud = _overdriven(0.001), _overdriven(0.07)
    assert _judged(lambda k: (loud if k == 4 else clean)(k)) == ("av", None)
    assert _judged(lambda k: (loud if k in (3, 4) else clean)(k)) == ("video", None)


def _altered(**changes: object) -> Window:
    def make(k: int) -> Slice:
        wanted = {"face": make_face(pose=FRONTAL)} | changes
        return make_slice(k, **wanted)  # type: ignore[arg-type]

    return make


def _clipped(make: Window) -> Window:
    def clip(k: int) -> Slice:
        piece = make(k)
        piece.audio[:] = np.sign(piece.audio)
        return piece

    return clip


ASIDE = make_face(pose=TURNED)
SMALL = make_face(eye_px=MIN_EYE_PX / 2)


@pytest.mark.parametrize(
    ("make", "scored", "modality", "reason"),
    [
        (_altered(face=ASIDE), ("av", "video"), "audio", Reason.FACE_TURNED),
        (_altered(face=ASIDE, level=0.0), ALL, "", Reason.FACE_TURNED),
        (_altered(face=ASIDE, has_audio=False, audio_ok=0.0, level=0.0), ALL, "", Reason.FACE_TURNED),
        (_clipped(_altered(face=ASIDE)), ALL, "", Reason.FACE_TURNED),
        (_clipped(_altered()), ("av", "audio"), "video", Reason.CLIPPING),
        (_clipped(_altered(face=None)), ALL, "", Reason.NO_FACE),
        (_clipped(_altered(face=None, has_video=False, picture_ok=0.0)), ALL, "", Reason.CLIPPING),
        (_altered(level=0.0), AV_ONLY, "video", Reason.UNSUPPORTED_MODALITY),
        (_altered(face=None, light=DARK), ALL, "audio", None),
        (_altered(face=None, light=DARK), AV_ONLY, "audio", Reason.BAD_EXPOSURE),
        (_altered(face=None, light=DARK, level=0.0), ALL, "", Reason.BAD_EXPOSURE),
        (_altered(face=None, light=(250.0, 2.0)), AV_ONLY, "audio", Reason.BAD_EXPOSURE),
        (
            _altered(face=SMALL, light=DARK),
            AV_ONLY,
            "audio",
            Reason.FACE_TOO_SMALL,
        ),
    ],
)
def test_one_reason_of_several(
    make: Window, scored: Sequence[str], modality: str, reason: Reason | None
) -> None:
    """The picture's fault comes first, then the sound's; black pictures are dark before they lack a face."""
    assert _judged(make, scored) == (modality, reason)


@pytest.mark.parametrize("make", [_altered(face=ASIDE), _altered(light=DARK), _clipped(_altered())])
def test_too_short_comes_before_quality(make: Window) -> None:
    """Less than a window is not judged."""
    assert _judged(make, count=7)[1] == Reason.TOO_SHORT


def test_a_lost_slice_breaks_a_standstill_and_has_no_fault() -> None:
    """Nothing is known of a slice that never arrived."""
    lost = SliceFacts.of(_clipped(_altered(face=ASIDE, light=DARK, still=range(8)))(5)).missing(4)
    assert not (lost.turned | lost.badly_exposed | lost.still).any()
    assert (lost.new_pictures, lost.clipped) == (0, 0)
