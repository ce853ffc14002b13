"""Alarms over judged clips: counted by hand on scripted windows, and the thresholds that keep them rare."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from avff.engine.alarm import AlarmRule
from avff.engine.spec import SPEC
from avff.trainer.alarms import (
    RATES,
    Detection,
    FalseAlarms,
    Stream,
    StreamWindow,
    alarms_of,
    begins_s,
    concatenated,
    peak_of,
    rate_per_hour,
    stream_of,
    thresholds_for,
)
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import Judged, WindowScore
from avff.trainer.report.alarms import AlarmFigures, alarm_section
from tests.support.training import make_clip
from tests.trainer.scored_clips import make_score

EAGER = AlarmRule(threshold=2.0, minimum_s=0.0)
SLICE_S = SPEC.slice_ns / 1e9
FULL = SPEC.window_slices - 1


def windows(llrs: Sequence[float | None], *, track: int | None = 1, uid: str = "c") -> list[WindowScore]:
    """The windows of a clip: 7 too short, then these."""
    every = [*[None] * FULL, *llrs]
    return [
        WindowScore(uid, 0, max(0, k - FULL) * SLICE_S, (k + 1) * SLICE_S, llr, "", "av", track)
        for k, llr in enumerate(every)
    ]


def clip_of(llrs: Sequence[float | None], *, track: int | None = 1) -> Stream:
    return stream_of(windows(llrs, track=track))


def noise(seed: int, *, clips: int = 30, bias: float = 0.0, length: int = 60) -> list[Stream]:
    """Clips whose people are each judged with an error of their own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(clips):
        person = rng.normal(bias, 1)
        made.append(clip_of([float(v) for v in rng.normal(person, 1, length)]))
    return made


def hours_of(streams: Sequence[Stream]) -> float:
    return sum(s[-1].end_ns for s in streams) / 3600e9


def test_streams_say_what_the_windows_say() -> None:
    """Times in exact ns; nothing lost."""
    made = clip_of([0.5, None, 1.5], track=3)
    assert made[FULL:] == [
        StreamWindow(8 * SPEC.slice_ns, 0.5, 3, "av"),
        StreamWindow(9 * SPEC.slice_ns, None, 3, "av"),
        StreamWindow(10 * SPEC.slice_ns, 1.5, 3, "av"),
    ]
    assert made[-1].parts == {}


def test_end_to_end_nothing_starts_anew_at_a_seam() -> None:
    """Two clips that are each half an alarm make one together; each alone makes none."""
    halves = [clip_of([1.0] * 6, track=1), clip_of([1.0] * 6, track=5)]
    assert [alarms_of(s, EAGER) for s in halves] == [[], []]
    [alarm] = alarms_of(concatenated(halves), EAGER)
    # 1 and five eighths of the first clip, then the second clip's first window, whole.
    assert alarm.opened_ns == (FULL + 6 + FULL + 1) * SPEC.slice_ns


def test_end_to_end_a_face_that_changes_within_a_clip_starts_anew() -> None:
    """Only the seam is not a change."""
    changing = windows([1.0] * 6, track=1) + [
        dataclasses.replace(w, end_s=w.end_s + 13 * SLICE_S, track=2) for w in windows([1.0] * 6)
    ]
    assert alarms_of(stream_of(changing), EAGER) == []
    joined = concatenated(
        [clip_of([-1.0]), stream_of(changing), clip_of([-1.0], track=None), clip_of([-1.0])]
    )
    assert alarms_of(joined, EAGER) == []
    assert [w.track for w in joined if w.logit is not None] == [0] * 7 + [1] * 6 + [None] + [1]


@pytest.mark.parametrize("seed", range(5))
def test_end_to_end_keeps_all_windows_in_order(seed: int) -> None:
    """Time goes on through empty streams too, and ends with the footage."""
    streams = [*noise(seed, clips=3), [], *noise(seed + 50, clips=2)]
    joined = concatenated(streams)
    assert [w.logit for w in joined] == [w.logit for s in streams for w in s]
    ends = [w.end_ns for w in joined]
    assert ends == sorted(set(ends))
    assert ends[-1] == sum(s[-1].end_ns for s in streams if s)


