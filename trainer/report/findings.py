"""Signs of overfitting and recommendations, each drawn from figures by a stated rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avff.trainer import metrics
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.report.figures import Judgement, Scored
from avff.trainer.report.history import Epoch, best_f1, stages_of
from avff.trainer.report.tables import Sides, side_groups

MIN_CHANGE = 1e-3
"""A loss that changes by less has not moved."""
RISING_EPOCHS = 2
"""Epochs after the lowest validation loss from which a rise is no accident."""
LOSS_GAP = 1.5
"""Validation loss over training loss at the end that counts as a gap."""
AUC_FALL = 0.02
"""Fall of the validation AUC from its best to the last epoch that counts."""
AUC_GAP = 0.1
"""Validation AUC minus judging AUC that counts."""
POORLY_CALIBRATED = 0.1
"""Expected calibration error above which a score is no probability."""
FALSE_ALARMS = 0.1
"""Twice the 5 % of genuine validation clips that the threshold was set to let through."""
WEAK_PART = 0.6
"""AUC below which a generator is as good as not found."""
MIN_CLIPS = 5
"""Fewer clips of a generator say nothing of it."""
SILENT_WINDOWS = 0.2
"""Share of a class's full windows without a score that is no accident."""
WIDE_INTERVAL = 0.2
"""Width of the AUC's interval from which two models can hardly be compared."""
CONSTANT_F1 = 0.005
"""A best F1 this near to that of calling everything fake has learnt nothing."""


@dataclass(frozen=True)
class Sign:
    """A sign of overfitting that was looked for.

    Attributes:
        rule: what counts as one.
        figures: what was found.
        seen: whether it is one; None when it could not be looked for.
        remedy: what to do about it.
    """

    rule: str
    figures: str
    seen: bool | None
    remedy: str


def signs_of_overfitting(history: Sequence[Epoch], validation_auc: float, judged_auc: float) -> list[Sign]:
    """Look for every sign, in every stage.

    Args:
        history: of the run.
        validation_auc: of whole validation clips, NaN when it was not measured.
        judged_auc: of the clips that judge, NaN likewise.
    """
    found = [
        sign
        for stage, epochs in stages_of(history).items()
        for sign in (_rising(stage, epochs), _apart(stage, epochs), _falling(stage, epochs))
        if sign is not None
    ]
    gap = validation_auc - judged_auc
    return [*found, Sign(
        f"AUC of validation clips exceeds that of the judging clips by {AUC_GAP} or more",
        f"{validation_auc:.3f} and {judged_auc:.3f}" if math.isfinite(gap) else "not measured",
        gap >= AUC_GAP if math.isfinite(gap) else None,
        "Train on more collections of footage",
    )]  # fmt: skip


def _rising(stage: str, epochs: Sequence[Epoch]) -> Sign | None:
    measured = _with(epochs, "train/loss", "val/loss")
    if not measured:
        return None
    best = min(measured, key=lambda e: e.get("val/loss"))
    last = measured[-1]
    later = last.epoch - best.epoch
    rise = last.get("val/loss") - best.get("val/loss")
    fall = best.get("train/loss") - last.get("train/loss")
    return Sign(
        f"`{stage}`: {RISING_EPOCHS} epochs or more after its lowest the validation loss is higher, "
        "the training loss lower",
        f"lowest validation loss {best.get('val/loss'):.3f} in epoch {best.epoch + 1}, "
        f"{later} epochs later {last.get('val/loss'):.3f}; "
        f"training loss {best.get('train/loss'):.3f} → {last.get('train/loss'):.3f}",
        later >= RISING_EPOCHS and rise > MIN_CHANGE and fall > MIN_CHANGE,
        "Stop earlier",
    )


def _apart(stage: str, epochs: Sequence[Epoch]) -> Sign | None:
    measured = _with(epochs, "train/loss", "val/loss")
    # Losses of contrastive or adversarial kind may be zero or less: a ratio says nothing of these.
    if not measured or measured[-1].get("train/loss") <= 0:
        return None
    train, validation = measured[-1].get("train/loss"), measured[-1].get("val/loss")
    return Sign(
        f"`{stage}`: at the end the validation loss is {LOSS_GAP} times the training loss or more",
        f"{validation:.3f} and {train:.3f}, {validation / train:.2f} times",
        validation / train >= LOSS_GAP,
        "Regularise more, or train on more people",
    )


def _falling(stage: str, epochs: Sequence[Epoch]) -> Sign | None:
    measured = _with(epochs, "val/auc")
    if not measured:
        return None
    best = max(measured, key=lambda e: e.get("val/auc"))
    last = measured[-1].get("val/auc")
    return Sign(
        f"`{stage}`: the validation AUC has fallen by {AUC_FALL} or more from its best",
        f"{best.get('val/auc'):.3f} in epoch {best.epoch + 1}, {last:.3f} at the end",
        best.get("val/auc") - last >= AUC_FALL,
        "Stop earlier",
    )


def _with(epochs: Sequence[Epoch], *names: str) -> list[Epoch]:
    return [e for e in epochs if all(math.isfinite(e.get(n)) for n in names)]


def recommendations(
    judged: Judgement, history: Sequence[Epoch], signs: Sequence[Sign], sides: Sides
) -> list[str]:
    """Return what the numbers ask for, each with the figure it rests on; none when nothing triggers.

    Args:
        judged: the clips that judge.
        history: of the run.
        signs: from :func:`signs_of_overfitting`.
        sides: clips by what they are for.
    """
    asked = _on_leaks(sides)
    scored = Scored.of(judged.scores)
    if scored.has_both():
        asked += [*_on_ranking(judged.figures, judged.metadata), *_on_threshold(scored, judged)]
        asked += _on_generators(judged.scores)
    return [*asked, *_on_silence(judged.scores), *_on_training(history, signs)]


