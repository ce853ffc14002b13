"""The sequential test: what adds up, what starts anew, when alarms open and close, how rarely by chance."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from avff.engine.alarm import BOUND, Alarm, AlarmDetector, AlarmRule, Cause, promised_threshold
from avff.engine.media import NS_PER_S
from avff.engine.rolling import RollingScore, probability
from avff.engine.slices import Prediction, Reason
from avff.engine.spec import SPEC
from tests.support.scripted import make_prediction

SEEDS = range(20)
RULE = AlarmRule(threshold=4.0, minimum_s=0.0)
NEVER = AlarmRule(threshold=math.inf)
FIRST = SPEC.window_slices - 1
"""Index of the first window that is full."""


def windows(llrs: Sequence[float | None], *, hop: int = 1, track: int | None = 1) -> list[Prediction]:
    """Full windows at a constant hop."""
    return [make_prediction(FIRST + k * hop, llr, track=track) for k, llr in enumerate(llrs)]


def run(stream: Sequence[Prediction], rule: AlarmRule, detector: AlarmDetector | None = None) -> list[Alarm]:
    """All changes of a stream that goes on, with the rolling score that the daemon has."""
    rolling, detector = RollingScore(reset_after_s=rule.reset_after_s), detector or AlarmDetector(rule)
    return [alarm for window in stream for alarm in detector.push(window, rolling.push(window))]


def statistics(stream: Sequence[Prediction]) -> list[float]:
    """The sum after each window, with no alarm ever."""
    detector, made = AlarmDetector(NEVER), []
    for window in stream:
        detector.push(window, None)
        made.append(detector.statistic)
    return made


def random_stream(seed: int, *, drift: float = 0.3, count: int = 400) -> list[Prediction]:
    """Windows with gaps, abstentions, sound alone, and another face now and then."""
    rng = np.random.default_rng(seed)
    index, track, stream = FIRST, 1, []
    for _ in range(count):
        index += 1 + (int(rng.integers(1, 60)) if rng.random() < 0.03 else 0)
        track += int(rng.random() < 0.02)
        llr = None if rng.random() < 0.15 else float(rng.normal(drift, 2))
        stream.append(make_prediction(index, llr, track=None if rng.random() < 0.1 else track))
    return stream


@pytest.mark.parametrize("seed", SEEDS)
def test_sum_is_pages_cusum_over_new_media(seed: int) -> None:
    """Written out plainly: the first window whole, then an eighth of each, bounded, never below zero."""
    llrs = np.random.default_rng(seed).normal(0.2, 3, 200)
    total, expected = 0.0, []
    for k, llr in enumerate(llrs):
        total = max(0.0, total + min(BOUND, max(-BOUND, llr)) * (1 if k == 0 else 1 / 8))
        expected.append(total)
    assert statistics(windows([float(v) for v in llrs])) == pytest.approx(expected)


@pytest.mark.parametrize("hop", [2, 4, 8])
@pytest.mark.parametrize("llr", [0.7, 9.0])
def test_media_time_counts_not_the_number_of_windows(hop: int, llr: float) -> None:
    """At the same media time the sum is the same, however many windows came until then."""
    every = statistics(windows([llr] * 81))
    fewer = statistics(windows([llr] * (80 // hop + 1), hop=hop))
    assert fewer == pytest.approx(every[::hop])
    assert every[80] == pytest.approx(min(llr, BOUND) * 11)


@pytest.mark.parametrize("seed", SEEDS)
def test_windows_without_a_score_add_nothing(seed: int) -> None:
    """The sum rests through them, and afterwards is what it is when they are not there at all."""
    stream = [dataclasses.replace(w, track=1) for w in random_stream(seed, count=100)]
    kept = [w for w in stream if w.logit is not None]
    sums = dict(zip((w.end_ns for w in stream), statistics(stream), strict=True))
    assert [sums[w.end_ns] for w in kept] == pytest.approx(statistics(kept))
    for before, window in itertools.pairwise(stream):
        if window.logit is None:
            assert sums[window.end_ns] == sums[before.end_ns]


@pytest.mark.parametrize("llr", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_adds_nothing(llr: float) -> None:
    """A network that broke down has not said anything."""
    assert statistics(windows([1.0, llr, 1.0])) == pytest.approx([1.0, 1.0, 1.25])


def test_a_gap_is_new_media_of_one_window_at_most() -> None:
    """After three lost hops a window counts three eighths more; after a long gap it counts once."""
    near = [make_prediction(FIRST, 1.0), make_prediction(FIRST + 4, 1.0), make_prediction(FIRST + 30, 1.0)]
    assert statistics(near) == pytest.approx([1.0, 1.5, 2.5])


@pytest.mark.parametrize(("slices", "anew"), [(31, False), (32, True), (500, True)])
def test_only_a_long_gap_starts_anew(slices: int, anew: bool) -> None:
    """10 s are 31.25 slices."""
    stream = [*windows([2.0, 2.0]), make_prediction(FIRST + 1 + slices, 0.5)]
    assert statistics(stream)[-1] == pytest.approx(0.5 if anew else 2.75)


def test_another_face_starts_anew_and_sound_alone_does_not() -> None:
    """Evidence against one face is not held against the next."""
    tracks = [1, None, 1, 2, None, 3]
    stream = [make_prediction(FIRST + k, 1.0, track=track) for k, track in enumerate(tracks)]
    assert statistics(stream) == pytest.approx([1.0, 1.125, 1.25, 1.0, 1.125, 1.0])


@pytest.mark.parametrize("end_ns", [5 * NS_PER_S, 5 * NS_PER_S - 1, 0])
@pytest.mark.parametrize("llr", [1.0, None])
def test_time_that_does_not_go_on_is_refused(end_ns: int, llr: float | None) -> None:
    """The same end again, or an earlier one, is a mistake of the caller, with a score or without."""
    detector = AlarmDetector(RULE)
    detector.push(make_prediction(9, 1.0, end_ns=5 * NS_PER_S), 0.7)
    with pytest.raises(ValueError, match="not after 5000000000 ns"):
        detector.push(make_prediction(9, llr, end_ns=end_ns), None)
    assert detector.statistic == 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_alarms_take_turns_in_order(seed: int) -> None:
    """One at a time, opened then closed, numbered, and of windows that are there."""
    stream = random_stream(seed, drift=0.8)
    detector = AlarmDetector(RULE)
    changes = run(stream, RULE, detector) + detector.finish()
    assert len(changes) >= 4
    assert [a.closed_ns is None for a in changes] == [True, False] * (len(changes) // 2)
    ends = {w.end_ns for w in stream}
    for number, (opened, closed) in enumerate(zip(changes[::2], changes[1::2], strict=True), start=1):
        assert (opened.number, closed.number, closed.opened_ns) == (number, number, opened.opened_ns)
        assert closed.closed_ns is not None
        assert {opened.opened_ns, closed.closed_ns} <= ends
        # Only the end of the stream may come at the window that opened it.
        assert opened.opened_ns < closed.closed_ns + (closed.cause is Cause.ENDED)
        assert opened.peak <= closed.peak
        assert (opened.cause, closed.cause is None) == (None, False)
    times = [a.closed_ns or a.opened_ns for a in changes]
    assert times == sorted(times)
    assert detector.finish() == []


@pytest.mark.parametrize("seed", SEEDS)
def test_alarms_move_with_the_stream(seed: int) -> None:
    """Where a stream's time begins makes no difference."""
    stream, by_ns = random_stream(seed, drift=0.8), 12_345_678_901
    later = [dataclasses.replace(w, end_ns=w.end_ns + by_ns) for w in stream]
    moved = [
        dataclasses.replace(
            a, opened_ns=a.opened_ns + by_ns, closed_ns=None if a.closed_ns is None else a.closed_ns + by_ns
        )
        for a in run(stream, RULE)
    ]
    assert run(later, RULE) == moved


