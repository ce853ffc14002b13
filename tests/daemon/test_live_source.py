from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from avff.daemon.config import NetworkSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import SourceSettings
from avff.daemon.sources.buffer import LiveBuffer
from avff.daemon.sources.live import MOST_STUCK, LiveSource
from avff.daemon.worker import abandoned_threads
from avff.engine.live import LiveInput
from avff.engine.media import AudioBlock, MediaItem, VideoFrame
from tests.support import hostile

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

SETTINGS = SourceSettings(network=NetworkSettings(open_timeout_s=0.2))


def _picture(number: int) -> VideoFrame:
    return VideoFrame(number, np.zeros((2, 2, 3), np.uint8), 0)


def _sound(number: int) -> AudioBlock:
    return AudioBlock(number, np.zeros(2, np.float32), 8000, 0)


async def _taken(box: LiveBuffer) -> list[MediaItem]:
    return await box.get_many(box.capacity)


async def test_each_kind_pushes_out_its_own_oldest() -> None:
    """A few pictures that nobody took cost no sound, and what stays keeps its order."""
    box = LiveBuffer(pictures=2, sounds=3)
    items: list[MediaItem] = [_sound(0), _picture(1), _picture(2), _sound(3), _picture(4), _sound(5)]
    for item in [*items, _sound(6), _picture(7)]:
        box.put_nowait(item)
    assert [item.pts_ns for item in await _taken(box)] == [3, 4, 5, 6, 7]
    assert box.dropped == 3


class Stuck:
    """An address whose finding blocks, as a name service may, until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __call__(self) -> LiveInput:
        self.let_go.wait(30)
        return LiveInput("rtsp://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x", {})


async def test_thread_that_does_not_come_back_is_left_behind() -> None:
    """Opening ends with its time limit, and after some that hang no more are begun."""
    stuck = Stuck()
    for attempt in range(MOST_STUCK + 1):
        began_s = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within|earlier attempts still hang") as raised:
            await LiveSource(stuck, "cam", "cam", SETTINGS).__aenter__()
        assert raised.value.reason == "timed_out"
        assert len(abandoned_threads()) == min(attempt + 1, MOST_STUCK)
        assert time.monotonic() - began_s < 5
    stuck.let_go.set()
    while abandoned_threads():  # noqa: ASYNC110 - a thread has no event to wait for
        await asyncio.sleep(0.01)


async def test_stopping_an_opening_does_not_wait_for_it() -> None:
    """Cancelled, it takes half a second for the thread and no longer."""
    with hostile.serving(hostile.black_hole) as port:
        url = f"rtsp://127.0.0.1:{port}/x"
        slow = SourceSettings(network=NetworkSettings(open_timeout_s=4))
        source = LiveSource(lambda: LiveInput(url, url, {"rtsp_transport": "tcp"}), url, "cam", slow)
        opening = asyncio.create_task(source.__aenter__())
        await asyncio.sleep(0.2)
        began_s = time.monotonic()
        opening.cancel()
        await asyncio.wait({opening})
        assert time.monotonic() - began_s < 2
        assert opening.cancelled()
    while abandoned_threads():  # noqa: ASYNC110 - FFmpeg's own limit ends it
        await asyncio.sleep(0.01)


async def test_url_is_not_in_what_is_printed_of_an_input() -> None:
    """A traceback or a debugger's view holds no password either."""
    what = LiveInput("rtsp://me:secret@cam/x", "rtsp://cam/x", {"key": "secret"})
    assert "secret" not in repr(what)


async def test_error_of_ffmpeg_is_no_cause() -> None:
    """It holds the URL, which AVFF_DEBUG would print with the traceback."""
    url = "rtsp://me:secret@127.0.0.1:9/x"
    with pytest.raises(SourceError) as raised:
        await LiveSource(lambda: LiveInput(url, "cam", {}), "cam", "cam", SETTINGS).__aenter__()
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
    error: BaseException | None = raised.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__
