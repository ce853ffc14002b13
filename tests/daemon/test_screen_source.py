"""A screen, grabbed from a real X server that nobody sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import open_source
from tests.support.avffd import environment

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = environment({"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"})
PICTURES = Path(__file__).with_name("first_pictures.py")
SCRIPTED = Path(__file__).with_name("scripted_avffd.py")
SIZE = (320, 240)
needs_x = pytest.mark.skipif(
    shutil.which("Xvfb") is None or shutil.which("xsetroot") is None,
    reason="needs xvfb and x11-xserver-utils",
)


class XServer:
    """Xvfb, on a display number that it chooses by default."""

    def __init__(self, display: str | None = None) -> None:
        reading, writing = os.pipe()
        number = [] if display is None else [display]
        screen = ["-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-noreset", "-nolisten", "tcp"]
        self._process = subprocess.Popen(
            ["Xvfb", *number, "-displayfd", str(writing), *screen],
            pass_fds=[writing],
            stderr=subprocess.DEVNULL,
        )
        os.close(writing)
        with os.fdopen(reading) as file:
            self.display = f":{file.readline().strip()}"

    def fill(self, colour: str) -> None:
        """Fill the screen with a colour."""
        subprocess.run(["xsetroot", "-display", self.display, "-solid", colour], check=True)

    def freeze(self, frozen: bool) -> None:
        """Stop it where it stands, or let it go on."""
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def kill(self) -> None:
        """End it; idempotent."""
        self._process.terminate()  # it removes its socket and its lock then
        self._process.wait()


@pytest.fixture
def server() -> Iterator[XServer]:
    running = XServer()
    yield running
    running.kill()


def _first_pictures(uri: str, count: int) -> list[dict[str, Any]]:
    """Run in a process of its own: here OpenCV may have been loaded first, which screens do not survive."""
    done = subprocess.run(
        [sys.executable, str(PICTURES), uri, str(count)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_x
def test_shows_what_the_screen_shows(server: XServer) -> None:
    """Whole screen, upright, in colour, about 25 times a second."""
    server.fill("#c04080")
    frames = _first_pictures(f"screen:{server.display}", 10)
    assert frames[0]["size"] == list(SIZE)
    assert np.abs(np.subtract(frames[-1]["colour"], (0xC0, 0x40, 0x80))).max() < 3
    assert 20 < np.median(np.diff([frame["ms"] for frame in frames])) < 200


@needs_x
def test_part_of_a_screen(server: XServer) -> None:
    """A corner and a size."""
    assert _first_pictures(f"screen:{server.display}+100,50@64x48", 2)[0]["size"] == [64, 48]


def _watching(server: XServer) -> subprocess.Popen[str]:
    """Start the daemon on a whole screen."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPTED), "--source", f"desk=screen:{server.display}", "--format", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


@needs_x
def test_screen_that_goes_away_is_found_again(server: XServer) -> None:
    """The desktop session ended; one that begins on the same display is watched again."""
    process = _watching(server)
    try:
        assert process.stdout is not None
        _read_until(process.stdout, "live")
        server.kill()
        assert _read_until(process.stdout, "reconnecting")["reason"] in {"closed", "unreachable"}
        again = XServer(server.display)
        try:
            _read_until(process.stdout, "live")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=15) == 0
        finally:
            again.kill()
    finally:
        process.kill()
        _, stderr = process.communicate()
    assert "avffd: desk: connected" in stderr


@needs_x
def test_screen_that_stands_still_is_given_up_and_taken_up_again(server: XServer) -> None:
    """FFmpeg waits for such a server without end: the thread is left behind, and another one connects."""
    process = _watching(server)
    try:
        assert process.stdout is not None
        _read_until(process.stdout, "live")
        server.freeze(True)
        states = [_read_until(process.stdout, state) for state in ("stale", "abstain", "reconnecting")]
        server.freeze(False)
        _read_until(process.stdout, "live")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 0
    finally:
        server.freeze(False)
        process.kill()
        process.communicate()
    assert [event["reason"] for event in states] == ["no_media"] * 3


def _read_until(lines: IO[str], state: str) -> dict[str, Any]:
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if event["type"] == "state" and event["state"] == state:
            return event
    raise AssertionError(f"{state} never came")


def test_opencv_that_was_loaded_first_is_refused() -> None:
    """One line instead of a crash in FFmpeg."""
    code = "import cv2; from avff.daemon.sources import open_source; open_source('screen::99')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT
    )
    assert "SourceError: screen: import av before cv2" in done.stderr


@pytest.mark.parametrize("uri", ["screen:front", "screen::0@big", "screen::0+1", "screen:+1,2,3"])
def test_wrong_screen_is_a_usage_error(uri: str) -> None:
    """The message shows the form."""
    with pytest.raises(SourceError, match="DISPLAY") as raised:
        open_source(uri)
    assert raised.value.exit_code == ExitCode.USAGE


def test_no_display_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a console there is no screen to grab."""
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(SourceError, match="DISPLAY is not set") as raised:
        open_source("screen")
    assert raised.value.exit_code == ExitCode.UNAVAILABLE
