"""``avff-train --folds K``: as many runs as folds, each judged on clips that took no part in it.

A fold's clips only judge: they choose no epoch and fit neither calibration nor threshold.  Of the other
clips, whole groups validate and the rest trains.  Clips that an official list keeps for the final
judgement are in no fold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from avff.engine.errors import SettingsError
from avff.engine.settings import Override, load_settings
from avff.trainer.config import RunSettings
from avff.trainer.cross_fold import keep, read_back
from avff.trainer.cross_summary import PAGE_FILE, write_summary
from avff.trainer.data.prepare import prepare
from avff.trainer.data.splits import Split, SplitError, folds, split_groups
from avff.trainer.distributed import first_speaks, say
from avff.trainer.model.registry import export_obstacle
from avff.trainer.paths import RunPaths
from avff.trainer.pipeline import carry_out
from avff.trainer.run import check_settings
from avff.trainer.run_data import RunData, load_data

FOLDS_FILE = "folds.json"
"""Which clip judges in which fold."""


def cross_validate(config: Path, overrides: Sequence[Override], k: int, *, dry: bool = False) -> int:
    """Carry out a run for every fold, going on where an earlier start was stopped, and sum them up.

    Args:
        config: the recipe.
        overrides: settings that take precedence.
        k: folds.
        dry: only carry one batch through every stage of every fold.

    Raises:
        SettingsError: fewer than two folds, an architecture that cannot be judged, or a
            cross-validation of this name that has begun otherwise.
        SplitError: the clips do not make so many folds.
        ManifestError, TrainingError, CheckpointError, Stopped: as of a single run.
    """
    settings = load_settings(config, RunSettings, overrides)
    check_settings(settings)
    if k < 2:
        raise SettingsError(f"--folds {k}: a cross-validation needs at least 2")
    if obstacle := export_obstacle(settings.model):
        raise SettingsError(f"--folds: no fold could be judged: {obstacle}")
    command = " ".join([f"avff-train --config {config} --folds {k}", *(f"--{n} {v}" for n, v in overrides)])
    parts = split_folds(_pool(settings), k, settings)
    outputs = RunPaths(settings.output, settings.name).outputs
    if not dry:
        _begin(outputs, parts)
    outcomes = []
    for position, data in enumerate(parts, start=1):
        say(f"fold {position} of {k}: {len(data.judges)} clips judge")
        own = _settings_of(settings, position, k)
        outcome = None if dry else read_back(own, data)
        if outcome is not None:
            say(f"fold {position} of {k} was judged before; its scores are read back")
        else:
            outcome = carry_out(own, data, command, dry=dry)
            if outcome is not None:
                keep(own, data, outcome)
        outcomes.append(outcome)
    finished = [o for o in outcomes if o is not None]
    if finished:
        write_summary(outputs, settings.name, command, finished)
        say(f"cross-validation in {outputs / PAGE_FILE}")
    return 0


def split_folds(data: RunData, k: int, settings: RunSettings) -> list[RunData]:
    """Return the data of each fold's run; every clip of the split judges in exactly one of them.

    Args:
        data: all clips that take part, as training and validation clips of one split.
        k: folds.
        settings: for the share that validates, and the seed.

    Raises:
        SplitError: some side of some fold would be without a class.
    """
    share, seed = settings.data.validation_share, settings.train.seed
    clips = [*data.split.train, *data.split.validation]
    try:
        outer = folds(clips, k, seed)
        inner = [split_groups(fold.train, share=share, seed=seed) for fold in outer]
    except SplitError as error:
        raise SplitError(f"--folds {k}: {error}; give fewer folds, or clips of more people") from error
    return [
        RunData(data.root, data.manifest, data.store, split, fold.validation)
        for fold, split in zip(outer, inner, strict=True)
    ]


@first_speaks()
def _pool(settings: RunSettings) -> RunData:
    """Return all clips that take part, prepared: what trains or validates, with ``groups`` the judges too."""
    data = load_data(settings)
    if settings.data.split != "groups":
        return data
    judges, store = data.judges, data.store
    if settings.data.prepared is None:
        every = [*data.split.train, *data.split.validation, *judges]
        cache = settings.output / "cache"
        done = prepare(every, data.root, cache, workers=max(1, settings.data.workers))
        for uid, reason in done.bad.items():
            say(f"left out {uid}: {reason}")
        judges = tuple(done.clips[c.uid] for c in judges if c.uid in done.clips)
        store = done.store
    split = Split(data.split.train, data.split.validation + judges)
    return RunData(data.root, data.manifest, store, split, ())


def _settings_of(settings: RunSettings, position: int, k: int) -> RunSettings:
    # Named in the recipe, so that a run of one fold never goes on as that of another.
    data = settings.data.model_copy(update={"split": "groups", "judge_split": f"fold {position} of {k}"})
    return settings.model_copy(update={"name": f"{settings.name}-fold{position}", "data": data})


def _begin(outputs: Path, parts: Sequence[RunData]) -> None:
    """Write down which clip judges in which fold; go on with a cross-validation only by the same folds.

    Otherwise a clip that has trained a fold's network might judge it after a change of the data.
    """
    judged_in = {clip.uid: n for n, data in enumerate(parts, start=1) for clip in data.judges}
    file = outputs / FOLDS_FILE
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        outputs.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(judged_in, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    except ValueError as error:
        raise SettingsError(f"{file}: is damaged; delete the folds' runs and it to start anew") from error
    if begun != judged_in:
        raise SettingsError(
            f"{file}: the clips were dealt to other folds before; give a new --name, "
            "or delete the folds' runs and it to start anew"
        )
