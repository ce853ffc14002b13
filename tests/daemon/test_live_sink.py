from __future__ import annotations

import os

from avff.daemon.events import Event, StateEvent, score_event
from avff.daemon.sinks.live import LiveSink
from avff.daemon.sinks.text import TextSink
from avff.daemon.status import Change, State, Status
from tests.support.scripted import make_prediction

REFUSED = Status(State.RECONNECTING, "refused", "connection refused", 1, 0.5)
TIMED_OUT = Status(State.RECONNECTING, "timed_out", "no answer", 3, 2.0)


def _state(status: Status, before: State = State.LIVE, stream: str = "cam") -> StateEvent:
    return StateEvent(stream, 0, Change(status, before, None))


def _score() -> Event:
    return score_event(
        make_prediction(9, 0.0), 0.5, stream="cam", model="m@1", backend="onnx", dropped=0, now_ns=0
    )


async def _written(events: list[Event], *, follow: bool | None) -> str:
    """What a sink writes: the live view, or with None the lines of text."""
    reading, writing = os.pipe()
    sink = TextSink(writing) if follow is None else LiveSink(writing, follow=follow)
    for event in events:
        await sink.write(event)
    await sink.close()
    os.close(writing)
    with os.fdopen(reading, newline="") as file:
        return file.read()


async def test_outage_is_told_once_per_reason_and_its_end() -> None:
    """Not each attempt is news to people; each stream is told of on its own."""
    attempts = [
        REFUSED,
        REFUSED,
        Status(State.RECONNECTING, "refused", "connection refused", 2, 1.0),
        TIMED_OUT,
    ]
    events: list[Event] = [_state(status) for status in attempts]
    events += [_state(REFUSED, stream="desk"), _state(Status(State.STARTING)), _state(Status(State.LIVE))]
    assert (await _written(events, follow=False)).splitlines() == [
        "avffd: cam: connection refused; trying again for as long as it takes",
        "avffd: cam: no answer; trying again for as long as it takes",
        "avffd: desk: connection refused; trying again for as long as it takes",
        "avffd: cam: connected",
    ]


async def test_stream_that_was_never_away_is_no_news() -> None:
    """Starting, going stale and coming back leave a log of stderr alone."""
    states = [State.STARTING, State.LIVE, State.STALE, State.ABSTAIN, State.LIVE, State.ENDED]
    assert await _written([_state(Status(state)) for state in states], follow=False) == ""


async def test_live_line_shows_the_state_instead_of_an_old_score() -> None:
    """The last thing on the line is what is true now."""
    text = await _written([_score(), _state(Status(State.STALE, "no_media"))], follow=True)
    last = text.split("\r\x1b[K")[-1]
    assert "stale: no_media" in last
    assert "fake" not in last


async def test_text_has_a_line_for_every_change() -> None:
    """The reader of the lines sees attempts as well."""
    text = await _written([_state(Status(State.STARTING)), _state(REFUSED), _state(TIMED_OUT)], follow=None)
    assert [line.split(" s  ")[1] for line in text.splitlines()] == [
        "starting",
        "reconnecting: refused, attempt 1 in 0.5 s",
        "reconnecting: timed_out, attempt 3 in 2.0 s",
    ]
