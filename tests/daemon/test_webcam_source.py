from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avff.daemon.config import CameraSettings, QueueSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import SourceSettings, device, open_source, webcam
from avff.daemon.sources.webcam import WebcamSource, cameras_found
from avff.daemon.worker import abandoned_threads
from avff.engine.media import MediaItem, VideoFrame

pytestmark = pytest.mark.asyncio


class ScriptedCapture:
    """A camera below OpenCV's calls: pictures at a rate, then none."""

    def __init__(self, *, pictures: int = 10**9, interval_s: float = 0.005, width: int = 8) -> None:
        self.given = 0
        self.released = threading.Event()
        self._pictures = pictures
        self._interval_s = interval_s
        self._width = width
        self.stamps_ms: Callable[[float], float] = lambda now_ms: 0.0

    def grab(self) -> bool:
        time.sleep(self._interval_s)
        self.given += self.given < self._pictures
        return self.given < self._pictures

    def retrieve(self) -> tuple[bool, Any]:
        bgr = np.zeros((4, self._width, 3), np.uint8)
        bgr[:, :, 0] = 200
        return True, bgr

    def stamp_ms(self) -> float:
        return self.stamps_ms(time.monotonic() * 1000)

    def release(self) -> None:
        self.released.set()


async def _take(source: WebcamSource, taken: list[MediaItem]) -> None:
    async for batch in source:
        taken.extend(batch)


def _source(capture: ScriptedCapture, **queues: int) -> WebcamSource:
    def open_capture(device: str | int, camera: CameraSettings) -> ScriptedCapture:
        return capture

    settings = SourceSettings(queues=QueueSettings(**queues))
    return WebcamSource("/dev/video9", "cam", settings, open_capture)


async def test_missing_camera_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any camera, the message says so and nothing is opened."""
    monkeypatch.setattr(webcam, "SYSFS", tmp_path)
    with pytest.raises(SourceError, match="there is no camera /dev/video77; no camera found") as raised:
        async with open_source("webcam:77"):
            pass
    assert raised.value.exit_code == ExitCode.UNAVAILABLE


async def test_cameras_are_listed_in_order(tmp_path: Path) -> None:
    """Names come from the kernel; 10 follows 2."""
    for number, name in ((10, "Late"), (0, "Integrated Camera"), (2, None)):
        (tmp_path / f"video{number}").mkdir()
        if name:
            (tmp_path / f"video{number}" / "name").write_text(name + "\n")
    assert cameras_found(tmp_path) == [
        "/dev/video0 (Integrated Camera)",
        "/dev/video2 (unnamed)",
        "/dev/video10 (Late)",
    ]


async def test_a_file_that_is_no_camera_is_refused(tmp_path: Path) -> None:
    """The real OpenCV call says no, and that becomes one line."""
    node = tmp_path / "video0"
    node.write_bytes(b"")
    source = WebcamSource(str(node), "cam", SourceSettings())
    with pytest.raises(
        SourceError, match="cannot be opened; it is busy in another program, or no camera"
    ) as raised:
        async with source:
            pass
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
    assert abandoned_threads() == []


async def test_pictures_are_rgb_on_media_time() -> None:
    """Blue comes third, time starts near zero and increases, capture time is monotonic."""
    capture = ScriptedCapture()
    frames: list[VideoFrame] = []
    async with _source(capture) as source:
        async for batch in source:
            frames += [item for item in batch if isinstance(item, VideoFrame)]
            if len(frames) >= 5:
                break
    assert frames[0].rgb[0, 0].tolist() == [0, 0, 200]
    assert 0 <= frames[0].pts_ns < 500_000_000
    assert all(a.pts_ns < b.pts_ns for a, b in itertools.pairwise(frames))
    assert capture.released.is_set()
    assert abandoned_threads() == []


@pytest.mark.parametrize(
    ("age_ms", "lag_ms"), [(60.0, 60.0), (5000.0, 0.0), (-60.0, 0.0)], ids=["driver", "other clock", "future"]
)
async def test_picture_is_as_old_as_the_driver_says(age_ms: float, lag_ms: float) -> None:
    """A driver knows when a picture was taken, unless its clock is another one."""
    capture = ScriptedCapture(interval_s=0.02)
    capture.stamps_ms = lambda now_ms: now_ms - age_ms
    async with _source(capture) as source:
        zero_ns = time.monotonic_ns()
        async for batch in source:
            lag_ns = batch[-1].captured_ns - zero_ns - batch[-1].pts_ns
            assert lag_ns / 1e6 == pytest.approx(lag_ms, abs=10)
            break


async def test_newest_picture_wins() -> None:
    """A taker that was away gets the newest pictures, and the lost ones are counted."""
    capture = ScriptedCapture()
    async with _source(capture, live_frames=2) as source:
        batches = aiter(source)
        assert source.dropped == 0
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is busy elsewhere, on purpose
        await anext(batches)
        batch = await anext(batches)
        assert len(batch) <= 2
        assert time.monotonic_ns() - batch[-1].captured_ns < 150_000_000
        assert source.dropped > 10


async def test_wide_pictures_are_reduced() -> None:
    """A 4K camera does not cost 4K memory."""
    async with _source(ScriptedCapture(width=2560)) as source:
        async for batch in source:
            assert isinstance(batch[0], VideoFrame)
            assert batch[0].rgb.shape == (2, 1280, 3)
            break


async def test_camera_without_a_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that another program holds opens, but gives nothing."""
    monkeypatch.setattr(device, "FIRST_S", 0.1)
    capture = ScriptedCapture(pictures=0)
    with pytest.raises(SourceError, match="gives no picture; is another program using it") as raised:
        async with _source(capture):
            pass
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
    assert capture.released.is_set()


