"""The report as text: sections in order, tables from :mod:`avff.trainer.report.tables`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from avff.engine.contract import Contract
from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.report.figures import Judgement, Scored
from avff.trainer.report.findings import Sign, recommendations, signs_of_overfitting
from avff.trainer.report.history import Epoch
from avff.trainer.report.tables import (
    Sides,
    abstention_table,
    accuracy_line,
    best_f1_line,
    breakdown,
    confusion_table,
    data_table,
    generator_table,
    headline_table,
    modality_table,
    shown,
    table,
    training_table,
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
        duration_s: of training; None when it was not measured.
        hardware: that trained.
        peak_gpu_bytes: most memory that was allocated on the GPU; None without a GPU.
        stopped: why training ended, e.g. which epochs early stopping saw no better loss in.
        frozen: whether the threshold was frozen on validation clips; else it is a default.
    """

    name: str
    command: str
    facts: Mapping[str, str]
    split: Sequence[str]
    validation: Mapping[str, Interval]
    metadata_auc: Interval
    duration_s: float | None = None
    hardware: str = ""
    peak_gpu_bytes: int | None = None
    stopped: str = ""
    frozen: bool = True


@dataclass(frozen=True)
class Evidence:
    """What a run has kept besides its judgement.

    Attributes:
        sides: clips by what they are for: ``train``, ``validation``, and the split that judges.
        history: every epoch of every stage.
        validation_scores: of whole validation clips, by the exported model.
    """

    sides: Sides = field(default_factory=dict)
    history: Sequence[Epoch] = ()
    validation_scores: Sequence[ClipScore] = ()


def render(
    run: RunFacts,
    contract: Contract,
    scores: Sequence[ClipScore],
    judge_split: str,
    evidence: Evidence | None = None,
) -> str:
    """Return the report as Markdown, without plots.

    Args:
        run: what to say of the run.
        contract: of the model, with its threshold.
        scores: of the clips that judge.
        judge_split: their name.
        evidence: what else the run has kept; sections without evidence are left out.
    """
    judged = Judgement.of(scores, contract.calibration.threshold, run.metadata_auc)
    return document(run, judged, judge_split, evidence or Evidence(), ())


def document(
    run: RunFacts, judged: Judgement, judge_split: str, evidence: Evidence, plots: Collection[str]
) -> str:
    """Return the report as Markdown; ``plots`` names the files in ``assets/`` to show."""
    scored, validation = Scored.of(judged.scores), Scored.of(evidence.validation_scores)
    signs = signs_of_overfitting(
        evidence.history,
        metrics.auc(validation.labels, validation.logits),
        metrics.auc(scored.labels, scored.logits),
    )
    sections = [
        *_head(run, judge_split),
        *_data(run, evidence.sides),
        *_training(evidence.history, plots),
        *_validation(run, validation, len(evidence.validation_scores)),
        *_judgement(judged, judge_split, plots, frozen=run.frozen),
        *_breakdowns(judged, evidence.sides.get(judge_split, ())),
        *_findings(signs, recommendations(judged, evidence.history, signs, evidence.sides)),
        "## How to read this",
        _HOW_TO_READ.format(threshold=_FROZEN if run.frozen else _DEFAULT),
    ]
    return "\n\n".join(sections) + "\n"


_HOW_TO_READ = (
    "The clip score is the mean of the calibrated log-odds of its windows. Intervals are 95 % bootstrap "
    "intervals that resample groups of clips which share a person or footage. *To beat* is what knowing "
    "nothing gets: accuracy has to beat always giving the more frequent answer, F1 always answering fake, "
    "average precision the share of fakes. {threshold} With fewer than 100 genuine clips, TPR at 1 % FPR is "
    "that without any false alarm. The calibration error of few clips is overestimated, in resamples more "
    "so: its interval may lie above it. The control sees container facts alone (size, rates, duration): a "
    "model that is no better may have learnt no more than where clips come from."
)