def _on_leaks(sides: Sides) -> list[str]:
    groups = side_groups(sides)
    leaks = [
        (one, groups[one][shared], other, groups[other][shared])
        for one, other in itertools.combinations(groups, 2)
        for shared in sorted(groups[one].keys() & groups[other].keys())
    ]
    if not leaks:
        return []
    one, uid, other, twin = leaks[0]
    return [
        f"Split again: shared groups {len(leaks)}, not 0; `{uid}` ({one}) and `{twin}` ({other}) "
        "are of one group."
    ]


def _on_ranking(figures: Mapping[str, Interval], metadata: Interval) -> list[str]:
    auc = figures["auc"]
    asked = []
    if auc.low <= 0.5:
        asked.append(
            f"Do not deploy this model: its AUC, {auc}, is not surely above the 0.5 of guessing. "
            "Train on more people and generators."
        )
    if metadata.value >= auc.value:
        asked.append(
            f"Distrust the collections: container facts alone reach an AUC of {metadata.value:.3f}, the "
            f"model {auc.value:.3f}. Re-encode genuine and generated clips alike and judge again."
        )
    if auc.high - auc.low > WIDE_INTERVAL:
        asked.append(
            f"Judge on more people or footage: the interval of the AUC is {auc.high - auc.low:.3f} wide, "
            f"more than {WIDE_INTERVAL}."
        )
    return asked


def _on_threshold(scored: Scored, judged: Judgement) -> list[str]:
    figures, threshold = judged.figures, judged.threshold
    called = scored.called_fake(threshold)
    majority = metrics.majority_baseline(scored.labels)
    false_alarms = float(called[scored.labels == 0].mean())
    error = figures["even_calibration_error"].value
    asked = []
    if called.all() or not called.any():
        answer = "fake" if called.all() else "not fake"
        asked.append(
            f"Set another threshold: at {threshold:.3f} all {len(called)} clips are called {answer}."
        )
    if figures["accuracy"].value <= majority:
        asked.append(
            f"Do not quote the accuracy, {figures['accuracy'].value:.3f}: always giving the more frequent "
            f"answer gets {majority:.3f}. Quote AUC and balanced accuracy."
        )
    if false_alarms > FALSE_ALARMS:
        asked.append(
            f"Set the threshold on footage like that of the judging clips: {false_alarms:.3f} of their "
            f"genuine clips are called fake, more than {FALSE_ALARMS}."
        )
    if error > POORLY_CALIBRATED:
        asked.append(
            f"Do not read the score as a probability on such footage: its expected calibration error is "
            f"{error:.3f}, more than {POORLY_CALIBRATED}. Calibrate on clips with the same share of fakes."
        )
    return asked


def _on_generators(scores: Sequence[ClipScore]) -> list[str]:
    genuine = [s for s in scores if not s.label]
    weak = []
    for name in sorted({s.generator for s in scores if s.label}):
        s = Scored.of([*genuine, *(x for x in scores if x.label and x.generator == name)])
        value = metrics.auc(s.labels, s.logits)
        if s.labels.sum() >= MIN_CLIPS and value < WEAK_PART:
            weak.append(f"{name or '(unnamed)'} {value:.3f}")
    listed = ", ".join(weak)
    return [f"Train on fakes like these, whose AUC is below {WEAK_PART}: {listed}."] if weak else []


def _on_silence(scores: Sequence[ClipScore]) -> list[str]:
    """Windows that got no score for another reason than that the clip had just begun."""
    asked = []
    for label, name in enumerate(("genuine", "generated")):
        part = [s for s in scores if s.label == label]
        silent = sum(n for s in part for reason, n in s.abstained.items() if reason != "too_short")
        total = silent + sum(s.windows for s in part)
        if total and silent / total > SILENT_WINDOWS:
            asked.append(
                f"Look at the {name} clips without a score: {silent / total:.3f} of their full windows have "
                f"none, more than {SILENT_WINDOWS}; the table of reasons says why."
            )
    return asked


def _on_training(history: Sequence[Epoch], signs: Sequence[Sign]) -> list[str]:
    asked = [f"{sign.remedy}. Sign: {sign.rule}. Found: {sign.figures}." for sign in signs if sign.seen]
    for stage, epochs in stages_of(history).items():
        losses = np.array([e.get("val/loss") for e in _with(epochs, "val/loss")])
        if len(losses) >= 2 and losses[-1] < losses[:-1].min() - MIN_CHANGE:
            asked.append(
                f"Train `{stage}` for longer: its validation loss was lowest in the last epoch, "
                f"{losses[-1]:.3f} after {losses[:-1].min():.3f}."
            )
    return asked + _on_best_f1(history)


def _on_best_f1(history: Sequence[Epoch]) -> list[str]:
    best = best_f1(history)
    if best is None or math.isnan(best.get("val/prior")):
        return []
    constant = metrics.always_fake_f1(best.get("val/prior"))
    if best.get("val/f1") > constant + CONSTANT_F1:
        return []
    return [
        f"Do not quote the best validation F1, {best.get('val/f1'):.3f}: calling everything fake gets "
        f"{constant:.3f}."
    ]
