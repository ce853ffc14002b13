"""``avff-tune``: trials are comparable, go on where they were stopped, and end in a valid configuration."""

from __future__ import annotations

import math
import signal
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import optuna
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from avff.engine.settings import load_settings
from avff.trainer import tune as tuning
from avff.trainer.callbacks import Stopped, TrainingError
from avff.trainer.config import RunSettings
from avff.trainer.data.splits import Split
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import Epoch, append_epoch, read_history
from avff.trainer.run import fit, validation_windows
from avff.trainer.run_data import RunData
from avff.trainer.stages import FINAL
from avff.trainer.tune_cli import main
from tests.support.training import fill_cache, make_clip

CLIPS = (
    [make_clip(f"{name}.mp4", identity=name, duration_s=2.56) for name in "abcd"]
    + [make_clip(f"f{k}.mp4", label=1, generator="F", duration_s=2.56) for k in range(2)]
    + [make_clip(f"g{k}.mp4", label=1, generator="G", duration_s=2.56) for k in range(2)]
)
EPOCHS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """Clips that are prepared already."""
    root = tmp_path_factory.mktemp("data")
    split = Split((*CLIPS[:2], *CLIPS[4:6]), (*CLIPS[2:4], *CLIPS[6:8]))
    return RunData(root, None, fill_cache(root / "cache", CLIPS, windows=1), split, tuple(CLIPS))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small recipe."""
    values = {
        "name": "tiny",
        "data": {"workers": 0},
        "mix": {"self_blend": 1.0},
        "model": {"width": 16, "heads": 2, "depth": 1},
        "encoders": None,
        "train": {
            "epochs": EPOCHS, "windows_per_epoch": 2, "batch": 2, "validation_windows": 1,
            "frozen_encoders": False, "select": "val/loss",
        },
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


class ScriptedFit:
    """Stands for training: writes scripted losses to the history and calls the watchers, epoch by epoch.

    Attributes:
        losses: by number of the trial, an epoch each; an exception is raised in its place, once.
        drawn: settings of every start, in order.
    """

    def __init__(self) -> None:
        self.losses: dict[int, list[float | Exception]] = {}
        self.drawn: list[RunSettings] = []
        self._trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        self._module = lightning.LightningModule()

    def __call__(
        self, settings: RunSettings, data: RunData, paths: RunPaths, watchers: Sequence[Callback]
    ) -> None:
        assert data.judges == ()
        self.drawn.append(settings)
        paths.outputs.mkdir(parents=True, exist_ok=True)
        losses = self.losses.setdefault(int(settings.name.split("-")[1]), [0.5] * settings.train.epochs)
        for number in range(len(read_history(paths.history)), settings.train.epochs):
            loss = losses[number]
            if isinstance(loss, Exception):
                losses[number] = 0.5
                raise loss
            append_epoch(paths.history, Epoch(FINAL, number, {"val/loss": loss}))
            for watcher in watchers:
                watcher.on_train_epoch_end(self._trainer, self._module)


@pytest.fixture
def scripted(data: RunData, monkeypatch: pytest.MonkeyPatch) -> ScriptedFit:
    script = ScriptedFit()
    monkeypatch.setattr(tuning, "load_data", lambda settings: data)
    monkeypatch.setattr(tuning, "fit", script)
    return script


def command(config: Path, out: Path, trials: int, *more: object) -> list[str]:
    return [str(w) for w in ("--config", config, "--trials", trials, "-o", out, *more)]


def states(out: Path) -> list[str]:
    """State of each trial, read without Optuna."""
    connection = sqlite3.connect(out / "study.db")
    rows = connection.execute("SELECT state FROM trials ORDER BY number").fetchall()
    connection.close()
    return [str(state) for (state,) in rows]


def rows_of(out: Path) -> list[str]:
    return [line for line in (out / "tune.md").read_text().splitlines() if line.startswith("| tune-")]


def test_best_configuration_is_that_of_the_best_trial(
    config: Path, tmp_path: Path, scripted: ScriptedFit
) -> None:
    """Its values stand under the name and output of the recipe to be bettered, overrides included."""
    scripted.losses = {0: [0.7, 0.6, 0.6], 1: [0.8, 0.3, 0.9], 2: [0.5, 0.4, 0.4]}
    out = tmp_path / "out"
    assert main(command(config, out, 3, "--train.batch", 1)) == 0
    best, drawn = load_settings(out / "best.yaml", RunSettings), scripted.drawn[1]
    assert best == drawn.model_copy(update={"name": "tiny", "output": Path("runs")})
    assert best.train.batch == 1
    assert len({s.train.optim.learning_rate for s in scripted.drawn}) == 3
    assert "val/loss 0.3000" in (out / "best.yaml").read_text().splitlines()[0]
    assert [line.split(" | ")[1:4] for line in rows_of(out)] == [
        ["complete", figure, str(EPOCHS)] for figure in ("0.6000", "0.3000", "0.4000")
    ]


def test_same_command_goes_on_with_what_one_command_would_have_drawn(
    config: Path, tmp_path: Path, scripted: ScriptedFit
) -> None:
    """Five trials in two sittings are the five of one, none of them trained twice."""
    scripted.losses = {n: [0.5 + n / 10] * EPOCHS for n in range(5)}
    straight, parted = tmp_path / "a", tmp_path / "b"
    assert main(command(config, straight, 5)) == 0
    wanted = [s.train for s in scripted.drawn]
    scripted.drawn.clear()
    assert main(command(config, parted, 2)) == 0
    assert len(scripted.drawn) == 2
    assert main(command(config, parted, 5)) == 0
    assert [s.train for s in scripted.drawn] == wanted
    assert rows_of(parted) == rows_of(straight)


def test_stopped_trial_goes_on_under_its_name(
    config: Path, tmp_path: Path, scripted: ScriptedFit, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal leaves no trial running; the next command draws the same values and trains what was left."""
    scripted.losses = {1: [0.6, Stopped(signal.SIGTERM), 0.4]}
    out = tmp_path / "out"
    assert main(command(config, out, 3)) == 143
    assert "run the same command to go on" in capsys.readouterr().err
    assert states(out) == ["COMPLETE", "FAIL"]
    assert len(rows_of(out)) == 1
    assert main(command(config, out, 3)) == 0
    before, after = scripted.drawn[1:3]
    assert before == after
    assert [line.split(" | ")[1:3] for line in rows_of(out)] == [
        ["complete", "0.5000"], ["complete", "0.4000"], ["complete", "0.5000"],
    ]  # fmt: skip
    history = read_history(RunPaths(out, before.name).history)
    assert [e.get("val/loss") for e in history] == [0.6, 0.5, 0.4]


