from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio

from avff.daemon.app import Daemon
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.runner import EngineRunner, LoadedEngine
from avff.daemon.sources.base import Source
from avff.daemon.sources.scripted import ScriptedSource
from avff.daemon.stream import StreamSettings
from avff.daemon.worker import abandoned_threads
from avff.engine.errors import AssetError, BackendError, ContractError, MediaError
from avff.engine.media import MediaItem
from avff.engine.slices import Slice
from tests.support.scripted import (
    RecordingSink,
    ScriptedFrontend,
    ScriptedPredictor,
    loaded,
    pictures,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(20)]


@pytest_asyncio.fixture(autouse=True)
async def _strict_loop() -> None:
    """Asyncio's own checks, on everything that runs here."""
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 1.0


def _daemon(
    sources: list[ScriptedSource],
    predictor: ScriptedPredictor,
    sinks: list[RecordingSink],
    *,
    make_frontend: Callable[[Source], ScriptedFrontend] = lambda source: ScriptedFrontend(),
    load: Callable[[], LoadedEngine] | None = None,
    **settings: Any,
) -> Daemon:
    engine = EngineRunner(load or (lambda: loaded(predictor)), batch=8)
    return Daemon(sources, make_frontend, engine, sinks, settings=StreamSettings(**settings))


def _said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the daemon logged; on a slow machine asyncio's debug mode complains of the test's own steps."""
    return [record for record in caplog.records if record.name.startswith("avff")]


def _assert_clean() -> None:
    assert abandoned_threads() == []
    assert len(asyncio.all_tasks()) == 1


async def test_one_event_per_hop_in_order_then_the_summary() -> None:
    """A file of 100 pictures gives 13 hops, the last one partial, and one summary."""
    source, sink = ScriptedSource(pictures(100)), RecordingSink()
    predictor = ScriptedPredictor(lambda index: float(index))
    assert await _daemon([source], predictor, [sink]).run() == ExitCode.OK
    assert [round(e.end_ns / 320_000_000) - 1 for e in sink.scores] == list(range(13))
    assert [e.reason for e in sink.scores] == ["too_short"] * 7 + [None] * 6
    assert [e.rolling is None for e in sink.scores] == [True] * 7 + [False] * 6
    assert len(sink.summaries) == 1
    assert sink.events[-1] is sink.summaries[0]
    assert (sink.summaries[0].ended, sink.summaries[0].dropped) == ("end", 0)
    assert sink.summaries[0].summary.scored == 6
    assert source.closed
    assert sink.closed
    _assert_clean()


async def test_too_short_clip_abstains() -> None:
    """Less than a window gives null lines with the reason, no verdict, and is no error."""
    sink = RecordingSink()
    assert await _daemon([ScriptedSource(pictures(1))], ScriptedPredictor(), [sink]).run() == ExitCode.OK
    assert [e.reason for e in sink.scores] == ["too_short"]
    assert sink.summaries[0].summary.verdict == "abstain"


async def test_slow_engine_holds_a_file_back() -> None:
    """With a file every hop is scored, however slow the engine is."""
    sink = RecordingSink()
    predictor = ScriptedPredictor(delay_s=0.005)
    await _daemon([ScriptedSource(pictures(400))], predictor, [sink]).run()
    assert len(sink.scores) == 50
    assert sink.summaries[0].dropped == 0
    assert predictor.threads == {"avff:engine"}
    assert max(len(batch) for batch in predictor.batches) <= 8


async def test_slow_engine_on_a_live_source_drops_the_oldest_and_counts() -> None:
    """Time does not wait: the newest slices are scored, the losses are in the events."""
    source = ScriptedSource(pictures(400), live=True, pause_s=0.001)
    sink, predictor = RecordingSink(), ScriptedPredictor(delay_s=0.05)
    assert await _daemon([source], predictor, [sink]).run() == ExitCode.OK
    indices = [index for batch in predictor.batches for index in batch]
    assert indices == sorted(indices)
    assert len(indices) < 50
    last = source_slices = (400 - source.dropped + 7) // 8
    assert indices[-1] == last - 1
    assert sink.summaries[0].dropped == source.dropped + source_slices - len(indices)
    assert sink.scores[-1].dropped > 0
    _assert_clean()


async def test_engine_error_ends_with_70_and_no_score(caplog: pytest.LogCaptureFixture) -> None:
    """A broken engine is never a score, and is told in one line."""
    source, sink = ScriptedSource(pictures(400)), RecordingSink()
    daemon = _daemon([source], ScriptedPredictor(fail_at=0), [sink])
    assert await daemon.run() == ExitCode.ENGINE
    assert sink.events == []
    assert [record.getMessage() for record in _said(caplog)] == [
        "the engine failed: RuntimeError: the runtime gave up"
    ]
    assert source.closed
    assert sink.closed
    _assert_clean()


async def test_engine_error_ends_all_streams_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """Events from before the failure are written; none of the streams gets a summary."""
    sources = [ScriptedSource(pictures(400), name=name) for name in "abc"]
    sink = RecordingSink()
    assert await _daemon(sources, ScriptedPredictor(fail_at=20), [sink]).run() == ExitCode.ENGINE
    assert sink.scores
    assert sink.summaries == []
    assert len(_said(caplog)) == 1
    _assert_clean()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContractError("model was trained at 30 fps"), ExitCode.CONFIG),
        (BackendError("graph is no graph"), ExitCode.CONFIG),
    ],
)
async def test_model_that_does_not_load(
    error: Exception, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is the engine's own; nothing is scored."""

    def load() -> LoadedEngine:
        raise error

    sink = RecordingSink()
    daemon = _daemon([ScriptedSource(pictures(9))], ScriptedPredictor(), [sink], load=load)
    assert await daemon.run() == code
    assert sink.events == []
    assert [record.getMessage() for record in _said(caplog)] == [str(error)]
    _assert_clean()


