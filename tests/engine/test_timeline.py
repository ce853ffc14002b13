from __future__ import annotations

import random

import numpy as np
import pytest

from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, VideoFrame
from avff.engine.timeline import LEFTOVER_NS, Leaps, Timeline

RGB = np.zeros((2, 2, 3), np.uint8)


def _frame(pts_s: float, at_s: float) -> VideoFrame:
    return VideoFrame(round(pts_s * NS_PER_S), RGB, round(at_s * NS_PER_S))


def _sound(pts_s: float, at_s: float, seconds: float = 0.02) -> AudioBlock:
    return AudioBlock(
        round(pts_s * NS_PER_S), np.zeros(round(8000 * seconds), np.float32), 8000, round(at_s * NS_PER_S)
    )


def _numbers(items: list[MediaItem]) -> list[int | None]:
    leaps = Leaps()
    return [leaps.number(item) for item in items]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([_frame(k / 25, k / 25) for k in range(5)], [0] * 5),
        ([_frame(0, 0), _frame(0.04, 9), _frame(0.08, 9)], [0, 0, 0]),
        ([_frame(0, 0), _frame(9, 9), _frame(9.04, 9.04)], [0, 0, 0]),
        ([_frame(k / 25, 0) for k in range(5)], [0] * 5),
        ([_frame(5, 0), _frame(4.8, 0.04), _frame(5.04, 0.08)], [0, 0, 0]),
        ([_frame(5, 0), _frame(105, 0.04), _frame(105.04, 0.08)], [0, 1, 1]),
        ([_frame(5, 0), _frame(0, 0.04), _frame(0.04, 0.08)], [0, 1, 1]),
        ([_frame(95_443, 0), _frame(0.7, 0.04)], [0, 1]),
    ],
    ids=[
        "steady", "late but whole", "pause of the sender", "burst", "jitter", "ahead", "back", "33-bit wrap",
    ],
)  # fmt: skip
def test_a_leap_is_told_from_a_pause(items: list[MediaItem], expected: list[int]) -> None:
    """Only stamps that part from the arrival clock, or go back, begin a stretch."""
    assert _numbers(items) == expected


def test_the_other_track_s_leftovers_are_refused() -> None:
    """After a leap of the pictures, sound from before it belongs nowhere; sound from after it goes on."""
    items: list[MediaItem] = [
        _frame(50, 0),
        _sound(50, 0),
        _frame(0, 0.04),
        _sound(50.02, 0.05),
        _frame(0.04, 0.08),
        _sound(0.06, 0.1),
    ]
    assert _numbers(items) == [0, 0, 1, None, 1, 1]


def test_a_track_with_a_clock_of_its_own_is_not_refused_for_ever() -> None:
    """What is no leftover any more begins a stretch, and is heard."""
    late_s = LEFTOVER_NS / NS_PER_S + 0.1
    items: list[MediaItem] = [
        _frame(50, 0),
        _frame(0, 0.04),
        _sound(900, 0.05),
        _frame(late_s, late_s),
        _sound(900 + late_s, late_s),
    ]
    assert _numbers(items) == [0, 1, None, 1, 2]


def test_stretches_follow_each_other_with_the_gap_that_there_was() -> None:
    """Media time 0 is the first item; another stretch begins where its arrival says."""
    timeline = Timeline()
    placed = [
        timeline.place(_frame(7, 100), "a"),
        timeline.place(_frame(7.04, 100.04), "a"),
        timeline.place(_frame(3, 110), "b"),
        timeline.place(_frame(3.04, 110.04), "b"),
    ]
    assert [item.pts_ns / NS_PER_S for item in placed] == [0, 0.04, 10, 10.04]
    assert [item.stretch for item in placed] == [0, 0, 1, 1]
    assert placed[2].captured_ns == 110 * NS_PER_S


def test_a_stretch_never_begins_before_the_end_of_the_one_before() -> None:
    """A server that sends ahead of time at first leaves media time ahead of the clock."""
    timeline = Timeline()
    timeline.place(_frame(0, 0), 0)
    timeline.place(_frame(8, 0.1), 0)
    assert timeline.place(_frame(0, 1), 1).pts_ns == 8 * NS_PER_S + NS_PER_S // 25
    assert timeline.place(_sound(0.2, 1.2, seconds=3), 1).stretch == 1
    assert timeline.place(_frame(0, 2), 2).pts_ns == 8 * NS_PER_S + NS_PER_S // 25 + 3_200_000_000


def test_picture_and_sound_keep_their_distance_in_every_stretch() -> None:
    """What lip-sync evidence lives on is not touched."""
    timeline = Timeline()
    for stretch in range(3):
        picture = timeline.place(_frame(4.5, 10 * stretch), stretch)
        sound = timeline.place(_sound(4.53, 10 * stretch + 0.1), stretch)
        assert sound.pts_ns - picture.pts_ns == 30_000_000


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_sender_does_each_track_goes_forward(seed: int) -> None:
    """Any mixture of leaps, pauses, bursts and two tracks gives stretches that never fall or overlap."""
    chance = random.Random(seed)
    leaps, timeline = Leaps(), Timeline()
    at_s = sender_s = 0.0
    ends: dict[int, int] = {}
    last: dict[tuple[type, int], int] = {}
    for _ in range(400):
        step_s = chance.choice([0.02, 0.04, 0.0])
        at_s, sender_s = at_s + step_s, sender_s + step_s
        if chance.random() < 0.02:
            sender_s += chance.uniform(-100, 100)
        if chance.random() < 0.02:
            at_s += chance.uniform(0, 20)
        item = _frame(sender_s, at_s) if chance.random() < 0.5 else _sound(sender_s, at_s)
        number = leaps.number(item)
        if number is None:
            continue
        placed = timeline.place(item, number)
        assert placed.stretch == number
        kind = (type(placed), number)
        assert placed.pts_ns >= last.get(kind, placed.pts_ns) - NS_PER_S // 2
        last[kind] = placed.pts_ns
        before = [end for stretch, end in ends.items() if stretch < number]
        assert placed.pts_ns >= max(before, default=0) - NS_PER_S // 2
        ends[number] = max(ends.get(number, 0), placed.pts_ns)
    assert sorted(ends) == list(range(len(ends)))