@pytest.mark.parametrize("seed", SEEDS)
def test_more_evidence_never_alarms_later(seed: int) -> None:
    """Raising one window's log-odds brings the first alarm forward, or leaves it."""
    rng = np.random.default_rng(seed)
    llrs = rng.normal(1.0, 2, 200)
    raised = llrs.copy()
    raised[rng.integers(40)] += rng.uniform(0, 4)
    first = [
        next((a.opened_ns for a in run(windows([float(v) for v in values]), RULE)), math.inf)
        for values in (llrs, raised)
    ]
    assert first[1] <= first[0] < math.inf


def test_it_opens_where_the_sum_reaches_the_threshold() -> None:
    """Whole first window 1, then eighths: 4 is reached 24 windows later and not before."""
    stream = windows([1.0] * 60)
    assert [a.opened_ns for a in run(stream, RULE)] == [stream[24].end_ns]


@pytest.mark.parametrize("place", [0, 5, 20])
def test_one_wrong_passage_raises_no_alarm(place: int) -> None:
    """Media of one window's length that looks as generated as can be is in 15 windows; that is not enough."""
    llrs = [0.0] * place + [80.0] * (15 if place else 8) + [0.0] * 100
    assert run(windows(llrs), dataclasses.replace(AlarmRule(), minimum_s=0.0)) == []
    assert max(statistics(windows(llrs))) > 0.8 * AlarmRule().threshold