def test_trial_of_a_killed_process_is_drawn_again(
    config: Path, tmp_path: Path, scripted: ScriptedFit
) -> None:
    """What a crash has left as running does not count and does not stay so."""
    out = tmp_path / "out"
    assert main(command(config, out, 1)) == 0
    connection = sqlite3.connect(out / "study.db")
    connection.execute("UPDATE trials SET state = 'RUNNING'")
    connection.commit()
    connection.close()
    assert main(command(config, out, 1)) == 0
    assert states(out) == ["FAIL", "COMPLETE"]
    assert scripted.drawn[0] == scripted.drawn[1]


def test_trial_behind_the_others_is_ended_early(config: Path, tmp_path: Path, scripted: ScriptedFit) -> None:
    """After its first epoch; the page says why, and its later figure never counts."""
    scripted.losses = {4: [9.0, 0.1, 0.1]}
    out = tmp_path / "out"
    assert main(command(config, out, 5)) == 0
    assert states(out) == [*["COMPLETE"] * 4, "PRUNED"]
    assert "behind the median of the trials before after epoch 0, with val/loss 9.0000" in rows_of(out)[4]
    assert "val/loss 0.5000" in (out / "best.yaml").read_text().splitlines()[0]


def test_failed_trial_is_recorded_and_the_study_goes_on(
    config: Path, tmp_path: Path, scripted: ScriptedFit
) -> None:
    """A loss that is no number, memory that did not suffice, a figure never defined: each with its reason."""
    scripted.losses = {
        0: [TrainingError("the loss is nan in epoch 0")],
        1: [torch.OutOfMemoryError("out of memory\nand a long story")],
        2: [math.nan] * EPOCHS,
    }
    out = tmp_path / "out"
    assert main(command(config, out, 4)) == 0
    assert states(out) == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    reasons = [line.split(" | ")[-1] for line in rows_of(out)]
    assert reasons[0] == "the loss is nan in epoch 0 |"
    assert reasons[1] == "out of memory |"
    assert reasons[2].startswith("val/loss was not defined after any epoch")


