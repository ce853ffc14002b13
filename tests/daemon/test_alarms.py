"""Alarms in the daemon: settings, events in their place, the summary's list, the lines for people."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
from pathlib import Path

import pytest

from avff.daemon.alarms import MAX_ALARMS, AlarmWatch
from avff.daemon.app import Daemon
from avff.daemon.config import AlarmSettings, DaemonConfig, RollingSettings
from avff.daemon.events import AlarmEvent, Event, ScoreEvent, SummaryEvent
from avff.daemon.runner import EngineRunner
from avff.daemon.sinks.text import TextSink
from avff.daemon.sources.scripted import ScriptedSource
from avff.daemon.stream import StreamSettings
from avff.engine.alarm import AlarmRule, Cause, promised_threshold
from avff.engine.rolling import RollingScore
from avff.engine.settings import load_settings
from tests.support.scripted import (
    RecordingSink,
    ScriptedFrontend,
    ScriptedPredictor,
    loaded,
    make_prediction,
    pictures,
)

CONFIG = Path(__file__).parents[2] / "configs" / "daemon.yaml"
RULE = AlarmRule(threshold=2.0, minimum_s=0.0, close_after_s=1.0)


async def events_of(predictor: ScriptedPredictor, rule: AlarmRule | None, *, slices: int) -> list[Event]:
    """What a daemon says of a stream of so many slices."""
    sink = RecordingSink()
    engine = EngineRunner(lambda: loaded(predictor), batch=8)
    daemon = Daemon(
        [ScriptedSource(pictures(8 * slices))],
        lambda source: ScriptedFrontend(),
        engine,
        [sink],
        settings=StreamSettings(alarm=rule),
    )
    await daemon.run()
    return sink.events


async def test_alarm_follows_the_score_that_made_it() -> None:
    """Opened and closed each right after their window's score, which is what it is without alarms."""

    def logit(index: int) -> float:
        return 4.0 if index < 20 else -8.0

    events = await events_of(ScriptedPredictor(logit), RULE, slices=60)
    places = [k for k, event in enumerate(events) if isinstance(event, AlarmEvent)]
    opened, closed = (events[k] for k in places)
    assert isinstance(opened, AlarmEvent)
    assert isinstance(closed, AlarmEvent)
    # The first window that is full has 3 nats at once.
    assert (opened.end_ns, opened.alarm.opened_ns) == (8 * 320_000_000, 8 * 320_000_000)
    assert (closed.alarm.closed_ns, closed.alarm.cause) == (closed.end_ns, Cause.BELOW)
    for k in places:
        before, alarm = events[k - 1], events[k]
        assert isinstance(before, ScoreEvent)
        assert isinstance(alarm, AlarmEvent)
        assert before.end_ns == alarm.end_ns
    without = await events_of(ScriptedPredictor(logit), None, slices=60)
    kept = [dataclasses.replace(e, latency_ms=0.0) for e in events if isinstance(e, ScoreEvent)]
    assert kept == [dataclasses.replace(e, latency_ms=0.0) for e in without if isinstance(e, ScoreEvent)]
    assert not any(isinstance(e, AlarmEvent) for e in without)
    assert isinstance(without[-1], SummaryEvent)
    assert without[-1].alarms is None


async def test_open_alarm_closes_before_the_summary_which_lists_it() -> None:
    """The end of the stream is a cause of its own."""
    events = await events_of(ScriptedPredictor(lambda index: 4.0), RULE, slices=20)
    *_, closed, summary = events
    assert isinstance(closed, AlarmEvent)
    assert isinstance(summary, SummaryEvent)
    assert (closed.alarm.cause, closed.end_ns) == (Cause.ENDED, summary.summary.end_ns)
    assert summary.alarms is not None
    assert (summary.alarms.count, summary.alarms.listed) == (1, (closed.alarm,))


async def test_engine_that_fails_closes_no_alarm() -> None:
    """A broken engine says nothing, of an alarm neither."""
    events = await events_of(ScriptedPredictor(lambda index: 4.0, fail_at=40), RULE, slices=60)
    assert [e.alarm.closed_ns for e in events if isinstance(e, AlarmEvent)] == [None]
    assert not any(isinstance(e, SummaryEvent) for e in events)


