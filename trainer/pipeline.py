"""The stages of ``avff-train`` in order: data, training, calibration, export, judgement, report."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avff.engine.contract import Calibration, Contract
from avff.engine.errors import SettingsError
from avff.engine.model import CONTRACT_FILE
from avff.engine.settings import Override, load_settings
from avff.trainer.calibrate import calibrate, freeze_threshold, validation_logits, with_threshold
from avff.trainer.config import RunSettings
from avff.trainer.data.manifest import manifest_sha256
from avff.trainer.data.splits import group_of
from avff.trainer.evaluate import ClipScore, judge, save_scores
from avff.trainer.export import export_model
from avff.trainer.metrics import Interval
from avff.trainer.report import RunFacts, metadata_control, render
from avff.trainer.run import RunData, describe_split, fit, load_data, load_network, validation_windows


@dataclass(frozen=True)
class _Exported:
    contract: Contract
    validation: dict[str, Interval]


def run(config: Path, overrides: Sequence[Override]) -> int:
    """Carry out a run; what a stage left behind is used when the command is given again.

    Raises:
        SettingsError, ManifestError, SplitError: before anything is trained.
    """
    settings = load_settings(config, RunSettings, overrides)
    directory = settings.output / settings.name
    data = load_data(settings)
    _begin(settings, directory)
    _say("\n".join(describe_split(data.split)))
    checkpoint, minutes = _fit_timed(settings, data, directory)
    exported = _export(settings, data, checkpoint, directory)
    scores = judge(data.judges, data.root, directory / "model", workers=max(1, settings.data.workers))
    save_scores(scores, directory / "predictions.jsonl")
    command = " ".join([f"avff-train --config {config}", *(f"--{k} {v}" for k, v in overrides)])
    text = _report(settings, data, exported, scores, minutes, command)
    (directory / "training_report.md").write_text(text, encoding="utf-8")
    _say(f"model in {directory / 'model'}, report in {directory / 'training_report.md'}")
    return 0


def _begin(settings: RunSettings, directory: Path) -> None:
    """Write down the recipe; go on with a run that has begun only by the same one."""
    file = directory / "settings.json"
    recipe = _recipe(settings)
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return
    if begun != recipe:
        changed = next(k for k in {**recipe, **begun} if begun.get(k) != recipe.get(k))
        raise SettingsError(
            f"{directory} holds a run with another {changed!r}; give a new --name, or delete it to start anew"
        )


def _recipe(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that make the model; where files lie and how many processes help do not."""
    places: dict[str, Any] = {"output": True, "data": {"root", "workers"}, "train": {"threads"}}
    return settings.model_dump(mode="json", exclude=places)


def _fit_timed(settings: RunSettings, data: RunData, directory: Path) -> tuple[Path, float]:
    """Train; return the checkpoint and the minutes spent, over all times the command was given."""
    file = directory / "minutes.txt"
    spent = float(file.read_text()) if file.is_file() else 0.0
    started = time.monotonic()
    checkpoint = fit(settings, data, directory)
    spent += (time.monotonic() - started) / 60
    file.write_text(f"{spent:.1f}\n")
    return checkpoint, spent


def _export(settings: RunSettings, data: RunData, checkpoint: Path, directory: Path) -> _Exported:
    """Calibrate on validation windows, export, then freeze the threshold on whole validation clips."""
    net = load_network(settings, checkpoint)
    windows = validation_windows(settings, data)
    logits = validation_logits(net, windows, workers=settings.data.workers)
    by_modality, by_part, figures = calibrate(logits, windows.groups, windows.people())
    calibration = Calibration(by_modality, by_part, 0.5)
    provenance = _provenance(settings, data, checkpoint)
    target = directory / "model"
    contract = export_model(net, target, name=settings.name, calibration=calibration, provenance=provenance)
    clips = judge(data.split.validation, data.root, target, workers=max(1, settings.data.workers))
    genuine = [s.probability for s in clips if not s.label and s.probability is not None]
    frozen = Contract(
        contract.name, contract.graphs, contract.spec, contract.width,
        with_threshold(calibration, round(freeze_threshold(genuine), 4)), contract.provenance,
    )  # fmt: skip
    (target / CONTRACT_FILE).write_text(frozen.to_json(), encoding="utf-8")
    return _Exported(frozen, figures)


def _provenance(settings: RunSettings, data: RunData, checkpoint: Path) -> dict[str, str]:
    return {
        "settings_sha256": hashlib.sha256(json.dumps(_recipe(settings), sort_keys=True).encode()).hexdigest(),
        "manifest_sha256": manifest_sha256(data.manifest),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "seed": str(settings.train.seed),
    }


def _report(
    settings: RunSettings,
    data: RunData,
    exported: _Exported,
    scores: Sequence[ClipScore],
    minutes: float,
    command: str,
) -> str:
    trained = [*data.split.train, *data.split.validation]
    control = metadata_control(trained, data.judges, group_of(data.judges))
    contract = exported.contract
    cost = {name: graph.gflop for name, graph in contract.graphs.items()}
    hop = sum(cost.values())
    window = 8 * (hop - cost["fusion"]) + cost["fusion"]
    facts = {
        "slices trained on": f"{settings.encoders.epochs} epochs of {settings.encoders.slices_per_epoch}",
        "windows trained on": f"{settings.train.epochs} epochs of {settings.train.windows_per_epoch}",
        "time of training": f"{minutes:.0f} min on {platform.machine()}, {os.cpu_count()} cores",
        "network": f"{hop:.2f} GFLOP per hop with cached tokens, {window:.2f} per window without",
        **contract.provenance,
    }
    return render(
        RunFacts(settings.name, command, facts, describe_split(data.split), exported.validation, control),
        contract, scores, settings.data.judge_split,
    )  # fmt: skip


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
