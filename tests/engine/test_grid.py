from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from avff.engine.grid import HOLD_NS, FrameGrid, GridFrame, SampleGrid
from avff.engine.media import VideoFrame
from avff.engine.spec import SPEC
from tests.support.engine import picture

MS = 1_000_000


def _pictures(times_ms: Sequence[float]) -> list[VideoFrame]:
    return [picture(round(t * MS)) for t in times_ms]


def _through(grid: FrameGrid, source: Sequence[VideoFrame]) -> list[GridFrame]:
    shown = [decided for frame in source for decided in grid.push(frame)]
    return shown + grid.advance(grid.end_slot)


def _numbers(shown: Sequence[GridFrame], source: Sequence[VideoFrame]) -> list[int | None]:
    """Source number of the picture in each slot: found by identity, so nothing can be invented."""
    where = {id(frame): k for k, frame in enumerate(source)}
    return [None if s.frame is None else where[id(s.frame)] for s in shown]


def _nearest(source: Sequence[VideoFrame], slots: int) -> list[int | None]:
    """What the rule says, slot by slot, from all pictures at once; the earlier one wins a tie."""
    times = np.array([frame.pts_ns for frame in source])
    away = [np.abs(times - slot * SPEC.frame_ns) for slot in range(slots)]
    return [int(d.argmin()) if d.min() <= HOLD_NS else None for d in away]


def _repeats(numbers: Sequence[int | None]) -> list[bool]:
    return [k > 0 and n is not None and n == numbers[k - 1] for k, n in enumerate(numbers)]


def test_25_fps_passes_unchanged() -> None:
    """Pictures that lie on the grid fill one slot each, in order, none repeated."""
    source = _pictures([40 * k for k in range(30)])
    shown = _through(FrameGrid(), source)
    assert _numbers(shown, source) == list(range(30))
    assert [s.slot for s in shown] == list(range(30))
    assert not any(s.repeated for s in shown)


