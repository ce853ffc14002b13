"""The metadata control: what is known of a clip without looking at a face or listening to a word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avff.engine.media import Float32
from avff.engine.spec import SPEC
from avff.trainer.data.manifest import Clip
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.splits import group_of
from avff.trainer.metrics import Interval
from avff.trainer.report.control import container_facts, metadata_control
from avff.trainer.run_data import RunData

SILENCE_DBFS = -50.0
"""A block of 10 ms below this level counts as silence."""
_BLOCK = SPEC.rate_hz // 100


def facts_control(data: RunData) -> Interval:
    """Return the validation AUC of a random forest on what :func:`clip_facts` tells."""
    train, validation = data.split.train, data.split.validation
    codecs = sorted({name for c in (*train, *validation) for name in (c.codec_video, c.codec_audio)})

    def facts(clip: Clip) -> list[float]:
        return clip_facts(clip, data.store, data.root, codecs)

    return metadata_control(train, validation, group_of(validation), facts)


def clip_facts(clip: Clip, store: ShardStore, root: Path, codecs: Sequence[str]) -> list[float]:
    """Return what can be told of a clip without its content.

    Args:
        clip: a prepared clip.
        store: it is in.
        root: the data root, for the file's size.
        codecs: names of all codecs; a codec is told by its place among them.

    Returns:
        container facts, codecs, file size in bytes and bit rate in bit/s (NaN without the file or
        its length), leading silence in s, loudness in dBFS.
    """
    file = root / clip.path
    size = float(file.stat().st_size) if file.is_file() else math.nan
    rate = 8 * size / clip.duration_s if clip.duration_s else math.nan
    numbers = [float(codecs.index(name)) for name in (clip.codec_video, clip.codec_audio)]
    return [*container_facts(clip), *numbers, size, rate, *sound_facts(store.sound(clip.uid))]


def sound_facts(sound: Float32) -> tuple[float, float]:
    """Return leading silence in s and loudness (root mean square) in dBFS, -120 at least.

    Args:
        sound: float32 ``[352 + n]`` at 16 kHz, as a store has it; a last part of a block is left out.
    """
    clip = sound[SPEC.context_samples :]
    power = np.square(clip[: len(clip) // _BLOCK * _BLOCK], dtype=np.float64).reshape(-1, _BLOCK).mean(axis=1)
    loud = np.flatnonzero(power >= 10 ** (SILENCE_DBFS / 10))
    leading = loud[0] if len(loud) else len(power)
    return float(leading) * _BLOCK / SPEC.rate_hz, float(10 * np.log10(max(power.mean(), 1e-12)))
