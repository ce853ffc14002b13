from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avff.daemon.alarms import AlarmSummary
from avff.daemon.events import AlarmEvent, Event, StateEvent, SummaryEvent, score_event, to_line
from avff.daemon.status import Change, Flaw, State, Status
from avff.daemon.summary import Summariser
from avff.engine import live
from avff.engine.alarm import Alarm, Cause
from avff.engine.slices import Coverage, Prediction, Reason
from avff.engine.spec import SPEC
from tests.support.scripted import make_prediction

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
OPENED = Alarm(3, 12_480_000_000, None, None, 0.9311204, "av", "video", 2)
CLOSED = dataclasses.replace(OPENED, closed_ns=20_480_000_000, cause=Cause.BELOW)


LOST = StateEvent(
    "cam",
    12_480_000_000,
    Change(Status(State.RECONNECTING, "refused", "gone", 2, 0.8124), State.STALE, 2_034_000_000),
    1_795_864_671_990_791_000,
)


def _event(prediction: Prediction, rolling: float | None = None) -> Event:
    return score_event(
        prediction, rolling, stream="cam", model="m@1", backend="onnx", dropped=2, now_ns=5_000_000
    )


def _summary(logits: list[float | None]) -> SummaryEvent:
    summary = Summariser(0.5)
    for k, logit in enumerate(logits):
        summary.push(make_prediction(k, logit))
    return SummaryEvent("cam", summary.result(), 0.5, "end", 0, "m@1", "onnx")


def _read(event: Event) -> dict[str, Any]:
    line = to_line(event)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    read: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return read


def test_score_event_on_the_wire() -> None:
    """Every field, as documented."""
    read = _read(_event(make_prediction(9, 0.0, captured_ns=2_000_000), 0.25))
    assert read == {
        "v": 1,
        "type": "score",
        "stream": "cam",
        "t": 3.2,
        "window": [0.64, 3.2],
        "score": 0.5,
        "reason": None,
        "rolling": 0.25,
        "parts": {"video": 0.5, "audio": 0.25, "motion": 0.0625, "desync": 0.125},
        "modality": "av",
        "coverage": {"video": 1.0, "audio": 1.0, "face": 1.0},
        "sync": {"known": True, "error_ms": 0.0},
        "track": 1,
        "latency_ms": 3.0,
        "dropped": 2,
        "model": "m@1",
        "backend": "onnx",
    }


@pytest.mark.parametrize(
    ("error_ns", "video", "audio", "sync"),
    [
        (12_345_678, 1.0, 0.5, {"known": True, "error_ms": 12.3}),
        (60_000_000, 1.0, 0.5, {"known": False, "error_ms": 60.0}),
        (None, 1.0, 1.0, {"known": False, "error_ms": None}),
        (0, 0.0, 1.0, None),
        (0, 1.0, 0.0, None),
    ],
)
def test_sync_on_the_wire(error_ns: int | None, video: float, audio: float, sync: Any) -> None:
    """What is known of picture against sound; nothing where one of them is missing."""
    prediction = dataclasses.replace(
        make_prediction(9, 0.0), sync_error_ns=error_ns, coverage=Coverage(video, audio, 1.0)
    )
    assert _read(_event(prediction))["sync"] == sync


def _explained(prediction: Prediction) -> dict[str, Any]:
    event = score_event(
        prediction, None, stream="cam", model="m@1", backend="onnx", dropped=0, now_ns=5_000_000, explain=True
    )
    return _read(event)


def _with_evidence(**changes: Any) -> Prediction:
    """A window whose last pictures are more and more suspicious, the last of all not there."""
    frames = np.zeros((SPEC.window_frames, 3), np.float32)
    frames[-8:, 0] = [-2, -1, 0, 1, 2, 3, 60, np.nan]
    terms = {"any": math.log(0.25), "video": math.log(0.25), "audio": math.log(0.4), "motion": math.log(0.1)}
    evidence: dict[str, Any] = {
        "frames": frames,
        "sync": np.linspace(-1, 1, 31, dtype=np.float32),
        "terms": terms,
    }
    return dataclasses.replace(make_prediction(9, 0.0), **(evidence | changes))


