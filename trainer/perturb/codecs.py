"""Round trips through the codecs of calls, in memory, picture by picture and packet by packet.

The encoders are set up as for live use: no look-ahead and no reordering, so a picture goes in and the
same picture, worse, comes out.  Every picture keeps its own time stamp, and Opus loses its delay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import cast

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext

from avff.engine.media import NS_PER_S, AudioBlock, Float32, MediaItem, UInt8, VideoFrame
from avff.engine.resample import AudioNormaliser, PlacedAudio

_TICKS_HZ = 1_000_000
_NOMINAL_FPS = 25
_OPUS_HZ = 48_000
_OPUS_FRAME = 960
"""Samples of one Opus packet: 20 ms."""
_LIVE_H264 = {"preset": "veryfast", "tune": "zerolatency"}
_LIVE_VP8 = {"deadline": "realtime", "cpu-used": "-8", "lag-in-frames": "0"}
"""A speed above 0 would follow the load of the machine, and no two runs would give the same pictures."""


def h264(items: Iterable[MediaItem], kbps: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Compress the pictures with H.264 at ``kbps`` kbit/s."""
    del rng
    rate = str(int(kbps * 1000))
    return _through(items, "libx264", "h264", {**_LIVE_H264, "b": rate, "maxrate": rate, "bufsize": rate})


