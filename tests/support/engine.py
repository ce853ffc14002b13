"""What the engine's tests share: the demo clip's media, slices and scripted models made to measure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt

from avff import engine
from avff.engine.backend import Tensors
from avff.engine.backends.scripted import ScriptedBackend
from avff.engine.contract import (
    CLIP_OUTPUTS,
    ENCODERS,
    GRAPHS,
    NOVELTY_OUTPUTS,
    Affine,
    Calibration,
    Contract,
    GraphSpec,
    TensorSpec,
)
from avff.engine.decode import open_media
from avff.engine.faces.models import FaceModels, load_face_models
from avff.engine.frontend import Frontend
from avff.engine.media import NS_PER_S, AudioBlock, Float32, MediaItem, UInt8, VideoFrame
from avff.engine.model import Model
from avff.engine.slices import FaceSlice, Slice
from avff.engine.spec import SPEC

DEMO = Path(engine.__file__).parent / "demo" / "talking_photo.mp4"
"""480 x 480, 25 pictures a second, one face, speech."""
WIDTH = 4
"""Token width of scripted models, unless told otherwise."""
TURNS = {
    "none": (1, 0, 0, 1),
    "clockwise": (0, 1, -1, 0),
    "anticlockwise": (0, -1, 1, 0),
    "half": (-1, 0, 0, -1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "antitransposed": (0, -1, -1, 0),
}
"""a, b, c, d of a track's display matrix: x' = a x + c y, y' = b x + d y (ISO 14496-12, 8.3.2)."""


@functools.cache
def face_models() -> FaceModels:
    """The face models, loaded once: tests run in one thread."""
    return load_face_models()


@functools.cache
def demo_items(seconds: float) -> tuple[MediaItem, ...]:
    """The first ``seconds`` of the demo clip, in file order."""
    with open_media(DEMO) as reader:
        return tuple(item for item in reader if item.pts_ns < seconds * NS_PER_S)


def demo_pictures(count: int) -> list[UInt8]:
    """The first pictures of the demo clip."""
    return [item.rgb for item in demo_items(count / SPEC.fps) if isinstance(item, VideoFrame)]


def pictures_of(items: Iterable[MediaItem]) -> list[VideoFrame]:
    """Only the pictures, in order."""
    return [item for item in items if isinstance(item, VideoFrame)]


def blocks_of(items: Iterable[MediaItem]) -> list[AudioBlock]:
    """Only the sound, in order."""
    return [item for item in items if isinstance(item, AudioBlock)]


def run(frontend: Frontend, items: Iterable[MediaItem], *, flush: bool = True) -> list[Slice]:
    """Push items and return every slice."""
    made = [piece for item in items for piece in frontend.push(item)]
    return made + (frontend.flush() if flush else [])