def test_explain_on_the_wire() -> None:
    """Nothing else of the event changes."""
    prediction = _with_evidence()
    read = _explained(prediction)
    assert read.pop("explain") == {
        "leading": "audio",
        "shares": {"any": 0.25, "video": 0.25, "audio": 0.4, "motion": 0.1},
        "frames": [0.119, 0.269, 0.5, 0.731, 0.881, 0.953, 1.0, None],
        "sync": {
            "offset_ms": list(range(-600, 601, 40)),
            "cosine": [round(-1 + k / 15, 3) for k in range(31)],
        },
    }
    plain = _read(
        score_event(prediction, None, stream="cam", model="m@1", backend="onnx", dropped=0, now_ns=5_000_000)
    )
    assert (read, "explain" in plain) == (plain, False)


@pytest.mark.parametrize(
    ("changes", "leading"),
    [
        ({"terms": {"any": 1.0, "video": 0.3, "audio": 0.2}}, "video"),
        ({"terms": {"any": 1.0, "video": -0.3, "audio": -0.2}}, "audio"),
        ({"terms": {"any": 1.0, "video": -9.0}}, "video"),
        ({"terms": {"any": 1.0, "video": 0.3, "audio": 0.2, "motion": 0.4}}, "motion"),
        ({"terms": {"any": 1.0, "video": 0.3, "motion": 0.2}, "modality": "video"}, "video"),
        ({"terms": {"video": 0.3, "motion": 0.4}, "modality": "video"}, "motion"),
        ({"terms": {"video": -0.7, "audio": -0.7}}, None),
        ({"terms": {"video": -0.7, "audio": -0.9, "motion": -0.7}}, None),
        ({"terms": {"any": 0.0}}, None),
        ({"terms": {"any": 0.0}, "modality": "video"}, "video"),
        ({"terms": {"any": 0.0}, "modality": "audio"}, "audio"),
        ({"terms": {}, "modality": "audio"}, "audio"),
    ],
)
def test_leading_is_what_has_most_of_the_odds(changes: dict[str, Any], leading: str | None) -> None:
    """One alone leads; two that have the same have no leader; a single modality leads by the whole's head."""
    assert _explained(_with_evidence(**changes))["explain"]["leading"] == leading


def test_a_curve_of_a_model_at_chance_is_not_shown() -> None:
    """The curve is there if, and only if, the model offers ``parts.desync``."""
    without = _with_evidence(parts={"video": 0.5, "audio": 0.25})
    assert without.sync is not None
    assert _explained(without)["explain"]["sync"] is None
    assert _explained(_with_evidence(sync=None))["explain"]["sync"] is None


def test_what_is_not_known_is_null_or_left_out() -> None:
    """A predictor without logits per picture gives nulls; a window without a score has nothing to explain."""
    assert _explained(make_prediction(9, 0.0))["explain"] == {
        "leading": None,
        "shares": dict.fromkeys(("any", "video", "audio", "motion")),
        "frames": [None] * 8,
        "sync": None,
    }
    assert "explain" not in _explained(make_prediction(0, None, reason=Reason.NO_FACE))
    assert "explain" not in _explained(_with_evidence(logit=math.nan))


