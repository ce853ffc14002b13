"""PortAudio by way of sounddevice: which microphones there are, and recording from one.

Importing sounddevice loads PortAudio and asks all sound drivers, so it is done on demand, in the thread
that records.  PortAudio lists devices once and for all: to see one that was plugged in later it has to be
started anew, which it can only while nothing records.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from avff.daemon.errors import ExitCode, SourceError
from avff.engine.media import Float32
from avff.engine.quiet import quiet_stderr

RATE_HZ = 48_000
"""Asked for first: what sound cards run at, and three times what the engine wants."""
BLOCK_HZ = 50
"""Callbacks a second."""

Deliver = Callable[[Float32, float, float, bool], None]
"""Takes a block in the callback: sound, the driver's clock at its capture and now, whether any was lost."""

_LOCK = threading.Lock()
_recording = 0


@dataclass(frozen=True, slots=True)
class Microphone:
    """A device that records.

    Attributes:
        number: PortAudio's; changes when devices come and go.
        name: of the device.
        system: sound system that offers it, for example ALSA or Core Audio.
        channels: most it records.
        rate_hz: its own rate.
        default: whether the system prefers it.
    """

    number: int
    name: str
    system: str
    channels: int
    rate_hz: int
    default: bool


class Recorder(Protocol):
    """A device that records.

    Attributes:
        name: of the device.
        rate_hz: of the sound.
        delay_s: from capture to callback, by the driver.
    """

    name: str
    rate_hz: int
    delay_s: float

    @property
    def alive(self) -> bool:
        """Whether the driver still means to call back."""
        ...

    def start(self, deliver: Deliver) -> None:
        """Begin to deliver blocks of at most a ``BLOCK_HZ``-th of a second."""
        ...

    def close(self) -> None:
        """Let the device go."""
        ...


def microphones() -> list[Microphone]:
    """Return the devices that record, in PortAudio's order.

    Raises:
        SourceError: PortAudio is not installed, or fails.
    """
    with _LOCK, _told():
        return _listed(_library())


def chosen(which: str, found: list[Microphone]) -> Microphone:
    """Return the microphone that ``which`` means: a number, a name, or a part of one; empty for the default.

    Raises:
        SourceError: there is none such, or more than one.
    """
    if not which:
        fitting = [m for m in found if m.default] or found[:1]
    elif which.isdecimal():
        fitting = [m for m in found if m.number == int(which)]
    else:
        fitting = [m for m in found if m.name == which] or [
            m for m in found if which.casefold() in m.name.casefold()
        ]
        # Windows offers each device by several systems; the first is the one it recommends.
        fitting = fitting[:1] if len({m.name for m in fitting}) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    there_is = ", ".join(f"{m.number} ({m.name})" for m in fitting or found)
    if fitting:
        raise SourceError(f"'{which}' means more than one microphone: {there_is}", ExitCode.USAGE)
    what = f"there is no microphone {which}" if which else "there is no microphone"
    raise SourceError(f"{what}; {'found ' + there_is if found else 'none found'}", ExitCode.UNAVAILABLE)


def open_recorder(which: str) -> Recorder:
    """Open a microphone; it records from its ``start`` on.

    Raises:
        SourceError: PortAudio is not installed, there is no such device, or it is busy.
    """
    global _recording
    with _LOCK, _told():
        library = _library()
        if not _recording:
            _look_again(library)
        found = chosen(which, _listed(library))
        recorder = _PortAudioRecorder(library, found)
        _recording += 1
        return recorder


class _PortAudioRecorder:
    def __init__(self, library: Any, microphone: Microphone) -> None:
        self.name = microphone.name
        self._library = library
        self._ended = False
        self._deliver: Deliver | None = None
        self._stream = self._open(microphone)
        self.rate_hz = round(self._stream.samplerate)
        self.delay_s = float(self._stream.latency)

    @property
    def alive(self) -> bool:
        return not self._ended and bool(self._stream.active)

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._stream.start()

    def close(self) -> None:
        global _recording
        with _LOCK:
            self._stream.close(ignore_errors=True)
            _recording -= 1

    def _open(self, microphone: Microphone) -> Any:
        """Open with one channel and 48 kHz where the device has that, else as it comes."""
        try:
            with quiet_stderr():
                rate_hz, channels = self._format(microphone)
                return self._library.InputStream(
                    samplerate=rate_hz,
                    blocksize=rate_hz // BLOCK_HZ,
                    device=microphone.number,
                    channels=channels,
                    dtype="float32",
                    latency="high",  # what it costs in delay is known, and taken off the stamps
                    callback=self._call,
                    finished_callback=self._finish,
                )
        except (self._library.PortAudioError, ValueError) as error:
            raise SourceError(
                f"microphone {microphone.name} cannot be opened ({_one_line(error)})", ExitCode.UNAVAILABLE
            ) from error

    def _format(self, microphone: Microphone) -> tuple[int, int]:
        for rate_hz in (RATE_HZ, microphone.rate_hz):
            for channels in (1, min(2, microphone.channels)):
                with contextlib.suppress(self._library.PortAudioError, ValueError):
                    self._library.check_input_settings(
                        device=microphone.number, channels=channels, dtype="float32", samplerate=rate_hz
                    )
                    return rate_hz, channels
        return microphone.rate_hz, 1  # opening says what is wrong

    def _call(self, indata: Float32, frames: int, times: Any, status: Any) -> None:
        assert self._deliver is not None, "start() comes first"
        self._deliver(indata, times.inputBufferAdcTime, times.currentTime, bool(status.input_overflow))

    def _finish(self) -> None:
        self._ended = True


def _library() -> Any:
    try:
        with quiet_stderr():  # ALSA complains of every card that is configured and not there
            import sounddevice
    except OSError as error:
        raise SourceError(
            "microphones need PortAudio, which is not installed (Debian: apt-get install libportaudio2)",
            ExitCode.UNAVAILABLE,
        ) from error
    return sounddevice


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what PortAudio says into words for people.

    Raises:
        SourceError: instead of whatever sounddevice raises.
    """
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # its class is in a module that may have failed to load
        raise SourceError(f"PortAudio failed ({_one_line(error)})", ExitCode.UNAVAILABLE) from error


def _look_again(library: Any) -> None:
    """Start PortAudio anew, so that it sees what was plugged in since."""
    with quiet_stderr():
        # sounddevice has no public name for this; without it, what was there at the start is all there is.
        library._terminate()
        library._initialize()


def _listed(library: Any) -> list[Microphone]:
    preferred = library.default.device[0]
    systems = library.query_hostapis()
    if preferred < 0 and systems:
        preferred = systems[0]["default_input_device"]
    return [
        Microphone(
            number=device["index"],
            name=device["name"],
            system=systems[device["hostapi"]]["name"],
            channels=device["max_input_channels"],
            rate_hz=round(device["default_samplerate"]),
            default=device["index"] == preferred,
        )
        for device in library.query_devices()
        if device["max_input_channels"] > 0
    ]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
