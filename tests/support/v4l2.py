"""A camera for tests below OpenCV: ``v4l2_shim.c`` built, and pictures for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

from tests.support.media import Picture

SOURCE = Path(__file__).with_name("v4l2_shim.c")
DEVICE = "/dev/video77"
SIZE = (640, 480)
"""The only size that the camera has, and the one ``Picture`` must draw."""


def compiler() -> str | None:
    """Return the C compiler, or None where there is none, or no V4L2."""
    return shutil.which("gcc") or shutil.which("cc") if sys.platform == "linux" else None


def build_shim(directory: Path) -> Path:
    """Compile the shim and return the library."""
    library = directory / "v4l2_shim.so"
    command = [
        compiler() or "cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        str(SOURCE), "-o", str(library), "-ldl",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def write_pictures(path: Path, picture: Picture, count: int) -> Path:
    """Write raw YUYV pictures, which the camera plays in a loop."""
    with path.open("wb") as file:
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24").reformat(format="yuyv422")
            file.write(np.ascontiguousarray(frame.to_ndarray()).tobytes())
    return path


def camera_environment(
    library: Path, pictures: Path, *, mode: str = "", after: int = 0, epoch_ns: int | None = None
) -> dict[str, str]:
    """Return the variables that give a process the camera ``DEVICE``.

    Args:
        library: from :func:`build_shim`.
        pictures: from :func:`write_pictures`.
        mode: ``busy``, ``stall``, ``unplug``, or nothing for a camera that works.
        after: pictures before it stalls or is unplugged.
        epoch_ns: monotonic time at which picture 0 is before the camera; by default when it is opened.
    """
    return {
        "LD_PRELOAD": str(library),
        "AVFF_SHIM_DEVICE": DEVICE,
        "AVFF_SHIM_PICTURES": str(pictures),
        "AVFF_SHIM_MODE": mode,
        "AVFF_SHIM_AFTER": str(after),
        "AVFF_SHIM_EPOCH": "" if epoch_ns is None else str(epoch_ns),
    }
