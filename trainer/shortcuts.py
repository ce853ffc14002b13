"""Shortcut controls of a judged model: how much of its figure something else than forgery may explain.

- Twins: the same clips without their leading silence, and all of them encoded anew in one way.  A
  figure that falls with a twin rested on what the twin took away.
- Facts: what a classifier makes of container facts alone, over all clips and within pairs of the same
  footage, beside what the model makes of the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.perturb import CONTROLS, control
from avff.trainer.report.control import Facts, facts_across, facts_within_pairs, file_facts, in_order
from avff.trainer.report.figures import Scored
from avff.trainer.report.tables import interval_json, number_json
from avff.trainer.sweep import Cell, Score, compare

LENGTH, MODEL = "length alone", "the model"
CHANCE, MARGIN = 0.5, 0.1
"""A control that knows nothing of forgery lies within so much of chance, or what it knows is explained."""


@dataclass(frozen=True)
class Teller:
    """Something that may tell generated from genuine clips.

    Attributes:
        name: what it is.
        across: AUC over all judged clips.
        within: share of pairs of the same footage in the right order; NaN without pairs.
    """

    name: str
    across: Interval
    within: Interval

    @property
    def near_chance(self) -> tuple[bool, bool]:
        """Whether it is within the margin of chance, across clips and within pairs."""
        across, within = (abs(i.value - CHANCE) <= MARGIN for i in (self.across, self.within))
        return across, within


@dataclass(frozen=True)
class Shortcuts:
    """All controls of one judgement.

    Attributes:
        twins: each twin against the clips as they are.
        facts: what classifiers make of facts without content.
        model: what the model makes of the same clips and pairs.
        pairs: pairs of a generated and a genuine clip of the same footage.
    """

    twins: tuple[Cell, ...]
    facts: tuple[Teller, ...]
    model: Teller
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return every figure in full precision; null where it is not defined."""
        return {
            "twins": [cell_json(cell) for cell in self.twins],
            "pairs": self.pairs,
            "tellers": [
                {"name": t.name, "across": interval_json(t.across), "within": interval_json(t.within)}
                for t in (*self.facts, self.model)
            ],
        }


def shortcuts(clips: Sequence[Clip], clean: Sequence[ClipScore], score: Score, root: Path) -> Shortcuts:
    """Carry out all controls.

    Args:
        clips: what was judged.
        clean: their scores, in order.
        score: scores clips under a perturbation.
        root: data root, for the files' sizes.
    """
    groups = group_of(clips)
    pairs = pairs_of(clips)
    told: tuple[tuple[str, Facts], ...] = (
        ("container facts", partial(file_facts, root=root)), (LENGTH, _length),
    )  # fmt: skip
    facts = tuple(
        Teller(name, facts_across(clips, groups, of), facts_within_pairs(pairs, groups, of))
        for name, of in told
    )
    twins = tuple(compare(control(name), clean, score(clips, control(name))) for name in CONTROLS)
    model = Teller(MODEL, Scored.of(clean).interval(metrics.auc), model_within_pairs(pairs, clean))
    return Shortcuts(twins, facts, model, len(pairs))


def pairs_of(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """Return each generated clip whose footage is among the genuine clips, with that genuine clip."""
    genuine = {c.uid: c for c in clips if not c.is_fake}
    return [(c, genuine[c.source_uid]) for c in clips if c.is_fake and c.source_uid in genuine]


def model_within_pairs(pairs: Sequence[tuple[Clip, Clip]], scores: Sequence[ClipScore]) -> Interval:
    """Return the share of pairs whose generated clip has the higher score; both must have one."""
    by_uid = {s.uid: s for s in scores if s.logit is not None}
    scored = [(by_uid[a.uid], by_uid[b.uid]) for a, b in pairs if a.uid in by_uid and b.uid in by_uid]
    margins = np.array([a.logit - b.logit for a, b in scored if a.logit is not None and b.logit is not None])
    return in_order(margins, [a.group for a, _ in scored])


def cell_json(cell: Cell) -> dict[str, Any]:
    """Return a comparison with the clean run as it is written in JSON."""
    return {
        **asdict(cell.perturbation), "clips": cell.clips, "scored": cell.scored,
        "clean": interval_json(cell.clean), "auc": interval_json(cell.auc), "drop": interval_json(cell.drop),
        "rise": interval_json(cell.rise), "rise_genuine": number_json(cell.rise_genuine),
    }  # fmt: skip


def _length(clip: Clip) -> list[float]:
    return [clip.duration_s]
