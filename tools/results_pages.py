"""The pages of ``tools/results.py``: evaluation, failures, a run's report, counts of the data, quotes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avff.trainer.evaluate import ClipScore, WindowScore
from avff.trainer.gallery import write_gallery
from avff.trainer.report.intervals import draw_evaluation
from avff.trainer.report.plots import draw_all
from avff.trainer.report.regions import fill, stands_out

PAGE, FIGURES, SCORES, PICTURES = (
    "evaluation.md", "evaluation.json", "evaluation-predictions.jsonl", "evaluation",
)  # fmt: skip
DOCUMENTS = ("README.md", "docs/model-card.md")
"""What quotes the results, in marked regions."""
SIDES = {"genuine train": ("train", "real"), "generated train": ("train", "fake"),
         "genuine dev": ("dev", "real"), "generated dev": ("dev", "fake")}  # fmt: skip


def publish_evaluation(work: Path, results: Path, *, data: Path) -> None:
    """Copy an evaluation's figures and scores, draw its pictures, and write its page.

    Args:
        work: what ``avff-evaluate`` has written.
        results: where results go.
        data: data root; the page names it ``$AVFF_DATA``.
    """
    document = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))
    for name, target in (("evaluation.json", FIGURES), ("predictions.jsonl", SCORES)):
        shutil.copy(work / name, results / target)
    pictures = results / PICTURES
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    scores = read_scores(work / "predictions.jsonl")
    drawn = draw_all(pictures, [], scores, document["threshold"]) + draw_evaluation(document, pictures)
    text = (work / "evaluation.md").read_text(encoding="utf-8")
    text = text.replace(f"{data}/manifest.csv", "$AVFF_DATA/manifest.csv").replace(str(data), "$AVFF_DATA")
    text = text.replace(str(work), "runs/results").replace("Made by `", "Made by `make results`: `", 1)
    (results / PAGE).write_text(page(text, document, drawn), encoding="utf-8")


def page(text: str, document: Mapping[str, Any], pictures: list[str]) -> str:
    """Return an evaluation's page with what stands out, and with its pictures before the notes."""
    out = "\n".join(f"- {line}" for line in stands_out(document))
    shown = "\n\n".join(f"![{name.removesuffix('.png')}]({PICTURES}/{name})" for name in pictures)
    text = text.replace("\n| fact | value |", f"\n## What stands out\n\n{out}\n\n| fact | value |", 1)
    return text.replace("## How to read this", f"## Pictures\n\n{shown}\n\n## How to read this", 1)


def write_failures(work: Path, results: Path) -> None:
    """Write the gallery of failures of an evaluation."""
    threshold = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))["threshold"]
    windows = [WindowScore(**row) for row in _rows(work / "windows.jsonl")]
    write_gallery(results, read_scores(work / "predictions.jsonl"), windows, threshold=threshold)


def read_scores(path: Path) -> list[ClipScore]:
    """Read ``predictions.jsonl``."""
    return [ClipScore(**row) for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def publish_run(run: Path, results: Path) -> None:
    """Copy a training run's report, its plots and what its figures can be recomputed from.

    The pictures of its worst errors show third-party footage and stay where they are.
    """
    text = (run / "training_report.md").read_text(encoding="utf-8")
    name = json.loads((run / "settings.json").read_text(encoding="utf-8"))["name"]
    pictures = results / name
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    for plot in re.findall(r"\(assets/([\w-]+\.png)\)", text):
        shutil.copy(run / "assets" / plot, pictures / plot)
    for kept in ("history", "predictions"):
        shutil.copy(run / f"{kept}.jsonl", results / f"{name}-{kept}.jsonl")
    note = (
        f"\nEvery epoch's figures are in [{name}-history.jsonl]({name}-history.jsonl), every clip's score\n"
        f"in [{name}-predictions.jsonl]({name}-predictions.jsonl).\n"
    )
    (results / f"{name}.md").write_text(text.replace("(assets/", f"({name}/") + note, encoding="utf-8")


def data_counts(manifest: Path) -> dict[str, Any]:
    """Count the clips and minutes of a manifest by split, class and licence; no clip is named."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    of = {side: [r for r in rows if (r["split"], r["label"]) == key] for side, key in SIDES.items()}
    minutes = {side: sum(float(r["duration_s"]) for r in own) / 60 for side, own in of.items()}
    licences = {side: Counter(r.get("licence") or "none stated" for r in own) for side, own in of.items()}
    total = sum(licences.values(), Counter[str]())
    return {
        "sides": list(SIDES),
        "clips": {side: len(own) for side, own in of.items()},
        "minutes": minutes,
        "genuine_training_minutes": minutes["genuine train"],
        "licences": [
            {"licence": licence, **{side: licences[side][licence] for side in SIDES}}
            for licence in sorted(total, key=lambda name: (-total[name], name))
        ],
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document that people may read too."""
    path.write_text(
        json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def facts_of(results: Path) -> dict[str, Any]:
    """Read what the marked regions are made of."""
    names = {"evaluation": FIGURES, "data": "data.json"}
    return {key: json.loads((results / name).read_text(encoding="utf-8")) for key, name in names.items()}


def quote(tree: Path) -> None:
    """Fill the marked regions of a tree's documents from its results.

    Raises:
        RegionError: a document's marks are wrong.
    """
    facts = facts_of(tree / "docs" / "results")
    for name in DOCUMENTS:
        path = tree / name
        path.write_text(fill(path.read_text(encoding="utf-8"), facts), encoding="utf-8")
