"""A new stretch of media: what the front-end and the predictor join, and what not."""

from __future__ import annotations

import numpy as np

from avff.engine.evidence import SliceFacts
from avff.engine.frontend import Frontend
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, VideoFrame
from avff.engine.predictor import SliceTokens, StreamState
from avff.engine.slices import Slice
from avff.engine.spec import SPEC
from tests.support.scripted import make_slice

RGB = np.full((4, 4, 3), 128, np.uint8)


def _stretch(start_ns: int, seconds: float, number: int, *, audio: bool = True) -> list[MediaItem]:
    """Pictures at 25 fps and a constant sound, in blocks of 40 ms."""
    items: list[MediaItem] = []
    for k in range(round(seconds * 25)):
        pts_ns = start_ns + k * SPEC.frame_ns
        items.append(VideoFrame(pts_ns, RGB, pts_ns, number))
        if audio:
            items.append(AudioBlock(pts_ns, np.full(640, 0.5, np.float32), SPEC.rate_hz, pts_ns, number))
    return items


def _cut(items: list[MediaItem], *, audio: bool = True) -> list[Slice]:
    frontend = Frontend(None, has_video=True, has_audio=audio)
    made = [piece for item in items for piece in frontend.push(item)]
    return made + frontend.flush()


def test_gap_between_stretches_makes_no_slices() -> None:
    """An hour away costs nothing; numbers go on as media time does."""
    hour_ns = 3600 * NS_PER_S
    made = _cut(_stretch(0, 1.28, 0) + _stretch(hour_ns, 0.64, 1))
    first = hour_ns // SPEC.slice_ns
    assert [piece.index for piece in made] == [0, 1, 2, 3, first, first + 1]
    assert [piece.stretch for piece in made] == [0, 0, 0, 0, 1, 1]
    assert all(piece.picture_ok.all() for piece in made)
    assert made[-1].audio_ok > 0.99


def test_stretch_that_begins_within_a_slice_misses_its_start() -> None:
    """The part of the slice before it is a gap, in picture and sound."""
    start_ns = 10 * SPEC.slice_ns + 4 * SPEC.frame_ns
    made = _cut(_stretch(0, 0.64, 0) + _stretch(start_ns, 0.8, 1))
    begun = made[2]
    assert (begun.index, begun.stretch) == (10, 1)
    # A picture stands in for the three slots before it (HOLD_NS), as at the start of any stream.
    assert list(begun.picture_ok) == [False, True, True, True, True, True, True, True]
    assert abs(begun.audio_ok - 0.5) < 0.01


def test_nothing_of_one_stretch_is_heard_in_the_next() -> None:
    """The context before a slice is silence, not the sound from before the gap."""
    made = _cut(_stretch(0, 0.64, 0) + _stretch(2 * SPEC.slice_ns, 0.64, 1))
    assert [piece.stretch for piece in made] == [0, 0, 1, 1]
    assert np.abs(made[1].audio[: SPEC.context_samples]).max() > 0.1
    assert not made[2].audio[: SPEC.context_samples].any()


def test_rest_of_a_stretch_comes_out_when_the_next_begins() -> None:
    """Half a slice and more is a slice, as at the end of a stream."""
    frontend = Frontend(None, has_video=True, has_audio=False)
    for item in _stretch(0, 0.56, 0, audio=False):
        frontend.push(item)
    rest = frontend.push(_stretch(NS_PER_S, 0.04, 1, audio=False)[0])
    assert [(piece.index, piece.stretch) for piece in rest] == [(1, 0)]


def test_flush_before_a_new_stretch_changes_nothing_after_it() -> None:
    """A source that breaks is flushed at once; what it sends later is cut as ever."""
    frontend = Frontend(None, has_video=True, has_audio=True)
    made = [piece for item in _stretch(0, 0.56, 0) for piece in frontend.push(item)]
    made += frontend.flush()
    made += [piece for item in _stretch(NS_PER_S, 0.64, 1) for piece in frontend.push(item)]
    made += frontend.flush()
    assert [(piece.index, piece.stretch) for piece in made] == [(0, 0), (1, 0), (3, 1), (4, 1)]


def test_stretch_that_would_overlap_begins_after_what_is_out() -> None:
    """No slice comes twice, whatever time stamps say."""
    made = _cut(_stretch(0, 0.64, 0, audio=False) + _stretch(0, 1.28, 1, audio=False), audio=False)
    assert [piece.index for piece in made] == [0, 1, 2, 3]
    assert [piece.stretch for piece in made] == [0, 0, 1, 1]


def test_window_never_holds_two_stretches() -> None:
    """The predictor's memory starts anew, without blanks for the time between."""
    state = StreamState()
    for index, stretch in [(0, 0), (1, 0), (2, 0), (5, 1), (6, 1)]:
        facts = SliceFacts.of(make_slice(index))
        blank = np.zeros((8, 4), np.float32)
        state.append(SliceTokens(facts, blank, blank, blank), stretch)
    assert [tokens.facts.index for tokens in state.recent] == [5, 6]
