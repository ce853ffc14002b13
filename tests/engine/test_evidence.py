from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from avff.engine.evidence import (
    MIN_EYE_PX,
    SILENCE_DBFS,
    SliceFacts,
    modality_of,
    window_coverage,
)
from avff.engine.slices import Reason, Slice
from avff.engine.spec import SPEC
from tests.support.engine import make_face, make_slice

ALL, AV_ONLY = ("av", "video", "audio"), ("av",)
Window = Callable[[int], Slice]


def _facts(make: Window, count: int = 8) -> list[SliceFacts]:
    return [SliceFacts.of(make(k)) for k in range(count)]


def _judged(
    facts: Sequence[SliceFacts], scored: Sequence[str] = ALL, track: int | None = 0
) -> tuple[str, Reason | None]:
    return modality_of(facts, track, window_coverage(facts, track), scored)


def _full(k: int) -> Slice:
    return make_slice(k, face=make_face())


def _silent(k: int) -> Slice:
    return make_slice(k, face=make_face(), level=0.0)


def _faceless(k: int) -> Slice:
    return make_slice(k)


def _sound_file(k: int) -> Slice:
    return make_slice(k, has_video=False, picture_ok=0)


def _silent_sound_file(k: int) -> Slice:
    return make_slice(k, has_video=False, picture_ok=0, level=0.0)


def _mute_file(k: int) -> Slice:
    return make_slice(k, face=make_face(), has_audio=False, audio_ok=0, level=0.0)


def _faceless_silent(k: int) -> Slice:
    return make_slice(k, level=0.0)


def _small(k: int) -> Slice:
    return make_slice(k, face=make_face(eye_px=MIN_EYE_PX - 0.1))


def _new_face(k: int) -> Slice:
    return make_slice(k, face=make_face(track=0 if k > 3 else 7))


def _pictures_stopped(k: int) -> Slice:
    return make_slice(k, face=make_face() if k < 4 else None, picture_ok=k < 4)


def _pictures_stopped_in_silence(k: int) -> Slice:
    return make_slice(k, picture_ok=k < 4, level=0.0)


def _nothing(k: int) -> Slice:
    return make_slice(k, picture_ok=0, audio_ok=0, level=0.0)


@pytest.mark.parametrize(
    ("make", "scored", "modality", "reason"),
    [
        (_full, ALL, "av", None),
        (_full, AV_ONLY, "av", None),
        (_full, ("video", "audio"), "av", Reason.UNSUPPORTED_MODALITY),
        (_silent, ALL, "video", None),
        (_silent, AV_ONLY, "video", Reason.UNSUPPORTED_MODALITY),
        (_mute_file, ALL, "video", None),
        (_mute_file, AV_ONLY, "video", Reason.UNSUPPORTED_MODALITY),
        (_faceless, ALL, "audio", None),
        (_faceless, AV_ONLY, "audio", Reason.NO_FACE),
        (_sound_file, ALL, "audio", None),
        (_sound_file, AV_ONLY, "audio", Reason.UNSUPPORTED_MODALITY),
        (_silent_sound_file, ALL, "", Reason.NO_SPEECH),
        (_faceless_silent, ALL, "", Reason.NO_FACE),
        (_small, AV_ONLY, "audio", Reason.FACE_TOO_SMALL),
        (_new_face, AV_ONLY, "audio", Reason.FACE_CHANGED),
        (_pictures_stopped, ALL, "audio", None),
        (_pictures_stopped, AV_ONLY, "audio", Reason.UNSUPPORTED_MODALITY),
        (_pictures_stopped_in_silence, ALL, "", Reason.NO_SPEECH),
        (_nothing, ALL, "", Reason.NO_MEDIA),
    ],
)
def test_a_window_is_scored_by_what_it_holds(
    make: Window, scored: Sequence[str], modality: str, reason: Reason | None
) -> None:
    """A window is judged by the modalities that it holds, and says why when the model knows none of them."""
    assert _judged(_facts(make), scored) == (modality, reason)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("make", [_full, _nothing, _faceless])
def test_less_than_a_window_is_too_short(make: Window, count: int) -> None:
    """Before 8 slices there is no score, whatever they hold."""
    assert _judged(_facts(make, count))[1] == Reason.TOO_SHORT