def test_false_alarms_are_counted_per_hour_of_footage() -> None:
    """One alarm in two clips of ten minutes, with the exact Poisson interval."""
    alarming = [-1.0] * 1000 + [3.0] * 20 + [-1.0] * 848
    streams = [clip_of(alarming), clip_of([-1.0] * 1868)]
    made = FalseAlarms.of(streams, hours_of(streams), AlarmRule(threshold=5.0))
    assert hours_of(streams) == pytest.approx(1 / 3)
    assert made.count == 1
    assert made.per_hour.value == pytest.approx(3)
    assert (made.per_hour.low, made.per_hour.high) == pytest.approx((3 * 0.0253178, 3 * 5.571643), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0.0, 3.688879), (1, 0.025318, 5.571643), (10, 4.795, 18.39)]
)
def test_poisson_interval_is_the_exact_one(count: int, low: float, high: float) -> None:
    """Garwood's table."""
    made = rate_per_hour(count, 1.0)
    assert (made.value, made.low, made.high) == pytest.approx((count, low, high), rel=1e-4)


def test_no_footage_has_no_rate() -> None:
    """Nothing counted in no time is not zero an hour."""
    assert math.isnan(FalseAlarms.of([], 0.0, EAGER).per_hour.value)
    assert thresholds_for([], 0.0, RATES, EAGER) == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("joined", [False, True])
def test_threshold_keeps_the_rate_and_the_next_lower_one_does_not(seed: int, joined: bool) -> None:
    """At it and above it alarms are few enough on this footage, and below it they are too many."""
    streams = noise(seed)
    hours = hours_of(streams)
    if joined:
        streams = [concatenated(streams)]

    def per_hour(threshold: float) -> float:
        rule = AlarmRule(threshold=threshold)
        return sum(len(alarms_of(s, rule)) for s in streams) / hours

    found = thresholds_for(streams, hours, (5.0, 10.0, 20.0), AlarmRule())
    assert found[5.0] >= found[10.0] >= found[20.0] > 0.6
    for rate, threshold in found.items():
        assert per_hour(threshold) <= rate < per_hour(threshold / 1.05)
        assert all(per_hour(threshold * 1.05**k) <= rate for k in range(1, 20))


def test_footage_that_is_never_suspicious_needs_the_lowest_threshold() -> None:
    """A sum that stays below what is tried gives the lowest one tried."""
    streams = [clip_of([-2.0] * 50)]
    assert thresholds_for(streams, 1.0, (1.0,), EAGER) == {1.0: 0.5}


def test_as_many_as_allowed_are_few_enough() -> None:
    """One alarm in half an hour is two an hour, which is no more than two."""
    found = thresholds_for([clip_of([1.0] * 100)], 0.5, (1.9, 2.0), EAGER)
    assert found[2.0] == 0.5
    assert found[1.9] > 13


def test_a_longer_error_of_one_person_needs_more() -> None:
    """The sum of a wrong calibration grows with time: what no promise covers."""
    needed = [thresholds_for([clip_of([0.5] * n)], 0.5, (1.0,), AlarmRule())[1.0] for n in (100, 200, 400)]
    assert needed == sorted(needed)
    assert needed[2] > 3 * needed[0] > 15
    assert needed[2] / 1.05**2 <= peak_of(clip_of([0.5] * 400), AlarmRule()) <= needed[2]


def test_time_to_alarm_runs_from_where_generation_begins() -> None:
    """An alarm from before is not the generated passage's; clips without one are in the share only."""
    late = clip_of([-1.0] * 20 + [3.0] * 40)
    both = clip_of([3.0] * 10 + [-3.0] * 60 + [3.0] * 30)
    [opened] = [a.opened_ns / 1e9 for a in alarms_of(late, EAGER)]
    first, second = (a.opened_ns / 1e9 for a in alarms_of(both, EAGER))
    begins = 70 * SLICE_S
    assert first < begins < second
    made = Detection.of([(5.0, late), (begins, both), (0.0, clip_of([-1.0] * 60))], EAGER)
    assert (made.clips, made.alarmed) == (3, 2)
    assert made.median_s == pytest.approx(np.median([opened - 5.0, second - begins]))
    assert math.isnan(Detection.of([(0.0, clip_of([-1.0]))], EAGER).median_s)


