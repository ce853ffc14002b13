"""Writes a report: the text, its plots, and its figures in full precision."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from avff.engine.contract import Contract
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.report.document import Evidence, RunFacts, document
from avff.trainer.report.figures import Judgement
from avff.trainer.report.plots import draw_all

REPORT_FILE = "training_report.md"
FIGURES_FILE = "figures.json"
ASSETS = "assets"


def write_report(
    directory: Path,
    run: RunFacts,
    contract: Contract,
    scores: Sequence[ClipScore],
    judge_split: str,
    evidence: Evidence,
) -> Path:
    """Write ``training_report.md``, ``figures.json`` and ``assets/*.png`` into a run's folder.

    Args:
        directory: of the run.
        run, contract, scores, judge_split, evidence: see :func:`avff.trainer.report.document.render`.

    Returns:
        the path of the report.

    Raises:
        OSError: the folder cannot be written.
    """
    judged = Judgement.of(scores, contract.calibration.threshold, run.metadata_auc)
    plots = draw_all(directory / ASSETS, evidence.history, scores, judged.threshold)
    counts = {"clips": len(scores), "scored": sum(s.logit is not None for s in scores)}
    kept = {"threshold": judged.threshold, **counts, **{k: _json(v) for k, v in judged.figures.items()}}
    text = json.dumps(kept, indent=1, allow_nan=False)
    (directory / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")
    target = directory / REPORT_FILE
    target.write_text(document(run, judged, judge_split, evidence, plots), encoding="utf-8")
    return target


def _json(figure: Interval) -> dict[str, float | None]:
    values = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
