"""What a desktop shows, grabbed from an X server with FFmpeg's ``x11grab``: any call can be watched.

Picture only; the sound of a desktop is a microphone, the monitor of its output.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources.base import Source, SourceSettings
from avff.daemon.sources.live import LiveSource
from avff.daemon.sources.reconnect import ReconnectingSource

if TYPE_CHECKING:
    from avff.engine.live import LiveInput

FPS = 25
"""The grid's own rate: more would be thrown away."""
_FORM = re.compile(
    r"(?P<display>[\w.-]*:\d+(\.\d+)?)?"
    r"(\+(?P<x>\d+),(?P<y>\d+))?(@(?P<size>\d+x\d+))?(#(?P<window>0x[0-9a-fA-F]+|\d+))?"
)


def open_screen(rest: str, name: str | None, settings: SourceSettings) -> Source:
    """Return the source for ``screen:[DISPLAY][+X,Y][@WIDTHxHEIGHT][#WINDOW]``; all of it by default.

    Raises:
        SourceError: it is written otherwise, or there is no display.
    """
    form = _FORM.fullmatch(rest)
    if form is None:
        raise SourceError(
            f"screen:{rest}: give screen:[DISPLAY][+X,Y][@WIDTHxHEIGHT] or screen:[DISPLAY]#WINDOW, "
            "as in screen::0+100,50@640x480",
            ExitCode.USAGE,
        )
    display = form["display"] or os.environ.get("DISPLAY", "")
    if not display:
        raise SourceError("screen: there is no X display here (DISPLAY is not set)", ExitCode.UNAVAILABLE)
    _load_ffmpeg_first()
    shown = f"screen {display}"
    options = _options(form)

    def make_input() -> LiveInput:
        from avff.engine.live import LiveInput

        return LiveInput(display, shown, options, "x11grab")

    stream = name or (f"screen:{rest}" if rest else "screen")
    return ReconnectingSource(stream, lambda: LiveSource(make_input, shown, stream, settings))


def _load_ffmpeg_first() -> None:
    """Load FFmpeg before OpenCV: both bring X libraries of the same names, and the first to come serve both.

    OpenCV does without its own, since it opens no window here; FFmpeg with OpenCV's crashes.

    Raises:
        SourceError: it is too late for that.
    """
    import av

    loaded = list(sys.modules)
    if "cv2" in loaded and loaded.index("cv2") < loaded.index(av.__name__):
        raise SourceError("screen: import av before cv2, or FFmpeg's screen grabber crashes", ExitCode.ENGINE)


def _options(form: re.Match[str]) -> dict[str, str]:
    # Asking for the mouse is how FFmpeg finds out that the server is gone: without, it would go on for ever
    # with the last picture.
    options = {"framerate": str(FPS), "draw_mouse": "1", "protocol_whitelist": "none"}
    if form["x"] is not None:
        options |= {"grab_x": form["x"], "grab_y": form["y"]}
    if form["size"] is not None:
        options["video_size"] = form["size"]
    if form["window"] is not None:
        options["window_id"] = form["window"]
    return options
