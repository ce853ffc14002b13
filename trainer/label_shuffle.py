"""The label-shuffle control: what is learnt from labels that mean nothing.

Training's labels and validation's are dealt out apart, so what one says cannot be learnt from the other:
an AUC away from 0.5 means that validation's labels reach training, or that the figure is computed wrongly.
A person on both sides has unrelated labels here and does not show; that is what the groups of a split and
:mod:`avff.trainer.copies` are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from avff.trainer.config import RunSettings
from avff.trainer.control_runs import HEADS, generated_aucs
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import Split, group_of
from avff.trainer.report.tables import number, table
from avff.trainer.run_data import RunData
from avff.trainer.shortcuts import CHANCE, MARGIN

DEALS = 2
"""Ways to deal out labels.  Each is trained on twice, as it is and turned round: with few people and
collections a lot may agree, or disagree, with the one of validation by luck, and that cancels out."""


@dataclass(frozen=True)
class Shuffled:
    """What a network learns from labels that were dealt out by lot.

    Attributes:
        seed: of the lot, and of the run.
        turned: whether training had the opposite of each label.
        aucs: of the windows that are called generated, by head.
    """

    seed: int
    turned: bool
    aucs: Mapping[str, float]


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
    plain = settings.model_copy(update=only)
    seeds = range(settings.train.seed, settings.train.seed + DEALS)
    return [_shuffled(plain, data, seed, turned) for seed in seeds for turned in (False, True)]


def _shuffled(settings: RunSettings, data: RunData, seed: int, turned: bool) -> Shuffled:
    train, validation = (
        shuffle_labels(side, 2 * seed + n) for n, side in enumerate((data.split.train, data.split.validation))
    )
    if turned:
        train = turn_labels(train, seed)
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})})
    what = "shuffled-turned" if turned else "shuffled"
    return Shuffled(
        seed, turned, generated_aucs(settings, replace(data, split=Split(train, validation)), what)
    )


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
    dealt = {taker.uid: _labelled(taker, giver) for giver, taker in zip(givers, takers, strict=True)}
    return tuple(dealt[clip.uid] for clip in clips)


def turn_labels(clips: Sequence[Clip], seed: int) -> tuple[Clip, ...]:
    """Call every genuine clip generated, by a tool that is drawn from the others, and the other way round.

    Args:
        clips: of both classes.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    givers = [[c for c in clips if c.is_fake != fake] for fake in (False, True)]
    return tuple(_labelled(clip, (g := givers[clip.is_fake])[rng.integers(len(g))]) for clip in clips)


def _labelled(clip: Clip, like: Clip) -> Clip:
    return replace(
        clip, label=like.label, label_video=like.label_video, label_audio=like.label_audio,
        kind=like.kind, generators=like.generators, fake_video=like.fake_video, fake_audio=like.fake_audio,
    )  # fmt: skip


def shuffled_page(rows: Sequence[Shuffled]) -> str:
    """Return the figures as Markdown."""
    heads = [head for head in HEADS if all(head in row.aucs for row in rows)]
    means = {head: float(np.mean([row.aucs[head] for row in rows])) for head in heads}
    far = [head for head in heads if not abs(means[head] - CHANCE) <= MARGIN]
    body = [
        [f"{row.seed}{', turned' * row.turned}", *(number(row.aucs[head]) for head in heads)] for row in rows
    ]
    body.append(["mean", *(number(means[head]) for head in heads)])
    level = f"{CHANCE} ± {MARGIN}"
    verdict = f"**Not** within {level}: {', '.join(far)}." if far else f"All means are within {level}."
    return "\n\n".join(["# Shuffled labels", _SHUFFLED, table(["lot", *heads], body), verdict]) + "\n"


_SHUFFLED = """\
Runs on labels that were dealt out by lot among people, in training and in validation apart; no pseudo-fakes,
which bring true labels. AUC of the validation windows that are called generated, by head, after its stage's
last epoch. There are few people and collections, so one lot of training may agree with that of validation by
luck; the same lot turned round then disagrees as much. The mean should be near 0.5: beyond that, validation's
labels reach training, or the figure is computed wrongly. It does not show people or copies on both sides,
whose labels here have nothing to do with each other: `near-copies` looks for those."""
