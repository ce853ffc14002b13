"""Webcams, captured with OpenCV in a thread of their own; the newest picture wins.

``VideoCapture`` blocks, buffers old pictures and has no way to be interrupted, so
its thread takes every picture at once, stamps it and drops what nobody wanted.
The microphone is a source of its own; ``pair.py`` joins the two.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from avff.daemon.config import CameraSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources.base import SourceSettings
from avff.daemon.sources.device import GONE, DeviceSource
from avff.daemon.sources.microphone import MicrophoneSource
from avff.daemon.sources.pair import CameraAndMicrophone
from avff.engine.media import MediaItem, UInt8, VideoFrame

PICTURE_TIMEOUT_S = 2.0
MAX_WIDTH_PX = 1280
MAX_AGE_NS = 1_000_000_000
"""A driver's time stamp that is older, or in the future, is of another clock."""
RETRY_S = 0.01
SYSFS = Path("/sys/class/video4linux")


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used here."""

    def grab(self) -> bool:
        """Wait for the next picture."""
        ...

    def retrieve(self) -> tuple[bool, Any]:
        """Decode it: whether that worked, and uint8 ``[height, width, 3]`` in BGR."""
        ...

    def stamp_ms(self) -> float:
        """Return the driver's monotonic time of the picture, in ms; 0 where it has none."""
        ...

    def release(self) -> None:
        """Close the device."""
        ...


def open_webcam(rest: str, name: str | None, settings: SourceSettings) -> WebcamSource | CameraAndMicrophone:
    """Return the source for a camera: nothing = the first one, a number, or a device node.

    The default microphone, or the one in the settings, goes with it.

    Raises:
        SourceError: neither a number nor a device.
    """
    if rest and not re.fullmatch(r"\d{1,3}|/dev/.+", rest):
        raise SourceError(f"webcam:{rest}: no camera; give webcam:N or webcam:/dev/videoN", ExitCode.USAGE)
    default_name = f"webcam:{rest}" if rest else "webcam"
    stream, device = name or default_name, camera_device(rest or "0")
    wanted = settings.microphone.device
    if wanted == "none":
        return WebcamSource(device, stream, settings)
    which = "" if wanted == "default" else wanted
    return CameraAndMicrophone(
        stream,
        lambda: WebcamSource(device, stream, settings),
        lambda: MicrophoneSource(which, stream, settings),
    )


def camera_device(which: str) -> str | int:
    """Return what OpenCV is to open: a device node on Linux, a number elsewhere."""
    if which.isdigit() and not sys.platform.startswith("linux"):
        return int(which)
    return f"/dev/video{which}" if which.isdigit() else which


def cameras_found(sysfs: Path = SYSFS) -> list[str]:
    """Return ``/dev/videoN (name)`` for each video node the kernel knows, Linux only."""
    return [f"/dev/{node.name} ({camera_name(node)})" for node in camera_nodes(sysfs)]


def camera_nodes(sysfs: Path) -> list[Path]:
    """Return the kernel's entries of video nodes, in order of their numbers."""
    return sorted(sysfs.glob("video*"), key=lambda node: (len(node.name), node.name))


def camera_name(node: Path) -> str:
    """Return what the kernel calls a video node."""
    try:
        return (node / "name").read_text().strip()
    except OSError:
        return "unnamed"


