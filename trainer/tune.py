"""``avff-tune``: a search for better settings, each trial a run of its own, judged on validation windows.

Trials are drawn by the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) and
ended early when they fall behind the median of the others.  All are judged on the windows
that the configuration itself would draw: settings that make windows easier could otherwise
win.  The clips that judge a finished model have no part in it.

A draw depends on its number and on the trials that have ended.  One that was cut short is
therefore drawn again, with the same values and the same name, and goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import optuna
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from optuna.trial import FrozenTrial, TrialState

from avff.engine.errors import SettingsError
from avff.engine.settings import load_settings
from avff.trainer.callbacks import TrainingError
from avff.trainer.config import RunSettings
from avff.trainer.data.folder import nobody_else
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import Epoch, read_history
from avff.trainer.run import fit
from avff.trainer.run_data import RunData, load_data
from avff.trainer.stages import FINAL, direction
from avff.trainer.tune_space import Recipe, Space

STARTUP_TRIALS = 4
"""Trials drawn at random and never ended early: before that many there is no median worth the name."""


def tune(recipe: Recipe, space: Space, *, trials: int, name: str, out: Path) -> Path:
    """Carry out trials until the study has so many in all, and write ``best.yaml`` and ``tune.md``.

    Args:
        recipe: the configuration to better.
        space: what may change.
        trials: how many there shall be, with those of earlier commands.
        name: of the study; trials are runs named after it.
        out: folder of the study and of its runs.

    Returns:
        the best configuration's file.

    Raises:
        SettingsError: the study was begun with another configuration or space.
        ManifestError, SplitError, ShardError: the data is not fit for training.
        TrainingError: no trial came to an end.
        Stopped, KeyboardInterrupt: a signal came; the same command goes on.
    """
    base = recipe.settings({})
    out.mkdir(parents=True, exist_ok=True)
    with nobody_else(out), _opened(out / "study.db", name, base, space) as study:
        _drop_torn(study)
        try:
            if len(ended(study)) < trials:
                data = replace(load_data(base), judges=(), judged_as=base)
            while len(ended(study)) < trials:
                _carry_out(study, recipe, space, data, out)
        finally:
            _drop_torn(study)
            (out / "tune.md").write_text(_page(study, base.train.select, space), encoding="utf-8")
        return _write_best(study, recipe, base, out)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that came to an end, well or badly, in order; not those that were cut short."""
    trials = study.get_trials(deepcopy=False)
    # One that failed says why; one that was cut short had no time to.
    return [t for t in trials if t.state.is_finished() and (t.state != TrialState.FAIL or _why(t))]


def best_figure(epochs: Sequence[Epoch], metric: str) -> float:
    """Return the best value that a metric had after an epoch.

    Raises:
        TrainingError: it was not a number after any.
    """
    values = [v for v in (e.get(metric) for e in epochs) if math.isfinite(v)]
    if not values:
        raise TrainingError(f"{metric} was not defined after any epoch; validate on more windows")
    return min(values) if direction(metric) == "min" else max(values)


class _Watch(Callback):
    """Tells a study what each epoch has measured, and ends the trial when the study says so."""

    def __init__(self, trial: optuna.Trial, history: Path, metric: str) -> None:
        self._trial, self._history, self._metric = trial, history, metric
        self._told = 0

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """After every epoch; a run that goes on tells of its earlier epochs first.

        Raises:
            TrialPruned: it is behind the median of the others.
        """
        del trainer, pl_module
        epochs = _epochs(self._history)
        for epoch in epochs[self._told :]:
            self._trial.report(epoch.get(self._metric), epoch.epoch)
        self._told = len(epochs)
        if self._trial.should_prune():
            raise optuna.TrialPruned(
                f"behind the median of the trials before after epoch {epochs[-1].epoch}, "
                f"with {self._metric} {best_figure(epochs, self._metric):.4f} at best"
            )


