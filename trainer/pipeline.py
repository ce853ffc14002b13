"""The steps of ``avff-train`` in order: data, training, calibration, export, judgement, report."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from avff.engine.contract import Calibration, Contract
from avff.engine.errors import SettingsError
from avff.engine.faces.models import load_face_models
from avff.engine.model import CONTRACT_FILE, load_model
from avff.engine.predictor import Predictor
from avff.engine.settings import Override, load_settings
from avff.trainer.calibrate import (
    DEFAULT_THRESHOLD,
    calibrate,
    freeze_threshold,
    validation_logits,
    with_threshold,
)
from avff.trainer.checkpoints import save_durably
from avff.trainer.config import RunSettings
from avff.trainer.data.manifest import manifest_sha256
from avff.trainer.data.splits import describe, group_of
from avff.trainer.distributed import say, world
from avff.trainer.evaluate import ClipScore, judge, save_scores
from avff.trainer.export import export_model
from avff.trainer.familiar import fit_novelty, limits_of
from avff.trainer.metrics import Interval
from avff.trainer.misclassified import write_page
from avff.trainer.model.avff import StreamingNet
from avff.trainer.model.registry import build, export_obstacle
from avff.trainer.model.size import describe as measure
from avff.trainer.paths import RunPaths
from avff.trainer.report import Evidence, RunFacts, metadata_control, write_report
from avff.trainer.report.board import write_board
from avff.trainer.report.history import read_history
from avff.trainer.run import (
    check_settings,
    dry_run,
    fit,
    load_network,
    training_windows,
    validation_windows,
)
from avff.trainer.run_data import RunData, check_places, load_data
from avff.trainer.spent import ledger_of, read_spent
from avff.trainer.stages import FINAL, Finished, precision_of


@dataclass(frozen=True)
class _Exported:
    """A calibrated model.

    Attributes:
        contract: of the model, with its threshold.
        validation: figures of its heads on validation windows.
        clips: scores of the validation clips.
        threshold: where its threshold comes from, in words.
        frozen: whether that is validation clips.
    """

    contract: Contract
    validation: dict[str, Interval]
    clips: Sequence[ClipScore]
    threshold: str
    frozen: bool


@dataclass(frozen=True)
class Outcome:
    """What a finished run says of the clips that judge it.

    Attributes:
        threshold: probability from which a clip is called fake, frozen on validation clips; one half where
            none of the genuine ones got a score.
        scores: of the judges.
    """

    threshold: float
    scores: Sequence[ClipScore]


def run(config: Path, overrides: Sequence[Override], *, dry: bool = False) -> int:
    """Carry out a run; what a stage left behind is used when the command is given again.

    Args:
        config: the recipe.
        overrides: settings that take precedence.
        dry: build everything, carry one batch through every stage, and keep nothing but prepared clips.

    Raises:
        SettingsError, ManifestError, SplitError: before anything is trained.
        TrainingError, CheckpointError: training cannot go on.
        Stopped: a signal came.
    """
    settings = load_settings(config, RunSettings, overrides)
    check_settings(settings)
    command = " ".join([f"avff-train --config {config}", *(f"--{k} {v}" for k, v in overrides)])
    carry_out(settings, load_data(settings), command, dry=dry)
    return 0


def carry_out(settings: RunSettings, data: RunData, command: str, *, dry: bool = False) -> Outcome | None:
    """Carry out a run on given clips.

    Args:
        settings: of the run, checked.
        data: its clips.
        command: what was typed, for the report.
        dry: as of :func:`run`.

    Returns:
        the judgement; None when nothing was judged.

    Raises:
        SettingsError: a run of this name has begun with other settings.
        DatasetError: a clip that is to be judged is not in the data root.
        TrainingError, CheckpointError: training cannot go on.
        Stopped: a signal came.
    """
    paths = RunPaths(settings.output, settings.name)
    obstacle = export_obstacle(settings.model)
    if obstacle is None:
        check_places(data)
    for line in describe(data.split):
        say(line)
    say(_size(settings))
    if dry:
        dry_run(settings, data)
        say("dry run: one batch went through every stage; nothing was kept")
        return None
    if not world().is_first:
        fit(settings, data, paths)
        return None  # the first process does the rest
    _begin(settings, paths)
    finished = fit(settings, data, paths)
    if obstacle is not None:
        weights = {"settings": json.dumps(recipe_of(settings))}
        net = load_network(settings, paths.checkpoints / finished[FINAL].checkpoint)
        save_durably({**weights, "weights": net.state_dict()}, paths.outputs / "best_model.pth")
        say(f"{obstacle}; no clip was judged. Weights in {paths.outputs}, figures in {paths.history}")
        return None
    exported = _export(settings, data, paths, finished)
    scores = judge(data.judges, data.root, paths.model, workers=max(1, settings.data.workers))
    save_scores(scores, paths.predictions)
    _report(settings, data, exported, scores, finished, command)
    write_board(paths.tensorboard, paths.outputs, recipe_of(settings))
    _show_errors(data, exported, scores, paths)
    say(f"model in {paths.model}, report in {paths.report}")
    return Outcome(exported.contract.calibration.threshold, scores)


def show_config(config: Path, overrides: Sequence[Override]) -> int:
    """Print the settings as a run would use them, defaults and all."""
    settings = load_settings(config, RunSettings, overrides)
    sys.stdout.write(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return 0


def _size(settings: RunSettings) -> str:
    size = measure(build(settings.model))
    return (
        f"{settings.model.architecture}: {size.parameters / 1e6:.2f} M parameters, {size.gflop_per_hop:.2f} "
        f"GFLOP per hop with cached tokens, {size.gflop_per_window:.2f} per window without"
    )


def _begin(settings: RunSettings, paths: RunPaths) -> None:
    """Write down the recipe; go on with a run that has begun only by the same one."""
    recipe = recipe_of(settings)
    try:
        begun = _filled_in(json.loads(paths.settings.read_text(encoding="utf-8")))
    except OSError:
        paths.outputs.mkdir(parents=True, exist_ok=True)
        paths.settings.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return
    if begun != recipe:
        changed = next(k for k in {**recipe, **begun} if begun.get(k) != recipe.get(k))
        raise SettingsError(
            f"{paths.outputs} holds a run with another {changed!r}; "
            "give a new --name, or delete it to start anew"
        )


def _filled_in(begun: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with the settings that did not exist when it was written down, at their defaults."""
    try:
        return recipe_of(RunSettings.model_validate(begun))
    except ValidationError:  # of a version whose settings were others
        return begun


