"""The random degradation that every window passes, genuine or not, after any pseudo-fake.

Whatever a camera, a room, a codec and a network do to a call is drawn here, once per
window and without a look at the labels, so that "was re-encoded", "is quiet" or "starts
with silence" carries no information about the label.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import cast

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from scipy.signal import butter, fftconvolve, sosfilt

from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.data.rawboost import raw_boost
from avff.trainer.data.sample import Sample
from avff.trainer.pseudo.temporal import held, retime

_SIDE = SPEC.face_px
_RATE = SPEC.rate_hz
_PICTURE_CODECS = ("libx264", "libvpx", "mpeg4")
_SOUND_CODECS = ("libopus", "aac", "libmp3lame")
_RESAMPLERS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


@lru_cache(maxsize=2)
def _encoders(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of ``names`` that this build of FFmpeg can encode with."""
    return tuple(name for name in names if name in av.codecs_available and _opens(name))


def _opens(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:  # known as a decoder only
        return False
    return True


# --- picture ---------------------------------------------------------------------------------


def _jitter(sample: Sample, rng: np.random.Generator) -> None:
    """Move, scale and turn all faces alike, as another face detector would: ±4 px, ±7 %, ±4°."""
    move = cv2.getRotationMatrix2D((_SIDE / 2, _SIDE / 2), rng.uniform(-4, 4), rng.uniform(0.93, 1.07))
    move[0, 2] += rng.uniform(-4, 4)
    move[1, 2] += rng.uniform(-4, 4)
    for face in sample.faces:
        face[:] = cv2.warpAffine(face, move, (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE)
    moved = sample.landmarks[..., :2] @ move[:, :2].T + move[:, 2]
    depth = sample.landmarks[..., 2] * np.sqrt(np.linalg.det(move[:, :2]))
    sample.landmarks = np.concatenate([moved, depth[..., None]], axis=-1).astype(np.float32)


def _colour(sample: Sample, rng: np.random.Generator) -> None:
    """Change gamma, contrast and brightness by a curve; saturation, hue and white balance by a matrix."""
    levels = np.arange(256, dtype=np.float32)
    curve = 255 * (levels / 255) ** np.exp(rng.uniform(-0.25, 0.25))
    curve = (curve - 128) * rng.uniform(0.75, 1.25) + 128 + rng.uniform(-25, 25)
    # Hue turns around the grey axis and saturation shrinks towards it: one product, ten times HSV's speed.
    turn = cv2.Rodrigues(np.full(3, rng.uniform(-0.17, 0.17) / np.sqrt(3)))[0]
    chroma = rng.uniform(0.5, 1.4)
    matrix = (np.eye(3) * chroma + (1 - chroma) / 3) @ turn * rng.uniform(0.93, 1.07, (3, 1))
    tall = cv2.LUT(sample.faces.reshape(-1, _SIDE, 3), np.clip(curve, 0, 255).astype(np.uint8))
    sample.faces[:] = np.asarray(cv2.transform(tall, matrix)).reshape(sample.faces.shape)


def _resize(sample: Sample, rng: np.random.Generator) -> None:
    """Go down to 48…127 px and back, by random interpolations."""
    small = int(rng.integers(48, _SIDE))
    down, up = (int(way) for way in rng.choice(_RESAMPLERS, 2))
    for face in sample.faces:
        tiny = cv2.resize(face, (small, small), interpolation=down)
        face[:] = cv2.resize(tiny, (_SIDE, _SIDE), interpolation=up)


def _blur(sample: Sample, rng: np.random.Generator) -> None:
    sigma = rng.uniform(0.4, 2.5)
    for face in sample.faces:
        face[:] = cv2.GaussianBlur(face, (0, 0), sigma)


def _noise(sample: Sample, rng: np.random.Generator) -> None:
    """Add sensor noise of sigma 1…10: grey or coloured, new in every picture."""
    wide = _SIDE + 64
    grain = rng.standard_normal((wide, wide, 3)) * rng.uniform(1, 10)
    if rng.random() < 0.5:
        grain[..., 1:] = grain[..., :1]
    tile = np.round(grain).astype(np.int16)
    # One tile read at a random place per picture: fresh grain for three million samples is too slow.
    for face, (row, column) in zip(sample.faces, rng.integers(0, 65, (len(sample.faces), 2)), strict=True):
        face[:] = cv2.add(face, tile[row : row + _SIDE, column : column + _SIDE], dtype=cv2.CV_8U)


def _jpeg(sample: Sample, rng: np.random.Generator) -> None:
    """Compress every picture with the same JPEG quality 30…95."""
    options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))]
    for face in sample.faces:
        # Channels in BGR order, or the codec would take red for blue when it weighs colour.
        packed = cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), options)[1]
        decoded = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, face)


