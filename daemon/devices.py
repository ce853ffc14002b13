"""``avffd devices``: the cameras and microphones that there are, and what each can do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from avff.daemon.errors import ExitCode, SourceError

if TYPE_CHECKING:
    from avff.daemon.sources.portaudio import Microphone
    from avff.daemon.sources.v4l2 import Mode

DESCRIPTION = """\
Lists cameras and microphones, and what each can do.  What stands first on a line is what
--source webcam:… and --mic … take; of a microphone's name a part is enough.
"""
EPILOG = "Where something is missing, a library or a permission, the list says what."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set what the command runs; it takes nothing."""
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List the devices and return the exit code."""
    lines = ["cameras:", *_cameras(), "microphones:", *_microphones()]
    sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.OK


def _cameras() -> Iterator[str]:
    if not sys.platform.startswith("linux"):
        yield "  they cannot be listed on this system; try webcam:0, webcam:1 and so on"
        return
    from avff.daemon.sources.webcam import SYSFS, camera_name, camera_nodes

    told = [line for node in camera_nodes(SYSFS) for line in told_of_camera(node.name, camera_name(node))]
    yield from told or ["  none found"]


def told_of_camera(node: str, name: str) -> list[str]:
    """Return the lines for one video node; none when it gives no pictures, as one of each camera's does."""
    from avff.daemon.sources.v4l2 import camera_modes

    device = f"/dev/{node}"
    try:
        modes = camera_modes(device)
    except PermissionError:
        return [f"  {device}  {name}", "      no permission; add yourself to the group 'video'"]
    except OSError as error:
        return [f"  {device}  {name}", f"      cannot be asked ({error.strerror})"]
    if modes is None:
        return []
    return [f"  {device}  {name}", *(f"      {line}" for line in _by_format(modes))]


def _by_format(modes: Sequence[Mode]) -> Iterator[str]:
    for name in dict.fromkeys(mode.format for mode in modes):
        sizes = (
            f"{m.width}x{m.height}" + (f" at {m.fps:g}" if m.fps else "") for m in modes if m.format == name
        )
        yield f"{name}: {', '.join(sizes)}"


def _microphones() -> Iterator[str]:
    from avff.daemon.sources.portaudio import microphones

    try:
        found = microphones()
    except SourceError as error:
        yield f"  none: {error}"
        return
    yield from (_told_of_microphone(m) for m in found)
    if not found:
        yield "  none found"


def _told_of_microphone(microphone: Microphone) -> str:
    channels = f"{microphone.channels} channel" + "s" * (microphone.channels != 1)
    facts = f"{microphone.system}, {channels}, {microphone.rate_hz} Hz"
    default = ", the default" if microphone.default else ""
    return f"  {microphone.number}  {microphone.name}  ({facts}{default})"
