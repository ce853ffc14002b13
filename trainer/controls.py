"""Controls: what a result must survive before it is believed.

- A generator that training never saw: what is left of the figure without it.
- Labels that were shuffled: nothing can be learnt from them, so an AUC away from 0.5 means that
  validation knows something of training, or that the figure is computed wrongly.
- What is known of a clip without looking at a face or listening to a word: a figure above chance
  says how much of any other the clips' origin may have given away.
- Copies of one clip on two sides (see :mod:`avff.trainer.copies`), which no list of people or footage
  tells of.
- A network that has learnt nothing (see :mod:`avff.trainer.random_encoder`).

The first two train runs of their own, which go on when they are stopped.  Their figure is the one
after the last epoch: choosing an epoch by it would flatter it.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avff.engine.media import Float32
from avff.engine.settings import Override, load_settings
from avff.engine.spec import SPEC
from avff.trainer.config import RunSettings
from avff.trainer.copies import copies_page, near_copies, with_judges
from avff.trainer.data.manifest import Clip
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.splits import Split, SplitError, group_of, split_clips
from avff.trainer.metrics import Interval
from avff.trainer.paths import RunPaths
from avff.trainer.random_encoder import random_encoders, random_page
from avff.trainer.report.control import container_facts, metadata_control
from avff.trainer.report.history import read_history
from avff.trainer.run import check_settings, fit
from avff.trainer.run_data import RunData, load_data
from avff.trainer.stages import FINAL

SILENCE_DBFS = -50.0
"""A block of 10 ms below this level counts as silence."""
_BLOCK = SPEC.rate_hz // 100
_GENERATED = "auc/generated"
"""Of the windows of generated clips against genuine ones, in a run's history."""


@dataclass(frozen=True)
class Unseen:
    """What a network makes of a generator that it was not trained on.

    Attributes:
        generator: its name.
        clips: how many of it there are.
        auc: of its windows against those of genuine validation people; NaN where there is none.
        obstacle: why there is none, or empty.
    """

    generator: str
    clips: int
    auc: float
    obstacle: str = ""


def run_control(config: Path, overrides: Sequence[Override], kind: str) -> int:
    """Carry out a control and write ``control-<kind>.md`` among the run's outputs.

    Args:
        config: the recipe.
        overrides: settings that take precedence.
        kind: ``leave-one-out``, ``label-shuffle``, ``metadata``, ``near-copies`` or ``random-encoder``.

    Raises:
        SettingsError, ManifestError, SplitError, ShardError: before anything is trained.
        TrainingError, CheckpointError: training cannot go on.
        Stopped: a signal came.
    """
    settings = load_settings(config, RunSettings, overrides)
    check_settings(settings)
    data = load_data(settings)
    page = RunPaths(settings.output, settings.name).outputs / f"control-{kind}.md"
    if kind == "leave-one-out":
        text = _unseen_page(leave_one_generator_out(settings, data))
    elif kind == "label-shuffle":
        text = (
            "# Shuffled labels\n\nAUC of validation windows of generated clips, after training on labels "
            f"that were dealt out by lot: {label_shuffle(settings, data):.3f}. It should be near 0.5.\n"
        )
    elif kind == "near-copies":
        text = copies_page(near_copies(with_judges(settings, data)))
    elif kind == "random-encoder":
        draws = random_encoders(settings, data, page.with_suffix(""))
        text = random_page(draws, len(data.judges))
    else:
        text = (
            "# Metadata\n\nValidation AUC of a random forest on container, codecs, file size, bit rate, "
            f"leading silence and loudness: {facts_control(data)}. It should be near 0.5.\n"
        )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    sys.stderr.write(f"avff-train: control in {page}\n")
    return 0


