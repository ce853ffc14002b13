"""``history.jsonl``: what each epoch of a run has measured, a JSON line per stage and epoch.

The stage that trains appends; the report reads.  Keys besides ``stage`` and ``epoch`` are
figures by name, the same in every stage: ``train/loss`` and ``val/loss`` with the terms they are
made of beside them, ``val/auc``, ``val/accuracy``, ``val/f1``, ``val/prior`` (share of fakes among
what is validated, the level the last two are read against), ``auc/<kind>``, ``lr``, and whatever
else a stage measures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avff.trainer.durable import write_durably


class HistoryError(Exception):
    """A history cannot be read or written; the message names the file, and the line if it is one."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of one stage.

    Attributes:
        stage: ``pretrain``, ``encoders`` or ``whole``.
        epoch: number within the stage, from 0.
        values: figures by name; NaN where a figure was not defined.
    """

    stage: str
    epoch: int
    values: Mapping[str, float]

    def get(self, name: str) -> float:
        """Return a figure, NaN where it was not measured."""
        return self.values.get(name, math.nan)


def append_epoch(path: Path, epoch: Epoch) -> None:
    """Add an epoch; a crash at any moment leaves the file with it or without it, never with half.

    A run that goes on from an earlier checkpoint measures some epochs again: these, and what
    the same stage had measured after them, are replaced.

    Raises:
        HistoryError: the file is damaged, or cannot be written.
    """
    kept = [e for e in read_history(path) if e.stage != epoch.stage or e.epoch < epoch.epoch]
    text = "".join(_line(e) for e in [*kept, epoch])
    try:
        write_durably(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise HistoryError(f"{path}: cannot be written ({error.strerror})") from error


def read_history(path: Path) -> list[Epoch]:
    """Read all epochs in the order they were trained; none when there is no such file.

    Raises:
        HistoryError: a line is not an epoch.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise HistoryError(f"{path}: cannot be read ({error})") from error
    epochs = []
    for number, line in enumerate(lines, start=1):
        try:
            epochs.append(_epoch(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise HistoryError(
                f"{path}: line {number} is not an epoch ({error}); mend it, or delete the file"
            ) from error
    return epochs


def stages_of(history: Sequence[Epoch]) -> dict[str, list[Epoch]]:
    """Return the epochs of each stage, stages in the order they were trained."""
    stages: dict[str, list[Epoch]] = {}
    for epoch in history:
        stages.setdefault(epoch.stage, []).append(epoch)
    return stages


def best_f1(history: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch with the highest validation F1, None when none was measured."""
    measured = [e for e in history if math.isfinite(e.get("val/f1"))]
    return max(measured, key=lambda e: e.get("val/f1"), default=None)


def majority_prior(epochs: Sequence[Epoch]) -> float:
    """Return what always giving the more frequent answer gets in validation, NaN when nobody counted."""
    prior = next(
        (e.get("val/prior") for e in reversed(epochs) if math.isfinite(e.get("val/prior"))), math.nan
    )
    return max(prior, 1 - prior)


def _line(epoch: Epoch) -> str:
    # JSON has no NaN: what was not defined is null.
    values = {name: value if math.isfinite(value) else None for name, value in epoch.values.items()}
    return json.dumps({"stage": epoch.stage, "epoch": epoch.epoch, **values}, allow_nan=False) + "\n"


def _epoch(row: Any) -> Epoch:
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    stage, epoch = row.pop("stage"), row.pop("epoch")
    if not isinstance(stage, str) or not isinstance(epoch, int):
        raise ValueError(f"stage {stage!r}, epoch {epoch!r}")
    return Epoch(stage, epoch, {_name(n): math.nan if v is None else float(v) for n, v in row.items()})


def _name(written: str) -> str:
    """Return a figure's name; in earlier versions the first two stages had names of their own."""
    stage, _, rest = written.partition("/")
    if stage == "pretrain":
        return rest if rest.startswith("val/") else f"train/{rest}"
    if stage == "encoders":
        return f"auc/{rest}" if "/" in rest else f"train/{rest}"
    return written
