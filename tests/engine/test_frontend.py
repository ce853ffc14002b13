from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest

from avff.engine.errors import MediaError
from avff.engine.frontend import MAX_JUMP_NS, MAX_SKEW_NS, Frontend
from avff.engine.media import NS_PER_S, AudioBlock, Float32, MediaItem, UInt8, VideoFrame
from avff.engine.slices import Slice
from avff.engine.spec import SPEC
from tests.support.engine import (
    assert_same_slice,
    blocks_of,
    demo_items,
    demo_pictures,
    face_models,
    picture,
    pictures_of,
    run,
)

Order = Callable[[Sequence[MediaItem]], list[MediaItem]]
SECONDS = 2.0


def _frontend(*, video: bool = True, audio: bool = True, faces: bool = False) -> Frontend:
    return Frontend(face_models() if faces else None, has_video=video, has_audio=audio)


def _still(count: int, *, start_s: float = 0.0) -> list[MediaItem]:
    """Pictures without a face, on the grid."""
    return [picture(round((start_s + k / 25) * NS_PER_S)) for k in range(count)]


def _hum(seconds: float, *, start_s: float = 0.0, block: int = 320) -> list[MediaItem]:
    """Blocks of a constant 0.25 at 16 kHz."""
    count = round(seconds * SPEC.rate_hz / block)
    pcm: Float32 = np.full(block, 0.25, np.float32)
    start_ns = round(start_s * NS_PER_S)
    return [
        AudioBlock(start_ns + k * block * NS_PER_S // SPEC.rate_hz, pcm, SPEC.rate_hz, 0)
        for k in range(count)
    ]


def _in_time(items: Sequence[MediaItem]) -> list[MediaItem]:
    return sorted(items, key=lambda item: item.pts_ns)


def _sound_first(items: Sequence[MediaItem]) -> list[MediaItem]:
    return [*blocks_of(items), *pictures_of(items)]


def _pictures_first(items: Sequence[MediaItem]) -> list[MediaItem]:
    return [*pictures_of(items), *blocks_of(items)]


def _shuffled(items: Sequence[MediaItem]) -> list[MediaItem]:
    """Each modality in its own order, merged at random."""
    rng = np.random.default_rng(7)
    queues: list[list[MediaItem]] = [list(blocks_of(items)), list(pictures_of(items))]
    merged = []
    while all(queues):
        merged.append(queues[int(rng.integers(2))].pop(0))
    return merged + queues[0] + queues[1]


def _bursts(items: Sequence[MediaItem]) -> list[MediaItem]:
    """A second of sound, then a second of pictures, and so on, as some files are laid out."""
    seconds = range(int(SECONDS) + 1)
    parts = [[item for item in items if item.pts_ns // NS_PER_S == s] for s in seconds]
    return [item for part in parts for item in _sound_first(part)]


@pytest.fixture(scope="module")
def straight() -> list[Slice]:
    """The demo clip's first seconds in file order."""
    return run(_frontend(faces=True), demo_items(SECONDS))


def test_the_demo_clip_makes_full_slices(straight: list[Slice]) -> None:
    """A file with a face and a voice gives one slice every 320 ms with both, and nothing missing."""
    assert [s.index for s in straight] == list(range(6))
    for piece in straight:
        assert piece.picture_ok.all()
        assert not piece.repeated.any()
        assert piece.audio.shape == (SPEC.context_samples + SPEC.slice_samples,)
        assert piece.face is not None
        assert piece.face.track == 0
        assert piece.face.ok.all()
        assert piece.face.faces.shape == (8, 128, 128, 3)
        assert piece.other_faces == ()
    assert [s.audio_ok for s in straight] == [1.0] * 6
    assert max(float(np.abs(s.audio).max()) for s in straight) > 0.1


@pytest.mark.parametrize("order", [_sound_first, _pictures_first, _shuffled, _bursts])
def test_slices_do_not_depend_on_the_interleaving(order: Order, straight: list[Slice]) -> None:
    """However sound and pictures are interleaved within the allowed skew, the slices are the same."""
    reordered = order(demo_items(SECONDS))
    assert reordered != list(demo_items(SECONDS))
    others = run(_frontend(faces=True), reordered)
    assert len(others) == len(straight)
    for one, other in zip(straight, others, strict=True):
        assert_same_slice(one, other)


def test_a_slice_does_not_depend_on_what_follows(straight: list[Slice]) -> None:
    """A stream that breaks off has given the very slices that the whole stream gives."""
    prefix = run(_frontend(faces=True), demo_items(1.2), flush=False)
    assert 2 <= len(prefix) < len(straight)
    for one, other in zip(straight, prefix, strict=False):
        assert_same_slice(one, other)


def test_context_is_the_tail_of_the_slice_before(straight: list[Slice]) -> None:
    """The samples before a slice are the last ones of the slice before."""
    for before, piece in itertools.pairwise(straight):
        context = SPEC.context_samples
        np.testing.assert_array_equal(piece.audio[:context], before.audio[-context:])


def test_pictures_alone() -> None:
    """A stream without sound is cut by its pictures alone, and says that it has no sound."""
    frontend = _frontend(audio=False)
    made = run(frontend, _still(24), flush=False)
    assert [s.index for s in made] == [0, 1, 2]
    for piece in made:
        assert (piece.has_video, piece.has_audio, piece.audio_ok) == (True, False, 0.0)
        assert piece.picture_ok.all()
        assert not piece.audio.any()


def test_sound_alone() -> None:
    """A stream without pictures is cut by its sound alone, and says that it has no pictures."""
    made = run(_frontend(video=False), _hum(0.96), flush=False)
    assert [s.index for s in made] == [0, 1, 2]
    for piece in made:
        assert (piece.has_video, piece.has_audio, piece.audio_ok) == (False, True, 1.0)
        assert piece.face is None
        assert not piece.picture_ok.any()
        assert (piece.audio[SPEC.context_samples :] == 0.25).all()


def test_pictures_without_a_face() -> None:
    """Pictures that show nobody make slices without a face."""
    pictures = [VideoFrame(k * SPEC.frame_ns, np.full((64, 64, 3), 90, np.uint8), 0) for k in range(8)]
    (made,) = run(_frontend(audio=False, faces=True), pictures)
    assert made.face is None
    assert made.other_faces == ()
    assert made.picture_ok.all()


def test_a_slice_waits_for_both() -> None:
    """A slice is given out when its last picture and its last sample are both there."""
    frontend = _frontend()
    assert run(frontend, _still(20), flush=False) == []
    assert run(frontend, _hum(0.3), flush=False) == []
    (made,) = run(frontend, _hum(0.02, start_s=0.3), flush=False)
    assert made.index == 0
    assert made.audio_ok == 1


def test_missing_pictures_are_given_up_after_the_skew() -> None:
    """Sound that runs 5 s ahead goes on without pictures, and pictures that come later are too late."""
    frontend = _frontend()
    made = run(frontend, _hum(6.4), flush=False)
    assert len(made) == (64 * NS_PER_S // 10 - MAX_SKEW_NS) // SPEC.slice_ns == 4
    assert not any(s.picture_ok.any() for s in made)
    rest = run(frontend, _still(160))
    assert [s.index for s in rest] == list(range(4, 20))
    assert all(s.picture_ok.all() and s.audio_ok == 1 for s in rest)


def test_missing_sound_is_given_up_after_the_skew() -> None:
    """Pictures that run 5 s ahead go on without sound, which counts as missing, not as silence."""
    made = run(_frontend(), _still(161), flush=False)
    assert [s.audio_ok for s in made] == [0.0] * 4
    assert all(s.picture_ok.all() for s in made)


@pytest.mark.parametrize(("slots", "slices"), [(8, 1), (11, 1), (12, 2), (16, 2), (3, 0), (4, 1), (0, 0)])
def test_the_last_slice_needs_half(slots: int, slices: int) -> None:
    """A rest of at least half a slice becomes a slice with a gap; less is left out."""
    made = run(_frontend(audio=False), _still(slots))
    assert len(made) == slices
    if made:
        assert sum(int(s.picture_ok.sum()) for s in made[:-1]) == 8 * (slices - 1)
        # The last picture stands in for three more slots.
        assert int(made[-1].picture_ok.sum()) == min(8, slots - 8 * (slices - 1) + 3)


def test_a_missing_tail_is_a_gap() -> None:
    """Where pictures end before the sound, the rest is slices without pictures."""
    made = run(_frontend(), _in_time([*_still(16), *_hum(1.28)]))
    assert [int(s.picture_ok.sum()) for s in made] == [8, 8, 3, 0]
    assert [s.repeated.tolist().count(True) for s in made] == [0, 0, 3, 0]
    assert [s.audio_ok for s in made] == [1.0] * 4


def test_a_pause_in_both_is_a_gap_in_both() -> None:
    """Time in which nothing arrived is in the slices as missing; nothing moves together over it."""
    items = [*_still(8), *_hum(0.32), *_still(8, start_s=1.28), *_hum(0.32, start_s=1.28)]
    made = run(_frontend(), _in_time(items))
    assert [s.audio_ok for s in made] == [1, 0, 0, 0, 1]
    # A picture stands in for three slots on both sides.
    assert [int(s.picture_ok.sum()) for s in made] == [8, 3, 0, 3, 8]


def test_the_offset_of_the_tracks_is_kept() -> None:
    """Sound that starts later than the pictures starts later in the slices."""
    made = run(_frontend(), _in_time([*_still(16), *_hum(0.54, start_s=0.1)]))
    heard = np.concatenate([s.audio[SPEC.context_samples :] for s in made])
    assert np.flatnonzero(heard)[0] == 1600
    assert made[0].audio_ok == pytest.approx(1 - 1600 / SPEC.slice_samples)


@pytest.mark.parametrize("kind", ["picture", "sound"])
def test_a_leap_of_more_than_a_minute_is_damage(kind: str) -> None:
    """A time stamp more than 60 s ahead of all media so far is refused, before it fills the memory."""
    frontend = _frontend()
    run(frontend, _in_time([*_still(25), *_hum(1)]), flush=False)
    reached_ns = NS_PER_S
    item = _still(1)[0] if kind == "picture" else _hum(0.02)[0]

    def at(pts_ns: int) -> MediaItem:
        if isinstance(item, VideoFrame):
            return VideoFrame(pts_ns, item.rgb, 0)
        return AudioBlock(pts_ns, item.pcm, item.rate_hz, 0)

    with pytest.raises(MediaError, match=r"time stamps leap from 1\.0 s to 61\.0 s") as caught:
        frontend.push(at(reached_ns + MAX_JUMP_NS + 1))
    assert "\n" not in str(caught.value)
    frontend.push(at(reached_ns + MAX_JUMP_NS))


@pytest.mark.parametrize("kind", ["picture", "sound"])
def test_stamps_that_begin_anew_are_damage(kind: str) -> None:
    """A time stamp over a second before its own track's newest is refused, not swallowed without a word."""
    frontend = _frontend()
    run(frontend, _in_time([*_still(100), *_hum(4)]), flush=False)
    item = _still(1)[0] if kind == "picture" else _hum(0.02)[0]
    with pytest.raises(MediaError, match=r"time stamps leap from \d+\.\d s to 0\.0 s"):
        frontend.push(item)


def test_the_tail_of_the_resampler_is_not_lost() -> None:
    """At the end the samples that the resampler's filter still held come out, at their place."""
    pcm: Float32 = np.full(round(0.64 * 48_000), 0.25, np.float32)
    made = run(_frontend(video=False), [AudioBlock(0, pcm, 48_000, 0)])
    assert [s.audio_ok for s in made] == [1.0, 1.0]


def test_late_pictures_are_not_invented_into_place() -> None:
    """A picture that comes out of order changes no slice."""
    ordered = _still(16)
    plain = run(_frontend(audio=False), ordered)
    disturbed = run(_frontend(audio=False), [*ordered[:5], ordered[2], *ordered[5:], ordered[0]])
    for one, other in zip(plain, disturbed, strict=True):
        assert_same_slice(one, other)


def test_captured_is_the_newest_arrival() -> None:
    """A slice carries the arrival time of the newest item that had come when it was given out."""
    stamped = [VideoFrame(k * SPEC.frame_ns, np.zeros((1, 1, 3), np.uint8), 1000 + k) for k in range(8)]
    (made,) = run(_frontend(audio=False), stamped, flush=False)
    assert made.captured_ns == 1007


def _halved(rgb: UInt8) -> UInt8:
    small = cv2.resize(rgb, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.copyMakeBorder(small, 0, 480 - len(small), 0, 0, cv2.BORDER_REPLICATE), np.uint8)


def _pair(pictures: Sequence[UInt8]) -> list[MediaItem]:
    """The portrait at full size, and smaller at its right."""
    return [
        VideoFrame(k * SPEC.frame_ns, np.concatenate([rgb, _halved(rgb)], axis=1), 0)
        for k, rgb in enumerate(pictures)
    ]


def test_the_largest_face_is_the_main_one() -> None:
    """Of several faces the largest is judged, and the others are kept beside it."""
    made = run(_frontend(audio=False, faces=True), _pair(demo_pictures(16)))
    assert len(made) == 2
    for piece in made:
        assert piece.face is not None
        (other,) = piece.other_faces
        assert piece.face.box[0] + piece.face.box[2] / 2 < 0.5 < other.box[0] + other.box[2] / 2
        assert piece.face.eye_px == pytest.approx(other.eye_px / 0.6, rel=0.05)
    assert len({piece.face.track for piece in made if piece.face}) == 1


@pytest.mark.parametrize(("grows_to", "stays"), [(1.2, True), (1.8, False)])
def test_the_main_face_changes_only_for_a_much_larger_one(grows_to: float, stays: bool) -> None:
    """The judged face stays the judged one until another has more than twice its area."""
    pictures = demo_pictures(24)

    def scene(rgb: UInt8, k: int) -> UInt8:
        scale = 0.4 if k < 8 else 0.5 * grows_to
        other = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        canvas = np.full((480, 960, 3), 90, np.uint8)
        canvas[:240, :240] = cv2.resize(rgb, (240, 240), interpolation=cv2.INTER_AREA)
        canvas[: len(other), 480 : 480 + len(other)] = other
        return canvas

    items = [VideoFrame(k * SPEC.frame_ns, scene(rgb, k), 0) for k, rgb in enumerate(pictures)]
    made = run(_frontend(audio=False, faces=True), items)
    middles = [s.face.box[0] + s.face.box[2] / 2 for s in made if s.face is not None]
    assert len(middles) == 3
    assert middles[0] < 0.5
    assert (middles[2] < 0.5) == stays


def test_whole_pictures_are_not_kept() -> None:
    """While pictures wait for their sound, only a slice's worth of them is in memory."""
    frontend = _frontend(faces=True)
    alive: list[weakref.ref[UInt8]] = []
    for k, rgb in enumerate(demo_pictures(40)):
        frame = VideoFrame(k * SPEC.frame_ns, rgb.copy(), 0)
        alive.append(weakref.ref(frame.rgb))
        assert frontend.push(frame) == []
        del frame
    assert sum(ref() is not None for ref in alive) <= SPEC.slice_frames + 1
    assert len(run(frontend, _hum(1.6), flush=False)) == 5
