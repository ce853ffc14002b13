from __future__ import annotations

from avff.daemon.sources.pace import Pace
from avff.engine.media import NS_PER_S

FRAME_NS = NS_PER_S // 25


def _play(pace: Pace, stamps: list[int], now_ns: int) -> tuple[list[int], int]:
    """Hand on items that are all there at once; return when each went, and the time afterwards."""
    went = []
    for pts_ns in stamps:
        now_ns += pace.wait_ns(pts_ns, now_ns)
        went.append(now_ns)
    return went, now_ns


def test_burst_goes_on_at_its_own_speed() -> None:
    """A segment that arrives at once lasts as long as it plays."""
    went, _ = _play(Pace(), [7 * NS_PER_S + k * FRAME_NS for k in range(50)], 0)
    assert went == [k * FRAME_NS for k in range(50)]


def test_item_that_is_a_little_late_goes_at_once_and_moves_nothing() -> None:
    """The other track of an interleaved segment."""
    pace = Pace()
    _, now_ns = _play(pace, [k * FRAME_NS for k in range(26)], 0)
    assert pace.wait_ns(now_ns - NS_PER_S // 2, now_ns) == 0
    assert pace.wait_ns(now_ns + FRAME_NS, now_ns) == FRAME_NS


def test_stall_shifts_all_that_follows() -> None:
    """A segment that came 3 s too late is not rushed through."""
    pace = Pace()
    _, now_ns = _play(pace, [k * FRAME_NS for k in range(25)], 0)
    went, _ = _play(pace, [NS_PER_S + k * FRAME_NS for k in range(25)], now_ns + 3 * NS_PER_S)
    assert went[-1] - went[0] == 24 * FRAME_NS


def test_leap_of_time_stamps_waits_for_nothing() -> None:
    """Ahead or back: it plays from there."""
    pace = Pace()
    _play(pace, [0, FRAME_NS], 0)
    assert pace.wait_ns(3600 * NS_PER_S, FRAME_NS) == 0
    assert pace.wait_ns(3600 * NS_PER_S + FRAME_NS, FRAME_NS) == FRAME_NS
    assert pace.wait_ns(0, FRAME_NS) == 0