@pytest.mark.parametrize(("pictures", "enough"), [(44, False), (45, True)])
def test_a_face_is_needed_in_70_percent_of_the_pictures(pictures: int, enough: bool) -> None:
    """45 of 64 pictures with the face suffice, 44 do not."""
    shown = [min(8, max(0, pictures - 8 * k)) for k in range(8)]
    facts = _facts(lambda k: make_slice(k, face=make_face(ok=range(shown[k])) if shown[k] else None))
    assert window_coverage(facts, 0).face == pictures / 64
    assert _judged(facts, AV_ONLY) == (("av", None) if enough else ("audio", Reason.NO_FACE))


@pytest.mark.parametrize(("share", "modality"), [(0.79, "video"), (0.81, "av")])
def test_sound_is_needed_for_80_percent_of_the_time(share: float, modality: str) -> None:
    """Less sound than that counts for none."""
    facts = _facts(lambda k: make_slice(k, face=make_face(), audio_ok=share))
    assert _judged(facts) == (modality, None)


@pytest.mark.parametrize(("loud", "modality"), [(1, "video"), (2, "av"), (8, "av")])
def test_a_quarter_of_the_slices_has_to_be_loud(loud: int, modality: str) -> None:
    """Two slices of eight above the limit of silence are enough to judge the voice."""
    level = 10 ** (SILENCE_DBFS / 20)
    facts = _facts(lambda k: make_slice(k, face=make_face(), level=level * (1.3 if k < loud else 0.7)))
    assert _judged(facts) == (modality, None)


def test_levels_are_dbfs() -> None:
    """The level is the RMS of the slice's own samples, 0 dBFS for a full-scale square wave."""
    piece = make_slice(0)
    piece.audio[:] = 1
    assert SliceFacts.of(piece).level_dbfs == pytest.approx(0, abs=1e-6)
    piece.audio[:] = 0.1
    piece.audio[: SPEC.context_samples] = 1
    assert SliceFacts.of(piece).level_dbfs == pytest.approx(-20, abs=1e-4)
    piece.audio[:] = 0
    assert SliceFacts.of(piece).level_dbfs == pytest.approx(-120)


def test_masks_follow_track_and_size() -> None:
    """Only pictures of the wanted face, large enough, count as evidence of it."""
    facts = SliceFacts.of(make_slice(0, face=make_face(track=3, ok=[1, 2])))
    assert np.flatnonzero(facts.face_mask(3)).tolist() == [1, 2]
    assert not facts.face_mask(4).any()
    assert not facts.face_mask(None).any()
    small = SliceFacts.of(make_slice(0, face=make_face(track=3, eye_px=MIN_EYE_PX - 0.1)))
    assert not small.face_mask(3).any()
    assert SliceFacts.of(make_slice(0, face=make_face(eye_px=MIN_EYE_PX))).face_mask(0).all()


@pytest.mark.parametrize(("share", "counts"), [(0.0, False), (0.79, False), (0.8, True), (1.0, True)])
def test_a_slice_of_sound_counts_whole_or_not_at_all(share: float, counts: bool) -> None:
    """Most of a slice's sound has to be there for it to be looked at."""
    mask = SliceFacts.of(make_slice(0, audio_ok=share)).audio_mask()
    assert mask.tolist() == [counts] * 8


def test_coverage_is_of_a_whole_window() -> None:
    """Shares are of 8 slices, also while fewer have arrived."""
    facts = _facts(lambda k: make_slice(k, face=make_face(ok=range(4)), audio_ok=0.5, picture_ok=0.75), 2)
    coverage = window_coverage(facts, 0)
    assert (coverage.video, coverage.audio, coverage.face) == (0.1875, 0.125, 0.125)


def test_a_slice_that_never_arrived_has_no_evidence() -> None:
    """The facts of a lost slice are those of the stream, with nothing in it."""
    lost = SliceFacts.of(make_slice(5, face=make_face(), captured_ns=9)).missing(4)
    assert (lost.index, lost.track, lost.has_video, lost.has_audio, lost.captured_ns) == (
        4,
        None,
        True,
        True,
        9,
    )
    assert (lost.picture_ok, lost.audio_ok, lost.eye_px) == (0, 0, 0)
    assert lost.level_dbfs < SILENCE_DBFS
    assert not lost.face_mask(0).any()
    assert not lost.audio_mask().any()