def assert_same_slice(one: Slice, other: Slice) -> None:
    """Compare all that a slice holds but the arrival time."""
    assert one.index == other.index
    assert one.audio_ok == other.audio_ok
    for name in ("picture_ok", "repeated", "still", "light", "audio"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    faces, others = ([f for f in (s.face, *s.other_faces) if f is not None] for s in (one, other))
    assert [f.track for f in faces] == [f.track for f in others]
    for face, twin in zip(faces, others, strict=True):
        assert (face.box, face.eye_px) == (twin.box, twin.eye_px)
        for name in ("faces", "landmarks", "motion", "ok"):
            np.testing.assert_array_equal(getattr(face, name), getattr(twin, name), err_msg=name)


def make_face(
    *,
    track: int = 0,
    ok: Sequence[int] = range(SPEC.slice_frames),
    eye_px: float = 60.0,
    seed: int = 0,
    pose: tuple[float, float, float] | None = None,
) -> FaceSlice:
    """A face slice of random pixels and points, with the face in the pictures numbered ``ok``.

    ``pose`` is roll, yaw and pitch in rad; nearly frontal and different in every picture when None.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(SPEC.slice_frames, np.bool_)
    found[list(ok)] = True
    side = SPEC.face_px
    pixels = rng.integers(0, 256, (SPEC.slice_frames, side, side, 3), dtype=np.uint8)
    points = rng.uniform(0, side, (SPEC.slice_frames, 468, 3)).astype(np.float32)
    motion = rng.normal(0, 0.1, (SPEC.slice_frames, 6)).astype(np.float32)
    if pose is not None:
        motion[:, :3] = pose
    for values in (pixels, points, motion):
        values[~found] = 0
    return FaceSlice(track, pixels, points, motion, found, eye_px, (0.25, 0.25, 0.5, 0.5))


def make_slice(
    index: int,
    *,
    face: FaceSlice | None = None,
    level: float = 0.1,
    audio_ok: float = 1.0,
    picture_ok: float = 1.0,
    has_video: bool = True,
    has_audio: bool = True,
    still: Sequence[int] = (),
    light: tuple[float, float] = (130.0, 40.0),
    captured_ns: int = 0,
) -> Slice:
    """A slice with noise of RMS ``level``; ``picture_ok`` is the share of pictures that arrived.

    Pictures numbered ``still`` show the same as the one before; ``light`` is the mean and the standard
    deviation of every picture's luminance.
    """
    rng = np.random.default_rng(index)
    arrived = np.arange(SPEC.slice_frames) < picture_ok * SPEC.slice_frames
    noise = rng.standard_normal(SPEC.context_samples + SPEC.slice_samples) * level
    same = np.zeros(SPEC.slice_frames, np.bool_)
    same[list(still)] = True
    return Slice(
        index, face, (), arrived, np.zeros(SPEC.slice_frames, np.bool_), same,
        np.tile(np.array(light, np.float32), (SPEC.slice_frames, 1)), noise.astype(np.float32),
        audio_ok, has_video, has_audio, captured_ns,
    )  # fmt: skip


class ScriptedModel(NamedTuple):
    """A model whose graphs are Python functions, and the backends to look at afterwards."""

    model: Model
    backends: dict[str, ScriptedBackend]


def scripted_model(
    *,
    scored: Mapping[str, Affine] | None = None,
    parts: Mapping[str, Affine] | None = None,
    fuse: Callable[[Tensors], Tensors] | None = None,
    encode: Callable[[str, Tensors], Tensors] | None = None,
    limits: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
) -> ScriptedModel:
    """Return a model that answers from functions.

    Args:
        scored: calibration by modality; ``av`` and ``video`` as they are by default.
        parts: calibration by part; ``video``, ``audio`` and ``desync`` as they are by default.
        fuse: the fusion graph; by default its logits are sums of the tokens that the masks let through.
        encode: the encoders; by default a slice's tokens are its mean value.
        limits: of the novelty, by modality; none by default.
        widths: of the tokens, by encoder; ``WIDTH`` by default.
    """
    as_is = Affine(1.0, 0.0)
    calibration = Calibration(
        any={"av": as_is, "video": as_is} if scored is None else scored,
        parts={"video": as_is, "audio": as_is, "desync": as_is} if parts is None else parts,
        threshold=0.5,
        limits=limits or {},
    )
    sizes = dict.fromkeys(ENCODERS, WIDTH) | dict(widths or {})
    graphs = {name: _graph_spec(name, sizes) for name in GRAPHS}
    contract = Contract("scripted", graphs, SPEC, calibration, {})
    encoder = encode or mean_tokens
    backends = {
        "video": ScriptedBackend(functools.partial(encoder, "video")),
        "audio": ScriptedBackend(functools.partial(encoder, "audio")),
        "landmarks": ScriptedBackend(functools.partial(encoder, "landmarks")),
        "fusion": ScriptedBackend(fuse or summed_tokens),
    }
    return ScriptedModel(Model(contract, backends), backends)


def mean_tokens(graph: str, inputs: Tensors) -> Tensors:
    """Every token of a slice is the mean of the slice's input."""
    values = inputs[graph]
    means = values.reshape(len(values), -1).mean(axis=1)
    tokens = np.broadcast_to(means[:, None, None], (len(values), SPEC.slice_frames, WIDTH))
    return {"tokens": tokens.astype(np.float32)}


def summed_tokens(inputs: Tensors) -> Tensors:
    """Logits: sums of the tokens that are let through, of both, video, audio, and their difference."""
    video = ((inputs["video"] + inputs["landmarks"]) * inputs["video_ok"][..., None]).sum(axis=(1, 2))
    audio = (inputs["audio"] * inputs["audio_ok"][..., None]).sum(axis=(1, 2))
    return answer(np.stack([video + audio, video, audio, video - audio], axis=1))


def answer(clip: npt.ArrayLike, novelty: Sequence[float] = (1.0, 1.0)) -> Tensors:
    """Return a fusion graph's outputs from its clip logits, ``[n, 4]``, or ``[n, 5]`` with motion's."""
    given = np.asarray(clip, np.float32)
    logits = np.zeros((len(given), len(CLIP_OUTPUTS)), np.float32)
    logits[:, : given.shape[1]] = given
    return {
        "clip": logits,
        "frames": np.repeat(logits[:, None, :3], SPEC.window_frames, axis=1),
        "sync": np.repeat(logits[:, 3:4], 31, axis=1),
        "novelty": np.tile(np.array(novelty, np.float32), (len(given), 1)),
    }


def _graph_spec(name: str, widths: Mapping[str, int]) -> GraphSpec:
    inputs: dict[str, dict[str, tuple[int, ...]]] = {
        "video": {"video": (SPEC.slice_frames, 3, SPEC.input_px, SPEC.input_px)},
        "audio": {"audio": (2, SPEC.bands, SPEC.slice_spectra)},
        "landmarks": {"landmarks": (SPEC.slice_frames, SPEC.landmark_values)},
        "fusion": {
            **{encoder: (SPEC.window_frames, widths[encoder]) for encoder in ENCODERS},
            **dict.fromkeys(("video_ok", "audio_ok"), (SPEC.window_frames,)),
        },
    }
    outputs: dict[str, tuple[int, ...]] = (
        {
            "clip": (len(CLIP_OUTPUTS),),
            "frames": (SPEC.window_frames, 3),
            "sync": (31,),
            "novelty": (len(NOVELTY_OUTPUTS),),
        }
        if name == "fusion"
        else {"tokens": (SPEC.slice_frames, widths[name])}
    )
    return GraphSpec(f"{name}.onnx", f"{name:0<64}", _tensors(inputs[name]), _tensors(outputs), 0.0)


def _tensors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())