@pytest.mark.parametrize(
    ("facts", "begins"),
    [
        ({}, 0.0),
        ({"label_video": 1, "fake_video": ((4.0, 5.0), (2.0, 3.0)), "label_audio": 0}, 2.0),
        ({"label_video": 1, "fake_video": ((4.0, 5.0),), "label_audio": 1, "fake_audio": ((1.0, 9.0),)}, 1.0),
        ({"label_video": 1, "fake_video": ((4.0, 5.0),), "label_audio": 1}, 0.0),
        ({"label_video": 1, "fake_video": (), "label_audio": 0}, 0.0),
    ],
)
def test_generation_begins_with_the_first_listed_passage(facts: dict[str, object], begins: float) -> None:
    """Or with the clip, where a modality is generated and nobody listed where."""
    assert begins_s(dataclasses.replace(make_clip("a", label=1), **facts)) == begins  # type: ignore[arg-type]


def judged(clip: Clip, llrs: Sequence[float | None]) -> Judged:
    made = [dataclasses.replace(w, uid=clip.uid) for w in windows(llrs)] if len(llrs) else []
    return Judged(make_score(clip.uid, int(clip.is_fake), None), tuple(made))


def make_figures() -> AlarmFigures:
    """Two genuine clips, one of them suspicious; two generated ones, one found; a file nobody could read."""
    llrs = {"a": [-1.0] * 200, "b": [1.0] * 200, "c": [2.0] * 60, "d": [0.0] * 100, "broken": []}
    clips = [make_clip(uid, label=int(uid not in "ab")) for uid in llrs]
    return AlarmFigures.of(clips, [judged(c, llrs[c.uid]) for c in clips])


def test_figures_are_of_the_daemons_default_rule() -> None:
    """Counted on whole clips; the unreadable file has no part."""
    made = make_figures()
    assert made.rule == AlarmRule()
    assert made.hours == pytest.approx(2 * 207 * SLICE_S / 3600)
    assert (made.scored_windows, made.apart.count, made.joined.count) == (400, 1, 1)
    assert (made.found.clips, made.found.alarmed) == (2, 1)
    # 2 nats at once and a quarter each hop: 6.6 nats after 19 more.
    assert made.found.median_s == pytest.approx((FULL + 1 + 19) * SLICE_S)
    assert [n.per_hour for n in made.needed] == list(RATES)
    for n in made.needed:
        assert n.apart is not None
        # The suspicious clip's sum gets to 1 + 199 eighths.
        assert 25.9 < n.apart < 25.9 * 1.05**2
        assert (n.found and n.found.alarmed) == 0


def test_figures_are_valid_json_and_a_section() -> None:
    """Without a median too; both ways of counting are named."""
    made = make_figures()
    document = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert document["genuine"]["each_clip_a_stream"]["count"] == 1
    assert document["rule"]["threshold"] == pytest.approx(6.5555, abs=1e-3)
    assert document["thresholds"][0]["generated"] == {"clips": 2, "alarmed": 0, "median_s": None}
    page = "\n\n".join(alarm_section(made))
    assert "h = 6.56 nats" in page
    assert "| false alarms, each clip a stream | 1: 27.1" in page
    assert "| generated clips with an alarm | 1 of 2 |" in page
    assert "| 2 | 6.56 | 26.02 | 26.02 | 0 of 2 | – |" in page


def test_without_genuine_clips_there_is_no_rate() -> None:
    """Dashes and nulls, and the generated clips all the same."""
    clip = make_clip("c", label=1)
    made = AlarmFigures.of([clip], [judged(clip, [2.0] * 100)])
    document = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert document["genuine"]["each_clip_a_stream"]["per_hour"]["value"] is None
    assert document["thresholds"][0]["generated"] is None
    assert document["generated"]["alarmed"] == 1
    assert "| 1 | 7.25 | – | – | – | – |" in "\n".join(alarm_section(made))