@pytest.mark.parametrize(("minimum_s", "opens"), [(0.0, 8), (5.12, 8), (5.13, 9), (20.0, 55)])
def test_it_rests_on_enough_evidence(minimum_s: float, opens: int) -> None:
    """However high the sum: 2.56 s of the first window and 0.32 s of each one after have to add up."""
    rule = AlarmRule(threshold=5.9, minimum_s=minimum_s)
    stream = windows([9.0] * 80)
    assert [a.opened_ns for a in run(stream, rule)] == [stream[opens].end_ns]


def test_evidence_from_before_the_sum_was_zero_is_not_counted() -> None:
    """A long quiet time does not make up for a short rise."""
    rule = AlarmRule(threshold=2.0, minimum_s=4.0)
    stream = windows([0.1] * 60 + [-1.0] * 20 + [9.0] * 40)
    assert [a.opened_ns for a in run(stream, rule)] == [stream[80 + 12].end_ns]


def opened(rule: AlarmRule = RULE) -> tuple[AlarmDetector, int]:
    """A detector with an alarm open, and the index of the window after."""
    detector = AlarmDetector(rule)
    stream = windows([2.0] * 30)
    assert len(run(stream, rule, detector)) == 1
    return detector, FIRST + len(stream)


def test_a_short_dip_leaves_it_open() -> None:
    """Below the bound for less than the time, up for one window, and below again."""
    detector, index = opened(dataclasses.replace(RULE, close_after_s=4.8))
    lows = [0.4] * 15 + [0.6] + [0.4] * 15
    for k, rolling in enumerate(lows):
        assert detector.push(make_prediction(index + k, -1.0), rolling) == []
    [closed] = detector.push(make_prediction(index + 31, -1.0), 0.4)
    # 4.8 s are 15 slices after the first low window.
    assert (closed.cause, closed.closed_ns) == (Cause.BELOW, (index + 32) * SPEC.slice_ns)


def test_at_the_bound_it_stays_open() -> None:
    """Below means below."""
    detector, index = opened()
    assert [a for k in range(100) for a in detector.push(make_prediction(index + k, -1.0), 0.5)] == []


def test_after_it_closed_evidence_starts_at_zero() -> None:
    """The next alarm takes as much as the first one."""
    detector, index = opened()
    stream = [make_prediction(index + k, -4.0) for k in range(60)]
    stream += [make_prediction(index + 60 + k, 1.0) for k in range(60)]
    rolling = RollingScore()
    changes = [a for w in stream for a in detector.push(w, rolling.push(w))]
    assert [(a.number, a.cause) for a in changes] == [(1, Cause.BELOW), (2, None)]
    assert changes[1].opened_ns == stream[60 + 31].end_ns


@pytest.mark.parametrize(("after", "closes"), [(31, False), (32, True)])
@pytest.mark.parametrize("llr", [None, 2.0])
def test_it_closes_after_time_without_evidence(after: int, closes: bool, llr: float | None) -> None:
    """At the first window 10 s after the last score, whether that window has a score or not."""
    detector, index = opened()
    changes = detector.push(make_prediction(index - 1 + after, llr, reason=None), 0.9)
    assert [a.cause for a in changes] == [Cause.NO_EVIDENCE] * closes
    assert [a.closed_ns for a in changes] == [(index + after) * SPEC.slice_ns] * closes


def test_it_closes_at_another_face() -> None:
    """Its facts stay those of the face it was about."""
    detector, index = opened()
    [closed] = detector.push(make_prediction(index, 2.0, track=2), 0.9)
    assert (closed.cause, closed.track, closed.closed_ns) == (
        Cause.FACE_CHANGED, 1, (index + 1) * SPEC.slice_ns,
    )  # fmt: skip
    assert detector.statistic == 2.0


def test_a_face_that_is_not_scored_leaves_it_open() -> None:
    """A passer-by whose window never fills says nothing of the one before."""
    detector, index = opened()
    passing = make_prediction(index, None, reason=Reason.FACE_CHANGED, track=2)
    assert detector.push(passing, None) == []
    assert detector.push(make_prediction(index + 1, 2.0), 0.9) == []


