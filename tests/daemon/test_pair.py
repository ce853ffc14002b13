from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from avff.daemon.config import MicrophoneSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import SourceSettings, open_source, pair
from avff.daemon.sources.backoff import BackOff
from avff.daemon.sources.pair import CameraAndMicrophone
from avff.daemon.sources.webcam import WebcamSource
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, VideoFrame

pytestmark = pytest.mark.asyncio

GONE = SourceError("the device was unplugged", ExitCode.UNAVAILABLE)


class ScriptedDevice:
    """A live device that plays items one by one, then ends, waits to be stopped, or is lost."""

    live = True
    max_skew_ns: int | None = None
    dropped = 1

    def __init__(
        self,
        items: Sequence[MediaItem],
        *,
        lost: bool = False,
        broken: BaseException | None = None,
        pause_s: float = 0.001,
    ) -> None:
        self.name = "scripted"
        self.has_video = self.has_audio = True
        self.zero_ns: int | None = None
        self.closed = 0
        self._items = list(items)
        self._lost = lost
        self._broken = broken
        self._pause_s = pause_s
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        if self._broken is not None:
            raise self._broken
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed += 1

    def begin(self, zero_ns: int) -> None:
        self.zero_ns = zero_ns

    def __aiter__(self) -> Self:
        raise AssertionError("the pair says when media time begins")

    def stop(self) -> None:
        self._stopped.set()

    async def __anext__(self) -> list[MediaItem]:
        await asyncio.sleep(self._pause_s)
        if self._items:
            return [self._items.pop(0)]
        if self._lost:
            raise GONE
        await self._stopped.wait()
        raise StopAsyncIteration


def _frames(count: int) -> list[MediaItem]:
    return [VideoFrame(k * 40_000_000, np.zeros((4, 4, 3), np.uint8), 0) for k in range(count)]


def _blocks(count: int) -> list[MediaItem]:
    return [AudioBlock(k * 20_000_000, np.zeros(960, np.float32), 48_000, 0) for k in range(count)]


def _in_turn(*devices: ScriptedDevice) -> Callable[[], ScriptedDevice]:
    """Makes one device after the other; the last again and again."""
    left = list(devices)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


async def _all(source: CameraAndMicrophone, until: Callable[[list[MediaItem]], bool]) -> list[MediaItem]:
    taken: list[MediaItem] = []
    async for batch in source:
        taken += batch
        if until(taken):
            source.stop()
    return taken


def _kinds(items: Sequence[MediaItem]) -> tuple[int, int]:
    sound = sum(isinstance(item, AudioBlock) for item in items)
    return len(items) - sound, sound


async def test_both_share_one_zero_and_come_interleaved() -> None:
    """Each in its own order; neither waits for the other's end."""
    camera, mic = ScriptedDevice(_frames(20)), ScriptedDevice(_blocks(40), pause_s=0.0005)
    async with CameraAndMicrophone("cam", lambda: camera, lambda: mic) as source:
        assert (source.has_video, source.has_audio, source.live) == (True, True, True)
        assert source.max_skew_ns == pair.MAX_SKEW_NS
        taken = await _all(source, lambda items: len(items) == 60)
        assert source.dropped == 2
    assert camera.zero_ns == mic.zero_ns is not None
    assert _kinds(taken) == (20, 40)
    for kind in (VideoFrame, AudioBlock):
        times = [item.pts_ns for item in taken if isinstance(item, kind)]
        assert times == sorted(times)
    first_sound = next(k for k, item in enumerate(taken) if isinstance(item, AudioBlock))
    last_sound = max(k for k, item in enumerate(taken) if isinstance(item, AudioBlock))
    first_picture = next(k for k, item in enumerate(taken) if isinstance(item, VideoFrame))
    assert max(first_sound, first_picture) < 40 < last_sound
    assert (camera.closed, mic.closed) == (1, 1)


