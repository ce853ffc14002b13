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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avff.engine.settings import Override, load_settings
from avff.trainer.config import RunSettings
from avff.trainer.copies import copies_page, near_copies, with_judges
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import Split, SplitError, group_of, split_clips
from avff.trainer.facts import facts_control
from avff.trainer.paths import RunPaths
from avff.trainer.random_encoder import random_encoders, random_page
from avff.trainer.report.history import read_history
from avff.trainer.report.tables import number, table
from avff.trainer.run import check_settings, fit
from avff.trainer.run_data import RunData, load_data
from avff.trainer.shortcuts import CHANCE, MARGIN

DEALS = 3
"""Ways to deal out labels: with few people a single one may agree with the truth by luck."""
FUSION = "fusion"
_HEADS = {
    FUSION: "auc/generated", "video": "auc/video/generated", "landmarks": "auc/landmarks/generated",
    "motion": "auc/motion/generated",
}  # fmt: skip
"""Figures of a run's history: AUC of the windows of generated clips against genuine ones."""


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


@dataclass(frozen=True)
class Shuffled:
    """What a network learns from labels that were dealt out by lot.

    Attributes:
        seed: of the lot, and of the run.
        aucs: of the windows that are called generated, by head.
    """

    seed: int
    aucs: Mapping[str, float]


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
        text = _shuffled_page(label_shuffle(settings, data))
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
            auc = _generated(settings, replace(data, split=split), f"without-{generator}")[FUSION]
        except SplitError as error:  # the only generator, or one whose people are all there are
            rows.append(Unseen(generator, clips, math.nan, str(error)))
        else:
            rows.append(Unseen(generator, clips, auc))
    return rows


def label_shuffle(settings: RunSettings, data: RunData) -> list[Shuffled]:
    """Train on labels that mean nothing, and validate on as many.

    Pseudo-fakes bring true labels of their own: they are left out of every mix.

    Returns:
        a row for each way in which labels were dealt out.

    Raises:
        SplitError: too few people are left that are called genuine.
    """
    only: dict[str, object] = {"mix": {"generated": 1.0}}
    if settings.motion is not None:
        only["motion"] = settings.motion.model_copy(update={"mix": {"generated": 1.0}})
    return [_shuffled(settings.model_copy(update=only), data, settings.train.seed + k) for k in range(DEALS)]


def _shuffled(settings: RunSettings, data: RunData, seed: int) -> Shuffled:
    sides = (shuffle_labels(s, 2 * seed + n) for n, s in enumerate((data.split.train, data.split.validation)))
    train = settings.train.model_copy(update={"seed": seed})
    shuffled = replace(data, split=Split(*sides))
    return Shuffled(seed, _generated(settings.model_copy(update={"train": train}), shuffled, "shuffled"))


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
    for place in rng.permutation(len(clips)):
        members.setdefault(groups[clips[place].uid], []).append(clips[place])
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


def _generated(settings: RunSettings, data: RunData, what: str) -> dict[str, float]:
    """Train a run of its own, and return each head's AUC of generated windows after its last epoch."""
    # The recipe is in the name: a run never goes on from the checkpoint of another.
    digest = hashlib.sha256(settings.model_dump_json(exclude={"output": True, "data": {"workers"}}).encode())
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", what)
    name = f"{settings.name}-{plain}-{digest.hexdigest()[:6]}"
    paths = RunPaths(settings.output, name)
    fit(settings.model_copy(update={"name": name}), data, paths)
    # Later epochs replace earlier ones.
    return {
        head: epoch.get(key)
        for epoch in read_history(paths.history)
        for head, key in _HEADS.items()
        if key in epoch.values
    }


def _shuffled_page(rows: Sequence[Shuffled]) -> str:
    heads = [head for head in _HEADS if all(head in row.aucs for row in rows)]
    means = {head: float(np.mean([row.aucs[head] for row in rows])) for head in heads}
    far = [head for head in heads if not abs(means[head] - CHANCE) <= MARGIN]
    body = [[str(row.seed), *(number(row.aucs[head]) for head in heads)] for row in rows]
    body.append(["mean", *(number(means[head]) for head in heads)])
    level = f"{CHANCE} ± {MARGIN}"
    verdict = f"**Not** within {level}: {', '.join(far)}." if far else f"All means are within {level}."
    return "\n\n".join(["# Shuffled labels", _SHUFFLED, table(["seed", *heads], body), verdict]) + "\n"


_SHUFFLED = """\
Runs on labels that were dealt out by lot among people, in training and in validation; no pseudo-fakes, which
bring true labels. AUC of the validation windows that are called generated, by head, after its stage's last
epoch. Nothing can be learnt from such labels, so it should be near 0.5: a figure beyond that would say that
validation knows something of training, or is computed wrongly. One lot may lie off: there are few people."""


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
