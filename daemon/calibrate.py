"""``avffd calibrate-sync``: how much later the microphone is than the camera, measured with claps."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from avff.daemon.arguments import whole_number
from avff.daemon.errors import DaemonError, ExitCode

if TYPE_CHECKING:
    from avff.daemon.sources import Source
    from avff.engine.claps import ClapOffset

DESCRIPTION = """\
Measures how much later the microphone is than the camera.  Stand before the camera, with both hands in the
picture, and clap about once a second until it is done.  What it writes on stdout belongs into the
settings of --config: with it, lips and voice can be compared.  It holds for this camera with
this microphone.
"""
EPILOG = """\
examples:
  avffd calibrate-sync                               the first camera, the default microphone
  avffd calibrate-sync --mic lapel > sync.yaml       then: avffd --config sync.yaml --source webcam

exit codes: those of avffd; 65 also where claps do not give an offset.
"""
SECONDS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("--source", metavar="URI", default="webcam", help="webcam, webcam:N or webcam:/dev/videoN")
    add("--mic", metavar="NAME", help="microphone; the default one by default")
    add("--config", metavar="FILE", type=Path, help="YAML settings, for those of the camera")
    add("--seconds", metavar="S", type=_seconds, default=SECONDS, help=f"how long, {SECONDS} by default")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the setting and return the exit code.

    Raises:
        DaemonError, EngineError: camera or microphone cannot be had, or the claps do not give an offset.
    """
    source = _source(arguments)
    measured = asyncio.run(_measure(source, arguments.seconds))
    device = f"  device: {_quoted(arguments.mic)}\n" if arguments.mic else ""
    sys.stdout.write(
        f"microphone:\n{device}  sync_offset_ms: {measured.offset_ns / 1e6:.1f}"
        f"  # {measured.claps} claps, each ± {measured.spread_ns / 1e6:.0f} ms\n"
    )
    return ExitCode.OK


def _source(arguments: argparse.Namespace) -> Source:
    from avff.daemon.config import DaemonConfig, MicrophoneSettings
    from avff.daemon.sources import SourceSettings, open_source
    from avff.engine.settings import load_settings

    config = DaemonConfig() if arguments.config is None else load_settings(arguments.config, DaemonConfig)
    if arguments.source.partition(":")[0] != "webcam":
        raise DaemonError("--source: only a webcam can be measured", ExitCode.USAGE)
    microphone = arguments.mic or config.microphone.device
    if microphone == "none":
        raise DaemonError("--mic: there must be one to measure it", ExitCode.USAGE)
    settings = SourceSettings(
        queues=config.queues, camera=config.camera, microphone=MicrophoneSettings(device=microphone)
    )
    return open_source(arguments.source, settings=settings)


async def _measure(source: Source, seconds: int) -> ClapOffset:
    """Watch and listen for so long.

    Raises:
        DaemonError, EngineError: a device is missing or lost, or the claps do not give an offset.
    """
    from avff.engine.claps import LoudnessMeter, MotionMeter, clap_offset
    from avff.engine.media import NS_PER_S, VideoFrame

    motion, loudness = MotionMeter(), LoudnessMeter()
    async with source:
        if not source.has_audio:
            raise DaemonError("without a microphone there is nothing to measure", ExitCode.UNAVAILABLE)
        _say(f"clap about once a second, with both hands in the picture, for {seconds} s")
        async for batch in source:
            for item in batch:
                if isinstance(item, VideoFrame):
                    motion.push(item)
                else:
                    loudness.push(item)
            if batch[-1].pts_ns > seconds * NS_PER_S:
                break
    return clap_offset(motion, loudness)


def _say(words: str) -> None:
    sys.stderr.write(f"avffd: {words}\n")
    sys.stderr.flush()


def _quoted(name: str) -> str:
    """Return a name as YAML takes it, whatever is in it."""
    import json

    return json.dumps(name, ensure_ascii=False)


def _seconds(text: str) -> int:
    return whole_number(text, 8, 120)
