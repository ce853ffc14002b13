"""Live inputs read with PyAV: network streams and screens, on their sender's clock.

Everything here blocks and belongs into a thread that can be abandoned.  What the
other side may do is bounded: time to open and to read, protocols, containers,
codecs and the size of pictures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import av
import av.container
import av.error

from avff.engine.decode import MediaReader
from avff.engine.errors import LiveError, MediaError
from avff.engine.media import AudioBlock, MediaItem

MAX_PIXELS = 4096 * 2304
"""Larger pictures are refused: one would take 28 MB before it is scaled down."""
FORMATS = (
    "rtsp,rtp,sdp,flv,live_flv,mpegts,hls,matroska,webm,mov,mp4,mpeg,mpjpeg,mjpeg,h264,hevc,ogg,aac,mp3,x11grab"
)  # fmt: skip
"""Demuxers that may be used.  What a server sends chooses among them, so the only list of files is HLS,
whose parts may come over the URL's own protocols."""
_VIDEO_CODECS = (
    "h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg", "mpeg4", "mpeg1video",
    "mpeg2video", "rawvideo", "bmp",
)  # fmt: skip
_AUDIO_CODECS = (
    "aac", "aac_latm", "opus", "libopus", "mp3", "mp3float", "mp2", "mp2float", "vorbis", "ac3", "flac",
    "g722", "g726", "pcm_alaw", "pcm_mulaw", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le",
    "pcm_f32le", "pcm_u8", "speex", "libspeex",
)  # fmt: skip
CODECS = frozenset(_VIDEO_CODECS + _AUDIO_CODECS)
"""Decoders that may run: those in use, and no others that a server could ask for."""
_TLS = ("https:", "rtsps:", "rtmps:")
_NS_PER_US = 1000
_STATE_LENGTH = ("matroska", "mov", "hls", "mpeg", "ogg")
"""Containers that have a length only when they are no live stream."""


@dataclass(frozen=True, slots=True)
class LiveInput:
    """What FFmpeg is to open.

    Attributes:
        url: with everything that is in it; may hold a password, so it is shown nowhere.
        shown: what people and programs are told instead.
        options: FFmpeg's, with the protocols that may be used.
        format: of the demuxer; None to find out.
    """

    url: str = field(repr=False)
    shown: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    format: str | None = None


def open_live(what: LiveInput, open_timeout_s: float, read_timeout_s: float) -> LiveReader:
    """Open a live input, within twice the timeout: FFmpeg connects, then looks at the streams.

    Raises:
        LiveError: it cannot be reached, refuses, or sends nothing that can be used.
    """
    began_s = time.monotonic()
    options = {"format_whitelist": FORMATS, "max_streams": "32"} | dict(what.options)
    try:
        container = av.open(
            what.url, format=what.format, options=options, timeout=(open_timeout_s, read_timeout_s)
        )
    except (av.error.FFmpegError, ValueError) as error:
        # Not as a cause: FFmpeg's errors hold the URL with its password.
        raise _opening_failed(what.shown, error, time.monotonic() - began_s, open_timeout_s) from None
    try:
        _check(what, container)
        return LiveReader(what.shown, MediaReader(what.shown, container), container, read_timeout_s)
    except MediaError as error:
        container.close()
        raise error if isinstance(error, LiveError) else LiveError(str(error), "not_media") from None