_FROZEN = (
    "The threshold was frozen on genuine validation clips before any clip of the judging split was scored."
)
_DEFAULT = (
    "The threshold is a default: no genuine validation clip got a score to freeze it on, so accuracy, F1 and "
    "the false alarms at it say little."
)


def _head(run: RunFacts, judge_split: str) -> list[str]:
    facts = dict(run.facts)
    if run.duration_s is not None:
        facts["duration of training"] = f"{run.duration_s / 60:.1f} min"
    if run.hardware:
        facts["hardware"] = run.hardware
        peak = run.peak_gpu_bytes
        facts["peak GPU memory"] = "no GPU" if peak is None else f"{peak / 2**30:.2f} GiB"
    if run.stopped:
        facts["why training ended"] = run.stopped
    return [
        f"# Training report: {run.name}",
        f"Made by `{run.command}`. The `{judge_split}` clips took no part in training, validation, "
        "calibration or the choice of the checkpoint or threshold.",
        table(["fact", "value"], [[k, v] for k, v in facts.items()]),
    ]


def _data(run: RunFacts, sides: Sides) -> list[str]:
    lines = ["## Data", "\n".join(f"- {line}" for line in run.split)]
    if not sides:
        return lines
    return [
        *lines,
        "A group is all that shares a person or footage; *shared groups* are on another side too, and "
        "should be 0.",
        data_table(sides),
        generator_table(sides),
    ]


def _training(history: Sequence[Epoch], plots: Collection[str]) -> list[str]:
    if not history:
        return []
    return [
        "## Training",
        training_table(history),
        accuracy_line(history),
        best_f1_line(history),
        *_images(plots, "learning_curves.png", "training_metrics.png", "learning_rate.png"),
    ]


def _validation(run: RunFacts, scored: Scored, clips: int) -> list[str]:
    sections = [
        "## Validation windows",
        "Of people, footage or generators that were not trained on; AUC with a 95 % bootstrap interval. A "
        "head whose interval reaches 0.5 is not offered: windows that have nothing else get no score.",
        table(["head", "AUC"], [[k, shown(v)] for k, v in run.validation.items()]),
    ]
    if clips:
        auc = shown(scored.interval(metrics.auc))
        sections.append(f"Whole validation clips: AUC {auc}, {len(scored.labels)} of {clips} scored.")
    return sections


def _judgement(judged: Judgement, judge_split: str, plots: Collection[str], *, frozen: bool) -> list[str]:
    return [
        f"## Clips of `{judge_split}`",
        headline_table(judged, frozen=frozen),
        *_images(plots, "roc.png", "pr.png", "reliability.png", "score_histogram.png"),
        "### Confusion matrix",
        confusion_table(judged.scores, judged.threshold),
        *_images(plots, "confusion_matrix.png"),
    ]


def _breakdowns(judged: Judgement, clips: Sequence[Clip]) -> list[str]:
    scores, threshold = judged.scores, judged.threshold
    return [
        "### By generator",
        "Each generator's clips against all genuine ones; pairs compare a generated clip with the "
        "genuine clip of the same footage.",
        breakdown(scores, threshold, "generator", lambda s: s.generator),
        "### By kind",
        breakdown(scores, threshold, "kind", lambda s: s.kind),
        "### By modality",
        "What is generated, as the manifest labels it; what nobody labelled stands apart.",
        modality_table(scores, threshold, clips),
        "### Windows without a score",
        abstention_table(scores),
    ]


def _findings(signs: Sequence[Sign], advice: Sequence[str]) -> list[str]:
    words = {True: "**yes**", False: "no", None: "not measured"}
    return [
        "## Signs of overfitting",
        table(["sign", "figures", "seen"], [[s.rule, s.figures, words[s.seen]] for s in signs]),
        "## Recommendations",
        "\n".join(f"- {line}" for line in advice) or "The figures ask for nothing.",
    ]


def _images(plots: Collection[str], *names: str) -> list[str]:
    return [f"![{n.removesuffix('.png').replace('_', ' ')}](assets/{n})" for n in names if n in plots]