def picture(pts_ns: int, rgb: UInt8 | None = None) -> VideoFrame:
    """A picture, of one pixel unless given."""
    return VideoFrame(pts_ns, np.zeros((1, 1, 3), np.uint8) if rgb is None else rgb, captured_ns=0)


def write_sound(path: Path, pcm: npt.NDArray[np.int16], *, rate_hz: int, layout: str, codec: str) -> Path:
    """Write exactly these samples (int16 ``[channels, n]``) as the only track of a file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(
            stream.codec_context.format, layout, rate_hz, frame_size=stream.codec_context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16p", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def write_wide_pixels(path: Path, rgb: UInt8, pixel_aspect: Fraction) -> Path:
    """Write an MP4 of one picture whose pixels are ``pixel_aspect`` times as wide as high."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = rgb.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        container.mux(
            stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p"))
        )
        container.mux(stream.encode(None))
    return path


def turn_track(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Patch the display matrix of an MP4's first track (``tkhd``), as a phone writes it."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    at = header + (52 if data[header] == 1 else 40)
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 0x40000000], ">i4").tobytes()
    path.write_bytes(data)
    return path


def assembled(placed: Iterable[tuple[int, Float32]]) -> tuple[int, Float32]:
    """Lay placed samples on one line; return the first index and the samples, zeros in gaps."""
    pieces = list(placed)
    first = min(start for start, _ in pieces)
    line = np.zeros(max(start + len(pcm) for start, pcm in pieces) - first, np.float32)
    for start, pcm in pieces:
        line[start - first : start - first + len(pcm)] = pcm
    return first, line
