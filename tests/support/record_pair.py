"""Records a camera and a microphone as the daemon does, for a process that has the test camera preloaded.

    python -m tests.support.record_pair URI MICROPHONE SECONDS FILE

The file (NumPy's) holds ``zero_ns``, monotonic time of media time 0; of pictures ``frame_ns`` and a few
points of each, ``points``; of sound ``block_ns``, ``block_len``, ``gap``, ``error_ns`` (-1: unknown), ``pcm``
and ``rate_hz``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from avff.daemon.config import MicrophoneSettings
from avff.daemon.sources import SourceSettings, open_source
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, VideoFrame

STEP = 32
"""Every so many rows and columns of a picture are kept."""


def points_of(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return what is kept of a picture."""
    return rgb[::STEP, ::STEP, 1].copy()


async def record(uri: str, microphone: str, seconds: float) -> dict[str, Any]:
    """Record so many seconds."""
    settings = SourceSettings(microphone=MicrophoneSettings(device=microphone, sync_offset_ms=0.0))
    items: list[MediaItem] = []
    async with open_source(uri, settings=settings) as source:
        batches = aiter(source)
        zero_ns = time.monotonic_ns()  # a few microseconds after the source's own
        async for batch in batches:
            items += [_small(item) for item in batch]
            if batch[-1].pts_ns > seconds * NS_PER_S:
                break
    frames = [item for item in items if isinstance(item, VideoFrame)]
    blocks = [item for item in items if isinstance(item, AudioBlock)]
    return {
        "zero_ns": np.array(zero_ns),
        "frame_ns": np.array([f.pts_ns for f in frames]),
        "points": np.stack([f.rgb for f in frames]),
        "block_ns": np.array([b.pts_ns for b in blocks]),
        "block_len": np.array([len(b.pcm) for b in blocks]),
        "gap": np.array([b.gap for b in blocks]),
        "error_ns": np.array([-1 if b.error_ns is None else b.error_ns for b in blocks]),
        "pcm": np.concatenate([b.pcm for b in blocks]),
        "rate_hz": np.array(blocks[0].rate_hz),
    }


def _small(item: MediaItem) -> MediaItem:
    if isinstance(item, VideoFrame):
        return VideoFrame(item.pts_ns, points_of(item.rgb), item.captured_ns)
    return item


if __name__ == "__main__":
    recorded: dict[str, Any] = asyncio.run(record(sys.argv[1], sys.argv[2], float(sys.argv[3])))
    np.savez(sys.argv[4], **recorded)