@pytest.mark.parametrize(
    ("fps", "first_slots"),
    [
        (30, [0, 1, 2, 4, 5, 6, 7, 8, 10]),
        (24, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (50, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        (12.5, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        (5, [0, 0, 0, 1, 1, 1, 1, 1, 2]),
    ],
)
def test_constant_rates_show_the_nearest_picture(fps: float, first_slots: list[int]) -> None:
    """Every slot of a converted rate shows the nearest source picture, and repeats are marked."""
    source = _pictures([1000 * k / fps for k in range(int(3 * fps))])
    shown = _through(FrameGrid(), source)
    numbers = _numbers(shown, source)
    assert numbers[:9] == first_slots
    assert numbers == _nearest(source, len(shown))
    assert [s.repeated for s in shown] == _repeats(numbers)


def test_24_fps_repeats_one_picture_a_second() -> None:
    """24 pictures a second fill 25 slots with one repeat a second, no more."""
    source = _pictures([1000 * k / 24 for k in range(240)])
    shown = _through(FrameGrid(), source)
    assert len(shown) == 250
    assert sum(s.repeated for s in shown) == 10


def test_variable_rate_shows_the_nearest_picture() -> None:
    """Uneven time stamps are resolved slot by slot."""
    source = _pictures([0, 33, 95, 100, 210, 240])
    shown = _through(FrameGrid(), source)
    assert _numbers(shown, source) == [0, 1, 2, 3, 4, 4, 5]
    assert [s.repeated for s in shown] == [False, False, False, False, False, True, False]


def test_gap_stays_empty_beyond_120_ms() -> None:
    """A picture stands in for 120 ms on both sides; the slots farther away show nothing."""
    source = _pictures([0, 40, 400])
    shown = _through(FrameGrid(), source)
    assert _numbers(shown, source) == [0, 1, 1, 1, 1, None, None, 2, 2, 2, 2]
    assert [s.slot for s in shown if s.repeated] == [2, 3, 4, 8, 9, 10]


def test_late_start_is_a_gap() -> None:
    """Nothing is shown before the first picture's reach."""
    source = _pictures([1000, 1040])
    shown = _through(FrameGrid(), source)
    assert _numbers(shown, source) == [None] * 22 + [0, 0, 0, 0, 1]


@pytest.mark.parametrize("late_ms", [40, 39.9, 0], ids=["same stamp", "just before", "far before"])
def test_out_of_order_is_refused_and_counted(late_ms: float) -> None:
    """A picture whose time stamp does not increase decides nothing and is counted."""
    grid = FrameGrid()
    source = _pictures([0, 40, late_ms, 80])
    shown = [decided for frame in source for decided in grid.push(frame)]
    assert _numbers(shown, source) == [0, 1, 3]
    assert grid.out_of_order == 1


def test_a_slot_waits_for_the_picture_after_it() -> None:
    """A slot is decided only when the first picture at or after it is known."""
    grid = FrameGrid()
    assert [s.slot for s in grid.push(picture(30 * MS))] == [0]
    assert grid.next_slot == 1
    assert grid.push(picture(35 * MS)) == []
    later = picture(41 * MS)
    assert [s.frame for s in grid.push(later)] == [later]


def test_advance_decides_from_what_has_arrived() -> None:
    """At a stall the newest picture is held as long as its reach, and what comes later changes nothing."""
    grid = FrameGrid()
    first, late, next_one = _pictures([0, 130, 240])
    shown = [*grid.push(first), *grid.advance(6)]
    assert _numbers(shown, [first]) == [0, 0, 0, 0, None, None]
    assert grid.push(late) == []
    assert [(s.slot, s.frame) for s in grid.push(next_one)] == [(6, next_one)]


@pytest.mark.parametrize(("last_ms", "slots"), [(0, 1), (39, 2), (40, 2), (59, 2), (61, 3), (1000, 26)])
def test_end_slot_is_the_one_nearest_to_the_last_picture(last_ms: float, slots: int) -> None:
    """The stream ends with the slot that lies nearest to the last picture."""
    grid = FrameGrid()
    grid.push(picture(0))
    if last_ms:
        grid.push(picture(round(last_ms * MS)))
    assert grid.end_slot == slots


def test_without_pictures_there_is_nothing() -> None:
    """An empty stream has no slot."""
    assert FrameGrid().end_slot == 0


@pytest.mark.parametrize("seed", range(40))
def test_any_time_stamps_give_the_nearest_picture_in_reach(seed: int) -> None:
    """For random stamps each slot shows the nearest source picture within its reach, or nothing."""
    rng = np.random.default_rng(seed)
    steps = rng.gamma(rng.uniform(0.3, 4), rng.uniform(5, 60), 200) + 0.001
    source = _pictures((rng.uniform(-300, 600) + np.cumsum(steps)).tolist())
    grid = FrameGrid()
    shown = _through(grid, source)
    numbers = _numbers(shown, source)
    assert [s.slot for s in shown] == list(range(len(shown)))
    assert numbers == _nearest(source, len(shown))
    assert [s.repeated for s in shown] == _repeats(numbers)
    assert grid.out_of_order == 0


def _ramp(start: int, count: int) -> np.ndarray:
    """Samples that carry their own index (from 1), so that each can be told from zero."""
    return np.arange(start + 1, start + count + 1, dtype=np.float32)


def test_slices_are_contiguous_and_carry_context() -> None:
    """Each slice continues the one before; its context is the tail of that slice, or zeros at the start."""
    grid = SampleGrid()
    at = 0
    for size in (1, 4999, 7000, 3360):
        grid.write(at, _ramp(at, size))
        at += size
    taken = [grid.take() for _ in range(3)]
    context, length = SPEC.context_samples, SPEC.slice_samples
    assert at == 3 * length
    assert not taken[0][0][:context].any()
    for k, (pcm, share) in enumerate(taken):
        assert pcm.shape == (context + length,)
        assert pcm.dtype == np.float32
        np.testing.assert_array_equal(pcm[context:], _ramp(k * length, length))
        assert share == 1
    for (before, _), (pcm, _) in itertools.pairwise(taken):
        np.testing.assert_array_equal(pcm[:context], before[-context:])


def test_missing_samples_are_zeros_and_counted() -> None:
    """A gap in the sound is silence, and the slice says which share truly arrived."""
    grid = SampleGrid()
    quarter = SPEC.slice_samples // 4
    grid.write(0, _ramp(0, quarter))
    grid.write(2 * quarter, _ramp(2 * quarter, quarter))
    pcm, share = grid.take()
    slots = pcm[SPEC.context_samples :].reshape(4, quarter)
    assert share == 0.5
    assert [bool(s.any()) for s in slots] == [True, False, True, False]
    np.testing.assert_array_equal(slots[2], _ramp(2 * quarter, quarter))


def test_samples_that_are_zero_count_as_arrived() -> None:
    """Silence that was sent is not a gap."""
    grid = SampleGrid()
    grid.write(0, np.zeros(SPEC.slice_samples, np.float32))
    assert grid.take()[1] == 1


def test_overlap_takes_the_newer_samples() -> None:
    """Where two blocks overlap, the one written last stands, and its samples count once."""
    grid = SampleGrid()
    half = SPEC.slice_samples // 2
    grid.write(0, np.full(half + 100, 1, np.float32))
    grid.write(half, np.full(half, 2, np.float32))
    assert grid.end == SPEC.slice_samples
    pcm, share = grid.take()
    values = pcm[SPEC.context_samples :]
    assert share == 1
    assert (values[:half] == 1).all()
    assert (values[half:] == 2).all()


def test_late_samples_are_dropped() -> None:
    """Sound for a slice that is gone changes nothing; the part that still fits is used."""
    grid = SampleGrid()
    grid.take()
    grid.write(0, _ramp(0, 1000))
    grid.write(SPEC.slice_samples - 1000, _ramp(SPEC.slice_samples - 1000, 2000))
    pcm, share = grid.take()
    assert share == 1000 / SPEC.slice_samples
    np.testing.assert_array_equal(
        pcm[SPEC.context_samples : SPEC.context_samples + 1000], _ramp(SPEC.slice_samples, 1000)
    )
    assert not pcm[SPEC.context_samples + 1000 :].any()


def test_samples_before_the_stream_are_only_context() -> None:
    """Sound before media time 0 can be context of the first slice, and counts for none."""
    grid = SampleGrid()
    grid.write(-1000, np.ones(1000, np.float32))
    pcm, share = grid.take()
    assert share == 0
    assert (pcm[: SPEC.context_samples] == 1).all()
    assert not pcm[SPEC.context_samples :].any()


def test_taken_samples_are_a_copy() -> None:
    """A slice keeps its samples whatever is written later."""
    grid = SampleGrid()
    grid.write(0, _ramp(0, 2 * SPEC.slice_samples))
    first, _ = grid.take()
    kept = first.copy()
    grid.write(SPEC.slice_samples - 100, np.zeros(200, np.float32))
    np.testing.assert_array_equal(first, kept)