class LiveReader:
    """Iterates over a live input; it never just ends.

    Attributes:
        has_video, has_audio: which tracks there are.
        in_bursts: whether media comes in parts of seconds at a time (HLS), which have to be paced.
    """

    def __init__(
        self,
        shown: str,
        reader: MediaReader,
        container: av.container.InputContainer,
        read_timeout_s: float,
    ) -> None:
        self.has_video, self.has_audio = reader.has_video, reader.has_audio
        self.in_bursts = container.format.name == "hls"
        self._separate = container.format.name == "rtsp"
        self._shown = shown
        self._reader = reader
        self._container = container
        self._read_timeout_s = read_timeout_s

    @property
    def unix_ns(self) -> int | None:
        """Unix time of media time 0 by the sender's clock, in ns; None while it has not told (RTCP)."""
        started_us, zero_us = self._container.start_time_realtime, self._container.start_time or 0
        return None if started_us is None else (started_us + zero_us) * _NS_PER_US

    def __iter__(self) -> Iterator[MediaItem]:
        """Yield pictures and sound as they come.

        Raises:
            LiveError: always, in the end: nothing came for too long, or the sender closed.
        """
        try:
            for item in self._reader.items():
                yield self._with_doubt(item)
        except av.error.FFmpegError as error:
            raise self._broken(error) from None
        raise LiveError(f"{self._shown}: the sender closed the stream", "closed")

    def _with_doubt(self, item: MediaItem) -> MediaItem:
        """Say of RTSP's sound that nobody knows how it lies to the picture, until the sender has reported.

        Before that FFmpeg lets each track begin at a zero of its own; some cameras never report.
        """
        if self._separate and isinstance(item, AudioBlock) and self.unix_ns is None:
            return replace(item, error_ns=None)
        return item

    def close(self) -> None:
        """Release the connection."""
        self._container.close()

    def _broken(self, error: av.error.FFmpegError) -> LiveError:
        if isinstance(error, av.error.ExitError):
            return LiveError(f"{self._shown}: nothing came for {self._read_timeout_s:g} s", "no_media")
        return LiveError(f"{self._shown}: the connection broke ({error.strerror})", "closed")


def _check(what: LiveInput, container: av.container.InputContainer) -> None:
    """Refuse what is no live stream, or more than this program wants to decode.

    Raises:
        LiveError: it says what there is too much of.
    """
    if what.url.startswith("http") and container.duration and container.format.name.startswith(_STATE_LENGTH):
        length_s = container.duration / av.time_base
        raise LiveError(
            f"{what.shown}: is a file of {length_s:.0f} s, no live stream; download it first", "not_live"
        )
    for stream in (*container.streams.video, *container.streams.audio):
        codec: Any = stream.codec_context  # None where FFmpeg has no decoder, which the stub does not know
        if codec is not None and codec.name not in CODECS:
            raise LiveError(f"{what.shown}: streams in {codec.name} are not accepted", "unsupported")
    for video in container.streams.video:
        if video.width * video.height > MAX_PIXELS:
            raise LiveError(
                f"{what.shown}: pictures of {video.width}x{video.height} px are more than the "
                f"{MAX_PIXELS / 1e6:.1f} million pixels allowed",
                "too_large",
            )
        if video.codec_context is not None:
            video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}


REASONS: tuple[tuple[type[BaseException], str, str], ...] = (
    (av.error.HTTPUnauthorizedError, "unauthorized", "user or password is wrong (401)"),
    (av.error.HTTPForbiddenError, "unauthorized", "access is forbidden (403)"),
    (av.error.HTTPNotFoundError, "not_found", "the server has no such stream (404)"),
    (av.error.HTTPClientError, "refused", "the server refused the request"),
    (av.error.HTTPServerError, "refused", "the server failed"),
    (av.error.ConnectionRefusedError, "refused", "connection refused"),
    (av.error.ProtocolNotFoundError, "unsupported", "this build of FFmpeg does not have the protocol"),
    (av.error.InvalidDataError, "not_media", "what came is no media"),
    (av.error.ArgumentError, "not_media", "another container than accepted, or a redirection"),
)
"""FFmpeg's errors, the word for programs, and the words for people."""


def _opening_failed(shown: str, error: BaseException, took_s: float, limit_s: float) -> LiveError:
    # Interrupted, FFmpeg's demuxers say all kinds of things; the time tells.
    if isinstance(error, av.error.ExitError) or took_s >= limit_s:
        return LiveError(f"{shown}: no answer within {limit_s:g} s", "timed_out")
    for kind, reason, text in REASONS:
        if isinstance(error, kind):
            return LiveError(f"{shown}: {text}", reason)
    # FFmpeg has one word for hosts without an address and for certificates that nobody vouches for.
    or_tls = ", or its certificate is not trusted" if shown.startswith(_TLS) else ""
    why = getattr(error, "strerror", None) or type(error).__name__
    return LiveError(f"{shown}: cannot be reached{or_tls} ({why})", "unreachable")
