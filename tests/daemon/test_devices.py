"""``avffd devices``, with what this machine has, with the test camera, and with nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from avff.daemon import devices
from avff.daemon.devices import told_of_camera
from avff.daemon.errors import SourceError
from avff.daemon.sources import portaudio, webcam
from avff.daemon.sources.portaudio import Microphone
from tests.support.avffd import avffd, environment
from tests.support.pulse import MICROPHONE, missing, pulse_server
from tests.support.v4l2 import DEVICE, build_shim, camera_environment, compiler


def _lines(monkeypatch: pytest.MonkeyPatch, found: list[Microphone], sysfs: Path) -> list[str]:
    monkeypatch.setattr(portaudio, "microphones", lambda: found)
    monkeypatch.setattr(webcam, "SYSFS", sysfs)
    return ["cameras:", *devices._cameras(), "microphones:", *devices._microphones()]


def test_nothing_is_said_to_be_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty list is no error."""
    assert _lines(monkeypatch, [], tmp_path) == ["cameras:", "  none found", "microphones:", "  none found"]


def test_microphones_are_told_with_what_they_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Number first, which ``--mic`` takes."""
    found = [
        Microphone(0, "HDA Intel (hw:0,0)", "ALSA", 1, 48_000, False),
        Microphone(4, "default", "ALSA", 32, 44_100, True),
    ]
    assert _lines(monkeypatch, found, tmp_path)[-2:] == [
        "  0  HDA Intel (hw:0,0)  (ALSA, 1 channel, 48000 Hz)",
        "  4  default  (ALSA, 32 channels, 44100 Hz, the default)",
    ]


def test_without_portaudio_cameras_are_still_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is missing is said where it is missing; a node that went away is told too."""

    def no_library() -> list[Microphone]:
        raise SourceError("microphones need PortAudio", 69)

    (tmp_path / "video98").mkdir()
    (tmp_path / "video98" / "name").write_text("Ghost\n")
    _lines(monkeypatch, [], tmp_path)
    monkeypatch.setattr(portaudio, "microphones", no_library)
    assert list(devices._microphones()) == ["  none: microphones need PortAudio"]
    assert list(devices._cameras()) == [
        "  /dev/video98  Ghost",
        "      cannot be asked (No such file or directory)",
    ]


def test_command_runs_as_it_is() -> None:
    """On this machine, whatever it has."""
    done = avffd("devices")
    assert (done.code, done.complaints) == (0, [])
    assert done.stdout.startswith("cameras:\n")
    assert "\nmicrophones:\n" in done.stdout


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_command_lists_a_microphone() -> None:
    """As PortAudio and ALSA tell of it."""
    with pulse_server() as server:
        done = avffd("devices", extra=server.environment)
    assert MICROPHONE in done.stdout.split("microphones:")[1]


@pytest.mark.skipif(compiler() is None, reason="needs Linux, and gcc to build the camera")
def test_camera_tells_what_it_can(tmp_path: Path) -> None:
    """Formats, sizes and rates, by the calls that a real driver answers."""
    extra = camera_environment(build_shim(tmp_path), tmp_path / "none")
    show = "print(*told_of_camera('video77', 'Test'), sep=chr(10))"
    program = f"from avff.daemon.devices import told_of_camera; {show}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(extra), capture_output=True, text=True, check=True
    )
    assert DEVICE == "/dev/video77"
    assert done.stdout.splitlines() == ["  /dev/video77  Test", "      YUYV: 640x480 at 25"]


def test_what_is_no_camera_says_so() -> None:
    """A file, or another kind of device, is refused by the system, and that is told."""
    lines = told_of_camera("null", "Nothing")
    assert lines[0] == "  /dev/null  Nothing"
    assert "cannot be asked" in lines[1]
