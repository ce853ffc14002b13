"""Real media for tests, written with PyAV: no binary files in the repository, no mocked decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Picture = Callable[[int], npt.NDArray[np.uint8]]
"""From picture number to uint8 ``[height, width, 3]`` RGB."""

TICKS_HZ = 90_000


def write_clip(
    path: Path,
    *,
    seconds: float = 3.0,
    video: bool = True,
    codec: str = "mpeg4",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (160, 120),
    fps: float = 25.0,
    frames: int | None = None,
    times_s: Sequence[float] | None = None,
    picture: Picture | None = None,
    rotation: int = 0,
    audio: bool = True,
    audio_codec: str | None = None,
    rate_hz: int = 16_000,
    layout: str = "mono",
    tone_hz: float = 440.0,
    sound: npt.NDArray[np.int16] | None = None,
    audio_start_s: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a media file and return its path; the container follows from the suffix.

    Args:
        path: where to; its suffix names the container.
        seconds: length of both tracks.
        video: whether there is a picture track.
        codec: of the pictures, for example ``mpeg4``, ``libx264``, ``ffv1``.
        pixel_format: of the pictures; ``yuv422p10le`` needs ``libx264`` or ``ffv1``.
        size: width and height in px; odd sizes need a format without subsampling or ``ffv1``.
        fps: constant picture rate.
        frames: number of pictures; from ``seconds`` by default.
        times_s: time of each picture for a variable rate; overrides ``fps`` and ``frames``.
        picture: draws a picture; a moving square by default.
        rotation: degrees counter-clockwise that a player has to turn the picture (0, 90, 180, 270);
            needs MP4 or MOV.
        audio: whether there is a sound track.
        audio_codec: by default ``aac`` for MP4 and MOV, ``pcm_s16le`` elsewhere.
        rate_hz: sampling rate.
        layout: channels, for example ``mono``, ``stereo``, ``5.1``.
        tone_hz: pitch of the sound.
        sound: int16 ``[channels, n]`` at ``rate_hz``, in place of a tone of ``seconds``.
        audio_start_s: media time of the first sample.
        options: of the container.
    """
    times = list(times_s) if times_s is not None else _times(seconds, fps, frames)
    with av.open(str(path), "w", options=options or {}) as container:
        packets: list[av.Packet[av.VideoStream] | av.Packet[av.AudioStream]] = []
        # Both streams exist before the first packet is written: the header lists them.
        pictures = _video_stream(container, codec, pixel_format, size, fps) if video else None
        track = _audio_stream(container, path, audio_codec, rate_hz, layout) if audio else None
        if pictures is not None:
            packets += _encode_pictures(pictures, times, picture or moving_square(*size))
        if track is not None:
            pcm = _tone(seconds, rate_hz, layout, tone_hz) if sound is None else sound
            packets += _encode_sound(track, pcm, rate_hz, layout, audio_start_s)
        for packet in sorted(packets, key=_decode_time_s):
            container.mux(packet)
    if rotation:
        _write_display_matrix(path, rotation)
    return path


def moving_square(width: int, height: int) -> Picture:
    """A bright square that moves over a grey ramp; red at the left edge, so that turning shows."""

    def draw(k: int) -> npt.NDArray[np.uint8]:
        ramp = np.linspace(40, 160, width, dtype=np.float32).astype(np.uint8)
        rgb = np.repeat(np.tile(ramp, (height, 1))[:, :, None], 3, axis=2)
        side = max(1, min(width, height) // 4)
        x = (3 * k) % max(1, width - side)
        rgb[:side, x : x + side] = 255
        rgb[:, : max(1, width // 8)] = (255, 0, 0)
        return rgb

    return draw


def truncate(path: Path, share: float) -> Path:
    """Cut a file off after a share 0…1 of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def _times(seconds: float, fps: float, frames: int | None) -> list[float]:
    count = round(seconds * fps) if frames is None else frames
    return [k / fps for k in range(count)]


def _video_stream(
    container: av.container.OutputContainer, codec: str, pixel_format: str, size: tuple[int, int], fps: float
) -> av.VideoStream:
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = size
    stream.pix_fmt = pixel_format
    return stream


def _audio_stream(
    container: av.container.OutputContainer, path: Path, codec: str | None, rate_hz: int, layout: str
) -> av.AudioStream:
    chosen = codec or ("aac" if path.suffix in {".mp4", ".mov", ".m4a"} else "pcm_s16le")
    stream = container.add_stream(chosen, rate=rate_hz, layout=layout)
    assert isinstance(stream, av.AudioStream)
    return stream


def _encode_pictures(
    stream: av.VideoStream, times_s: Sequence[float], draw: Picture
) -> list[av.Packet[av.VideoStream]]:
    # MPEG-4 allows at most 65535 ticks a second; milliseconds show any rate used in tests.
    stream.codec_context.time_base = Fraction(1, 1000)
    packets: list[av.Packet[av.VideoStream]] = []
    for k, time_s in enumerate(times_s):
        frame = av.VideoFrame.from_ndarray(draw(k), format="rgb24").reformat(format=stream.pix_fmt)
        frame.pts = round(time_s * 1000)
        frame.time_base = Fraction(1, 1000)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _tone(seconds: float, rate_hz: int, layout: str, tone_hz: float) -> npt.NDArray[np.int16]:
    wave = 0.3 * np.sin(2 * np.pi * tone_hz * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.repeat((wave * 32767).astype(np.int16)[None, :], av.AudioLayout(layout).nb_channels, axis=0)


def _encode_sound(
    stream: av.AudioStream, pcm: npt.NDArray[np.int16], rate_hz: int, layout: str, start_s: float
) -> list[av.Packet[av.AudioStream]]:
    resampler = av.AudioResampler(
        stream.codec_context.format, layout, rate_hz, frame_size=stream.codec_context.frame_size or 1024
    )
    packets: list[av.Packet[av.AudioStream]] = []
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16p", layout=layout)
    frame.sample_rate = rate_hz
    frame.pts = round(start_s * rate_hz)
    frame.time_base = Fraction(1, rate_hz)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        packets += stream.encode(piece)
    return packets + stream.encode(None)


def _decode_time_s(packet: av.Packet[av.VideoStream] | av.Packet[av.AudioStream]) -> float:
    time = packet.dts if packet.dts is not None else packet.pts
    return float((time or 0) * (packet.time_base or 0))


def _write_display_matrix(path: Path, rotation: int) -> None:
    """Patch the matrix in the video track's header (``tkhd``), as a phone writes it.

    PyAV cannot write the matrix.  The first ``tkhd`` belongs to the picture track, which
    is added first; the nine numbers are 16.16 and 2.30 fixed point.
    """
    one, w = 0x00010000, 0x40000000
    turn = {0: (one, 0, 0, one), 90: (0, -one, one, 0), 180: (-one, 0, 0, -one), 270: (0, one, -one, 0)}
    a, b, c, d = turn[rotation]
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, w], ">i4").tobytes()
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    version = data[header]
    at = header + (52 if version == 1 else 40)
    data[at : at + 36] = matrix
    path.write_bytes(data)
