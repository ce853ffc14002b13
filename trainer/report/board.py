"""A finished run for TensorBoard: its plots, and its recipe beside its figures.

``tensorboard --logdir runs/logs`` then compares runs: the HPARAMS tab has a row for each run with
its settings and what the judging clips say of it, the IMAGES tab the report's plots.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from torch.utils.tensorboard import SummaryWriter

from avff.trainer.report.write import ASSETS, FIGURES_FILE

BOARD = "report"
"""Folder beside those of the stages; no stage has this name."""
Plain = str | int | float


def write_board(logs: Path, outputs: Path, recipe: Mapping[str, Any]) -> Path:
    """Write the plots and figures of a finished run where TensorBoard looks for them.

    Args:
        logs: the run's TensorBoard folder.
        outputs: the run's outputs, with ``figures.json`` and ``assets/*.png`` of its report.
        recipe: its settings, nested as in the YAML.

    Returns:
        the folder written; one from an earlier report is replaced.

    Raises:
        OSError: a file is missing, or the folder cannot be written.
    """
    figures = json.loads((outputs / FIGURES_FILE).read_text(encoding="utf-8"))
    target = logs / BOARD
    if target.exists():
        shutil.rmtree(target)
    with SummaryWriter(str(target)) as writer:
        # Into the folder itself: by default every row of the table gets one of its own, by the time.
        writer.add_hparams(flat(recipe), judged(figures), run_name=".")
        for plot in sorted((outputs / ASSETS).glob("*.png")):
            picture = cv2.imread(str(plot))
            if picture is None:
                raise OSError(f"{plot}: is no picture")
            writer.add_image(plot.stem, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dataformats="HWC")
    return target


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Plain]:
    """Return settings by dotted key, as on the command line.

    Numbers and words stay; switches are ``true`` or ``false`` and lists JSON, because the table knows
    neither; what is not set is left out.
    """
    found: dict[str, Plain] = {}
    for name, value in settings.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{key}.")
        elif isinstance(value, bool | list | tuple):
            found[key] = json.dumps(value)
        elif value is not None:
            found[key] = value
    return found


def judged(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return what ``figures.json`` holds as ``judging/<figure>``; what was not defined is left out."""
    values = {name: f["value"] if isinstance(f, Mapping) else f for name, f in figures.items()}
    return {f"judging/{name}": float(value) for name, value in values.items() if value is not None}
