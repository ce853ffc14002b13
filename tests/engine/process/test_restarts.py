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
        restarts.started(now_s - 30.0)
        restarts.worked(now_s)
        again_s = restarts.failed(now_s)
        assert again_s is not None
        assert again_s - now_s <= 1.0
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
        restarts.started(gap_s * k)
        restarts.worked(gap_s * (k + 1))
        outcomes.append(restarts.failed(gap_s * (k + 1)))
    assert (None in outcomes) == gives_up


@pytest.mark.parametrize("start_s", [1.0, 15.0, 1000.0])
def test_a_start_that_takes_long_excuses_nothing(start_s: float) -> None:
    """It gets ready, answers once and breaks down, over and over."""
    restarts, now_s, outcomes = Restarts(RestartPolicy()), 0.0, list[float | None]()
    while None not in outcomes and len(outcomes) < 100:
        now_s += start_s
        restarts.started(now_s)
        restarts.worked(now_s + 0.1)
        outcomes.append(restarts.failed(now_s + 5.0))
    assert len(outcomes) == RestartPolicy().most + 1