@contextmanager
def _opened(file: Path, name: str, base: RunSettings, space: Space) -> Iterator[optuna.Study]:
    """Open a study or begin one; go on only with the configuration it was begun with."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the page says it better
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, load_if_exists=True,
            direction="minimize" if direction(base.train.select) == "min" else "maximize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=base.train.epochs // 4),
        )  # fmt: skip
        places: dict[str, Any] = {
            "output": True,
            "data": {"root", "prepared", "workers"},
            "train": {"threads"},
        }
        settings = base.model_dump(mode="json", exclude=places)
        searched = {key: domain.model_dump() for key, domain in space.items()}
        asked = json.dumps({"settings": settings, "space": searched}, sort_keys=True)
        if study.user_attrs.get("asked", asked) != asked:
            raise SettingsError(
                f"{file}: study {name!r} was begun with other settings or another space; give a new --study"
            )
        study.set_user_attr("asked", asked)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()
        optuna.logging.set_verbosity(before)


def _drop_torn(study: optuna.Study) -> None:
    """Close the trials that a signal or a crash cut short; they are drawn again."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)


def _carry_out(study: optuna.Study, recipe: Recipe, space: Space, data: RunData, out: Path) -> None:
    number = len(ended(study))
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=number)
    trial = study.ask()
    chosen = {key: domain.draw(trial, key) for key, domain in space.items()}
    # The values are in the name: a run never goes on from the checkpoint of another draw.
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:6]
    run = f"{study.study_name}-{number:03d}-{digest}"
    trial.set_user_attr("run", run)
    paths = RunPaths(out, run)
    try:
        settings = recipe.settings({**chosen, "name": run, "output": str(out)})
        metric = settings.train.select
        fit(settings, data, paths, [_Watch(trial, paths.history, metric)])
        study.tell(trial, best_figure(_epochs(paths.history), metric))
    except optuna.TrialPruned as pruned:
        trial.set_user_attr("why", str(pruned))
        study.tell(trial, state=TrialState.PRUNED)
    except (SettingsError, TrainingError, torch.OutOfMemoryError) as error:
        # Values that do not go together are the trial's fault, not the study's.
        trial.set_user_attr("why", str(error).splitlines()[0])
        study.tell(trial, state=TrialState.FAIL)


def _epochs(history: Path) -> list[Epoch]:
    return [e for e in read_history(history) if e.stage == FINAL]


def _why(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("why", ""))


def _write_best(study: optuna.Study, recipe: Recipe, base: RunSettings, out: Path) -> Path:
    """Write the best trial's configuration under the name and output of the one that was to be bettered."""
    if not any(t.state == TrialState.COMPLETE for t in ended(study)):
        raise TrainingError(f"no trial came to an end, so there is no best one; {out / 'tune.md'} says why")
    settings = recipe.settings(study.best_params)
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    head = (
        f"# Best of {len(ended(study))} trials of the study {study.study_name!r}, "
        f"{base.train.select} {study.best_value:.4f} on validation windows.\n"
    )
    path = out / "best.yaml"
    scratch = path.with_name("best.yaml.tmp")
    scratch.write_text(head + text, encoding="utf-8")
    assert load_settings(scratch, RunSettings) == settings, (
        "the configuration does not read as it was written"
    )
    return scratch.replace(path)


def _page(study: optuna.Study, metric: str, space: Space) -> str:
    trials = ended(study)
    shown = ["trial", "ended", metric, "epochs", *space, "why"]
    rows = [
        [
            t.user_attrs["run"], t.state.name.lower(), "" if t.value is None else f"{t.value:.4f}",
            str(len(t.intermediate_values)), *(_shown(t.params.get(key)) for key in space), _why(t),
        ]
        for t in trials
    ]  # fmt: skip
    lines = [
        f"# Study {study.study_name}",
        "",
        f"{len(trials)} trials, judged by {metric} on the validation windows of the configuration. The best",
        "of many is flattered by its luck: train it anew and let clips judge it that had no part in this.",
        "",
        *(f"| {' | '.join(row)} |" for row in (shown, ["---"] * len(shown), *rows)),
    ]
    weights = _importances(study)
    if weights:
        lines += ["", "Share of the figure's differences that a setting accounts for (PED-ANOVA):", ""]
        lines += [f"- {key}: {share:.2f}" for key, share in weights.items()]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return how much each setting matters, the most first; nothing from too few trials to tell."""
    done = [t for t in ended(study) if t.state == TrialState.COMPLETE]
    if len(done) < 2 * STARTUP_TRIALS or len({t.value for t in done}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)
