"""The report's tables: Markdown from clips and scores."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.report.figures import DEFINITIONS, Judgement, Scored
from avff.trainer.report.history import Epoch, best_f1, majority_prior, stages_of

NOTHING = "–"
Sides = Mapping[str, Sequence[Clip]]
"""Clips by what they are for: ``train``, ``validation``, and the split that judges."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)


def number(value: float, digits: int = 3) -> str:
    """Return a figure with fixed digits, or a dash where it is not defined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def shown(figure: Interval) -> str:
    """Return a figure with its interval, without it where resampling had one class only, or a dash."""
    return str(figure) if math.isfinite(figure.low) else number(figure.value)


def number_json(value: float) -> float | None:
    """Return a figure as it is written in JSON: null where it is not defined."""
    return value if math.isfinite(value) else None


def interval_json(figure: Interval) -> dict[str, float | None]:
    """Return a figure with its interval as it is written in JSON."""
    return {name: number_json(value) for name, value in asdict(figure).items()}


def data_table(sides: Sides) -> str:
    """Clips, footage and classes of each side, and the groups it shares with another side."""
    groups = side_groups(sides)
    rows = []
    for name, clips in sides.items():
        labels = Counter(c.label for c in clips)
        others = {g for other in sides if other != name for g in groups[other]}
        rows.append([
            name, str(len(clips)), f"{sum(c.duration_s for c in clips):.0f}", str(labels[0]), str(labels[1]),
            str(labels[None]), str(len(groups[name])), str(len(groups[name].keys() & others)),
        ])  # fmt: skip
    head = ["side", "clips", "footage, s", "genuine", "generated", "unknown", "groups", "shared groups"]
    return table(head, rows)


def side_groups(sides: Sides) -> dict[str, dict[str, str]]:
    """Return, by side, its groups over all sides together, each with the uid of one clip."""
    group = group_of([c for clips in sides.values() for c in clips])
    return {name: {group[c.uid]: c.uid for c in clips} for name, clips in sides.items()}


def generator_table(sides: Sides) -> str:
    """Clips of each generator on each side."""
    counts = {
        name: Counter(c.generator or "(unnamed)" for c in clips if c.label) for name, clips in sides.items()
    }
    names = sorted(set().union(*counts.values()))
    return table(["generator", *sides], [[g, *(str(counts[s][g]) for s in sides)] for g in names])


def training_table(history: Sequence[Epoch]) -> str:
    """Loss and accuracy of each stage from its first epoch to its last, and the lowest or highest between."""
    rows = []
    for stage, epochs in stages_of(history).items():
        for key, title, best in _FOLLOWED:
            values = [(e.get(key), e.epoch) for e in epochs if math.isfinite(e.get(key))]
            if values:
                at = best(values, key=lambda v: v[0])
                rows.append([
                    stage, title, number(values[0][0]), number(values[-1][0]), number(at[0]), str(at[1] + 1),
                ])  # fmt: skip
    return table(["stage", "figure", "start", "end", "best", "in epoch"], rows)


_FOLLOWED: tuple[tuple[str, str, Callable[..., tuple[float, int]]], ...] = (
    ("train/loss", "training loss", min),
    ("val/loss", "validation loss", min),
    ("train/accuracy", "training accuracy", max),
    ("val/accuracy", "validation accuracy", max),
    ("val/f1", "validation F1", max),
    ("val/auc", "validation AUC, mean over kinds", max),
    ("val/in_step", "validation windows whose synchrony is found", max),
)


def accuracy_line(history: Sequence[Epoch]) -> str:
    """What accuracy and F1 of the training table are of, and the accuracy that knowing nothing gets."""
    text = "Validation figures are of windows; accuracy and F1 call them fake from a probability of 0.5 on."
    if math.isnan(baseline := majority_prior(history)):
        return text
    return f"{text} Always giving the more frequent answer has an accuracy of {baseline:.3f}."


def best_f1_line(history: Sequence[Epoch]) -> str:
    """One sentence on the best validation F1, beside what calling everything fake would get."""
    best = best_f1(history)
    if best is None:
        return "No validation F1 was measured during training."
    line = f"Best validation F1: {best.get('val/f1'):.3f} in epoch {best.epoch + 1} of stage `{best.stage}`"
    if math.isfinite(prior := best.get("val/prior")):
        line += f"; calling everything fake gets {metrics.always_fake_f1(prior):.3f}"
    return line + ". It is reported and chooses nothing."


def headline_table(judged: Judgement, *, frozen: bool = True) -> str:
    """Every figure with its interval and what knowing nothing gets, and the clips without a score.

    Args:
        judged: the figures.
        frozen: whether the threshold was frozen on validation clips; else it is a default.
    """
    scores, figures = judged.scores, judged.figures
    s = Scored.of(scores)
    silent = Counter(x.label for x in scores if x.logit is None)
    totals = Counter(x.label for x in scores)
    rows = [["clips scored", f"{len(s.labels)} of {len(scores)}", ""]]
    for d in DEFINITIONS if figures else ():
        value = shown(figures[d.key])
        level = f"{d.to_beat[0]} {d.to_beat[1](s.labels):.3f}" if d.to_beat else ""
        if d.key == "auc":
            rows.append([f"**{d.title}**", f"**{value}**", level])
            rows.append(["AUC of container facts only (control)", shown(judged.metadata), ""])
        else:
            rows.append([d.title, value, level])
    origin = "frozen on genuine validation clips" if frozen else "a default, frozen on nothing"
    rows += [
        [f"threshold ({origin})", f"{judged.threshold:.3f}", ""],
        ["genuine clips without a score", f"{silent[0]} of {totals[0]}", ""],
        ["generated clips without a score", f"{silent[1]} of {totals[1]}", ""],
    ]
    return table(["figure", "value", "to beat"], rows)


def confusion(scores: Sequence[ClipScore], threshold: float) -> np.ndarray:
    """Return int64 ``[2, 3]``: rows genuine and generated; columns called genuine, called fake, no score."""
    counts = np.zeros((2, 3), np.int64)
    for s in scores:
        counts[s.label, 2 if s.probability is None else int(s.probability >= threshold)] += 1
    return counts


def confusion_table(scores: Sequence[ClipScore], threshold: float) -> str:
    """The confusion matrix; clips without a score stand apart."""
    counts = confusion(scores, threshold)
    rows = [[name, *map(str, counts[label])] for label, name in enumerate(("genuine", "generated"))]
    return table(["clips", "not called fake", "called fake", "no score"], rows)


def breakdown(
    scores: Sequence[ClipScore],
    threshold: float,
    head: str,
    part_of: Callable[[ClipScore], str],
    genuine_name: str = "all genuine clips",
) -> str:
    """Each part of the generated clips against all genuine ones, which have the first row.

    Args:
        scores: of all clips.
        threshold: the frozen one.
        head: what the parts are called.
        part_of: the part a generated clip belongs to.
        genuine_name: of the first row.
    """
    genuine = [s for s in scores if not s.label]
    parts: dict[str, list[ClipScore]] = defaultdict(list)
    for score in scores:
        if score.label:
            parts[part_of(score)].append(score)
    rows = [[genuine_name, *_called(genuine, threshold, NOTHING), NOTHING]]
    for name, part in sorted(parts.items()):
        against = shown(Scored.of([*genuine, *part]).interval(metrics.auc))
        rows.append([name or "(unnamed)", *_called(part, threshold, against), _pairs(part, genuine)])
    return table([head, "scored", "AUC", "called fake", "pairs in order"], rows)


def _called(part: Sequence[ClipScore], threshold: float, auc: str) -> list[str]:
    called = Scored.of(part).called_fake(threshold)
    share = float(called.mean()) if len(called) else math.nan
    return [f"{len(called)} of {len(part)}", auc, number(share, 2)]


def _pairs(part: Sequence[ClipScore], genuine: Sequence[ClipScore]) -> str:
    logit = {s.uid: s.logit for s in genuine}
    pairs = [
        (s.logit, other)
        for s in part
        if s.logit is not None and (other := logit.get(s.source_uid)) is not None
    ]
    return f"{sum(a > b for a, b in pairs)} of {len(pairs)}" if pairs else NOTHING


def modality_of(clips: Sequence[Clip]) -> dict[str, str]:
    """Return what is generated in each clip, in words, by uid."""
    words = {0: "real", 1: "fake", None: "unknown"}
    return {c.uid: f"{words[c.label_video]} video, {words[c.label_audio]} audio" for c in clips}


def modality_table(scores: Sequence[ClipScore], threshold: float, clips: Sequence[Clip]) -> str:
    """Breakdown by what is generated: picture, sound, or both; a label nobody knows is not called real."""
    named = modality_of(clips)

    def part_of(score: ClipScore) -> str:
        return named.get(score.uid, "unknown video, unknown audio")

    return breakdown(scores, threshold, "modality", part_of, "real video, real audio")


def abstention_table(scores: Sequence[ClipScore]) -> str:
    """Windows without a score, by reason and class."""
    reasons = {0: Counter[str](), 1: Counter[str]()}
    windows = Counter[int]()
    for score in scores:
        reasons[score.label].update(score.abstained)
        windows[score.label] += score.windows + sum(score.abstained.values())
    names = sorted(set(reasons[0]) | set(reasons[1]))
    rows = [[n, *(f"{reasons[k][n]} of {windows[k]}" for k in (0, 1))] for n in names]
    return table(["reason", "genuine", "generated"], rows)