def test_list_is_bounded_and_keeps_the_highest() -> None:
    """A daemon that runs for weeks counts all alarms and keeps the worst, in order of time."""
    rule = AlarmRule(threshold=0.5, minimum_s=0.0, reset_after_s=1.0)
    watch, total = AlarmWatch(rule), MAX_ALARMS + 30
    for k in range(total):
        watch.push(make_prediction(10 * k, 1.0 + (k * 37 % total) / 100), 0.7)
    watch.finish()
    made = watch.summary()
    assert made is not None
    assert (made.count, len(made.listed)) == (total, MAX_ALARMS)
    assert [a.number for a in made.listed] == sorted(a.number for a in made.listed)
    assert {(a.number - 1) * 37 % total for a in made.listed} == set(range(30, total))


def test_defaults_are_what_is_evaluated() -> None:
    """The daemon's settings, their file and the engine's defaults say the same."""
    assert load_settings(CONFIG, DaemonConfig) == DaemonConfig()
    assert DaemonConfig().alarm.rule(DaemonConfig().rolling) == AlarmRule()
    engine = inspect.signature(RollingScore).parameters
    assert RollingSettings().model_dump() == {name: engine[name].default for name in engine}


def test_settings_become_the_rule() -> None:
    """Each in its place; gaps are bridged as the rolling score bridges them."""
    settings = AlarmSettings(
        false_alarms_per_hour=1, minimum_s=7, close_below=0.3, close_after_s=4, measured_threshold=6.9
    )
    promised = promised_threshold(1.0)
    assert settings.rule(RollingSettings(reset_after_s=30)) == AlarmRule(promised, 7, 0.3, 4, 30)
    assert AlarmSettings(enabled=False).rule(RollingSettings()) is None


@pytest.mark.parametrize("measured", [1.0, 12.0])
def test_measured_threshold_only_adds_caution(measured: float) -> None:
    """It counts where it asks for more than the promise does."""
    rule = AlarmSettings(measured_threshold=measured).rule(RollingSettings())
    assert rule is not None
    assert rule.threshold == max(measured, AlarmRule().threshold)


@pytest.mark.parametrize(
    "wrong",
    [
        {"false_alarms_per_hour": 0},
        {"false_alarms_per_hour": 61},
        {"false_alarms_per_hour": "2"},
        {"close_below": 0},
        {"measured_threshold": -1.0},
        {"minimum": 5},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    """Out of bounds, of another type, or misspelt."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AlarmSettings.model_validate(wrong)


async def test_text_has_the_alarm_from_its_opening_to_its_end(tmp_path: Path) -> None:
    """A line when it opens and when it closes, and its name behind every score between."""

    def logit(index: int) -> float:
        return 4.0 if index < 20 else -8.0

    path = tmp_path / "out.txt"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = TextSink(fd)
    for event in await events_of(ScriptedPredictor(logit), RULE, slices=40):
        await sink.write(event)
    await sink.close()
    os.close(fd)
    lines = path.read_text().splitlines()
    marked = [k for k, line in enumerate(lines) if "ALARM since 2.6 s" in line]
    over = next(k for k, line in enumerate(lines) if "alarm closed" in line)
    assert marked[0] == 8
    assert "highest 0.98" in lines[8]
    assert marked == list(range(8, over))


async def test_alarm_closes_when_nothing_comes_any_more() -> None:
    """Windows close alarms; a camera that went away gives none, and its alarm must not seem to go on."""
    sink = RecordingSink()
    engine = EngineRunner(lambda: loaded(ScriptedPredictor(lambda index: 4.0)), batch=8)
    settings = StreamSettings(rolling=RollingSettings(reset_after_s=0.5), alarm=RULE)
    source = ScriptedSource(pictures(160), live=True, pause_s=0.001, endless=True)
    daemon = Daemon([source], lambda source: ScriptedFrontend(), engine, [sink], settings=settings)
    running = asyncio.create_task(daemon.run())
    async with asyncio.timeout(10):
        while not (alarms := [event.alarm for event in sink.events if isinstance(event, AlarmEvent)][1:]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert alarms[0].cause is Cause.NO_EVIDENCE
    daemon.stop()
    await running
    assert len([event for event in sink.events if isinstance(event, AlarmEvent)]) == 2