def h264_crf(items: Iterable[MediaItem], crf: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Compress the pictures with H.264 at the constant rate factor ``crf``."""
    del rng
    return _through(items, "libx264", "h264", {**_LIVE_H264, "crf": str(crf)})


def vp8(items: Iterable[MediaItem], kbps: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Compress the pictures with VP8 at ``kbps`` kbit/s."""
    del rng
    rate = str(int(kbps * 1000))
    options = {**_LIVE_VP8, "b": rate, "minrate": rate, "maxrate": rate, "bufsize": rate}
    return _through(items, "libvpx", "vp8", options)


def opus(items: Iterable[MediaItem], kbps: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Compress the sound with Opus at ``kbps`` kbit/s; it comes out at 48 kHz."""
    del rng
    normaliser = AudioNormaliser(_OPUS_HZ)
    track = _OpusTrack(int(kbps * 1000))
    captured_ns = 0
    for item in items:
        if isinstance(item, VideoFrame):
            yield item
            continue
        captured_ns = item.captured_ns
        # An encoder, unlike a file, cannot hold more than full scale.
        for placed in normaliser.push(replace(item, pcm=np.clip(item.pcm, -1, 1))):
            yield from track.push(placed, captured_ns)
    for placed in normaliser.flush():
        yield from track.push(placed, captured_ns)
    yield from track.end(captured_ns)


def _through(
    items: Iterable[MediaItem], encoder: str, decoder: str, options: Mapping[str, str]
) -> Iterator[MediaItem]:
    pair: _PictureCodec | None = None
    for item in items:
        if isinstance(item, AudioBlock):
            yield item
            continue
        if pair is None or pair.shape != item.rgb.shape:
            pair = _PictureCodec(encoder, decoder, item.rgb.shape, options)
        for rgb in pair.push(item):
            yield replace(item, rgb=rgb)


class _PictureCodec:
    """An encoder and the decoder at its other end, for pictures of one size."""

    def __init__(
        self, encoder: str, decoder: str, shape: tuple[int, ...], options: Mapping[str, str]
    ) -> None:
        self.shape = shape
        self._encoder = cast(VideoCodecContext, av.CodecContext.create(encoder, "w"))
        self._encoder.height, self._encoder.width = (side + side % 2 for side in shape[:2])
        self._encoder.pix_fmt = "yuv420p"
        self._encoder.time_base = Fraction(1, _TICKS_HZ)
        self._encoder.framerate = Fraction(_NOMINAL_FPS)
        self._encoder.options = dict(options)
        self._decoder = cast(VideoCodecContext, av.CodecContext.create(decoder, "r"))
        self._encoder.thread_count = self._decoder.thread_count = 1  # the same bits on every machine
        self._tick = -1

    def push(self, frame: VideoFrame) -> list[UInt8]:
        """Return what the other end sees of a picture."""
        height, width = self.shape[:2]
        even = cv2.copyMakeBorder(frame.rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        planes = np.asarray(cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), np.uint8)
        sent = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        # The rate control needs the true times; equal stamps would be refused.
        self._tick = max(self._tick + 1, frame.pts_ns * _TICKS_HZ // NS_PER_S)
        sent.pts, sent.time_base = self._tick, Fraction(1, _TICKS_HZ)
        received = [seen for packet in self._encoder.encode(sent) for seen in self._decoder.decode(packet)]
        return [_rgb(seen)[:height, :width] for seen in received]


def _rgb(frame: av.VideoFrame) -> UInt8:
    return np.asarray(cv2.cvtColor(frame.to_ndarray(), cv2.COLOR_YUV2RGB_I420), np.uint8)


class _OpusTrack:
    """Sound on the 48 kHz timeline through Opus; a gap in it starts the codec anew."""

    def __init__(self, bit_rate: int) -> None:
        self._bit_rate = bit_rate
        self._run: _OpusRun | None = None

    def push(self, placed: PlacedAudio, captured_ns: int) -> list[AudioBlock]:
        ended: list[AudioBlock] = []
        if self._run is not None and self._run.taken_to != placed.start:
            ended = self.end(captured_ns)
        if self._run is None:
            self._run = _OpusRun(placed.start, self._bit_rate)
        return ended + _blocks(self._run.push(placed.pcm), captured_ns)

    def end(self, captured_ns: int) -> list[AudioBlock]:
        """Return what the codec still holds."""
        run, self._run = self._run, None
        return [] if run is None else _blocks(run.end(), captured_ns)


def _blocks(placed: Iterable[PlacedAudio], captured_ns: int) -> list[AudioBlock]:
    return [AudioBlock(p.start * NS_PER_S // _OPUS_HZ, p.pcm, _OPUS_HZ, captured_ns) for p in placed]


class _OpusRun:
    """One stretch of continuous sound.

    Attributes:
        taken_to: index one past the last sample taken.
    """

    def __init__(self, start: int, bit_rate: int) -> None:
        self.taken_to = self._next = start
        self._encoder = av.CodecContext.create("libopus", "w")
        self._encoder.sample_rate, self._encoder.layout, self._encoder.format = _OPUS_HZ, "mono", "flt"
        self._encoder.bit_rate = bit_rate
        self._encoder.options = {"application": "voip", "vbr": "off"}
        self._encoder.open()
        self._decoder = av.CodecContext.create("opus", "r")
        self._decoder.sample_rate, self._decoder.layout = _OPUS_HZ, "mono"
        # RFC 7845, section 5.1: the samples to leave out stand in bytes 10 and 11 of the header.
        self._skip = int.from_bytes((self._encoder.extradata or b"")[10:12], "little")
        self._waiting = np.zeros(0, np.float32)

    def push(self, pcm: Float32) -> list[PlacedAudio]:
        self._waiting = np.concatenate([self._waiting, pcm])
        self.taken_to += len(pcm)
        made: list[PlacedAudio] = []
        while len(self._waiting) >= _OPUS_FRAME:
            made += self._encode(self._waiting[:_OPUS_FRAME])
            self._waiting = self._waiting[_OPUS_FRAME:]
        return made

    def end(self) -> list[PlacedAudio]:
        return [*(self._encode(self._waiting) if len(self._waiting) else []), *self._encode(None)]

    def _encode(self, pcm: Float32 | None) -> list[PlacedAudio]:
        frame = None
        if pcm is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None]), format="flt", layout="mono")
            frame.sample_rate = _OPUS_HZ
        heard = [piece for packet in self._encoder.encode(frame) for piece in self._decoder.decode(packet)]
        return [placed for piece in heard if (placed := self._place(piece)) is not None]

    def _place(self, piece: av.AudioFrame) -> PlacedAudio | None:
        """Leave out the codec's delay at the start and its padding at the end."""
        pcm = np.asarray(piece.to_ndarray()[0], np.float32)
        skipped = min(self._skip, len(pcm))
        self._skip -= skipped
        pcm = pcm[skipped : skipped + self.taken_to - self._next]
        placed = PlacedAudio(self._next, pcm)
        self._next += len(pcm)
        return placed if len(pcm) else None
