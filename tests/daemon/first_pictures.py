"""Prints size, mean colour and time of a source's first pictures; run as a script by tests.

python3 first_pictures.py URI COUNT
"""

from __future__ import annotations

import asyncio
import json
import sys

from avff.daemon.sources import open_source
from avff.engine.media import VideoFrame


async def main(uri: str, count: int) -> None:
    """Print one line a picture."""
    left = count
    async with open_source(uri) as source:
        async for batch in source:
            for frame in batch[:left]:
                assert isinstance(frame, VideoFrame)
                height, width, _ = frame.rgb.shape
                colour = [round(float(value), 1) for value in frame.rgb.reshape(-1, 3).mean(axis=0)]
                print(json.dumps({"size": [width, height], "colour": colour, "ms": frame.pts_ns / 1e6}))
                left -= 1
            if not left:
                source.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
