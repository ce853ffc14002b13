"""A real RTSP server as a process that tests can pause, kill and start again."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

PYTHON = "/usr/bin/python3"
"""The system's: GStreamer's bindings belong to it."""
_SERVER = Path(__file__).with_name("rtsp_server.py")
PICTURES = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 "
    "! jpegenc ! valve name=gate0 ! rtpjpegpay name=pay0 pt=26"
)
SOUND = (
    "audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 "
    "! alawenc ! valve name=gate1 ! rtppcmapay name=pay1 pt=8"
)


@functools.cache
def missing() -> str | None:
    """Return why there can be no server here, or None."""
    test = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        done = subprocess.run([PYTHON, "-c", test], capture_output=True, check=False, timeout=30)
    except OSError:
        return f"there is no {PYTHON}"
    return "needs gir1.2-gst-rtsp-server-1.0 and python3-gi" if done.returncode else None


class RtspServer:
    """Serves ``/live``.

    Args:
        pipeline: elements; with pictures and sound by default.
        login: user and password that it asks for.
        port: to listen at; any free one by default.
    """

    def __init__(
        self, pipeline: str = f"{PICTURES} {SOUND}", login: tuple[str, ...] = (), port: str = "0"
    ) -> None:
        self._process = subprocess.Popen(
            [PYTHON, str(_SERVER), port, f"( {pipeline} )", *login],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        assert self.port, "the server did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def url(self, path: str = "live", login: str = "") -> str:
        """Return the URL of a stream."""
        return f"rtsp://{login}127.0.0.1:{self.port}/{path}"

    def tell(self, command: str) -> None:
        """Send ``pause``, ``resume`` or ``jump SECONDS``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it without a goodbye; idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