def test_study_without_a_finished_trial_writes_no_best(
    config: Path, tmp_path: Path, scripted: ScriptedFit, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 70 and names the page."""
    scripted.losses = {0: [TrainingError("the loss is nan")]}
    out = tmp_path / "out"
    assert main(command(config, out, 1)) == 70
    assert "no trial came to an end" in capsys.readouterr().err
    assert not (out / "best.yaml").exists()


def test_study_begun_otherwise_is_not_gone_on_with(
    config: Path, tmp_path: Path, scripted: ScriptedFit, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other settings ask for another study, which may lie in the same folder."""
    out = tmp_path / "out"
    assert main(command(config, out, 1)) == 0
    capsys.readouterr()
    assert main(command(config, out, 2, "--train.batch", 1)) == 78
    assert capsys.readouterr().err.endswith("another space; give a new --study\n")
    assert len(scripted.drawn) == 1
    assert main(command(config, out, 1, "--train.batch", 1, "--study", "small")) == 0


def test_values_come_from_the_given_space(config: Path, tmp_path: Path, scripted: ScriptedFit) -> None:
    """Whole numbers in steps, choices, and numbers with an exponent but no dot, which YAML takes for text."""
    space = tmp_path / "space.yaml"
    space.write_text(
        "train.epochs: {low: 2, high: 6, step: 2}\nmodel.width: {choices: [16, 32]}\n"
        "train.optim.learning_rate: {low: 1e-4, high: 1e-3, log: true}\n"
    )
    assert main(command(config, tmp_path / "out", 2, "--space", space)) == 0
    assert {s.train.epochs for s in scripted.drawn} <= {2, 4, 6}
    assert {s.model.width for s in scripted.drawn} <= {16, 32}
    assert all(1e-4 <= s.train.optim.learning_rate <= 1e-3 for s in scripted.drawn)
    assert all(s.model.dropout == 0.2 for s in scripted.drawn)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"train.optim.rate": {"low": 0.1, "high": 1.0}}, "train.optim.rate: unknown key 'train.optim.rate'"),
        ({"train.batch": {"low": 0, "high": 4}}, "train.batch: input should be greater than 0 (found 0)"),
        ({"train.batch": {"low": 2, "high": 64}}, "train.batch: train.windows_per_epoch is 2, less than"),
        ({"mix.lip_swop": {"low": 0.1, "high": 1.0}}, "mix.lip_swop: mix: unknown kind 'lip_swop'"),
        ({"train.seed": {"low": 0, "high": 9}}, "train.seed: says what is measured"),
        ({"data.validation_share": {"low": 0.1, "high": 0.5}}, "data.validation_share: says what is"),
        ({"model.dropout": {"low": 0.5, "high": 0.1}}, "model.dropout: needs low and a greater high"),
        ({"model.dropout": {"low": 0.0, "high": 0.5, "log": True}}, "model.dropout: log needs a low above 0"),
        ({"model.dropout": {"low": 0.1, "hgih": 0.5}}, "model.dropout.hgih: Extra inputs are not permitted"),
        ({"model.dropout": {"choices": []}}, "model.dropout: choices are a list with something in it"),
        ({}, "has no setting to search over"),
    ],
    ids=["unknown", "out-of-bounds", "do-not-fit", "no-kind", "seed", "data", "reversed", "log", "misspelt",
         "no-choice", "empty"],
)  # fmt: skip
def test_wrong_space_is_refused_before_the_data(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    space: Mapping[str, object],
    words: str,
) -> None:
    """One line names file and key; nothing is written."""
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(dict(space)))
    assert main(command(config, tmp_path / "out", 1, "--space", path)) == 78
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"avff-tune: {path}: {words}"), stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--trials", "0"], "not a whole number above 0"), (["--study", "a/b"], "names no folder")],
    ids=["no-trials", "path"],
)
def test_wrong_usage_ends_with_2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    """As every command line tool has it."""
    with pytest.raises(SystemExit) as stopped:
        main([*command(config, tmp_path, 1), *options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_trials_are_judged_on_the_same_windows(config: Path, data: RunData) -> None:
    """Degradation and mix of a trial change what it trains on, not what it is judged by."""
    base = load_settings(config, RunSettings)
    trial = load_settings(config, RunSettings, [("train.post_chain", "1.0"), ("mix.desync", "1.0")])
    wanted = validation_windows(base, data)
    judged = validation_windows(trial, replace(data, judged_as=base))
    assert judged.groups == wanted.groups
    assert all(torch.equal(judged[k].video, wanted[k].video) for k in range(len(wanted)))
    assert validation_windows(trial, data).groups != wanted.groups


# Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_study_ends_a_real_run(config: Path, data: RunData, tmp_path: Path) -> None:
    """Lightning trains an epoch, the study has seen better, and the run ends there, unfinished."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    first = study.ask()
    first.report(0.0, 0)
    study.tell(first, 0.0)
    settings = load_settings(config, RunSettings, [("output", str(tmp_path))])
    paths = RunPaths(tmp_path, "tiny")
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match="after epoch 0, with val/loss"):
        fit(settings, data, paths, [tuning._Watch(trial, paths.history, "val/loss")])
    assert [e.epoch for e in read_history(paths.history)] == [0]
    assert not (paths.checkpoints / f"{FINAL}.json").exists()