def leave_one_generator_out(settings: RunSettings, data: RunData) -> list[Unseen]:
    """Train without each generator in turn, and validate on it.

    Args:
        settings: of the run; its own split and held-out generators do not matter here.
        data: its training and validation clips are pooled, its judges have no part.

    Returns:
        a row for each generator, by name.
    """
    pool = [*data.split.train, *data.split.validation]
    counts = {g: sum(c.generator == g for c in pool) for g in sorted({c.generator for c in pool if c.label})}
    rows = []
    for generator, clips in counts.items():
        try:
            split = split_clips(
                pool, share=settings.data.validation_share, held_out=[generator], seed=settings.train.seed
            )
            auc = _generated_auc(settings, replace(data, split=split), f"without-{generator}")
        except SplitError as error:  # the only generator, or one whose people are all there are
            rows.append(Unseen(generator, clips, math.nan, str(error)))
        else:
            rows.append(Unseen(generator, clips, auc))
    return rows


def label_shuffle(settings: RunSettings, data: RunData) -> float:
    """Return the validation AUC of generated clips after training on labels that mean nothing.

    Pseudo-fakes bring true labels of their own: they are left out of the mix.

    Raises:
        SplitError: too few people are left that are called genuine.
    """
    seed = settings.train.seed
    sides = (shuffle_labels(s, seed + n) for n, s in enumerate((data.split.train, data.split.validation)))
    shuffled = replace(data, split=Split(*sides))
    return _generated_auc(settings.model_copy(update={"mix": {"generated": 1.0}}), shuffled, "shuffled")


def shuffle_labels(clips: Sequence[Clip], seed: int) -> tuple[Clip, ...]:
    """Deal out the clips' labels anew, in the same numbers.

    Labels move in blocks, from group to group: dealt out clip by clip they would contradict each
    other within a group, which is easier to ignore than a wrong label of all of it.

    Args:
        clips: labelled clips of one side of a split.
        seed: of the lot.

    Returns:
        the clips in their order; all but what says whether and how they were made is as it was.
    """
    rng = np.random.default_rng(seed)
    groups = group_of(clips)
    members: dict[str, list[Clip]] = {}
    for number in rng.permutation(len(clips)):
        members.setdefault(groups[clips[number].uid], []).append(clips[number])
    names = sorted(members)
    givers, takers = ([c for n in rng.permutation(len(names)) for c in members[names[n]]] for _ in range(2))
    # Groups of an original and its fakes would get their own labels back if order within them stayed.
    dealt = {
        taker.uid: replace(
            taker, label=giver.label, label_video=giver.label_video, label_audio=giver.label_audio,
            kind=giver.kind, generators=giver.generators,
            fake_video=giver.fake_video, fake_audio=giver.fake_audio,
        )
        for giver, taker in zip(givers, takers, strict=True)
    }  # fmt: skip
    return tuple(dealt[clip.uid] for clip in clips)


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


def _generated_auc(settings: RunSettings, data: RunData, what: str) -> float:
    """Train a run of its own, and return the AUC of generated windows after its last epoch."""
    # The recipe is in the name: a run never goes on from the checkpoint of another.
    digest = hashlib.sha256(settings.model_dump_json(exclude={"output": True, "data": {"workers"}}).encode())
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", what)
    name = f"{settings.name}-{plain}-{digest.hexdigest()[:6]}"
    paths = RunPaths(settings.output, name)
    fit(settings.model_copy(update={"name": name}), data, paths)
    return next(e.get(_GENERATED) for e in reversed(read_history(paths.history)) if e.stage == FINAL)


def _unseen_page(rows: Sequence[Unseen]) -> str:
    lines = [
        "# Leave one generator out",
        "",
        "A run without each generator; AUC of its windows against those of genuine validation people, after",
        "the last epoch.",
        "",
        "| generator | clips | AUC | remark |",
        "|---|---:|---:|---|",
        *(
            f"| {r.generator} | {r.clips} | {'–' if r.obstacle else f'{r.auc:.3f}'} | {r.obstacle} |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"