def test_every_field_of_explain_is_documented() -> None:
    """Its table names the same fields."""
    table = DOCUMENT.read_text().split("| field of `explain` |")[1].split("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(documented) == set(_explained(_with_evidence())["explain"])


def test_null_score_has_a_reason() -> None:
    """Null comes with its reason, and absent parts are null too."""
    read = _read(_event(make_prediction(0, None, reason=Reason.NO_FACE)))
    assert (read["score"], read["rolling"], read["reason"]) == (None, None, "no_face")
    assert read["parts"] == {"video": None, "audio": None, "motion": None, "desync": None}


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_model_nan(logit: float) -> None:
    """The line stays valid JSON and never says 0 or 1."""
    read = _read(_event(make_prediction(9, logit)))
    assert (read["score"], read["reason"]) == (None, "model_nan")


def test_summary_event_on_the_wire() -> None:
    """The summary names its pooling and its threshold."""
    read = _read(_summary([None, 2.0, 2.0]))
    assert read["verdict"] == "fake"
    assert (read["pooling"], read["threshold"]) == ("mean_logit", 0.5)
    assert read["windows"] == {"scored": 2, "abstained": {"too_short": 1}}
    assert read["timeline"]["max"][0] is None
    assert read["spans"] == [{"start": 0.0, "end": 0.96, "peak": pytest.approx(0.880797)}]


def test_alarm_event_on_the_wire() -> None:
    """Every field of both events, as documented."""
    told = {
        "v": 1, "type": "alarm", "stream": "cam", "t": 12.48, "state": "opened", "number": 3, "opened": 12.48,
        "closed": None, "duration": None, "cause": None, "max": 0.93112, "modality": "av", "part": "video",
        "track": 2, "model": "m@1",
    }  # fmt: skip
    assert _read(AlarmEvent("cam", OPENED.opened_ns, OPENED, "m@1")) == told
    over = {"t": 20.48, "state": "closed", "closed": 20.48, "duration": 8.0, "cause": "below"}
    assert _read(AlarmEvent("cam", 20_480_000_000, CLOSED, "m@1")) == told | over


def test_state_event_on_the_wire() -> None:
    """Every field, as documented; what there is nothing to say of is null."""
    assert _read(LOST) == {
        "v": 1, "type": "state", "stream": "cam", "t": 12.48, "state": "reconnecting", "before": "stale",
        "reason": "refused", "message": "gone", "attempt": 2, "retry_s": 0.812, "age_ms": 2034.0,
        "sent": 1795864671.991,
    }  # fmt: skip
    first = _read(StateEvent("cam", 0, Change(Status(State.STARTING), None, None)))
    nulls = ("before", "reason", "message", "retry_s", "age_ms", "sent")
    assert [first[name] for name in nulls] == [None] * 6
    assert first["attempt"] == 0


def test_summary_lists_alarms() -> None:
    """With the fields of their events; an empty list is not the same as none looked for."""
    event = dataclasses.replace(_summary([2.0]), alarms=AlarmSummary(70, (CLOSED,)))
    alarm = _read(AlarmEvent("cam", 0, CLOSED, "m@1"))
    known = ("number", "opened", "closed", "duration", "cause", "max", "modality", "part", "track")
    assert _read(event)["alarms"] == {"count": 70, "listed": [{name: alarm[name] for name in known}]}
    assert _read(dataclasses.replace(event, alarms=AlarmSummary(0, ())))["alarms"]["count"] == 0
    assert _read(_summary([2.0]))["alarms"] is None


def test_summary_without_windows_abstains() -> None:
    """Nothing seen, nothing said."""
    read = _read(_summary([]))
    assert (read["verdict"], read["score"], read["max"], read["share_above"]) == ("abstain", None, None, None)


@pytest.mark.parametrize(
    "event",
    [_event(make_prediction(9, 0.0)), AlarmEvent("cam", 0, OPENED, "m@1"), LOST, _summary([1.0])],
    ids=["score", "alarm", "state", "summary"],
)
def test_every_field_is_documented(event: Event) -> None:
    """The document has a row for each field on the wire."""
    section = DOCUMENT.read_text().split(f"## `{event.to_json()['type']}`")[1]
    fields = section.split("| field |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", fields, re.MULTILINE)) == set(event.to_json())


def test_every_state_and_its_reasons_are_documented() -> None:
    """The words are an interface: states, flaws, and what becomes of connections."""
    section = DOCUMENT.read_text().split("## `state`")[1].split("\n## ")[0]
    reasons = {reason for _, reason, _ in live.REASONS} | {"timed_out", "no_media", "closed", "unreachable"}
    words = {*State, *Flaw, *reasons, "too_large", "not_live", "source_lost", "engine_failed"}
    assert [word for word in sorted(words) if f"`{word}`" not in section] == []


def test_every_cause_is_documented() -> None:
    """Why an alarm closed is an interface too."""
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `cause` |"))
    assert [cause for cause in Cause if f"`{cause}`" not in row] == []
