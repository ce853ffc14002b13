"""RTSP from a real server, GStreamer's, that is paused, killed, restarted, and jumps in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from avff.daemon.config import NetworkSettings
from avff.daemon.sources import Source, SourceSettings, open_source
from avff.daemon.worker import abandoned_threads
from tests.support.rtsp import PICTURES, SOUND, RtspServer, missing
from tests.support.streams import Running

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(120),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer() as running:
        yield running


def _source(url: str, **network: float) -> Source:
    return open_source(url, "cam", SourceSettings(network=NetworkSettings(**network)))  # type: ignore[arg-type]


async def test_plays_pictures_and_sound_on_one_clock(server: RtspServer) -> None:
    """Both tracks are there, media time starts at 0 and keeps step with the wall."""
    source = _source(server.url())
    async with Running(source) as running:
        await running.until_state("live")
        began_s, first_ns = time.monotonic(), running.sink.scores[-1].end_ns
        await running.until(
            lambda: running.sink.scores[-1].end_ns >= first_ns + 4_000_000_000, "4 s of media"
        )
        assert 3.0 < time.monotonic() - began_s < 6.0
    assert running.states[:2] == [("starting", None), ("live", None)]
    assert running.states[-1] == ("ended", "stopped")
    assert (source.has_video, source.has_audio) == (True, True)
    assert running.code == 0
    assert running.sink.scores[0].start_ns == 0
    assert running.sink.summaries[0].ended == "stopped"
    assert running.sink.events[-1] is running.sink.summaries[0]
    assert abandoned_threads() == []


async def test_sender_tells_its_clock(server: RtspServer) -> None:
    """Once its reports have come, a change of state says when the newest picture was sent."""
    async with Running(_source(server.url())) as running:
        await running.until_state("live")
        await asyncio.sleep(6)  # reports come every 5 s
    sent_ns = running.sink.states[-1].sent_ns
    assert sent_ns is not None
    assert abs(sent_ns - time.time_ns()) < 10e9


async def test_silent_server_is_stale_then_abstains_and_comes_back(server: RtspServer) -> None:
    """A pause below the timeout: 1 s and 3 s are told, and no new connection is made."""
    async with Running(_source(server.url(), read_timeout_s=30)) as running:
        await running.until_state("live")
        server.tell("pause")
        stale = await running.until_state("stale", "no_media")
        silent = await running.until_state("abstain", "no_media")
        scores = len(running.sink.scores)
        await asyncio.sleep(1)
        assert len(running.sink.scores) == scores  # nothing is repeated as current
        server.tell("resume")
        await running.until_state("live", after=len(running.states))
    assert 1.0 <= (stale.change.age_ns or 0) / 1e9 < 2.5
    assert 3.0 <= (silent.change.age_ns or 0) / 1e9 < 4.5
    assert "reconnecting" not in [state for state, _ in running.states]


async def test_server_that_stays_silent_is_connected_anew(server: RtspServer) -> None:
    """After the read timeout the connection is given up; it resumes as a stretch of its own."""
    async with Running(_source(server.url(), read_timeout_s=4)) as running:
        await running.until_state("live")
        server.tell("pause")
        lost = await running.until_state("reconnecting")
        server.tell("resume")
        await running.until_state("live", after=len(running.states))
    assert lost.change.status.reason in {"no_media", "closed"}
    assert lost.change.status.attempt == 1
    assert [state for state, _ in running.states[:5]] == [
        "starting",
        "live",
        "stale",
        "abstain",
        "reconnecting",
    ]
    _assert_one_timeline(running)


async def test_killed_server_is_found_again_when_it_is_back(server: RtspServer) -> None:
    """Reconnecting until it answers, then live on the same timeline, with the gap in it."""
    async with Running(_source(server.url())) as running:
        await running.until_state("live")
        server.kill()
        await running.until_state("reconnecting", "refused")
        gone_ns = running.sink.scores[-1].end_ns
        await asyncio.sleep(2)
        with RtspServer(port=server.port):
            await running.until_state("live", after=len(running.states))
            back_ns = running.sink.scores[-1].end_ns
    attempts = [
        e.change.status.attempt for e in running.sink.states if e.change.status.state == "reconnecting"
    ]
    assert attempts == list(range(1, len(attempts) + 1))
    assert back_ns - gone_ns > 2_000_000_000
    _assert_one_timeline(running)
    assert running.sink.summaries[0].ended == "stopped"


def _assert_one_timeline(running: Running) -> None:
    """Media time goes on, and windows begin anew: the first of a stretch follow a jump in their number."""
    ends = [event.end_ns for event in running.sink.scores]
    assert ends == sorted(set(ends))
    steps = {later - earlier for earlier, later in pairwise(ends)}
    assert max(steps) > 320_000_000
    assert all(step % 320_000_000 == 0 for step in steps)


@pytest.mark.parametrize("seconds", [100, -50], ids=["ahead", "back"])
async def test_leap_of_time_stamps_begins_a_new_stretch(server: RtspServer, seconds: int) -> None:
    """The stream goes on where the clock on the wall is, without an outage and without an end."""
    async with Running(_source(server.url())) as running:
        await running.until_state("live")
        server.tell(f"jump {seconds}")
        end_ns = running.sink.scores[-1].end_ns
        await running.until(lambda: running.sink.scores[-1].end_ns > end_ns + 4_000_000_000, "4 s more")
        assert running.sink.scores[-1].end_ns < end_ns + 20_000_000_000
    assert running.states[-1] == ("ended", "stopped")
    assert "reconnecting" not in [state for state, _ in running.states]
    assert running.code == 0


@pytest.mark.parametrize(
    ("pipeline", "tracks"), [(PICTURES, (True, False)), (SOUND.replace("pay1", "pay0"), (False, True))]
)
async def test_one_track_is_enough(pipeline: str, tracks: tuple[bool, bool]) -> None:
    """A camera without a microphone, and the other way round."""
    with RtspServer(pipeline) as server:
        source = _source(server.url())
        async with Running(source) as running:
            await running.until_state("live")
    assert (source.has_video, source.has_audio) == tracks


async def test_few_pictures_a_second_are_degraded() -> None:
    """Scored by what there is, and said so."""
    with RtspServer(PICTURES.replace("25/1", "5/1")) as server:
        async with Running(_source(server.url())) as running:
            await running.until_state("degraded", "low_fps")


async def test_wrong_path_is_named(server: RtspServer) -> None:
    """404: tried again, since a camera may bring its stream up later."""
    async with Running(_source(server.url("nope"))) as running:
        event = await running.until_state("reconnecting", "not_found")
        await running.until(lambda: len(running.sink.states) >= 3, "a second attempt")
    assert "the server has no such stream (404)" in (event.change.status.message or "")
    assert running.states[-1] == ("ended", "stopped")
    assert running.code == 0


async def test_wrong_password_is_named_and_tried_slowly_and_shown_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """401: the longest delay at once, so that a camera does not lock the account."""
    with RtspServer(login=("me", "s3cret")) as server:
        source = open_source(server.url(login="me:wr0ng@"))
        async with Running(source) as running:
            event = await running.until_state("reconnecting", "unauthorized")
        assert (event.change.status.retry_s or 0) > 20
        assert "wr0ng" not in f"{[e.to_json() for e in running.sink.events]}{caplog.text}{source.name}"
        async with Running(open_source(server.url(login="me:s3cret@"))) as running:
            await running.until_state("live")


async def test_one_lost_stream_leaves_the_other_alone(server: RtspServer) -> None:
    """Windows of the stream that is there come as if nothing had happened."""
    with RtspServer() as other:
        kept = open_source(other.url(), "kept")
        async with Running(_source(server.url()), kept) as running:
            await running.until(lambda: _live(running) == {"cam", "kept"}, "both")
            server.kill()
            await running.until_state("reconnecting")
            before = len([e for e in running.sink.scores if e.stream == "kept"])
            await asyncio.sleep(3)
            after = len([e for e in running.sink.scores if e.stream == "kept"])
    assert after - before >= 6
    assert [e.change.status.state for e in running.sink.states if e.stream == "kept"][-1] == "ended"


def _live(running: Running) -> set[str]:
    return {event.stream for event in running.sink.states if event.change.status.state == "live"}
