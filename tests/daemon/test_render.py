from __future__ import annotations

import dataclasses

import pytest

from avff.daemon.alarms import AlarmSummary
from avff.daemon.events import AlarmEvent, ScoreEvent, StateEvent, SummaryEvent, score_event
from avff.daemon.sinks.render import (
    OpenAlarms,
    alarm_line,
    bar,
    connection_text,
    live_line,
    live_state_line,
    score_line,
    sparkline,
    state_line,
    summary_text,
)
from avff.daemon.status import Change, State, Status
from avff.daemon.summary import Summariser
from avff.engine.alarm import Alarm, Cause
from avff.engine.slices import Reason
from tests.support.scripted import make_prediction

OPENED = Alarm(1, 12_340_000_000, None, None, 0.931, "av", "video", 1)
CLOSED = dataclasses.replace(OPENED, closed_ns=30_000_000_000, cause=Cause.NO_EVIDENCE)


def _score(logit: float | None, rolling: float | None = None, reason: Reason | None = None) -> ScoreEvent:
    prediction = make_prediction(9, logit, reason=reason)
    return score_event(
        prediction, rolling, stream="clip.mp4", model="m@1", backend="onnx", dropped=0, now_ns=0
    )


def _summary(logits: list[float | None], ended: str = "end") -> str:
    summary = Summariser(0.5)
    for k, logit in enumerate(logits):
        summary.push(make_prediction(k, logit))
    return summary_text(SummaryEvent("clip.mp4", summary.result(), 0.5, ended, 0, "m@1", "onnx"))


def test_sparkline_shows_height_and_gaps() -> None:
    """Lowest, highest, and nothing."""
    assert sparkline([0.0, None, 0.5, 1.0]) == "▁·▅█"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (None, "····"), (9.0, "████")]
)
def test_bar_has_its_width(value: float | None, text: str) -> None:
    """A bar is always as wide as asked for."""
    assert bar(value, 4) == text


def test_score_line_names_the_reason_instead_of_a_number() -> None:
    """Without a score the line says why."""
    assert "no_face" in score_line(_score(None, reason=Reason.NO_FACE))
    assert "0.50" in score_line(_score(0.0, 0.25))
    assert "rolling 0.25" in score_line(_score(0.0, 0.25))


@pytest.mark.parametrize("columns", [1, 20, 80, 200])
def test_live_line_fits_the_terminal(columns: int) -> None:
    """A line that wraps cannot be redrawn in place."""
    assert len(live_line(_score(0.0, 0.5), columns)) <= max(1, columns - 1)


def _state(status: Status, before: State = State.LIVE) -> StateEvent:
    return StateEvent("cam", 12_340_000_000, Change(status, before, 0))


LOST = _state(Status(State.RECONNECTING, "refused", "rtsp://cam: connection refused", 3, 1.84))


def test_state_line_says_what_and_why() -> None:
    """Attempts when it is away, else the reason if there is one."""
    assert state_line(LOST) == "cam     12.34 s  reconnecting: refused, attempt 3 in 1.8 s"
    assert state_line(_state(Status(State.ABSTAIN, "no_face"))).endswith("abstain: no_face")
    assert state_line(_state(Status(State.LIVE))).endswith("  live")


@pytest.mark.parametrize("columns", [1, 20, 80])
def test_live_state_line_shows_no_old_score(columns: int) -> None:
    """It fits the terminal, and its bar is empty."""
    line = live_state_line(LOST, columns)
    assert len(line) <= max(1, columns - 1)
    assert columns < 80 or "··········" in line


def test_connection_text_is_a_line_with_the_way_it_goes_on() -> None:
    """A stream that went away, and one that came back."""
    assert connection_text(LOST) == (
        "avffd: cam: rtsp://cam: connection refused; trying again for as long as it takes\n"
    )
    assert connection_text(_state(Status(State.STARTING), State.RECONNECTING)) == "avffd: cam: connected\n"


