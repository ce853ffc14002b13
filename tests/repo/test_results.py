"""What the README and the model card quote is what docs/results/ holds, and that is of the embedded model."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Only the trainer's environment has these.
pytest.importorskip("sklearn")
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from avff.trainer.report.regions import REGIONS, fill
from tools.results_pages import DOCUMENTS, facts_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def evaluation() -> dict[str, Any]:
    made: dict[str, Any] = facts_of(RESULTS)["evaluation"]
    return made


def predictions() -> list[dict[str, Any]]:
    lines = (RESULTS / "evaluation-predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_quoted_figures_are_those_of_the_results(name: str) -> None:
    """Filling the regions again changes nothing; ``make results`` brings them up to date."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert fill(text, facts_of(RESULTS)) == text


def test_every_region_is_quoted_somewhere() -> None:
    """The README has the headline, the card the tables."""
    quoted = [
        re.findall(r"<!-- results:(\w+) -->", (ROOT / n).read_text(encoding="utf-8")) for n in DOCUMENTS
    ]
    assert quoted[0] == ["headline"]
    assert sorted(name for names in quoted for name in names) == sorted(REGIONS)


def test_results_are_of_the_embedded_model() -> None:
    """A model that was exchanged without ``make results`` would go by the figures of another."""
    contract = ROOT / "engine" / "weights" / "avff-s" / "contract.json"
    assert evaluation()["contract_sha256"] == hashlib.sha256(contract.read_bytes()).hexdigest()


def test_figures_can_be_recomputed_from_the_scores() -> None:
    """Ten lines of numpy and scikit-learn agree with the JSON, and the page shows the same digits."""
    made, rows = evaluation(), predictions()
    kept = [r for r in rows if r["logit"] is not None]
    labels, logits = (np.array([r[k] for r in kept]) for k in ("label", "logit"))
    called = 1 / (1 + np.exp(-logits)) >= made["threshold"]
    clips = made["clips"]
    assert (clips["count"], clips["scored"]) == (len(rows), len(kept))
    expected = {
        "auc": roc_auc_score(labels, logits),
        "balanced_accuracy": balanced_accuracy_score(labels, called),
        "f1": f1_score(labels, called),
        "accuracy": np.mean(called == labels),
    }
    for key, value in expected.items():
        assert clips[key]["value"] == pytest.approx(value, abs=1e-6), key
    assert clips["called"]["genuine"]["fake"] == int(called[labels == 0].sum())
    assert clips["called"]["generated"]["fake"] == int(called[labels == 1].sum())
    page = (RESULTS / "evaluation.md").read_text(encoding="utf-8")
    assert f"| AUC | {expected['auc']:.3f} [" in page
    for name, part in clips["generators"].items():
        own = [r for r in kept if not r["label"] or r["generator"] == name]
        if part["scored"]:
            again = roc_auc_score([r["label"] for r in own], [r["logit"] for r in own])
            assert part["auc"]["value"] == pytest.approx(again, abs=1e-6), name


def test_pages_show_the_pictures_that_are_there() -> None:
    """No broken link, and no picture left over from an earlier evaluation."""
    for page, folder in (("evaluation.md", "evaluation"), ("failures.md", "failures")):
        text = (RESULTS / page).read_text(encoding="utf-8")
        shown = set(re.findall(rf"\]\({folder}/([\w-]+\.png)\)", text))
        assert shown == {p.name for p in (RESULTS / folder).iterdir()}
