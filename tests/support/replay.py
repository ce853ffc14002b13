"""A clip before the test camera and in the test microphone at once, on one clock, again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.media import Picture
from tests.support.pulse import MICROPHONE, RATE_HZ, PulseServer, feed_sound, pulse_server
from tests.support.record_pair import points_of
from tests.support.v4l2 import DEVICE, camera_environment, write_pictures

ROOT = Path(__file__).parents[2]
FPS = 25
LEAD_S = 1.0
"""From the making of the devices to the first picture and sound."""


@dataclass(frozen=True)
class Replay:
    """What plays, and what is to be heard of it.

    Attributes:
        environment: leads a process to both devices.
        epoch_ns: monotonic time of the first picture and the first sample.
        seconds: length of one round.
        ppm: drift of the microphone.
        pulse: the sound server, to unplug and mute.
    """

    environment: dict[str, str]
    epoch_ns: int
    seconds: float
    ppm: float
    pulse: PulseServer


@contextmanager
def replayed(
    folder: Path,
    shim: Path,
    picture: Picture,
    sound: npt.NDArray[np.float32],
    *,
    seconds: float,
    rounds: int,
    ppm: float = 0.0,
    **camera: str | int,
) -> Iterator[Replay]:
    """Play both.

    Args:
        folder: for the pictures, 15 MB a second, and the pipe of the sound.
        shim: the camera, from ``v4l2.build_shim``.
        picture: draws 25 pictures a second of the camera's size.
        sound: float32 ``[n]`` at ``RATE_HZ``, at least ``seconds``.
        seconds: length of a round.
        rounds: how often the sound is played; the pictures never end.
        ppm: drift of the microphone against the clock that both are judged by.
        camera: ``mode`` and ``after`` of the camera.
    """
    pictures = write_pictures(folder / "pictures.yuyv", picture, round(seconds * FPS))
    with pulse_server() as pulse:
        pulse.unplug()
        pulse.plug_in_fed(folder / "feed")
        epoch_ns = time.monotonic_ns() + round(LEAD_S * 1e9)
        once = sound[: round(seconds * RATE_HZ)]
        writer = threading.Thread(
            target=feed_sound,
            args=(folder / "feed", np.tile(once, rounds)),
            kwargs={"start_ns": epoch_ns, "ppm": ppm},
            daemon=True,
        )
        writer.start()
        extra = camera_environment(shim, pictures, epoch_ns=epoch_ns, **camera)  # type: ignore[arg-type]
        yield Replay(extra | pulse.environment, epoch_ns, seconds, ppm, pulse)
    writer.join(timeout=10)


def recorded_pair(replay: Replay, seconds: float, folder: Path) -> dict[str, Any]:
    """Record both devices in a process of its own; see :mod:`tests.support.record_pair`."""
    out = folder / "recorded.npz"
    subprocess.run(
        [
            sys.executable, "-m", "tests.support.record_pair",
            f"webcam:{DEVICE}", MICROPHONE, str(seconds), str(out),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | replay.environment,
        cwd=ROOT,
        check=True,
        timeout=seconds + 60,
    )  # fmt: skip
    with np.load(out) as recorded:
        return dict(recorded)


def picture_lag_ms(recorded: dict[str, Any], replay: Replay, draw: Picture) -> float:
    """Return how much later pictures were stamped than shown, by what is in them."""
    count = round(replay.seconds * FPS)
    shown = np.stack([points_of(draw(k)) for k in range(count)]).astype(np.int16)
    at_s = (recorded["frame_ns"] + recorded["zero_ns"] - replay.epoch_ns) / 1e9
    lags = []
    for points, time_s in zip(recorded["points"].astype(np.int16), at_s, strict=True):
        near = round(time_s * FPS) + np.arange(-12, 13)
        off = np.abs(shown[near % count] - points).mean(axis=(1, 2))
        lags.append((time_s - int(near[off.argmin()]) / FPS) * 1e3)
    return float(np.median(lags))


def sound_lags_ms(
    recorded: dict[str, Any], replay: Replay, sound: npt.NDArray[np.float32], after_s: float = 10.0
) -> list[float]:
    """Return how much later sound was stamped than played, by what is in it: of each second from there on."""
    drift = 1 + replay.ppm * 1e-6
    played = sound[: round(replay.seconds * RATE_HZ)]
    ends = np.cumsum(recorded["block_len"])
    at_s = (recorded["block_ns"] + recorded["zero_ns"] - replay.epoch_ns) / 1e9
    lags = []
    for begin_s in np.arange(recorded["block_ns"][0] / 1e9 + after_s, recorded["block_ns"][-1] / 1e9 - 2):
        first = int(np.searchsorted(recorded["block_ns"], begin_s * 1e9))
        start = int(ends[first - 1])
        heard = recorded["pcm"][start : start + min(len(played), 2 * RATE_HZ)]
        heard = np.interp(np.arange(len(heard) - 100) * drift, np.arange(len(heard)), heard)
        both = np.fft.rfft(played) * np.conj(np.fft.rfft(heard, len(played)))
        # Flattened halfway, or a voice would match itself a period later nearly as well.
        match = np.fft.irfft(both / np.sqrt(np.maximum(np.abs(both), 1e-9)), len(played))
        lag_s = at_s[first] / drift - int(match.argmax()) / RATE_HZ
        lags.append(float((lag_s + replay.seconds / 2) % replay.seconds - replay.seconds / 2) * 1e3)
    return lags
