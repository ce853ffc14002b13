"""Sinks by format, and which of them a terminal or a pipe gets."""

from __future__ import annotations

import os
from collections.abc import Callable

from avff.daemon.sinks.base import Outlet, Publisher, Sink, SinkError
from avff.daemon.sinks.jsonl import JsonlSink
from avff.daemon.sinks.live import LiveSink
from avff.daemon.sinks.text import TextSink

__all__ = ["FORMATS", "Outlet", "Publisher", "Sink", "SinkError", "console_sinks"]

FORMATS: dict[str, Callable[[], Sink]] = {
    "jsonl": JsonlSink,
    "text": TextSink,
}


def console_sinks(chosen: str | None) -> list[Sink]:
    """Return the sinks for stdout and stderr.

    Args:
        chosen: format of stdout; None for text on a terminal and JSON lines elsewhere.
    """
    stdout, stderr = 1, 2
    out = FORMATS[chosen or ("text" if os.isatty(stdout) else "jsonl")]()
    # On one terminal the live line would be torn apart by the lines on stdout.
    shared = os.isatty(stdout) and os.path.samestat(os.fstat(stdout), os.fstat(stderr))
    return [out, LiveSink(follow=os.isatty(stderr) and not shared)]
