"""A sound server for tests: PulseAudio with a null sink as microphone; PortAudio and ALSA are real."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import shutil
import subprocess
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

MICROPHONE = "lapel"
"""Name of the microphone that the server has, and that PortAudio finds."""
RATE_HZ = 48_000
_START_S = 10.0
_ALSA = """\
pcm.!default {{ type pulse server "unix:{socket}" device "{name}.monitor" }}
pcm.{name} {{ type pulse server "unix:{socket}" device "{name}.monitor" }}
"""


def missing() -> str | None:
    """Return what keeps these tests from running, or None."""
    for program in ("pulseaudio", "pactl", "paplay"):
        if shutil.which(program) is None:
            return f"needs {program} (Debian: pulseaudio, pulseaudio-utils)"
    if ctypes.util.find_library("portaudio") is None:
        return "needs PortAudio (Debian: libportaudio2)"
    plugins = ("/usr/lib", "/usr/lib64")
    if not any(found for place in plugins for found in Path(place).glob("**/libasound_module_pcm_pulse.so")):
        return "needs ALSA's PulseAudio plug-in (Debian: libasound2-plugins)"
    return None


class PulseServer:
    """A server of its own, with one null sink whose monitor is the microphone.

    Attributes:
        environment: variables that lead a process to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "socket"
        # Without another place ALSA and PulseAudio would read, and write, the user's own settings.
        config = folder / "asound.conf"
        config.write_text(_ALSA.format(socket=self._socket, name=MICROPHONE))
        self.environment = {
            "ALSA_CONFIG_PATH": str(config),
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_COOKIE": str(folder / "cookie"),
            "XDG_RUNTIME_DIR": str(folder),
            "HOME": str(folder),
        }
        self._playing: list[subprocess.Popen[bytes]] = []
        self._module = ""
        self._server = subprocess.Popen(
            [
                "pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1",
                "-L", f"module-native-protocol-unix socket={self._socket} auth-anonymous=1",
            ],
            env=os.environ | self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def plug_in(self) -> None:
        """Connect the microphone; the server may still be starting."""
        deadline = time.monotonic() + _START_S
        sink = f"sink_name={MICROPHONE}"
        while not self._module:
            try:
                load = ("load-module", "module-null-sink", sink, f"rate={RATE_HZ}", "channels=1")
                self._module = self.control(*load)
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def plug_in_fed(self, feed: Path) -> None:
        """Connect a microphone that takes its sound, int16 at ``RATE_HZ``, from a pipe, as it comes.

        The writer is its crystal: :func:`feed_sound`.
        """
        name = f"source_name={MICROPHONE}.monitor"
        self._module = self.control(
            "load-module", "module-pipe-source", name, f"file={feed}",
            "format=s16le", f"rate={RATE_HZ}", "channels=1",
        )  # fmt: skip

    def unplug(self) -> None:
        """Take the microphone away."""
        module, self._module = self._module, ""
        self.control("unload-module", module)

    def mute(self, on: bool) -> None:
        """Mute the microphone: it goes on, with digital zeros."""
        self.control("set-source-mute", f"{MICROPHONE}.monitor", "1" if on else "0")

    def loudness(self, percent: int) -> None:
        """Set the microphone's gain; far above 100 it clips."""
        self.control("set-source-volume", f"{MICROPHONE}.monitor", f"{percent}%")

    def suspend(self, on: bool) -> None:
        """Let the microphone fall silent without a word, or wake it."""
        self.control("suspend-sink", MICROPHONE, "1" if on else "0")

    def play(self, sound: npt.NDArray[np.float32], *, rate_hz: int = RATE_HZ) -> subprocess.Popen[bytes]:
        """Play mono sound to the microphone; it is killed with the server if it plays too long."""
        path = self._folder / f"sound-{len(self._playing)}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
        player = subprocess.Popen(
            ["paplay", f"--device={MICROPHONE}", "--latency-msec=100", str(path)],
            env=os.environ | self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._playing.append(player)
        return player

    def control(self, *words: str) -> str:
        """Run ``pactl`` and return what it says."""
        done = subprocess.run(
            ["pactl", *words], env=os.environ | self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def close(self) -> None:
        """End the players and the server."""
        for process in (*self._playing, self._server):
            process.kill()
            process.wait()


def feed_sound(
    pipe: Path, sound: npt.NDArray[np.float32], *, start_ns: int, ppm: float = 0.0, block_s: float = 0.01
) -> None:
    """Write mono sound to a pipe at its own pace, sample 0 at ``start_ns`` of the monotonic clock.

    Args:
        pipe: of :meth:`PulseServer.plug_in_fed`.
        sound: float32 ``[n]`` at ``RATE_HZ``.
        start_ns: monotonic time of the first sample.
        ppm: how much slower than the clock the samples are, in parts per million.
        block_s: written at a time, each when its last sample is due.
    """
    data = (np.clip(sound, -1, 1) * 32767).astype("<i2")
    length = round(block_s * RATE_HZ)
    with pipe.open("wb", buffering=0) as file:
        for first in range(0, len(data) - length + 1, length):
            due_ns = start_ns + round((first + length) * (1 + ppm * 1e-6) * 1e9 / RATE_HZ)
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            try:
                file.write(data[first : first + length].tobytes())
            except BrokenPipeError:
                return  # the microphone was unplugged


@contextlib.contextmanager
def pulse_server() -> Iterator[PulseServer]:
    """A server with its microphone plugged in."""
    # A socket's path may have 107 characters, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="avff-") as folder:
        server = PulseServer(Path(folder))
        try:
            server.plug_in()
            yield server
        finally:
            server.close()
