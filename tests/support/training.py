"""What the trainer's tests share: a seeded network and its export, prepared clips, real talking clips."""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avff.engine.contract import Affine, Calibration
from avff.engine.spec import SPEC
from avff.trainer.data.entry import Prepared, encode
from avff.trainer.data.manifest import Clip
from avff.trainer.data.sample import Sample
from avff.trainer.data.shards import ShardStore, ShardWriter, entry_key
from avff.trainer.export import export_model
from avff.trainer.model.avff import Avff, AvffConfig, StreamingNet
from avff.trainer.model.novelty import Novelty
from tests.support.samples import make_sample
from tools.make_replica import Change as Change
from tools.make_replica import talking_clip as talking_clip

torch.set_num_threads(1)

SMALL = AvffConfig(width=16, heads=2, depth=1, dropout=0.0)
"""A network that is quick to train."""
WITH_MOTION = replace(SMALL, motion=True)
"""The same with a motion head."""
CALIBRATION = Calibration(
    any={
        "av": Affine(2.0, -0.25, video=0.5, audio=0.25, gain=0.75, shift=0.5),
        "video": Affine(2.0, 0.25, video=0.5),
        "audio": Affine(2.0, 0.125, audio=0.5),
    },
    parts={name: Affine(1.5, 0.5) for name in ("video", "audio", "desync")},
    threshold=0.5,
    limits={"video": 64.0, "audio": 32.0},
)


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
    fit_at_random(net)
    return net.eval()


def fit_at_random(net: StreamingNet) -> None:
    """Fit a network's novelty to random windows, so that what it knows is not zero, nor alike for both."""
    assert isinstance(net.novelty, Novelty)
    video, audio = torch.randn(2, 4 * net.config.width, net.config.width)
    net.novelty.fit(video, 0.5 * audio + 0.1)


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
        uid, uid, "test", label, split, *parts, "lip-sync" if label else "real",
        (generator,) if generator else (), (identity,) if identity else (), "test", paired_real,
        duration_s=duration_s, width=240, height=240, fps=25.0, audio_rate=16_000,
        sha256=hashlib.sha256(uid.encode()).hexdigest(),
    )  # fmt: skip


def write_manifest(root: Path, clips: Iterable[Clip]) -> Path:
    """Write these clips as a generic table, ``manifest.csv``, and return its path."""
    path = root / "manifest.csv"
    rows = [
        {
            **asdict(c), "label": "fake" if c.label else "real", "generator": c.generator,
            "identity": "".join(c.identities), "source": c.collection, "paired_real": c.source_uid,
        }
        for c in clips
    ]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
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


def fill_cache(cache: Path, clips: Sequence[Clip], *, windows: int = 2, shard_mb: float = 512) -> ShardStore:
    """Write prepared clips, numbered in order, as ``prepare`` would."""
    with ShardWriter(cache, shard_bytes=round(shard_mb * 1e6)) as writer:
        for number, clip in enumerate(clips):
            files = encode(make_prepared(number, windows=windows), "bmp", {"clip": asdict(clip)})
            writer.add(entry_key(clip.sha256, "bmp"), files, "bmp")
    return ShardStore(cache, clips)