async def test_missing_face_models_end_with_69(caplog: pytest.LogCaptureFixture) -> None:
    """An asset that cannot be fetched is unavailable, and the stream is closed."""

    def make_frontend(source: Source) -> ScriptedFrontend:
        raise AssetError("face model x.tflite is missing; put it into /cache")

    source, sink = ScriptedSource(pictures(9)), RecordingSink()
    daemon = _daemon([source], ScriptedPredictor(), [sink], make_frontend=make_frontend)
    assert await daemon.run() == ExitCode.UNAVAILABLE
    assert source.closed
    assert "x.tflite" in caplog.text


async def test_source_that_breaks_is_scored_to_that_point(caplog: pytest.LogCaptureFixture) -> None:
    """First every event and the summary, then the exit code of the source."""
    error = SourceError("camera gone", ExitCode.UNAVAILABLE)
    sink = RecordingSink()
    daemon = _daemon([ScriptedSource(pictures(100), error=error)], ScriptedPredictor(), [sink])
    assert await daemon.run() == ExitCode.UNAVAILABLE
    assert len(sink.scores) == 13
    assert sink.summaries[0].ended == "lost"
    assert "camera gone" in caplog.text


async def test_file_that_breaks_off_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Exit code 0 with a warning: what there was is scored."""
    error = SourceError("clip.mp4: broke off", ExitCode.OK)
    sink = RecordingSink()
    daemon = _daemon([ScriptedSource(pictures(100), error=error)], ScriptedPredictor(), [sink])
    assert await daemon.run() == ExitCode.OK
    assert [record.levelno for record in _said(caplog)] == [logging.WARNING]
    assert sink.summaries[0].ended == "lost"


async def test_item_that_the_front_end_refuses_ends_the_stream_like_a_torn_file() -> None:
    """Time stamps that leap: scored to that point, no traceback."""

    class Refusing(ScriptedFrontend):
        def push(self, item: MediaItem) -> list[Slice]:
            if item.pts_ns > 2_000_000_000:
                raise MediaError("time stamps leap")
            return super().push(item)

    sink = RecordingSink()
    daemon = _daemon(
        [ScriptedSource(pictures(100), capacity=1)],
        ScriptedPredictor(),
        [sink],
        make_frontend=lambda source: Refusing(),
    )
    assert await daemon.run() == ExitCode.OK
    assert len(sink.scores) == 7
    assert sink.summaries[0].ended == "lost"


async def test_one_failing_source_leaves_the_others_alone() -> None:
    """The exit code tells, the other stream is complete."""
    bad = ScriptedSource(pictures(8), name="bad", error=SourceError("gone", ExitCode.UNAVAILABLE))
    good = ScriptedSource(pictures(100), name="good")
    sink = RecordingSink()
    assert await _daemon([bad, good], ScriptedPredictor(), [sink]).run() == ExitCode.UNAVAILABLE
    assert len([e for e in sink.scores if e.stream == "good"]) == 13
    assert {e.stream: e.ended for e in sink.summaries} == {"good": "end", "bad": "lost"}


async def test_streams_share_batches_and_keep_their_own_order() -> None:
    """Several streams at once fill one call, and each one's events are its own."""
    sources = [ScriptedSource(pictures(80), name=f"s{k}") for k in range(4)]
    predictor, sink = ScriptedPredictor(delay_s=0.002), RecordingSink()
    await _daemon(sources, predictor, [sink]).run()
    for source in sources:
        ends = [e.end_ns for e in sink.scores if e.stream == source.name]
        assert ends == sorted(ends)
        assert len(ends) == 10
    assert len(predictor.batches) < 40
    _assert_clean()


