"""What live inputs say of the time between picture and sound."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avff.engine.live import LiveReader
from avff.engine.media import AudioBlock, MediaItem, VideoFrame


def _reader(form: str, reported: list[int | None]) -> tuple[LiveReader, Any]:
    """A reader of scripted items; before each, the container's realtime is what comes next in the list."""
    container = SimpleNamespace(format=SimpleNamespace(name=form), start_time_realtime=None, start_time=0)

    def items() -> Iterator[MediaItem]:
        for number, unix_us in enumerate(reported):
            container.start_time_realtime = unix_us
            yield VideoFrame(number, np.zeros((2, 2, 3), np.uint8), 0)
            yield AudioBlock(number, np.zeros(8, np.float32), 8000, 0)

    media = SimpleNamespace(has_video=True, has_audio=True, items=items)
    made: Any = LiveReader
    return made("rtsp://cam/live", media, container, 5.0), container


def _errors(form: str, reported: list[int | None]) -> list[int | None]:
    reader, _ = _reader(form, reported)
    it, errors = iter(reader), []
    for _ in range(2 * len(reported)):
        item = next(it)
        if isinstance(item, AudioBlock):
            errors.append(item.error_ns)
    return errors


def test_tracks_of_rtsp_have_nothing_in_common_until_the_sender_has_reported() -> None:
    """FFmpeg begins each at a zero of its own until then."""
    assert _errors("rtsp", [None, None, 1_700_000_000_000_000]) == [None, None, 0]


@pytest.mark.parametrize("form", ["hls", "mpegts", "flv", "matroska,webm"])
def test_tracks_of_one_container_have_one_clock(form: str) -> None:
    """Their time stamps say so."""
    assert _errors(form, [None, None]) == [0, 0]
