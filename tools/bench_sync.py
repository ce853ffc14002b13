"""Measure how well camera and microphone are in step, and how soon a lost microphone is told.

python -m tools.bench_sync [--seconds N] [--json FILE]

From the repository's root: it takes the tests' camera (below OpenCV) and sound server (PulseAudio, below
PortAudio), which need gcc and the Debian packages pulseaudio, pulseaudio-utils, libportaudio2 and
libasound2-plugins.  A clip is shown and played on one clock, the microphone with a drift, and what is
recorded is compared with it.  Exits with 1 when a budget is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from avff.daemon.errors import SourceError
from avff.daemon.sources import open_source
from tests.support.portrait import SECONDS, speech, talking
from tests.support.pulse import MICROPHONE, RATE_HZ, PulseServer, missing, pulse_server
from tests.support.replay import picture_lag_ms, recorded_pair, replayed, sound_lags_ms
from tests.support.v4l2 import SIZE, build_shim, compiler

DRIFTS_PPM = (0.0, 100.0, 1000.0)
OFFSET_MS, LOSS_S, RETURN_S = 20.0, 1.0, 5.0
"""Budgets: offset from 10 s on, time until a loss is told, time until sound comes again."""

Row = tuple[str, float, float]
"""What, measured, and at most."""


def main() -> int:
    """Measure, print a table and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each recording")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    arguments = parser.parse_args()
    lacking = missing() or (None if compiler() else "needs gcc")
    if lacking:
        sys.exit(f"bench_sync: {lacking}")
    rows = [row for ppm in DRIFTS_PPM for row in _offsets(ppm, arguments.seconds)] + _loss()
    print("| | measured | at most |\n|---|---|---|")
    for what, value, limit in rows:
        print(f"| {what} | {value:.1f} | {limit:g} |")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1))
    return int(any(value > limit for _, value, limit in rows))


def _offsets(ppm: float, seconds: float) -> list[Row]:
    """Record a clip and return how far its sound is from its pictures, from 10 s on."""
    voice: npt.NDArray[np.float32] = np.asarray(speech(RATE_HZ, "mono")[0] / 32768, np.float32)
    rounds = round(seconds / SECONDS) + 10
    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), talking(SIZE)
        shim = build_shim(folder)
        with replayed(folder, shim, draw, voice, seconds=SECONDS, rounds=rounds, ppm=ppm) as replay:
            recorded = recorded_pair(replay, seconds, folder)
        off_ms = np.array(sound_lags_ms(recorded, replay, voice)) - picture_lag_ms(recorded, replay, draw)
        told_ms = float(recorded["error_ns"][-1]) / 1e6
    what = f"microphone {ppm:g} ppm slow:"
    return [
        (
            f"{what} sound against picture, worst second from 10 s on, ms",
            float(np.abs(off_ms).max()),
            OFFSET_MS,
        ),
        (f"{what} the error that events tell, ms", told_ms, OFFSET_MS),
    ]


def _loss() -> list[Row]:
    """Unplug the microphone and plug it in again."""
    with pulse_server() as pulse:
        os.environ.update(pulse.environment)
        lost_s, back_s = asyncio.run(_unplug_and_back(pulse))
    return [
        ("unplugged microphone is told, s", lost_s, LOSS_S),
        ("sound after it is back, s", back_s, RETURN_S),
    ]


async def _unplug_and_back(pulse: PulseServer) -> tuple[float, float]:
    began = 0.0
    async with open_source(f"mic:{MICROPHONE}") as source:
        try:
            async for batch in source:
                if not began and batch[-1].pts_ns > 1_000_000_000:
                    pulse.unplug()
                    began = time.monotonic()
        except SourceError:
            lost_s = time.monotonic() - began
    pulse.plug_in()
    began = time.monotonic()
    async with open_source(f"mic:{MICROPHONE}") as source:
        await anext(aiter(source))
        return lost_s, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
