"""Files as a stream of pictures and sound on one clock, read with PyAV.

Both tracks keep their own time stamps against one common zero, the start of the
container.  (Readers that renumber each track from its own zero lose the true
offset between picture and sound, the very thing a lip-sync detector looks at.)
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import av.container
import av.error
import av.stream
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from avff.engine.errors import MediaError
from avff.engine.media import NS_PER_S, AudioBlock, Float32, MediaItem, UInt8, VideoFrame
from avff.engine.spec import SPEC

MAX_SIDE_PX = 1280
"""Pictures larger than this are scaled down at decoding: a face that fills the
network's 128 px is still there, and memory stays bounded."""

_LOW_FREQUENCY = "LFE"
_STATES_LENGTH = ("matroska", "mov")
"""Containers that write their length down; for others FFmpeg guesses it from the bit rate."""
_TAIL_S = 2.0
"""A file that ends this much before its promised length was cut; less is rounding and padding."""


def open_media(path: Path) -> MediaReader:
    """Open an audio or video file.

    Raises:
        MediaError: the file is missing, empty, no media, or holds neither picture nor sound.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be opened ({told(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{path}: is a directory; give one media file")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path}: is not a regular file")
    if status.st_size == 0:
        raise MediaError(f"{path}: is empty")
    try:
        # The whitelist keeps playlists (HLS, concat) from reading other files or hosts.
        # Absolute, because FFmpeg would take "take:1.mkv" for a protocol named "take".
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: not readable as audio or video ({told(error)})") from error
    try:
        return MediaReader(path, container)
    except MediaError:
        container.close()
        raise


class MediaReader:
    """Iterates over a file's pictures and sound in file order.

    Args:
        path: for messages: a path, or what people call the input.
        container: open, and closed here.

    Attributes:
        has_video: whether there is a decodable picture track.
        has_audio: whether there is a decodable sound track.
        duration_s: what the container says, or None.
        damaged: packets that could not be decoded and were left out.
        truncated: message of the error that ended the file early, or None.
    """

    def __init__(self, path: Path | str, container: av.container.InputContainer) -> None:
        self._path = path
        self._container = container
        self._video = _pick_video(container)
        self._audio = next((s for s in container.streams.audio if _decodable(s)), None)
        self.has_video = self._video is not None
        self.has_audio = self._audio is not None
        if not (self.has_video or self.has_audio):
            raise MediaError(f"{path}: holds neither picture nor sound that can be decoded")
        self.duration_s = None if container.duration is None else container.duration / av.time_base
        self.damaged = 0
        self.truncated: str | None = None
        self._start_ns = round((container.start_time or 0) * NS_PER_S / av.time_base)
        rate = None if self._video is None else self._video.average_rate
        self._picture_ns = round(NS_PER_S / rate) if rate else NS_PER_S // SPEC.fps
        self._audio_end_ns = self._video_next_ns = 0
        self._items = 0
        self._reached_ns = 0
        # One for all pictures: left to itself, each makes FFmpeg's conversion tables anew.
        self._reformatter = VideoReformatter()

    def __enter__(self) -> MediaReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def __iter__(self) -> Iterator[MediaItem]:
        """Yield every picture and block of sound.

        Raises:
            MediaError: nothing at all could be decoded.
        """
        try:
            yield from self.items()
        except av.error.FFmpegError as error:
            self.truncated = told(error)
        if self._items == 0:
            raise MediaError(f"{self._path}: nothing in it could be decoded")
        if self.truncated is None and self._cut_short():
            self.truncated = f"ends at {self._reached_ns / NS_PER_S:.1f} s of {self.duration_s:.1f} s"

    def items(self) -> Iterator[MediaItem]:
        """Yield every picture and block of sound; damaged packets are left out and counted.

        Raises:
            av.error.FFmpegError: reading on is not possible.
        """
        streams = [s for s in (self._video, self._audio) if s is not None]
        for packet in self._container.demux(streams):
            for item in self._decode(packet):
                self._items += 1
                self._reached_ns = max(self._reached_ns, item.pts_ns)
                yield item

    def _cut_short(self) -> bool:
        """Matroska and others end silently where a file was cut: compare with the promised length."""
        if self.duration_s is None or not self._container.format.name.startswith(_STATES_LENGTH):
            return False
        return self._reached_ns < (self.duration_s - _TAIL_S) * NS_PER_S

    def _decode(self, packet: av.Packet[Any]) -> Iterator[MediaItem]:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            # One damaged packet is a gap in the evidence, not the end of the file.
            self.damaged += 1
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                if not frame.is_corrupt:
                    yield self._picture(frame)
            elif isinstance(frame, av.AudioFrame) and frame.samples:
                yield self._sound(frame)

    def _picture(self, frame: av.VideoFrame) -> VideoFrame:
        # A raw stream has no stamps: its pictures follow one another at the rate it states.
        pts_ns = self._video_next_ns if frame.pts is None else _pts_ns(frame) - self._start_ns
        self._video_next_ns = pts_ns + self._picture_ns
        rgb = upright_rgb(frame, self._pixel_aspect(), self._reformatter)
        return VideoFrame(pts_ns, rgb, time.monotonic_ns())

    def _pixel_aspect(self) -> float:
        ratio = None if self._video is None else self._video.sample_aspect_ratio
        return float(ratio) if ratio else 1.0

    def _sound(self, frame: av.AudioFrame) -> AudioBlock:
        pts_ns = self._audio_end_ns if frame.pts is None else _pts_ns(frame) - self._start_ns
        self._audio_end_ns = pts_ns + frame.samples * NS_PER_S // frame.sample_rate
        return AudioBlock(pts_ns, mono(frame), frame.sample_rate, time.monotonic_ns())


def upright_rgb(
    frame: av.VideoFrame, pixel_aspect: float = 1.0, reformatter: VideoReformatter | None = None
) -> UInt8:
    """Convert a decoded picture of any pixel format to upright RGB with square pixels.

    Args:
        frame: the picture; its display matrix (phone orientation) is honoured.
        pixel_aspect: width of a pixel over its height.
        reformatter: the stream's own, to be used again; None for a single picture.

    Returns:
        uint8 ``[height, width, 3]``, no side longer than ``MAX_SIDE_PX``.
    """
    width, height = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, MAX_SIDE_PX / max(width, height))
    converted = (reformatter or VideoReformatter()).reformat(frame, format="rgb24")
    rgb = np.asarray(converted.to_ndarray(), np.uint8)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != (frame.width, frame.height):
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    turns = round(frame.rotation / 90)
    if _is_mirrored(frame):
        # FFmpeg tells the angle as if the picture were only turned: the mirrored axis counts as half a turn.
        rgb, turns = rgb[:, ::-1], turns + 2
    return np.ascontiguousarray(np.rot90(rgb, turns % 4))


_side_data = cast(Callable[[av.VideoFrame], Mapping[str, bytes]], SideDataContainer)
"""Not ``frame.side_data``: frame and container would hold each other, and the picture's memory until garbage
is collected, some hundreds of pictures later.  PyAV's stub knows neither of the argument nor of this kind."""