def recipe_of(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that make the model; where files lie and how many processes help do not."""
    places: dict[str, Any] = {"output": True, "data": {"root", "prepared", "workers"}, "train": {"threads"}}
    return settings.model_dump(mode="json", exclude=places)


def _export(
    settings: RunSettings, data: RunData, paths: RunPaths, finished: Mapping[str, Finished]
) -> _Exported:
    """Calibrate on validation windows, export, then freeze the threshold on whole validation clips."""
    checkpoint = paths.checkpoints / finished[FINAL].checkpoint
    net = load_network(settings, checkpoint)
    windows = validation_windows(settings, data)
    logits = validation_logits(net, windows, workers=settings.data.workers)
    by_modality, by_part, figures = calibrate(logits, windows.groups, windows.clusters())
    assert isinstance(net, StreamingNet), "what cannot be exported does not get here"
    workers = settings.data.workers
    fit_novelty(net, training_windows(settings, data), workers=workers)
    limits = limits_of(net, windows, workers=workers)
    calibration = Calibration(by_modality, by_part, DEFAULT_THRESHOLD, limits)
    provenance = _provenance(settings, data, checkpoint)
    contract = export_model(
        net, paths.model, name=settings.name, calibration=calibration, provenance=provenance
    )
    clips = judge(data.split.validation, data.root, paths.model, workers=max(1, settings.data.workers))
    genuine = [s.probability for s in clips if not s.label and s.probability is not None]
    threshold, origin, is_frozen = _threshold(genuine, len(clips))
    frozen = Contract(
        contract.name, contract.graphs, contract.spec, with_threshold(calibration, threshold),
        contract.provenance,
    )  # fmt: skip
    (paths.model / CONTRACT_FILE).write_text(frozen.to_json(), encoding="utf-8")
    texts = {"settings": json.dumps(recipe_of(settings)), "contract": frozen.to_json()}
    save_durably({**texts, **provenance, "weights": net.state_dict()}, paths.outputs / "best_model.pth")
    return _Exported(frozen, figures, clips, origin, is_frozen)


def _threshold(genuine: Sequence[float], clips: int) -> tuple[float, str, bool]:
    """Return the threshold, where it comes from, and whether it is frozen; a default is never called so."""
    frozen = freeze_threshold(genuine)
    if frozen is not None:
        return round(frozen, 4), f"{frozen:.4f}, frozen on {len(genuine)} genuine validation clips", True
    origin = (
        f"{DEFAULT_THRESHOLD}, a default and not frozen: of {clips} validation clips {len(genuine)} genuine "
        "ones got a score"
    )
    say(f"the threshold is {origin}")
    return DEFAULT_THRESHOLD, origin, False


def _provenance(settings: RunSettings, data: RunData, checkpoint: Path) -> dict[str, str]:
    return {
        "settings_sha256": hashlib.sha256(
            json.dumps(recipe_of(settings), sort_keys=True).encode()
        ).hexdigest(),
        **({"manifest_sha256": manifest_sha256(data.manifest)} if data.manifest else {}),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "torch": str(torch.__version__),
        "seed": str(settings.train.seed),
    }


def _report(
    settings: RunSettings,
    data: RunData,
    exported: _Exported,
    scores: Sequence[ClipScore],
    finished: Mapping[str, Finished],
    command: str,
) -> None:
    paths = RunPaths(settings.output, settings.name)
    trained = [*data.split.train, *data.split.validation]
    stages = "; ".join(f"{name}: {f.ended} ({f.epochs})" for name, f in finished.items())
    precision = precision_of(settings.train.precision)
    facts = {
        "network": _size(settings), "precision": precision, "threshold": exported.threshold,
        **exported.contract.provenance,
    }  # fmt: skip
    spent = read_spent(ledger_of(paths))
    run_facts = RunFacts(
        settings.name, command, facts, describe(data.split), exported.validation,
        metadata_control(trained, data.judges, group_of(data.judges)),
        duration_s=spent.seconds if spent else None,
        hardware=_hardware(),
        peak_gpu_bytes=spent.peak_gpu_bytes if spent else None,
        stopped=stages,
        frozen=exported.frozen,
    )  # fmt: skip
    judges = settings.data.judge_split
    sides = {"train": data.split.train, "validation": data.split.validation, judges: data.judges}
    evidence = Evidence(sides, read_history(paths.history), exported.clips)
    write_report(paths.outputs, run_facts, exported.contract, scores, judges, evidence)


def _show_errors(data: RunData, exported: _Exported, scores: Sequence[ClipScore], paths: RunPaths) -> None:
    """Write the page of the worst errors, for the eyes of whoever trains."""
    places = {clip.uid: data.root / clip.path for clip in data.judges}
    write_page(
        paths.outputs, scores, places.__getitem__, load_face_models(), Predictor(load_model(paths.model)),
        threshold=exported.contract.calibration.threshold,
    )  # fmt: skip


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    return f"{platform.machine()}, {os.cpu_count()} CPU cores, no GPU"
