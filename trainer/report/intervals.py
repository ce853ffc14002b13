"""Plots of figures with their intervals, one below the other, from an evaluation's JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from avff.trainer.report.style import BLUE, GREY, ORANGE, SIZE_IN, legend_below, save, styled

_ROW_IN = 0.34


@dataclass(frozen=True)
class Row:
    """A figure in a plot.

    Attributes:
        name: beside it.
        value, low, high: the figure and its interval; None where it is not defined.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None


def draw_evaluation(document: Mapping[str, Any], directory: Path) -> list[str]:
    """Draw AUC by generator, and under every perturbation and control, as far as there are any.

    Args:
        document: ``evaluation.json``.
        directory: where the pictures go.

    Returns:
        their file names.

    Raises:
        OSError: the folder cannot be written.
    """
    overall = document["clips"]["auc"]["value"]
    generators = sorted(
        (row_of(f"{name} ({part['scored']})", part["auc"]) for name, part in _generators(document)),
        key=lambda row: row.value if row.value is not None else math.inf,
    )
    drawn: dict[str, tuple[str, list[Row], float | None]] = {
        "generators.png": ("AUC by generator (scored clips)", generators, overall)
    }
    if document["sweep"]:
        cells = document["sweep"]["cells"]
        clean = cells[0]["clean"]["value"] if cells else None
        rows = [row_of(cell_name(c), c["auc"]) for c in cells]
        drawn["robustness.png"] = ("AUC under perturbations", rows, clean)
    if document["controls"]:
        rows = [row_of(cell_name(c), c["auc"]) for c in document["controls"]["twins"]]
        rows += [row_of(t["name"], t["across"]) for t in document["controls"]["tellers"]]
        rows += [row_of(f"{t['name']}, within pairs", t["within"]) for t in document["controls"]["tellers"]]
        drawn["controls.png"] = ("Controls", rows, overall)
    for name, (title, rows, reference) in drawn.items():
        save(intervals(title, rows, reference), directory / name)
    return list(drawn)


def _generators(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(document["clips"]["generators"].items())


def cell_name(cell: Mapping[str, Any]) -> str:
    """Return what a cell of the sweep, or a twin, is called."""
    return f"{cell['name']} {cell['severity']:g} {cell['unit']}"


def row_of(name: str, figure: Mapping[str, float | None]) -> Row:
    """Return a figure of the JSON as a row."""
    return Row(name, figure["value"], figure["low"], figure["high"])


@styled
def intervals(title: str, rows: Sequence[Row], reference: float | None) -> Figure:
    """Draw figures 0…1 with their intervals, the first on top, beside chance and a reference."""
    figure = Figure(figsize=(SIZE_IN[0], 1.7 + _ROW_IN * max(3, len(rows))), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        if row.value is None:
            axes.text(0.5, place, "not defined", va="center", ha="center", color=GREY)
            continue
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=BLUE, alpha=0.5, solid_capstyle="butt")
        axes.plot([row.value], [place], "o", color=BLUE, ms=6)
    axes.plot([], [], "o-", color=BLUE, ms=6, label="figure and 95 % interval")
    axes.axvline(0.5, ls="--", color=GREY, label="chance")
    if reference is not None:
        axes.axvline(reference, color=ORANGE, lw=1.4, label=f"all clips, as they are: {reference:.3f}")
    axes.set(
        title=title,
        xlabel="AUC, or share of pairs in order, 0…1",
        xlim=(0, 1.02),
        ylim=(len(rows) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    legend_below(figure)
    return figure
