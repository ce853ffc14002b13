"""The robustness sweep: how much worse a model gets under each perturbation, and under which most.

Every cell is compared with the clean run on the very clips that both have scored, so that neither
another choice of clips nor an abstention passes for a change of the score.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Float64, Interval, Labels
from avff.trainer.perturb import OFFSET, Perturbation
from avff.trainer.report.tables import number, shown, table

MAX_RISE = 0.02
"""An audio-video offset may move the mean probability of fake up by so much, and no more."""
Score = Callable[[Sequence[Clip], Perturbation], Sequence[ClipScore]]
"""From clips and a perturbation to their scores, in order."""


@dataclass(frozen=True)
class Cell:
    """One perturbation at one severity, against the clean run.

    Attributes:
        perturbation: what was done.
        clips: that were to be scored.
        scored: those with a score both clean and perturbed; all figures are of these.
        clean: AUC of the clean run.
        auc: perturbed.
        drop: clean AUC minus perturbed.
        rise: mean change of the probability of fake, all clips.
        rise_genuine: the same of genuine clips alone; NaN without any.
    """

    perturbation: Perturbation
    clips: int
    scored: int
    clean: Interval
    auc: Interval
    drop: Interval
    rise: Interval
    rise_genuine: float

    @property
    def breaks_offset_rule(self) -> bool:
        """Whether sound that is merely early or late raised the fake score."""
        return self.perturbation.name == OFFSET and self.rise.value > MAX_RISE


@dataclass(frozen=True)
class Sweep:
    """All cells.

    Attributes:
        cells: in the order of the catalogue.
        clips: scored in each cell.
        out_of: clips they were chosen from.
        seed: of the choice and of the perturbations.
    """

    cells: tuple[Cell, ...]
    clips: int
    out_of: int
    seed: int

    @property
    def mean_drop(self) -> float:
        """Mean drop of AUC over the cells that have one; NaN when none has."""
        return _mean([c.drop.value for c in self.cells])

    @property
    def worst(self) -> Cell | None:
        """The cell with the largest drop, or None when none has one."""
        return max(_with_drop(self.cells), key=lambda c: c.drop.value, default=None)


def sweep(
    clips: Sequence[Clip],
    clean: Sequence[ClipScore],
    cells: Sequence[Perturbation],
    score: Score,
    *,
    count: int | None = None,
    seed: int = 0,
) -> Sweep:
    """Score clips under every perturbation.

    Args:
        clips: what the clean run scored.
        clean: its scores.
        cells: the perturbations.
        score: scores clips under one of them.
        count: how many clips to take at most; None for all.
        seed: of the choice of clips.
    """
    chosen = list(clips) if count is None else stratified(clips, count, seed=seed)
    taken = {c.uid for c in chosen}
    before = [s for s in clean if s.uid in taken]
    made = tuple(compare(cell, before, score(chosen, cell)) for cell in cells)
    return Sweep(made, len(chosen), len(clips), seed)


def stratified(clips: Sequence[Clip], count: int, *, seed: int) -> list[Clip]:
    """Choose clips: half of them genuine as far as there are, every generator and collection by its share.

    Args:
        clips: to choose from, all with a label.
        count: how many at most.
        seed: of the choice.

    Returns:
        the chosen clips, in the order given.
    """
    rng = np.random.default_rng(seed)
    classes = {label: [c for c in clips if c.is_fake == bool(label)] for label in (0, 1)}
    fakes = min(len(classes[1]), max(count // 2, count - len(classes[0])))
    chosen = _spread(classes[1], fakes, rng) | _spread(classes[0], count - fakes, rng)
    return [c for c in clips if c.uid in chosen]


def _spread(clips: Sequence[Clip], count: int, rng: np.random.Generator) -> set[str]:
    """Return the uids of ``count`` clips, spread evenly over generators or, if genuine, collections."""
    strata: dict[str, list[str]] = defaultdict(list)
    for clip in sorted(clips, key=lambda c: c.uid):
        strata[clip.generator or clip.collection].append(clip.uid)
    # Places 0…1 at even distances in every stratum: the lowest ones are a fair share of each.
    places = []
    for _, uids in sorted(strata.items()):
        start = rng.random()
        places += [((k + start) / len(uids), uids[i]) for k, i in enumerate(rng.permutation(len(uids)))]
    return {uid for _, uid in sorted(places)[:count]}


def compare(perturbation: Perturbation, clean: Sequence[ClipScore], perturbed: Sequence[ClipScore]) -> Cell:
    """Compare the scores of the same clips with and without a perturbation."""
    before = {s.uid: s for s in clean if s.logit is not None}
    kept = [s for s in perturbed if s.logit is not None and s.uid in before]
    # Groups are the clean run's: those of a choice of clips lack the ties through the others.
    groups = [before[s.uid].group for s in kept]
    labels = np.array([s.label for s in kept], np.int64)
    logits = np.array([[before[s.uid].logit, s.logit] for s in kept], np.float64).reshape(-1, 2)
    changes = np.array([_change(before[s.uid], s) for s in kept], np.float64)
    genuine = changes[labels == 0]
    return Cell(
        perturbation, len(perturbed), len(kept),
        clean=metrics.bootstrap(_auc_before, labels, logits, groups),
        auc=metrics.bootstrap(_auc_after, labels, logits, groups),
        drop=metrics.bootstrap(_drop, labels, logits, groups),
        rise=metrics.bootstrap(_mean_change, labels, changes, groups),
        rise_genuine=_mean(genuine.tolist()),
    )  # fmt: skip


def _change(before: ClipScore, after: ClipScore) -> float:
    assert before.probability is not None, "the caller keeps scored clips"
    assert after.probability is not None, "the caller keeps scored clips"
    return after.probability - before.probability


def _auc_before(labels: Labels, logits: Float64) -> float:
    return metrics.auc(labels, logits[:, 0])


def _auc_after(labels: Labels, logits: Float64) -> float:
    return metrics.auc(labels, logits[:, 1])


def _drop(labels: Labels, logits: Float64) -> float:
    return metrics.auc(labels, logits[:, 0]) - metrics.auc(labels, logits[:, 1])


def _mean_change(labels: Labels, changes: Float64) -> float:
    del labels
    return _mean(changes.tolist())


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan


def _with_drop(cells: Sequence[Cell]) -> list[Cell]:
    return [c for c in cells if math.isfinite(c.drop.value)]


def sweep_summary(made: Sweep) -> str:
    """Return the sentences that stand above the tables."""
    lines = [f"{made.clips} of {made.out_of} clips, the same in every cell, chosen with seed {made.seed}."]
    if made.worst is not None:
        lines.append(
            f"Mean drop of AUC {made.mean_drop:.3f}; worst cell: {made.worst.perturbation}, "
            f"{made.worst.drop.value:.3f}."
        )
    if any(c.perturbation.name == OFFSET for c in made.cells):
        broken = [f"{c.perturbation.severity:g}" for c in made.cells if c.breaks_offset_rule]
        lines.append(
            f"Sound out of step must not raise the fake score by more than {MAX_RISE}: "
            + (f"it does at {', '.join(broken)} ms." if broken else "it does not.")
        )
    return " ".join(lines)


def kind_table(made: Sweep) -> str:
    """Each kind of perturbation: mean drop over its severities, and the worst of them."""
    kinds: dict[str, list[Cell]] = defaultdict(list)
    for cell in made.cells:
        kinds[cell.perturbation.name].append(cell)
    rows = []
    for name, cells in kinds.items():
        worst = max(_with_drop(cells), key=lambda c: c.drop.value, default=None)
        at = "–" if worst is None else f"{number(worst.drop.value)} at {worst.perturbation.severity:g}"
        rows.append([name, cells[0].perturbation.unit, number(_mean([c.drop.value for c in cells])), at])
    return table(["perturbation", "unit", "mean drop", "worst drop"], rows)


def cell_table(made: Sweep) -> str:
    """Every cell with its intervals."""
    rows = [
        [str(c.perturbation), f"{c.scored} of {c.clips}", shown(c.auc), shown(c.drop), shown(c.rise),
         number(c.rise_genuine)]
        for c in made.cells
    ]  # fmt: skip
    return table(["perturbation", "scored", "AUC", "drop", "change of the fake score", "genuine only"], rows)