async def test_stop_drains_and_summarises() -> None:
    """What had arrived when the sources stopped is scored; the exit code is 0."""
    source, sink = ScriptedSource(pictures(80), endless=True), RecordingSink()
    daemon = _daemon([source], ScriptedPredictor(), [sink])
    running = asyncio.create_task(daemon.run())
    while len(sink.scores) < 5:  # noqa: ASYNC110 - the sink is a plain recorder
        await asyncio.sleep(0.005)
    daemon.stop()
    daemon.stop()
    assert await running == ExitCode.OK
    assert sink.summaries[0].ended == "stopped"
    assert [e.end_ns for e in sink.scores] == sorted(e.end_ns for e in sink.scores)
    _assert_clean()


async def test_stop_while_models_load_ends_without_a_summary() -> None:
    """Nobody waits for a download to be able to quit."""
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load() -> LoadedEngine:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return loaded(ScriptedPredictor())

    source, sink = ScriptedSource(pictures(80)), RecordingSink()
    daemon = _daemon([source], ScriptedPredictor(), [sink], load=load)
    running = asyncio.create_task(daemon.run())
    while not source.opened:  # noqa: ASYNC110 - the source is a plain recorder
        await asyncio.sleep(0.005)
    daemon.stop()
    assert await running == ExitCode.OK
    assert sink.events == []
    assert source.closed
    gate.set()
    while abandoned_threads():  # noqa: ASYNC110 - a thread has no event to wait for
        await asyncio.sleep(0.001)


async def test_stages_that_do_not_empty_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A stuck reader costs the deadline, then the daemon ends with the forced code."""

    class Stuck(RecordingSink):
        async def write(self, event: object) -> None:
            await asyncio.Event().wait()

    engine = EngineRunner(lambda: loaded(ScriptedPredictor()), batch=8)
    source = ScriptedSource(pictures(9999), endless=True)
    daemon = Daemon([source], lambda source: ScriptedFrontend(), engine, [Stuck()], drain_s=0.1)
    running = asyncio.create_task(daemon.run())
    await asyncio.sleep(0.1)
    daemon.stop(143)
    assert await running == 143
    assert "gave up" in caplog.text
    assert source.closed
    _assert_clean()


async def test_cancelling_the_daemon_closes_everything() -> None:
    """Embedding programs may cancel; nothing is left behind."""
    source, sink = ScriptedSource(pictures(80), endless=True), RecordingSink()
    running = asyncio.create_task(_daemon([source], ScriptedPredictor(), [sink]).run())
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert source.closed
    assert sink.closed
    _assert_clean()


async def test_reader_that_hangs_up_stops_the_daemon_cleanly() -> None:
    """With no essential sink left, scoring is of no use: drain and end with 0."""
    gone, view = RecordingSink(fail_after=1), RecordingSink(essential=False, lossless=False)
    source = ScriptedSource(pictures(800), endless=True)
    assert await _daemon([source], ScriptedPredictor(), [gone, view]).run() == ExitCode.OK
    assert len(gone.events) == 1
    assert view.summaries[0].ended == "stopped"


async def test_full_disk_ends_with_74(caplog: pytest.LogCaptureFixture) -> None:
    """Lines that could not be written are an error."""
    sink = RecordingSink(fail_after=1, message="cannot write (No space left on device)")
    assert (
        await _daemon([ScriptedSource(pictures(800))], ScriptedPredictor(), [sink]).run() == ExitCode.OUTPUT
    )
    assert "recorder: cannot write (No space left on device)" in caplog.text


async def test_one_failing_sink_leaves_the_others_alone() -> None:
    """The other sink gets every event."""
    gone, kept = RecordingSink(fail_after=1), RecordingSink()
    assert (
        await _daemon([ScriptedSource(pictures(100))], ScriptedPredictor(), [gone, kept]).run() == ExitCode.OK
    )
    assert len(kept.scores) == 13


async def test_a_bug_in_a_stage_is_not_swallowed() -> None:
    """Errors nobody planned for leave the group; nothing goes on without the stage."""

    class Broken(ScriptedFrontend):
        def push(self, item: MediaItem) -> list[Slice]:
            raise KeyError("a bug")

    source, sink = ScriptedSource(pictures(9)), RecordingSink()
    with pytest.raises(ExceptionGroup) as raised:
        await _daemon([source], ScriptedPredictor(), [sink], make_frontend=lambda source: Broken()).run()
    assert raised.group_contains(KeyError)
    assert source.closed
    _assert_clean()
