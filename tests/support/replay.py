"""A clip before the test camera and in the test microphone at once, on one clock, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.media import Picture
from tests.support.pulse import RATE_HZ, PulseServer, feed_sound, pulse_server
from tests.support.v4l2 import camera_environment, write_pictures

FPS = 25
LEAD_S = 1.0
"""From the making of the devices to the first picture and sound."""


@dataclass(frozen=True)
class Replay:
    """What plays.

    Attributes:
        environment: leads a process to both devices.
        epoch_ns: monotonic time of the first picture and the first sample.
        seconds: length of one round.
        pulse: the sound server, to unplug and mute.
    """

    environment: dict[str, str]
    epoch_ns: int
    seconds: float
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
        yield Replay(extra | pulse.environment, epoch_ns, seconds, pulse)
    writer.join(timeout=10)
