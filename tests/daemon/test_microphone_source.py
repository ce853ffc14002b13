from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest

from avff.daemon.config import MicrophoneSettings, QueueSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import SourceSettings, device, microphone, open_source, portaudio
from avff.daemon.sources.microphone import MicrophoneSource
from avff.daemon.sources.portaudio import Deliver, Microphone, chosen
from avff.daemon.worker import abandoned_threads
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem

pytestmark = pytest.mark.asyncio

RATE_HZ = 48_000
BLOCK = 960


class ScriptedRecorder:
    """A device below PortAudio's calls: calls back from a thread, until told otherwise."""

    name = "scripted"
    rate_hz = RATE_HZ
    delay_s = 0.02

    def __init__(self, *, blocks: int = 10**9, dies: bool = False, speed: float = 1.0) -> None:
        self.closed = threading.Event()
        self.alive = True
        self._blocks = blocks
        self._dies = dies
        self._pause_s = BLOCK / RATE_HZ / speed

    def start(self, deliver: Deliver) -> None:
        threading.Thread(target=self._play, args=(deliver,), daemon=True).start()

    def _play(self, deliver: Deliver) -> None:
        began_s = time.monotonic()
        for k in range(self._blocks):
            if self.closed.wait(max(0.0, began_s + (k + 1) * self._pause_s - time.monotonic())):
                return
            now_s = time.monotonic()
            deliver(np.full((BLOCK, 1), 0.25, np.float32), now_s - self._pause_s, now_s, False)
        self.alive = not self._dies

    def close(self) -> None:
        self.closed.set()


def _source(recorder: ScriptedRecorder, offset_ms: float | None = None, **queues: int) -> MicrophoneSource:
    settings = SourceSettings(
        queues=QueueSettings(**queues), microphone=MicrophoneSettings(sync_offset_ms=offset_ms)
    )
    return MicrophoneSource("scripted", "mic", settings, lambda which: recorder)


async def _taken(source: MicrophoneSource, until_ns: int) -> list[AudioBlock]:
    taken: list[AudioBlock] = []
    async for batch in source:
        taken += [item for item in batch if isinstance(item, AudioBlock)]
        if taken[-1].pts_ns >= until_ns:
            break
    return taken


async def _drain(source: MicrophoneSource, taken: list[MediaItem]) -> None:
    async for batch in source:
        taken += batch