async def test_missing_microphone_leaves_pictures_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The stream goes on without sound, and says why."""
    camera, mic = ScriptedDevice(_frames(5)), ScriptedDevice([], broken=GONE)
    with caplog.at_level(logging.WARNING):
        async with CameraAndMicrophone("cam", lambda: camera, lambda: mic) as source:
            assert source.has_audio is False
            taken = await _all(source, lambda items: len(items) == 5)
    assert _kinds(taken) == (5, 0)
    assert caplog.messages == ["cam: pictures only: the device was unplugged"]
    assert mic.closed == 0


@pytest.mark.parametrize("broken", [GONE, RuntimeError("no library")], ids=["gone", "bug"])
async def test_missing_camera_is_an_error(broken: Exception) -> None:
    """The microphone that was opened meanwhile is let go."""
    mic = ScriptedDevice(_blocks(5))
    with pytest.raises(type(broken), match=str(broken)):
        async with CameraAndMicrophone("cam", lambda: ScriptedDevice([], broken=broken), lambda: mic):
            pass
    assert mic.closed == 1


async def test_a_bug_in_the_microphone_is_not_taken_for_a_missing_one() -> None:
    """Only what a source says in words is a missing device."""
    camera, mic = ScriptedDevice([]), ScriptedDevice([], broken=RuntimeError("bug"))
    with pytest.raises(RuntimeError, match="bug"):
        async with CameraAndMicrophone("cam", lambda: camera, lambda: mic):
            pass
    assert camera.closed == 1


@pytest.mark.parametrize("lost", ["camera", "microphone"])
async def test_one_goes_on_without_the_other_and_it_comes_back(
    lost: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On the same zero, after some tries; the one that stayed misses nothing."""
    monkeypatch.setattr(pair, "BackOff", partial(BackOff, first_s=0.01))
    items, others = (_frames, _blocks) if lost == "camera" else (_blocks, _frames)
    first, again = ScriptedDevice(items(5), lost=True), ScriptedDevice(items(7)[5:])
    coming_back = _in_turn(first, ScriptedDevice([], broken=GONE), ScriptedDevice([], broken=GONE), again)
    stays = ScriptedDevice(others(100))
    devices = (coming_back, lambda: stays) if lost == "camera" else (lambda: stays, coming_back)
    async with CameraAndMicrophone("cam", *devices) as source:
        taken = await _all(source, lambda items: len(items) == 107)
    assert _kinds(taken) == ((7, 100) if lost == "camera" else (100, 7))
    assert first.zero_ns == again.zero_ns == stays.zero_ns
    assert (first.closed, again.closed) == (1, 1)
    what = "picture" if lost == "camera" else "sound"
    assert caplog.messages == [
        f"cam: {what} lost, the other goes on: the device was unplugged",
        f"cam: {what} is back",
    ]


async def test_both_lost_is_an_error() -> None:
    """Then there is nothing left to go on with."""
    camera, mic = ScriptedDevice(_frames(2), lost=True), ScriptedDevice(_blocks(3), lost=True)
    async with CameraAndMicrophone("cam", lambda: camera, lambda: mic) as source:
        with pytest.raises(SourceError, match="unplugged"):
            await _all(source, lambda items: False)


async def test_lost_camera_alone_is_an_error() -> None:
    """Without a microphone from the start the camera is all there is."""
    camera, mic = ScriptedDevice(_frames(2), lost=True), ScriptedDevice([], broken=GONE)
    async with CameraAndMicrophone("cam", lambda: camera, lambda: mic) as source:
        with pytest.raises(SourceError, match="unplugged"):
            await _all(source, lambda items: False)


async def test_stop_does_not_wait_for_a_lost_device() -> None:
    """It may be opening for the tenth time."""
    camera, mic = ScriptedDevice(_frames(5)), ScriptedDevice([], lost=True)
    async with CameraAndMicrophone(
        "cam", lambda: camera, _in_turn(mic, ScriptedDevice([], broken=GONE))
    ) as source:
        async with asyncio.timeout(5):
            taken = await _all(source, lambda items: _kinds(items)[0] == 5)
    assert _kinds(taken) == (5, 0)


async def test_device_lost_at_the_end_is_not_opened_again() -> None:
    """When the stream was stopped meanwhile nobody wants it back."""
    camera, mic = ScriptedDevice(_frames(5)), ScriptedDevice([], lost=True, pause_s=0.05)
    spare = ScriptedDevice(_blocks(100))
    async with CameraAndMicrophone("cam", lambda: camera, _in_turn(mic, spare)) as source:
        iterator = aiter(source)
        await anext(iterator)
        source.stop()
        async with asyncio.timeout(5):
            taken = [item for batch in [b async for b in iterator] for item in batch]
    assert _kinds(taken)[1] == 0
    assert spare.zero_ns is None


async def test_leaving_while_both_wait_leaves_no_task() -> None:
    """Tasks that wait for devices end with the source."""
    before = asyncio.all_tasks()
    camera, mic = ScriptedDevice([]), ScriptedDevice([])
    async with CameraAndMicrophone("cam", lambda: camera, lambda: mic) as source:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(aiter(source))
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("device", "kind"),
    [("default", CameraAndMicrophone), ("lapel", CameraAndMicrophone), ("none", WebcamSource)],
)
async def test_settings_choose_the_microphone(device: str, kind: type) -> None:
    """A webcam comes with a microphone unless it is to have none."""
    settings = SourceSettings(microphone=MicrophoneSettings(device=device))
    source = open_source("webcam:2", settings=settings)
    assert isinstance(source, kind)
    assert source.name == "webcam:2"
    assert NS_PER_S > (source.max_skew_ns or 0) > 0