def picture_round_trip(faces: UInt8, codec: str, kbps: int) -> UInt8:
    """Encode and decode pictures in memory.

    Args:
        faces: uint8 ``[T, height, width, 3]`` RGB, even sides.
        codec: name of an FFmpeg encoder.
        kbps: bit rate at 25 fps, in kbit/s.

    Returns:
        uint8 of the same shape.
    """
    # A VP8 speed above 0 would follow the load of the machine, and no two runs would draw the same pictures.
    options = {"preset": "ultrafast", "tune": "zerolatency", "deadline": "realtime", "cpu-used": "-8"}
    wanted = {"libx264": ("preset", "tune"), "libvpx": ("deadline", "cpu-used")}.get(codec, ())
    store = io.BytesIO()
    with av.open(store, "w", format="matroska") as sink:
        chosen = {key: options[key] for key in wanted}
        stream = cast(VideoStream, sink.add_stream(codec, rate=SPEC.fps, options=chosen))
        stream.height, stream.width, stream.pix_fmt = faces.shape[1], faces.shape[2], "yuv420p"
        stream.bit_rate = kbps * 1000
        stream.codec_context.thread_count = 1  # the same bits on every machine
        for face in faces:
            # OpenCV's colour conversion: FFmpeg's builds its tables anew for every picture.
            planes = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2YUV_I420), np.uint8)
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        sink.mux(stream.encode(None))
    store.seek(0)
    with av.open(store, "r", format="matroska") as source:
        source.streams.video[0].codec_context.thread_count = 1
        planes_out = [frame.to_ndarray() for frame in source.decode(video=0)]
    decoded = [np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420), np.uint8) for planes in planes_out]
    if len(decoded) < len(faces):  # a rate control that drops pictures shows the one before
        decoded += decoded[-1:] * (len(faces) - len(decoded))
    return np.stack(decoded[: len(faces)])


def _picture_codec(sample: Sample, rng: np.random.Generator) -> None:
    """Compress the pictures as a video at 60…500 kbit/s."""
    pick, kbps = rng.random(), int(np.exp(rng.uniform(np.log(60), np.log(500))))
    names = _encoders(_PICTURE_CODECS)
    if names:
        sample.faces[:] = picture_round_trip(sample.faces, names[int(pick * len(names))], kbps)


def _compress(sample: Sample, rng: np.random.Generator) -> None:
    """Compress as a video (p 0.3) or as single pictures."""
    (_picture_codec if rng.random() < 0.3 else _jpeg)(sample, rng)


def _hold(sample: Sample, rng: np.random.Generator) -> None:
    """Repeat one picture for 1…3 more, a hitch too short to break lip-sync."""
    retime(sample, held(rng, len(sample.ok), 1, 3))


# --- sound -----------------------------------------------------------------------------------


def _reverb(audio: Float32, rng: np.random.Generator) -> Float32:
    """Add a room: exponentially decaying noise, T60 0.1…0.5 s, after the undelayed direct sound."""
    decay = rng.uniform(0.1, 0.5)
    time = np.arange(int(decay * _RATE)) / _RATE
    tail = rng.standard_normal(time.size) * 10 ** (-3 * time / decay)
    tail[: int(rng.uniform(0.002, 0.01) * _RATE)] = 0
    tail *= rng.uniform(0.1, 0.7) / (np.linalg.norm(tail) + 1e-9)
    tail[0] = 1
    return np.asarray(fftconvolve(audio, tail)[: audio.size], np.float32)


def _peak_filter(hz: float, gain_db: float, quality: float) -> list[float]:
    """Return one peaking biquad as a second-order section (R. Bristow-Johnson, Audio EQ Cookbook)."""
    amplitude, turn = 10 ** (gain_db / 40), 2 * np.pi * hz / _RATE
    alpha = np.sin(turn) / (2 * quality)
    middle, top = -2 * np.cos(turn), 1 + alpha / amplitude
    section = [1 + alpha * amplitude, middle, 1 - alpha * amplitude, top, middle, 1 - alpha / amplitude]
    return [float(value / top) for value in section]


def _equalise(audio: Float32, rng: np.random.Generator) -> Float32:
    """Raise or lower two or three bands by up to 9 dB."""
    count = int(rng.integers(2, 4))
    centres = np.exp(rng.uniform(np.log(80), np.log(6500), count))
    bands = [_peak_filter(float(hz), rng.uniform(-9, 9), rng.uniform(0.4, 2)) for hz in centres]
    return np.asarray(sosfilt(np.array(bands), audio), np.float32)


def _add_noise(audio: Float32, rng: np.random.Generator) -> Float32:
    """Add white or pink noise at 10…40 dB below the speech."""
    ratio, pink = 10 ** (-rng.uniform(10, 40) / 20), rng.random() < 0.5
    # A power of two: the window's own length has a large prime factor, which makes its FFT slow.
    noise = rng.standard_normal(1 << (audio.size - 1).bit_length())
    if pink:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 20)))
    noise = noise[: audio.size]
    level = np.linalg.norm(audio) / np.linalg.norm(noise) * ratio
    return (audio + noise * level).astype(np.float32)


def _low_pass(audio: Float32, rng: np.random.Generator) -> Float32:
    """Cut above 3.4…7.8 kHz, as narrow-band and wide-band telephony do."""
    sections = butter(int(rng.integers(4, 9)), rng.uniform(3400, 7800), fs=_RATE, output="sos")
    return np.asarray(sosfilt(sections, audio), np.float32)