async def test_sound_is_on_media_time_without_seams() -> None:
    """From near zero on, block after block at the device's rate; the thread ends with the source."""
    recorder = ScriptedRecorder()
    async with _source(recorder) as source:
        taken = await _taken(source, NS_PER_S)
    assert -100_000_000 < taken[0].pts_ns < 500_000_000
    for a, b in itertools.pairwise(taken):
        assert abs(b.pts_ns - a.pts_ns - len(a.pcm) * NS_PER_S // RATE_HZ) <= 1
    assert {b.rate_hz for b in taken} == {RATE_HZ}
    assert recorder.closed.is_set()
    assert abandoned_threads() == []


@pytest.mark.parametrize(("offset_ms", "known"), [(None, False), (0.0, True), (80.0, True)])
async def test_measured_offset_moves_sound_and_makes_sync_known(offset_ms: float | None, known: bool) -> None:
    """Without a measurement nobody knows how late the devices are; with it, the clock's error is told."""
    async with _source(ScriptedRecorder(), offset_ms) as source:
        taken = await _taken(source, 5 * NS_PER_S)
        age_ns = [time.monotonic_ns() - source._zero_ns - b.pts_ns for b in taken[-1:]]
    assert (taken[-1].error_ns is not None) is known
    assert age_ns[0] > (offset_ms or 0) * 1e6


@pytest.mark.parametrize(("dies", "words"), [(True, "closed by its driver"), (False, "no sound for 0.8 s")])
async def test_lost_microphone_is_told_within_a_second(dies: bool, words: str) -> None:
    """Whether the driver says so or the callbacks just stop; what came before is there."""
    taken: list[MediaItem] = []
    recorder = ScriptedRecorder(blocks=100, dies=dies)
    async with _source(recorder) as source:
        with pytest.raises(SourceError, match=words) as raised:
            await _drain(source, taken)
    newest = max(item.captured_ns for item in taken)
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
    assert (time.monotonic_ns() - newest) / 1e9 < 2  # 0.8 s, and room for a busy machine
    assert len(taken) > 20


async def test_silent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that opens and never calls back does not hold the program up."""
    monkeypatch.setattr(device, "FIRST_S", 0.2)
    recorder = ScriptedRecorder(blocks=0)
    with pytest.raises(SourceError, match="microphone scripted gives no sound"):
        async with _source(recorder):
            pass
    assert recorder.closed.is_set()


async def test_dropped_blocks_are_counted_and_leave_a_gap() -> None:
    """When nobody takes sound the oldest goes, and what follows is not joined to what was before."""
    async with _source(ScriptedRecorder(speed=4), live_blocks=5) as source:
        batches = aiter(source)
        await anext(batches)
        time.sleep(0.5)  # noqa: ASYNC251 - the loop is busy elsewhere, on purpose
        late: list[AudioBlock] = []
        while not any(block.gap for block in late):
            late += [item for item in await anext(batches) if isinstance(item, AudioBlock)]
        assert source.dropped > 5
        assert len(late) < 200


async def test_driver_that_never_returns_is_abandoned() -> None:
    """Closing takes a second at most, whatever the driver does."""
    gate = threading.Event()

    class Stuck(ScriptedRecorder):
        def close(self) -> None:
            gate.wait(10)
            super().close()

    began = time.monotonic()
    async with _source(Stuck()) as source:
        await anext(aiter(source))
    assert time.monotonic() - began < 5
    gate.set()


async def test_without_portaudio_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is there, the system's library is not."""

    def no_library(*arguments: Any, **options: Any) -> Any:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("builtins.__import__", _importing(no_library))
    with pytest.raises(SourceError, match=r"microphones need PortAudio.*libportaudio2") as raised:
        async with open_source("mic"):
            pass
    assert raised.value.exit_code == ExitCode.UNAVAILABLE


def _importing(no_library: Any) -> Any:
    real = __import__

    def importing(name: str, *arguments: Any, **options: Any) -> Any:
        return no_library() if name == "sounddevice" else real(name, *arguments, **options)

    return importing


async def test_portaudio_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises: a webcam then goes on with pictures only."""

    class Broken:
        class PortAudioError(Exception):
            pass

        def _terminate(self) -> None:
            raise self.PortAudioError("Error terminating PortAudio [-10000]")

    monkeypatch.setattr(portaudio, "_library", Broken)
    with pytest.raises(SourceError, match=r"PortAudio failed \(Error terminating") as raised:
        portaudio.open_recorder("")
    assert raised.value.exit_code == ExitCode.UNAVAILABLE


async def test_a_busy_loop_is_no_lost_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound that came while nothing could run counts, though its time is over."""
    monkeypatch.setattr(microphone, "SOUND_TIMEOUT_S", 0.2)
    async with _source(ScriptedRecorder()) as source:
        batches = aiter(source)
        await anext(batches)
        for _ in range(5):
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - the loop is busy elsewhere, on purpose
            assert await waiting


FOUND = [
    Microphone(0, "HDA Intel: ALC257 (hw:0,0)", "ALSA", 2, 44_100, False),
    Microphone(3, "USB Lapel: Audio (hw:1,0)", "ALSA", 1, 48_000, False),
    Microphone(4, "default", "ALSA", 32, 44_100, True),
]


@pytest.mark.parametrize(
    ("which", "number"), [("", 4), ("3", 3), ("usb lapel", 3), ("default", 4), ("HDA", 0)]
)
async def test_microphone_is_chosen_by_name_or_number(which: str, number: int) -> None:
    """A part of the name will do: numbers change when devices come and go."""
    assert chosen(which, FOUND).number == number


@pytest.mark.parametrize(
    ("which", "found", "words"),
    [
        ("7", FOUND, "there is no microphone 7; found 0 (HDA Intel"),
        ("audio", [], "there is no microphone audio; none found"),
        ("", [], "there is no microphone; none found"),
        ("hw:", FOUND, "'hw:' means more than one microphone: 0 (HDA Intel: ALC257 (hw:0,0)), 3 (USB"),
    ],
)
async def test_a_wrong_choice_lists_what_there_is(which: str, found: list[Microphone], words: str) -> None:
    """The message names the devices, with their numbers."""
    with pytest.raises(SourceError) as raised:
        chosen(which, found)
    assert words in str(raised.value)


async def test_the_same_device_by_two_systems_is_one() -> None:
    """Windows lists each device several times; the first is the one it recommends."""
    twice = [*FOUND, Microphone(9, "USB Lapel: Audio (hw:1,0)", "WASAPI", 1, 48_000, False)]
    assert chosen("lapel", twice).number == 3
