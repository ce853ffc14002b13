"""The figures of an evaluation as JSON, in full precision; null where one is not defined."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from avff.trainer import metrics
from avff.trainer.evaluate import ClipScore
from avff.trainer.evaluation import Evaluation
from avff.trainer.report.figures import Scored
from avff.trainer.report.tables import confusion, interval_json, modality_of, number_json
from avff.trainer.shortcuts import cell_json
from avff.trainer.sweep import Sweep


def as_json(made: Evaluation) -> str:
    """Return every figure in full precision; null where it is not defined."""
    document: dict[str, Any] = {"model": made.model, **made.facts, "threshold": made.threshold}
    modality = modality_of(made.clips)
    for level, scores in (("clips", made.scores), ("windows", made.windows)):
        document[level] = {
            "count": len(scores),
            "scored": sum(s.logit is not None for s in scores),
            **{key: interval_json(figure) for key, figure in made.figures[level].items()},
            "called": _called(scores, made.threshold),
            "generators": _parts(scores, lambda s: s.generator),
            "kinds": _parts(scores, lambda s: s.kind),
            "modalities": _parts(scores, lambda s: modality[s.uid]),
        }
    document["abstained"] = {
        name: dict(sum((Counter(s.abstained) for s in made.scores if s.label == label), Counter()))
        for label, name in enumerate(("genuine", "generated"))
    }
    document["alarms"] = made.alarms.to_json()
    document["sweep"] = None if made.sweep is None else _sweep(made.sweep)
    document["controls"] = None if made.controls is None else made.controls.to_json()
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _called(scores: Sequence[ClipScore], threshold: float) -> dict[str, dict[str, int]]:
    """The confusion matrix, by class."""
    rows = confusion(scores, threshold).tolist()
    names = ("not_fake", "fake", "no_score")
    return {
        one: dict(zip(names, row, strict=True))
        for one, row in zip(("genuine", "generated"), rows, strict=True)
    }


def _parts(scores: Sequence[ClipScore], part_of: Callable[[ClipScore], str]) -> dict[str, Any]:
    """AUC of each part of the generated ones against all genuine ones."""
    genuine = [s for s in scores if not s.label]
    parts: dict[str, list[ClipScore]] = defaultdict(list)
    for score in scores:
        if score.label:
            parts[part_of(score)].append(score)
    return {
        name: {
            "count": len(part), "scored": sum(s.logit is not None for s in part),
            "auc": interval_json(Scored.of([*genuine, *part]).interval(metrics.auc)),
        }
        for name, part in sorted(parts.items())
    }  # fmt: skip


def _sweep(made: Sweep) -> dict[str, Any]:
    return {
        "clips": made.clips, "out_of": made.out_of, "seed": made.seed,
        "mean_drop": number_json(made.mean_drop),
        "worst": None if made.worst is None else str(made.worst.perturbation),
        "cells": [cell_json(c) for c in made.cells],
    }  # fmt: skip