def _mu_law(audio: Float32, rng: np.random.Generator) -> Float32:
    """Quantise to 8 bit on the G.711 mu-law curve."""
    squeezed = np.sign(audio) * np.log1p(255 * np.minimum(np.abs(audio), 1)) / np.log(256)
    coarse = np.round(squeezed * 127) / 127
    return np.asarray(np.sign(coarse) * np.expm1(np.abs(coarse) * np.log(256)) / 255, np.float32)


def _delay(audio: Float32, late: Float32) -> int:
    """Return by how many samples ``late`` lags ``audio``, -400…4000, from their cross-correlation."""
    size = 1 << int(np.ceil(np.log2(audio.size + late.size)))
    scores = np.fft.irfft(np.fft.rfft(late, size) * np.conj(np.fft.rfft(audio, size)))
    lags = np.arange(-400, 4001)
    return int(lags[np.argmax(scores[lags])])


def sound_round_trip(audio: Float32, codec: str, kbps: int) -> Float32:
    """Encode and decode 16 kHz mono sound in memory, and take the codec's delay out again.

    Args:
        audio: float32 ``[n]``, -1…1.
        codec: name of an FFmpeg encoder.
        kbps: bit rate in kbit/s.

    Returns:
        float32 ``[n]`` in step with ``audio``.
    """
    store = io.BytesIO()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[None]), format="flt", layout="mono")
    frame.sample_rate = _RATE
    frame.pts = 0
    with av.open(store, "w", format="matroska") as sink:
        stream = cast(AudioStream, sink.add_stream(codec, rate=_RATE, layout="mono"))
        stream.bit_rate = kbps * 1000
        sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    store.seek(0)
    converter = av.AudioResampler(format="flt", layout="mono", rate=_RATE)
    with av.open(store, "r", format="matroska") as source:
        parts = [part for piece in source.decode(audio=0) for part in converter.resample(piece)]
    parts += converter.resample(None)
    decoded = np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.float32)
    late = _delay(audio, decoded)
    aligned = np.pad(decoded, (max(-late, 0), audio.size))[max(late, 0) :]
    return np.asarray(aligned[: audio.size], np.float32)


def _sound_codec(audio: Float32, rng: np.random.Generator) -> Float32:
    """Compress at 8…64 kbit/s with Opus, AAC or MP3."""
    pick, kbps = rng.random(), int(np.exp(rng.uniform(np.log(8), np.log(64))))
    names = _encoders(_SOUND_CODECS)
    if not names or not audio.any():
        return audio
    return sound_round_trip(np.clip(audio, -1, 1), names[int(pick * len(names))], kbps)


def _quiet_start(audio: Float32, rng: np.random.Generator) -> Float32:
    """Zero or fade in the first 0…400 ms."""
    length = min(int(rng.uniform(0, 0.4) * _RATE), audio.size)
    ramp = np.zeros(length) if rng.random() < 0.5 else np.linspace(0, 1, length)
    audio[:length] *= ramp.astype(np.float32)
    return audio


def _gain(audio: Float32, rng: np.random.Generator) -> Float32:
    """Change the level by -20…+6 dB; what is too loud afterwards is clipped."""
    return audio * np.float32(10 ** (rng.uniform(-20, 6) / 20))


_PICTURE_STEPS: tuple[tuple[float, Callable[[Sample, np.random.Generator], None]], ...] = (
    (0.7, _jitter),
    (0.6, _colour),
    (0.4, _resize),
    (0.4, _blur),
    (0.4, _noise),
    (0.5, _compress),
    (0.1, _hold),
)
_SOUND_STEPS: tuple[tuple[float, Callable[[Float32, np.random.Generator], Float32]], ...] = (
    (0.2, _reverb),
    (0.4, _equalise),
    (0.4, _add_noise),
    (0.15, raw_boost),
    (0.3, _low_pass),
    (0.1, _mu_law),
    (0.15, _sound_codec),
    (0.1, _quiet_start),
    (0.8, _gain),
)


def degrade_sound(audio: Float32, rng: np.random.Generator, strength: float = 1.0) -> Float32:
    """Degrade sound at random; arguments as of :func:`post_chain`.

    Args:
        audio: float32 ``[n]`` at 16 kHz; may be changed.

    Returns:
        float32 ``[n]``, within -1…1.
    """
    for chance, sound_step in _SOUND_STEPS:
        if rng.random() < chance * strength:
            audio = sound_step(audio, rng)
    return np.clip(audio, -1, 1).astype(np.float32)


def post_chain(sample: Sample, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Degrade picture and sound of a window at random, never looking at its labels.

    Args:
        sample: genuine or manipulated window; its arrays may be changed.
        rng: source of every draw.
        strength: factor on the probability of every step; 0 leaves the window as it is.

    Returns:
        The window: same shapes and labels, pictures without a face still zero, sound within -1…1.
    """
    for chance, picture_step in _PICTURE_STEPS:
        if rng.random() < chance * strength:
            picture_step(sample, rng)
    sample.audio = degrade_sound(sample.audio, rng, strength)
    sample.faces[~sample.ok] = 0
    sample.landmarks[~sample.ok] = 0
    return sample