def _is_mirrored(frame: av.VideoFrame) -> bool:
    matrix = _side_data(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(matrix), np.int32)[:5])
    return a * d - b * c < 0


def mono(frame: av.AudioFrame) -> Float32:
    """Mix decoded sound to one channel: the mean of all but the low-frequency channel.

    Returns:
        float32 ``[n]`` at the frame's own rate, -1…1.
    """
    pcm = frame.to_ndarray()
    channels = frame.layout.nb_channels
    # Packed formats arrive as [1, n * channels], planar ones as [channels, n].
    pcm = pcm if frame.format.is_planar else pcm.reshape(-1, channels).T
    keep = [i for i, c in enumerate(frame.layout.channels) if c.name != _LOW_FREQUENCY] or [0]
    kept = _to_float(pcm[keep])
    return kept[0] if len(keep) == 1 else np.asarray(kept.mean(axis=0), np.float32)


def _to_float(pcm: np.ndarray) -> Float32:
    if pcm.dtype.kind == "f":
        return pcm.astype(np.float32, copy=False)
    info = np.iinfo(pcm.dtype)
    middle = (info.max + info.min + 1) // 2  # 8-bit sound is unsigned
    return ((pcm.astype(np.float32) - middle) / (info.max - middle + 1)).astype(np.float32)


def _pick_video(container: av.container.InputContainer) -> av.VideoStream | None:
    for stream in container.streams.video:
        cover_art = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if _decodable(stream) and not cover_art:
            stream.codec_context.thread_count = 1
            return stream
    return None


def _decodable(stream: av.VideoStream | av.AudioStream) -> bool:
    return stream.codec_context is not None


def _pts_ns(frame: av.VideoFrame | av.AudioFrame) -> int:
    # Integers all the way: a float would lose nanoseconds after some hours.
    assert frame.pts is not None, "callers check pts"
    base = frame.time_base  # PyAV makes a new fraction each time it is asked
    assert base is not None, "decoded frames carry a time base"
    return frame.pts * NS_PER_S * base.numerator // base.denominator


def told(error: BaseException) -> str:
    """Return what an error of FFmpeg's says, without the name of the file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
