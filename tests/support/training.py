"""What the trainer's tests share: a seeded network and its export, prepared clips, real talking clips."""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn

from avff.engine.contract import Affine, Calibration
from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.data.manifest import Clip
from avff.trainer.data.prepare import Prepared, cache_path
from avff.trainer.data.sample import Sample
from avff.trainer.export import export_model
from avff.trainer.model.avff import Avff, AvffConfig
from tests.support.engine import DEMO
from tests.support.samples import make_sample

torch.set_num_threads(1)

SMALL = AvffConfig(width=16, heads=2, depth=1, dropout=0.0)
"""A network that is quick to train."""
CALIBRATION = Calibration(
    any={
        "av": Affine(2.0, -0.25, video=0.5, audio=0.75),
        "video": Affine(2.0, 0.25, video=0.5),
        "audio": Affine(2.0, 0.125, audio=0.5),
    },
    parts={name: Affine(1.5, 0.5) for name in ("video", "audio", "desync")},
    threshold=0.5,
)
_SIDE = 240
Change = Callable[[UInt8], UInt8]


def seeded_net(seed: int = 0, config: AvffConfig | None = None) -> Avff:
    """An untrained network in inference mode whose norms and learned tokens are not at their start.

    With means of 0 and variances of 1 a batch norm that is left out, or that looks at the batch,
    would go unnoticed; layer norms that are all alike, an exporter takes for one.  The weights are
    large enough that windows differ in their answers, as they do after training.
    """
    torch.manual_seed(seed)
    net = Avff(config or AvffConfig())
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, gain=0.6)
            elif isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
        net.fusion.unseen.normal_()
        net.fusion.unheard.normal_()
    return net.eval()


def random_windows(count: int, seed: int = 0) -> list[Tensor]:
    """Random arguments of ``Avff.forward`` with all evidence there."""
    make = torch.Generator().manual_seed(seed)
    s, f, side, t = SPEC.window_slices, SPEC.slice_frames, SPEC.input_px, SPEC.window_frames
    return [
        torch.rand(count, s, f, 3, side, side, generator=make),
        torch.randn(count, s, 2, SPEC.bands, SPEC.slice_spectra, generator=make),
        torch.randn(count, s, f, SPEC.landmark_values, generator=make),
        torch.ones(count, t),
        torch.ones(count, t),
    ]


@functools.cache
def exported(directory: Path) -> Path:
    """Export the seeded network, once a session for each directory."""
    facts = {"seed": "0", "trained": "no"}
    export_model(seeded_net(), directory, name="untrained", calibration=CALIBRATION, provenance=facts)
    return directory


def make_clip(
    uid: str,
    *,
    label: int = 0,
    generator: str = "",
    identity: str = "",
    paired_real: str = "",
    split: str = "train",
    duration_s: float = 5.12,
    label_video: int | None = None,
    label_audio: int | None = None,
) -> Clip:
    """A row of a manifest; genuine ones are genuine throughout."""
    parts = (label_video, label_audio) if label else (0, 0)
    return Clip(
        uid, split, label, *parts, "lip-sync" if label else "real", generator, identity, "test", paired_real,
        duration_s, 240, 240, 25.0, 16_000, hashlib.sha256(uid.encode()).hexdigest(),
    )  # fmt: skip


