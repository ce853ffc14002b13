"""Media that comes through a pipe, in any container that can be read from front to back."""

from __future__ import annotations

import av
import av.error

from avff.engine.decode import MediaReader, told
from avff.engine.errors import MediaError


def open_pipe(fd: int, shown: str) -> MediaReader:
    """Open media that comes through a descriptor.

    FFmpeg's timeouts do not reach a pipe: this blocks for as long as nothing comes.

    Args:
        fd: open for reading, and stays open.
        shown: what people call it.

    Raises:
        MediaError: nothing comes, or no media, or neither picture nor sound.
    """
    # Unbuffered, so that FFmpeg sees what there is instead of waiting for a full buffer.
    file = open(fd, "rb", buffering=0, closefd=False)  # noqa: SIM115 - the container reads it
    try:
        # Nothing else may be opened on behalf of what comes.
        container = av.open(file, mode="r", options={"protocol_whitelist": "none"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{shown}: not readable as audio or video ({told(error)})") from error
    try:
        return MediaReader(shown, container)
    except MediaError:
        container.close()
        raise
