"""Sources by URI.  One adapter a file; each imports its heavy library when it is opened."""

from __future__ import annotations

import re
from pathlib import Path

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import file, microphone, network, pipe, screen, webcam
from avff.daemon.sources.base import Opener, Source, SourceSettings
from avff.daemon.sources.several import expand, free_name

__all__ = ["SCHEMES", "Source", "SourceSettings", "expand", "free_name", "open_source"]

SCHEMES: dict[str, Opener] = {
    "file": file.open_file,
    "demo": file.open_demo,
    "webcam": webcam.open_webcam,
    "mic": microphone.open_mic,
    "screen": screen.open_screen,
    "pipe": pipe.open_pipe,
    **{scheme: network.opener_of(scheme) for scheme in network.SCHEMES},
}


def open_source(uri: str, name: str | None = None, settings: SourceSettings | None = None) -> Source:
    """Return the source a URI stands for; it is opened by ``async with``.

    Args:
        uri: a path, ``file:PATH``, ``demo``, ``webcam``, ``webcam:N`` or ``webcam:/dev/videoN``, ``mic``,
            ``mic:NAME``, ``screen``, ``pipe:``, or the URL of a network stream.  A file called like a
            scheme is reached by ``./webcam`` or ``file:webcam``.
        name: of the stream; taken from the URI by default.
        settings: for the adapter.

    Raises:
        SourceError: the scheme is unknown or the rest of the URI makes no sense.
    """
    settings = settings or SourceSettings()
    scheme, _, rest = uri.partition(":")
    scheme = scheme if scheme in SCHEMES else scheme.lower()
    if scheme in SCHEMES:
        return SCHEMES[scheme](rest, name, settings)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", uri) and not Path(uri).exists():
        known = ", ".join(SCHEMES)
        raise SourceError(f"unknown kind of source '{scheme}:'; known are a path and {known}", ExitCode.USAGE)
    return file.open_file(uri, name, settings)