def write_manifest(root: Path, clips: Iterable[Clip]) -> Path:
    """Write ``manifest.csv`` of these clips and return its path."""
    path = root / "manifest.csv"
    rows = [{**asdict(c), "path": c.uid, "label": "fake" if c.label else "real"} for c in clips]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "uid"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_prepared(seed: int, *, windows: int = 2) -> Prepared:
    """A prepared clip of several windows that can be told by ``motion``: clip, then picture number."""
    samples = [make_sample(seed * 10 + k) for k in range(windows)]
    context = SPEC.context_samples
    total = windows * SPEC.window_frames
    motion = np.zeros((total, 6), np.float32)
    motion[:, 0], motion[:, 1] = seed, np.arange(total)
    return Prepared(
        faces=np.concatenate([s.faces for s in samples]),
        ok=np.ones(total, np.bool_),
        landmarks=np.concatenate([s.landmarks for s in samples]),
        motion=motion,
        audio=np.concatenate([samples[0].audio, *(s.audio[context:] for s in samples[1:])]),
        audio_ok=np.ones(total // SPEC.slice_frames, np.float32),
    )


def place_of(sample: Sample) -> tuple[int, int]:
    """Number of the clip, and of the picture in it, that a window of prepared clips starts with."""
    return int(sample.motion[0, 0]), int(sample.motion[0, 1])


def fill_cache(cache: Path, clips: Sequence[Clip], *, windows: int = 2) -> Path:
    """Write prepared clips, numbered in order, as ``prepare`` would."""
    cache.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        prepared = make_prepared(number, windows=windows)
        np.savez(cache_path(cache, clip), **{n: getattr(prepared, n) for n in Prepared.__dataclass_fields__})
    return cache


def talking_clip(
    path: Path,
    *,
    seconds: float,
    start_s: float = 0.0,
    change: Change | None = None,
    pitch: float = 1.0,
    gain: float = 1.0,
) -> Path:
    """Cut a clip out of the demo clip, with another look and another voice.

    Args:
        path: where to.
        seconds: its length.
        start_s: where in the demo clip it begins.
        change: of each picture, 240 x 240 RGB.
        pitch: factor; the sound is played that much faster and repeated to fill the clip.
        gain: factor of the sound.
    """
    pictures, sound = _demo()
    first, count = round(start_s * SPEC.fps), round(seconds * SPEC.fps)
    chosen = [change(p) if change else p for p in pictures[first : first + count]]
    samples = round(seconds * SPEC.rate_hz)
    at = (np.arange(samples) * pitch + start_s * SPEC.rate_hz) % (len(sound) - 1)
    pcm = np.interp(at, np.arange(len(sound)), sound) * gain
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=SPEC.fps, options={"preset": "ultrafast", "threads": "1"}
        )
        audio = container.add_stream("aac", rate=SPEC.rate_hz, layout="mono")
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.height, video.width = chosen[0].shape[:2]
        video.pix_fmt = "yuv420p"
        container.mux(_encoded(video, (av.VideoFrame.from_ndarray(p, format="rgb24") for p in chosen)))
        container.mux(_encoded(audio, _sound_frames(audio, pcm)))
    return path


def _encoded(
    stream: av.VideoStream | av.AudioStream, frames: Iterable[av.VideoFrame | av.AudioFrame]
) -> list[av.Packet[av.VideoStream] | av.Packet[av.AudioStream]]:
    packets: list[av.Packet[av.VideoStream] | av.Packet[av.AudioStream]] = []
    for frame in frames:
        if isinstance(stream, av.VideoStream) and isinstance(frame, av.VideoFrame):
            packets += stream.encode(frame.reformat(format=stream.pix_fmt))
        elif isinstance(stream, av.AudioStream) and isinstance(frame, av.AudioFrame):
            packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def _sound_frames(stream: av.AudioStream, pcm: np.ndarray) -> Iterable[av.AudioFrame]:
    whole = av.AudioFrame.from_ndarray(pcm.astype(np.float32)[None], format="fltp", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = SPEC.rate_hz, 0, Fraction(1, SPEC.rate_hz)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.codec_context.format, "mono", SPEC.rate_hz, frame_size=size)
    return [*resampler.resample(whole), *resampler.resample(None)]


@functools.cache
def _demo() -> tuple[list[UInt8], Float32]:
    """The demo clip's pictures at 240 x 240, and its sound as 16 kHz mono."""
    pictures: list[UInt8] = []
    with av.open(str(DEMO)) as container:
        for frame in container.decode(video=0):
            rgb = frame.to_ndarray(format="rgb24", width=_SIDE, height=_SIDE)
            pictures.append(np.asarray(rgb, np.uint8))
    resampler = av.AudioResampler("flt", "mono", SPEC.rate_hz)
    sound: list[Float32] = []
    with av.open(str(DEMO)) as container:
        for block in container.decode(audio=0):
            sound += [piece.to_ndarray()[0] for piece in resampler.resample(block)]
    return pictures, np.concatenate(sound)