def test_summary_says_verdict_counts_and_where() -> None:
    """What a person wants to know at the end."""
    text = _summary([None, 3.0, 3.0])
    assert "FAKE, score 0.95" in text
    assert "2 windows scored, 1 without a score (too_short 1)" in text
    assert "suspicious: 0.0-1.0 s (peak 0.95)" in text
    assert "·██" in text
    assert text.endswith("\n")


def test_summary_never_says_real() -> None:
    """Absence of evidence is all that can be said."""
    assert "no evidence of a fake" in _summary([-3.0])
    assert "no verdict" in _summary([None])
    assert "real" not in _summary([-3.0]).lower()


def test_summary_says_how_it_ended() -> None:
    """A stream that was cut short is marked."""
    assert "stopped early" in _summary([1.0], "stopped")
    assert "broke off" in _summary([1.0], "lost")


def test_many_spans_are_cut() -> None:
    """A long list ends with its rest as a number."""
    assert "and 2 more" in _summary([v for _ in range(10) for v in [3.0] + [-3.0] * 12])


def test_open_alarm_is_plain_in_every_line() -> None:
    """With a score or without, and on the live line before the figures that may be cut off."""
    for event in (_score(0.0, 0.5), _score(None, reason=Reason.NO_FACE)):
        assert score_line(event, OPENED) == score_line(event) + "  ALARM since 12.3 s"
    assert "ALARM" not in score_line(_score(0.0, 0.5)) + live_line(_score(0.0, 0.5), 200)
    line = live_line(_score(0.0, 0.5), 200, OPENED)
    assert line.index("ALARM since 12.3 s") < line.index("face")


def test_alarm_lines_say_what_happened() -> None:
    """When it opened and why it closed, with what was highest."""
    begun = alarm_line(AlarmEvent("clip.mp4", 12_340_000_000, OPENED, "m@1"))
    assert begun == "clip.mp4     12.34 s  ALARM since 12.3 s  highest 0.93, video most"
    over = alarm_line(AlarmEvent("clip.mp4", 30_000_000_000, CLOSED, "m@1"))
    assert over.startswith("clip.mp4     30.00 s  alarm closed after 17.7 s: no evidence left  highest 0.93")
    assert "real" not in "".join(
        alarm_line(AlarmEvent("a", 0, dataclasses.replace(CLOSED, cause=cause), "m")) for cause in Cause
    )


def test_summary_lists_alarms_and_cuts_a_long_list() -> None:
    """From, to, and what was highest; no line where there were none or none were looked for."""
    event = SummaryEvent("clip.mp4", Summariser(0.5).result(), 0.5, "end", 0, "m@1", "onnx")
    assert "alarms" not in summary_text(event)
    assert "alarms" not in summary_text(dataclasses.replace(event, alarms=AlarmSummary(0, ())))
    text = summary_text(dataclasses.replace(event, alarms=AlarmSummary(60, (CLOSED,) * 50)))
    assert "  alarms: 12.3-30.0 s (highest 0.93, video most), 12.3" in text
    assert text.endswith("and 52 more\n")
    silent = dataclasses.replace(CLOSED, part=None)
    text = summary_text(dataclasses.replace(event, alarms=AlarmSummary(1, (silent,))))
    assert text.endswith("alarms: 12.3-30.0 s (highest 0.93)\n")


def test_open_alarms_are_those_of_the_stream() -> None:
    """One stream's alarm is not shown with another's score, and not after it closed."""
    alarms = OpenAlarms()
    alarms.follow(AlarmEvent("a", 0, OPENED, "m@1"))
    assert (alarms.of("a"), alarms.of("b")) == (OPENED, None)
    alarms.follow(AlarmEvent("b", 0, CLOSED, "m@1"))
    assert alarms.of("a") == OPENED
    alarms.follow(AlarmEvent("a", 0, CLOSED, "m@1"))
    assert alarms.of("a") is None