def test_it_closes_at_the_end_of_the_stream() -> None:
    """At the last window, with a score or without."""
    detector, index = opened()
    detector.push(make_prediction(index, None), None)
    [closed] = detector.finish()
    assert (closed.cause, closed.closed_ns) == (Cause.ENDED, (index + 1) * SPEC.slice_ns)


def test_a_stream_without_an_alarm_ends_without_one() -> None:
    """Nothing seen, or nothing found."""
    assert AlarmDetector(RULE).finish() == []
    detector = AlarmDetector(RULE)
    assert run(windows([-1.0] * 50), RULE, detector) + detector.finish() == []


def test_its_facts_are_those_of_the_strongest_window_since_evidence_began() -> None:
    """Neither a window before the sum was zero nor a weaker one since; a stronger one while it is open is."""
    detector = AlarmDetector(RULE)
    stream = windows([9.0, *[-3.0] * 20, *[2.0] * 40])
    stream[30] = dataclasses.replace(stream[30], logit=4.0, modality="audio", parts={"audio": 0.8})
    stream[60] = dataclasses.replace(stream[60], logit=5.0, modality="video", parts={"video": 0.9})
    [made] = run(stream[:60], RULE, detector)
    assert (made.peak, made.modality, made.part) == (probability(4.0), "audio", "audio")
    assert detector.push(stream[60], 0.9) == []
    [closed] = detector.finish()
    assert (closed.peak, closed.modality, closed.part) == (probability(5.0), "video", "video")


@pytest.mark.parametrize(
    ("parts", "part"),
    [
        ({"video": 0.2, "audio": 0.3, "desync": 1.0}, "audio"),
        ({"video": 0.3, "audio": 0.2}, "video"),
        ({"video": 0.3, "audio": 0.2, "motion": 0.4}, "motion"),
        ({"desync": 1.0}, None),
        ({}, None),
    ],
)
def test_it_names_picture_sound_or_motion_only(parts: dict[str, float], part: str | None) -> None:
    """Lips out of step are never named as what is generated."""
    stream = [dataclasses.replace(w, parts=parts) for w in windows([2.0] * 30)]
    assert [a.part for a in run(stream, RULE)] == [part]


def test_desync_alone_raises_no_alarm() -> None:
    """Networks and cameras put lips out of step; without the score nothing adds up."""
    parts = {"video": 0.1, "audio": 0.1, "desync": 1.0}
    stream = [dataclasses.replace(w, parts=parts) for w in windows([-0.1] * 1000)]
    assert run(stream, RULE) == []


@pytest.mark.parametrize("nats", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("rate", [10.0, 60.0])
def test_chance_keeps_the_promise(rate: float, nats: float) -> None:
    """True LLRs of independent slices, as windows overlap them: at most a sixth of the promised alarms.

    ``nats`` is what a window says for genuine on average.  A detector that never alarms keeps any promise,
    so there must be some.
    """
    hours, per_slice = 10, nats / SPEC.window_slices
    count = round(hours * 3600 * NS_PER_S / SPEC.slice_ns)
    slices = np.random.default_rng(0).normal(-per_slice, math.sqrt(2 * per_slice), count)
    llrs = np.convolve(slices, np.ones(SPEC.window_slices), "valid")
    rule = AlarmRule(threshold=promised_threshold(rate), minimum_s=0.0, close_below=1.0, close_after_s=0.0)
    found = sum(a.closed_ns is None for a in run(windows([float(v) for v in llrs]), rule)) / hours
    assert 0 < found <= rate / 6


def test_threshold_grows_with_the_time_between_alarms() -> None:
    """By the windows of an hour over the alarms: 6.6 nats for two an hour, ln 2 more for half as many."""
    assert promised_threshold(2.0) == pytest.approx(math.log(3600 / 2.56 / 2))
    assert promised_threshold(1.0) - promised_threshold(2.0) == pytest.approx(math.log(2))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, 1407.0])
def test_rate_that_means_nothing_is_refused(rate: float) -> None:
    """Nothing promises none, and an alarm every window is no alarm."""
    with pytest.raises(ValueError, match="false alarms per hour"):
        promised_threshold(rate)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_threshold_that_is_reached_by_nothing_is_refused(threshold: float) -> None:
    """The sum is zero before anything was seen."""
    with pytest.raises(ValueError, match="not above 0"):
        AlarmRule(threshold=threshold)
