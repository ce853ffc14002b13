"""What an evaluation leaves behind: scores kept by what made them, figures as JSON, a page to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import avff
from avff.engine.contract import Contract
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import ClipScore, Judged, WindowScore, judge_windows
from avff.trainer.metrics import Interval
from avff.trainer.perturb import Perturbation
from avff.trainer.report.alarms import AlarmFigures, alarm_section
from avff.trainer.report.figures import DEFINITIONS, Scored, measure
from avff.trainer.report.shortcuts import shortcut_section
from avff.trainer.report.tables import (
    NOTHING,
    abstention_table,
    breakdown,
    confusion_table,
    modality_table,
    shown,
    table,
)
from avff.trainer.shortcuts import Shortcuts
from avff.trainer.sweep import Sweep, cell_table, kind_table, sweep_summary


@dataclass(frozen=True)
class KeptJudge:
    """Judges clips, and keeps the scores: what was judged before in the same way is read.

    Attributes:
        root: directory of the clips.
        model: directory of the model; None for the embedded default.
        contract: of the model.
        sha256: of each clip's file, by uid.
        kept: where the scores lie.
        pool: processes that judge.
        seed: of the perturbations.
    """

    root: Path
    model: Path | None
    contract: Contract
    sha256: Mapping[str, str]
    kept: Path
    pool: ProcessPoolExecutor
    seed: int

    def __call__(self, clips: Sequence[Clip], perturbation: Perturbation | None = None) -> list[Judged]:
        """Return the scores of clips, perturbed or as they are."""
        name = "clean" if perturbation is None else f"{perturbation.name}-{perturbation.severity:g}"
        file = self.kept / f"{name}-{self._key(clips, perturbation)}.jsonl"
        if file.is_file():
            return [_judged(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        judged = judge_windows(
            clips, self.root, self.model, self.pool, perturbation=perturbation, seed=self.seed
        )
        self.kept.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".tmp")
        rows = (json.dumps(asdict(one), allow_nan=False) for one in judged)
        scratch.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        scratch.replace(file)
        return judged

    def _key(self, clips: Sequence[Clip], perturbation: Perturbation | None) -> str:
        """Return 16 digits that change with anything that may change a score."""
        facts = {
            "version": avff.__version__,
            "model": self.contract.to_json(),
            "clips": [[asdict(clip), self.sha256[clip.uid]] for clip in clips],
            "perturbation": None if perturbation is None else [asdict(perturbation), self.seed],
            "kept": [f.name for kind in (ClipScore, WindowScore) for f in fields(kind)],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _judged(row: dict[str, Any]) -> Judged:
    return Judged(ClipScore(**row["clip"]), tuple(WindowScore(**w) for w in row["windows"]))


@dataclass(frozen=True)
class Evaluation:
    """A model on clips.

    Attributes:
        model: its name.
        command: that repeats it.
        facts: name and value, in order.
        threshold: probability from which a clip is called fake, frozen with the model.
        clips: what was judged.
        judged: their scores, in order.
        sweep: the robustness sweep, or None.
        controls: the shortcut controls, or None.
    """

    model: str
    command: str
    facts: Mapping[str, str]
    threshold: float
    clips: Sequence[Clip]
    judged: Sequence[Judged]
    sweep: Sweep | None
    controls: Shortcuts | None = None

    @cached_property
    def scores(self) -> list[ClipScore]:
        """The clips' scores."""
        return [j.clip for j in self.judged]

    @cached_property
    def windows(self) -> list[ClipScore]:
        """Every window with a known label, as if it were a clip."""
        return [
            ClipScore(
                w.uid, w.label, j.clip.kind, j.clip.generator, "", j.clip.group, w.logit,
                int(w.logit is not None), {w.reason: 1} if w.reason else {},
            )
            for j in self.judged for w in j.windows if w.label is not None
        ]  # fmt: skip

    @cached_property
    def figures(self) -> dict[str, dict[str, Interval]]:
        """The figures of ``clips`` and of ``windows``; none where nothing has a score."""
        levels = {"clips": Scored.of(self.scores), "windows": Scored.of(self.windows)}
        return {
            level: measure(scored, self.threshold) if len(scored.labels) else {}
            for level, scored in levels.items()
        }

    @cached_property
    def alarms(self) -> AlarmFigures:
        """What the daemon's default rule for alarms makes of the windows."""
        return AlarmFigures.of(self.clips, self.judged)


def as_page(made: Evaluation) -> str:
    """Return the evaluation as Markdown."""
    scores, windows, at = made.scores, made.windows, made.threshold
    sections = [
        f"# Evaluation: {made.model}",
        f"Made by `{made.command}`.",
        table(["fact", "value"], [[k, v] for k, v in made.facts.items()]),
        "## Figures",
        _figures(made),
        confusion_table(scores, at),
        "## By generator",
        "Each generator against everything genuine; pairs compare a generated clip with the genuine clip of "
        "the same footage.",
        breakdown(scores, at, "generator, clips", lambda s: s.generator),
        breakdown(windows, at, "generator, windows", lambda s: s.generator, "all genuine windows"),
        "## By kind",
        breakdown(scores, at, "kind, clips", lambda s: s.kind),
        breakdown(windows, at, "kind, windows", lambda s: s.kind, "all genuine windows"),
        "## By what is generated",
        modality_table(scores, at, made.clips),
        "## Windows without a score",
        abstention_table(scores),
        *_unreadable(scores),
        *alarm_section(made.alarms),
        *([] if made.controls is None else shortcut_section(made.controls)),
        *_robustness(made.sweep),
        "## How to read this",
        "A clip's score is the mean of the calibrated log-odds of its windows. A window of a generated clip "
        "counts as generated unless the manifest lists the generated passages and none lies in it. Intervals "
        "(95 %) resample groups of clips that share a person or footage; windows of one clip are never taken "
        "for independent. Clips and windows without a score are in no figure but their own count.",
    ]
    return "\n\n".join(sections) + "\n"


def _figures(made: Evaluation) -> str:
    """Both levels side by side, with what knowing nothing gets on the clips."""
    by_clip, by_window = Scored.of(made.scores), Scored.of(made.windows)
    of_clips, of_windows = made.figures["clips"], made.figures["windows"]
    counts = [f"{len(s.labels)} of {len(a)}" for s, a in ((by_clip, made.scores), (by_window, made.windows))]
    rows = [["scored", *counts, ""]]
    for d in DEFINITIONS:
        values = [shown(of[d.key]) if of else NOTHING for of in (of_clips, of_windows)]
        level = f"{d.to_beat[0]} {d.to_beat[1](by_clip.labels):.3f}" if d.to_beat and of_clips else ""
        rows.append([d.title, *values, level])
    rows.append(["threshold (frozen with the model)", f"{made.threshold:.3f}", f"{made.threshold:.3f}", ""])
    return table(["figure", "clips", "windows", "to beat (clips)"], rows)


def _unreadable(scores: Sequence[ClipScore]) -> list[str]:
    rows = [[s.uid, s.problem] for s in scores if s.problem]
    return ["## Files that could not be read", table(["clip", "problem"], rows)] if rows else []


def _robustness(made: Sweep | None) -> list[str]:
    if made is None:
        return []
    return [
        "## Robustness",
        sweep_summary(made),
        "Drop: AUC of the clean run on the same clips, minus the cell's. Change of the fake score: mean "
        "difference of the probability of fake to the clean run.",
        kind_table(made),
        "### All cells",
        cell_table(made),
    ]