async def test_unplugged_camera_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When pictures stop coming the watchdog ends the source, after what had arrived."""
    monkeypatch.setattr(webcam, "PICTURE_TIMEOUT_S", 0.2)
    taken: list[MediaItem] = []
    async with _source(ScriptedCapture(pictures=20)) as source:
        with pytest.raises(SourceError, match=r"no picture for 0\.2 s; was it unplugged"):
            await _take(source, taken)
    assert taken


async def test_a_busy_loop_is_no_unplugged_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that came while nothing could run count, though their time is over."""
    monkeypatch.setattr(webcam, "PICTURE_TIMEOUT_S", 0.2)
    async with _source(ScriptedCapture()) as source:
        batches = aiter(source)
        await anext(batches)
        for _ in range(5):
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - the loop is busy elsewhere, on purpose
            assert await waiting


async def test_camera_that_opens_too_late_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in time, and does not stay open for nobody."""
    monkeypatch.setattr(device, "OPEN_TIMEOUT_S", 0.1)
    capture, gate = ScriptedCapture(), threading.Event()

    def open_late(which: str | int, camera: CameraSettings) -> ScriptedCapture:
        gate.wait(10)
        return capture

    with pytest.raises(SourceError, match=r"not open after 0\.1 s"):
        async with WebcamSource("/dev/scripted", "cam", SourceSettings(), open_late):
            pass
    assert not capture.released.is_set()
    gate.set()
    assert capture.released.wait(5)


async def test_stop_ends_the_iteration() -> None:
    """Stopping releases a taker that waits."""
    async with _source(ScriptedCapture()) as source:
        async for _ in source:
            source.stop()


async def test_driver_that_never_returns_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    """Release takes a second at most, whatever the driver does."""
    gate = threading.Event()

    class Stuck(ScriptedCapture):
        def grab(self) -> bool:
            if self.given >= 3:
                gate.wait(10)
            return super().grab()

    began = time.monotonic()
    async with _source(Stuck()) as source:
        async for _ in source:
            break
    assert time.monotonic() - began < 3
    gate.set()