class WebcamSource(DeviceSource[VideoFrame]):
    """One camera.

    Args:
        device: device node or number.
        name: of the stream.
        settings: queue sizes and what to ask of the camera.
        open_capture: opens the device, in the capture thread; a seam for tests.
    """

    has_video = True
    has_audio = False
    max_skew_ns: int | None = 200_000_000

    def __init__(
        self,
        device: str | int,
        name: str,
        settings: SourceSettings,
        open_capture: Callable[[str | int, CameraSettings], Capture] | None = None,
    ) -> None:
        super().__init__(
            name, thread="capture", told=f"camera {device}", gives="picture",
            hint="; is another program using it?", capacity=settings.queues.live_frames,
        )  # fmt: skip
        self._device = device
        self._camera = settings.camera
        self._open_capture = open_capture
        self._opened: Capture | None = None

    async def __anext__(self) -> list[MediaItem]:
        """Return the pictures that wait, at least one.

        Raises:
            SourceError: the camera gave none for ``PICTURE_TIMEOUT_S``.
        """
        while True:
            frames = await self._next(PICTURE_TIMEOUT_S)
            batch = [self._on_media_time(f) for f in frames if f.pts_ns >= self._zero_ns]
            if batch:
                return list(batch)

    async def _start(self) -> None:
        if self._open_capture is None:
            _check_device(self._device)
        await super()._start()

    def _on_media_time(self, frame: VideoFrame) -> VideoFrame:
        return VideoFrame(frame.pts_ns - self._zero_ns, frame.rgb, frame.captured_ns)

    def _open(self) -> None:
        self._opened = (self._open_capture or _open_cv2)(self._device, self._camera)

    def _capture(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._opened is not None, "_open() comes first"
        while not self._stopping.is_set():
            if not self._opened.grab():
                self._stopping.wait(RETRY_S)  # the watchdog in the loop gives up, not this
                continue
            captured_ns = time.monotonic_ns()
            shown_ns = picture_time_ns(captured_ns, self._opened.stamp_ms())
            ok, bgr = self._opened.retrieve()
            if ok and bgr is not None:
                frame = VideoFrame(shown_ns, _to_rgb(bgr), captured_ns)
                loop.call_soon_threadsafe(self._box.put_nowait, frame)

    def _release(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.release()


def picture_time_ns(captured_ns: int, stamp_ms: float) -> int:
    """Return when a picture was taken: the driver's time, unless it cannot be; then that of its arrival."""
    age_ns = captured_ns - round(stamp_ms * 1e6)
    return captured_ns - age_ns if 0 <= age_ns <= MAX_AGE_NS else captured_ns


class _Cv2Capture:
    """A ``cv2.VideoCapture`` that is open."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self.grab: Callable[[], bool] = capture.grab
        self.retrieve: Callable[[], tuple[bool, Any]] = capture.retrieve
        self.release: Callable[[], None] = capture.release

    def stamp_ms(self) -> float:
        import cv2

        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC))


def _check_device(device: str | int) -> None:
    """Refuse a missing node by listing the ones there are."""
    if isinstance(device, str) and not Path(device).exists():
        found = cameras_found()
        there_is = f"found {', '.join(found)}" if found else "no camera found"
        raise SourceError(f"there is no camera {device}; {there_is}", GONE)


def _open_cv2(device: str | int, camera: CameraSettings) -> Capture:
    """Open a camera with OpenCV.

    Raises:
        SourceError: the device is no camera, is busy, or may not be read.
    """
    import cv2  # 60 MB of library, only for those who have a camera

    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # its warnings say less than the error below
    backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
    capture = cv2.VideoCapture(device, backend)
    if not capture.isOpened():
        capture.release()
        raise SourceError(_why_not(device), GONE)
    # MJPG first: in the default uncompressed format most cameras give 5-10 pictures a second
    # at 720p, and the format takes effect only when the size is set after it.
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height)
    capture.set(cv2.CAP_PROP_FPS, camera.fps)
    return _Cv2Capture(capture)


def _why_not(device: str | int) -> str:
    """Say why a device that exists could not be opened."""
    try:
        with open(device, "rb"):
            pass
    except PermissionError:
        return f"no permission for camera {device}; add yourself to the group 'video'"
    except OSError as error:
        return f"camera {device} cannot be opened ({error.strerror})"
    return f"camera {device} cannot be opened; it is busy in another program, or no camera"


def _to_rgb(bgr: UInt8) -> UInt8:
    """Turn OpenCV's BGR into RGB, no wider than ``MAX_WIDTH_PX``."""
    import cv2

    height, width = bgr.shape[:2]
    if width > MAX_WIDTH_PX:
        size = (MAX_WIDTH_PX, max(1, round(height * MAX_WIDTH_PX / width)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA).astype("uint8", copy=False)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype("uint8", copy=False)
