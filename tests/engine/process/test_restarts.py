"""When a process is started again: a decision about times, made without a clock."""

from __future__ import annotations

import pytest

from avff.engine.process.restarts import RestartPolicy, Restarts

POLICY = RestartPolicy(most=3, within_s=60.0, first_s=0.5, longest_s=1.5)


def test_pauses_grow_and_end() -> None:
    restarts = Restarts(RestartPolicy())
    pauses = [restarts.failed(100.0 + k) for k in range(6)]
    assert pauses == [100.5, 102.0, 104.0, 107.0, 112.0, None]
    assert restarts.count == 6


def test_no_pause_is_longer_than_the_longest() -> None:
    restarts = Restarts(POLICY)
    assert [restarts.failed(0.0) for _ in range(4)] == [0.5, 1.0, 1.5, None]


def test_breakdowns_are_forgotten_after_work() -> None:
    """Any number of them, as long as there are not too many within the time."""
    restarts = Restarts(POLICY)
    for k in range(20):
        now_s = 30.0 * k
        again_s = restarts.failed(now_s)
        assert again_s is not None
        assert again_s - now_s <= 1.0
        restarts.worked()
    assert restarts.count == 2


def test_without_any_work_no_breakdown_is_forgotten() -> None:
    """A start that takes a minute and fails does not go on for ever."""
    restarts = Restarts(POLICY)
    assert [restarts.failed(100.0 * k) is None for k in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(("gap_s", "gives_up"), [(19.0, True), (21.0, False)])
def test_work_in_between_does_not_excuse_many_breakdowns(gap_s: float, gives_up: bool) -> None:
    restarts = Restarts(POLICY)
    outcomes = []
    for k in range(8):
        outcomes.append(restarts.failed(gap_s * k))
        restarts.worked()
    assert (None in outcomes) == gives_up
