"""Microphones with PortAudio, ALSA and a sound server as they are; only the sound card is not there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from avff.daemon.config import MicrophoneSettings
from avff.daemon.errors import SourceError
from avff.daemon.sources import SourceSettings, open_source
from avff.daemon.sources.microphone import MicrophoneSource
from avff.daemon.sources.portaudio import microphones
from avff.engine.media import NS_PER_S, AudioBlock, Float32
from avff.engine.quality import FULL_SCALE
from tests.support.pulse import MICROPHONE, RATE_HZ, PulseServer, feed_sound, missing, pulse_server

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(120),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Iterator[PulseServer]:
    """A sound server that this process's PortAudio finds."""
    with pulse_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def _microphone(which: str = MICROPHONE) -> MicrophoneSource:
    settings = SourceSettings(microphone=MicrophoneSettings(sync_offset_ms=0.0))
    source = open_source(f"mic:{which}" if which else "mic", settings=settings)
    assert isinstance(source, MicrophoneSource)
    return source


def _tone(seconds: float, level: float = 0.3) -> Float32:
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(
        np.float32
    )


async def _until(source: MicrophoneSource, enough: Callable[[list[AudioBlock]], bool]) -> list[AudioBlock]:
    """Take sound until there is enough; 30 s are always enough."""
    taken: list[AudioBlock] = []
    async with asyncio.timeout(30):
        async for batch in source:
            taken += [item for item in batch if isinstance(item, AudioBlock)]
            if enough(taken):
                return taken
    raise AssertionError("the source ended")


def _loud(taken: list[AudioBlock], blocks: int = 100) -> bool:
    return len(taken) >= blocks and all(np.abs(b.pcm).max() > 0.05 for b in taken[-blocks:])


def _line(taken: list[AudioBlock]) -> Float32:
    return np.concatenate([block.pcm for block in taken])


async def _seconds_to_loss(source: MicrophoneSource, words: str) -> float:
    began = time.monotonic()
    with pytest.raises(SourceError, match=words):
        await _until(source, lambda taken: False)
    return time.monotonic() - began


@pytest.mark.parametrize("which", ["", MICROPHONE, MICROPHONE[:3].upper()])
async def test_what_is_played_is_heard(pulse: PulseServer, which: str) -> None:
    """By the default microphone, by its name and by a part of it: the same tone at the same level."""
    async with _microphone(which) as source:
        pulse.play(_tone(20))
        taken = await _until(source, _loud)
    line = _line(taken)[-RATE_HZ:]
    spectrum = np.abs(np.fft.rfft(line * np.hanning(len(line))))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert np.abs(line).max() == pytest.approx(0.3, abs=0.03)
    assert {block.rate_hz for block in taken} == {RATE_HZ}


async def test_microphones_are_listed(pulse: PulseServer) -> None:
    """With what they can; one is the default."""
    found = microphones()
    named = next(m for m in found if m.name == MICROPHONE)
    assert named.channels >= 1
    assert sum(m.default for m in found) == 1


async def test_unplugged_is_noticed_and_found_again(pulse: PulseServer) -> None:
    """Within a second, and PortAudio sees the device that came back."""
    async with _microphone() as source:
        await _until(source, lambda taken: len(taken) > 10)
        pulse.unplug()
        assert await _seconds_to_loss(source, "was it unplugged") < 3  # 1 s, and room for a busy machine
    pulse.plug_in()
    async with _microphone() as source:
        pulse.play(_tone(20))
        await _until(source, _loud)


async def test_suspended_is_noticed(pulse: PulseServer) -> None:
    """A server that suspends its source does not end the stream: sound just stops coming."""
    async with _microphone() as source:
        await _until(source, lambda taken: len(taken) > 10)
        pulse.suspend(True)
        assert await _seconds_to_loss(source, "no sound for 0.8 s") < 3


async def test_muted_goes_on_with_zeros(pulse: PulseServer) -> None:
    """A mute button is no loss: time goes on, with silence."""
    async with _microphone() as source:
        pulse.play(_tone(40))
        await _until(source, _loud)
        pulse.mute(True)
        taken = await _until(
            source, lambda taken: len(taken) > 50 and np.abs(_line(taken[-50:])).max() < 1e-9
        )
        assert not any(block.gap for block in taken[-50:])
        pulse.mute(False)
        await _until(source, _loud)


async def test_overdriven_is_clipped(pulse: PulseServer) -> None:
    """Far too much gain ends at full scale, where the engine's gate sees it."""
    async with _microphone() as source:
        pulse.loudness(400)
        pulse.play(_tone(20))
        taken = await _until(source, lambda taken: _loud(taken) and np.abs(taken[-1].pcm).max() >= FULL_SCALE)
    assert (np.abs(_line(taken[-25:])) >= FULL_SCALE).mean() > 0.01


@pytest.mark.parametrize("ppm", [0.0, 1000.0])
async def test_clicks_are_on_the_clock(pulse: PulseServer, tmp_path: Path, ppm: float) -> None:
    """A device whose crystal is 1000 ppm off: after 10 s its sound is still where it was made.

    The bound is what a sound server's own buffers may add on a busy machine; how near it is, the
    benchmark measures.
    """
    feed = tmp_path / "feed"
    pulse.unplug()
    pulse.plug_in_fed(feed)
    clicks = np.zeros(40 * RATE_HZ, np.float32)
    for first in range(0, len(clicks), RATE_HZ // 2):
        clicks[first : first + 480] = 0.8
    start_ns = time.monotonic_ns()
    writer = threading.Thread(
        target=feed_sound, args=(feed, clicks), kwargs={"start_ns": start_ns, "ppm": ppm}, daemon=True
    )
    writer.start()
    async with _microphone() as source:
        taken = await _until(source, lambda taken: taken[-1].pts_ns > 14 * NS_PER_S)
        made_s = [
            (ns + source._zero_ns - start_ns) / NS_PER_S for ns in _onsets_ns(taken) if ns > 10 * NS_PER_S
        ]
    pulse.unplug()
    writer.join(timeout=10)
    pitch_s = 0.5 * (1 + ppm * 1e-6)
    off_ms = [(s - round(s / pitch_s) * pitch_s) * 1e3 for s in made_s]
    assert len(off_ms) >= 6
    assert np.abs(np.median(off_ms)) < 40
    assert taken[-1].error_ns is not None


def _onsets_ns(taken: list[AudioBlock]) -> list[int]:
    found: list[int] = []
    for block in taken:
        loud = np.flatnonzero(np.abs(block.pcm) > 0.3)
        if len(loud):
            at_ns = block.pts_ns + int(loud[0]) * NS_PER_S // block.rate_hz
            if not found or at_ns - found[-1] > NS_PER_S // 5:
                found.append(at_ns)
    return found
