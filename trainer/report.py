"""The report of a run: what was trained on what, and what the model is worth on clips it never saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from avff.engine.contract import Contract
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import (
    Interval,
    auc,
    average_precision,
    balanced_accuracy,
    bootstrap,
    calibration_error,
    equal_error_rate,
    majority_baseline,
    tpr_at,
)


@dataclass(frozen=True)
class RunFacts:
    """What the report says of the run itself.

    Attributes:
        name: of the run.
        command: that repeats it.
        facts: name and value, in order.
        split: lines that describe the split.
        validation: AUC of each modality and part on validation windows.
        metadata_auc: judge AUC of a classifier that sees container facts only.
    """

    name: str
    command: str
    facts: Mapping[str, str]
    split: Sequence[str]
    validation: Mapping[str, Interval]
    metadata_auc: Interval


@dataclass(frozen=True)
class Scored:
    """Clips that have a score, as arrays."""

    labels: np.ndarray
    logits: np.ndarray
    groups: list[str]

    @classmethod
    def of(cls, scores: Sequence[ClipScore]) -> Scored:
        """Leave out the clips without a score."""
        kept = [s for s in scores if s.logit is not None]
        return cls(
            np.array([s.label for s in kept], np.int64),
            np.array([s.logit for s in kept], np.float64),
            [s.group for s in kept],
        )

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of fake, 0…1."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits, -60, 60))))


def render(run: RunFacts, contract: Contract, scores: Sequence[ClipScore], judge_split: str) -> str:
    """Return the report as Markdown."""
    sections = [
        f"# Training report: {run.name}",
        f"Made by `{run.command}`. The `{judge_split}` clips took no part in training, validation, "
        "calibration or the choice of the checkpoint or threshold.",
        _table(["fact", "value"], [[k, v] for k, v in run.facts.items()]),
        "## Data",
        "\n".join(f"- {line}" for line in run.split),
        "## Validation windows",
        "Held-out people and generators; AUC with a 95 % bootstrap interval. A modality whose interval "
        "reaches below 0.5 is not offered: windows that have nothing else get no score.",
        _table(["head", "AUC"], [[k, str(v)] for k, v in run.validation.items()]),
        f"## Clips of `{judge_split}`",
        _headline(scores, contract, run.metadata_auc),
        "### By generator",
        "Each generator's clips against all genuine ones; pairs compare a generated clip with the "
        "genuine clip of the same footage.",
        _by(scores, contract, "generator"),
        "### By kind",
        _by(scores, contract, "kind"),
        "### Windows without a score",
        _abstentions(scores),
        "## How to read this",
        "The clip score is the mean of the calibrated log-odds of its windows. Intervals resample groups of "
        "clips that share a person or footage. The accuracy of always giving the more frequent answer stands "
        "beside ours. Container facts alone (size, rates, duration) separate these collections to some "
        "degree; a model that is no better than that control has learnt little.",
    ]
    return "\n\n".join(sections) + "\n"


def metadata_control(train: Sequence[Clip], judges: Sequence[Clip], groups: Mapping[str, str]) -> Interval:
    """Return the judge AUC of a random forest on container facts: what the clips' origin gives away."""
    forest = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=2, random_state=0)
    forest.fit([_container(c) for c in train], [c.label for c in train])
    scores = forest.predict_proba([_container(c) for c in judges])[:, 1]
    labels = np.array([c.label for c in judges], np.int64)
    return bootstrap(auc, labels, scores, [groups[c.uid] for c in judges])


def _container(clip: Clip) -> list[float]:
    return [clip.duration_s, clip.width, clip.height, clip.fps, clip.audio_rate]


def _headline(scores: Sequence[ClipScore], contract: Contract, metadata: Interval) -> str:
    s = Scored.of(scores)
    silent = Counter(x.label for x in scores if x.logit is None)
    totals = Counter(x.label for x in scores)
    unscored = [
        ["genuine clips without a score", f"{silent[0]} of {totals[0]}"],
        ["generated clips without a score", f"{silent[1]} of {totals[1]}"],
    ]
    if not len(s.labels):
        return _table(["figure", "value"], unscored)
    called = s.probabilities >= contract.calibration.threshold
    accuracy, majority = (called == s.labels).mean(), majority_baseline(s.labels)
    rows = [
        ["clips scored", f"{len(s.labels)} of {len(scores)}"],
        ["**AUC**", f"**{bootstrap(auc, s.labels, s.logits, s.groups)}**"],
        ["AUC of container facts only (control)", str(metadata)],
        ["average precision", f"{bootstrap(average_precision, s.labels, s.logits, s.groups)}; "
                              f"chance {s.labels.mean():.3f}"],
        ["equal error rate", f"{equal_error_rate(s.labels, s.logits):.3f}"],
        ["TPR at 5 % FPR", f"{tpr_at(s.labels, s.logits, 0.05):.3f}"],
        ["threshold (frozen on genuine validation clips)", f"{contract.calibration.threshold:.3f}"],
        ["balanced accuracy at it", f"{balanced_accuracy(s.labels, called):.3f}; constant answer 0.500"],
        ["accuracy at it", f"{accuracy:.3f}; majority baseline {majority:.3f}"],
        ["genuine clips called fake", f"{int(called[s.labels == 0].sum())} of {int((s.labels == 0).sum())}"],
        ["expected calibration error", f"{calibration_error(s.labels, s.probabilities):.3f}"],
        *unscored,
    ]  # fmt: skip
    return _table(["figure", "value"], rows)


def _by(scores: Sequence[ClipScore], contract: Contract, field: str) -> str:
    genuine = [s for s in scores if not s.label]
    parts: dict[str, list[ClipScore]] = defaultdict(list)
    for score in scores:
        if score.label:
            parts[getattr(score, field)].append(score)
    rows = []
    for name, part in sorted(parts.items()):
        s = Scored.of([*genuine, *part])
        found = (s.probabilities >= contract.calibration.threshold)[s.labels == 1]
        rows.append([
            name, f"{len(found)} of {len(part)}", str(bootstrap(auc, s.labels, s.logits, s.groups)),
            f"{found.mean():.2f}" if len(found) else "–", _pairs(part, genuine),
        ])  # fmt: skip
    return _table([field, "scored", "AUC", "called fake", "pairs in order"], rows)


def _pairs(part: Sequence[ClipScore], genuine: Sequence[ClipScore]) -> str:
    logit = {s.uid: s.logit for s in genuine}
    pairs = [
        (s.logit, other)
        for s in part
        if s.logit is not None and (other := logit.get(s.paired_real)) is not None
    ]
    return f"{sum(a > b for a, b in pairs)} of {len(pairs)}" if pairs else "–"


def _abstentions(scores: Sequence[ClipScore]) -> str:
    reasons = {0: Counter[str](), 1: Counter[str]()}
    windows = Counter[int]()
    for score in scores:
        reasons[score.label].update(score.abstained)
        windows[score.label] += score.windows + sum(score.abstained.values())
    names = sorted(set(reasons[0]) | set(reasons[1]))
    rows = [[n, *(f"{reasons[k][n]} of {windows[k]}" for k in (0, 1))] for n in names]
    return _table(["reason", "genuine", "generated"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
