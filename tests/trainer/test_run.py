"""Fitting: a run is exact from its seed, and goes on where it stopped."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor

from avff.engine.errors import SettingsError
from avff.trainer.callbacks import Stopped, TrainingError
from avff.trainer.checkpoints import load_verified
from avff.trainer.config import RunSettings
from avff.trainer.data.splits import Split
from avff.trainer.data.windows import Batch, TrainingWindows
from avff.trainer.encoder_stage import EncoderStage
from avff.trainer.module import AvffModule
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import read_history
from avff.trainer.run import check_settings, dry_run, fit, load_network, training_windows
from avff.trainer.run_data import RunData
from avff.trainer.stages import FINAL, _start_worker
from tests.support.training import fill_cache, make_clip

pytestmark = [
    # Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
CLIPS = (
    [make_clip(f"{name}.mp4", identity=name) for name in "abcd"]
    + [make_clip(f"f{k}.mp4", label=1, generator="F", label_video=1) for k in range(2)]
    + [make_clip(f"g{k}.mp4", label=1, generator="G", label_video=1) for k in range(2)]
)
SIDES = Split((*CLIPS[:2], *CLIPS[4:6]), (*CLIPS[2:4], *CLIPS[6:8]))


def make_settings(
    output: Path,
    *,
    epochs: int = 1,
    workers: int = 0,
    change: Mapping[str, object] | None = None,
    train: Mapping[str, object] | None = None,
) -> RunSettings:
    values: dict[str, object] = {
        "name": "tiny",
        "output": output,
        "data": {"workers": workers},
        "mix": {"self_blend": 1.0, "freeze": 1.0},
        "model": {"width": 16, "heads": 2, "depth": 1},
        "encoders": {"epochs": 1, "slices_per_epoch": 4, "batch": 2},
        "train": {
            "epochs": epochs,
            "windows_per_epoch": 4,
            "batch": 2,
            "validation_windows": 1,
            "post_chain": 0.0,
            **(train or {}),
        },
    }  # fmt: skip
    return RunSettings.model_validate({**values, **(change or {})})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    root = tmp_path_factory.mktemp("data")
    return RunData(root, root / "manifest.csv", fill_cache(root / "cache", CLIPS), SIDES, ())


def paths_of(settings: RunSettings) -> RunPaths:
    return RunPaths(settings.output, settings.name)


def weights(settings: RunSettings, data: RunData) -> dict[str, Tensor]:
    """Fit, and return the weights of the best epoch."""
    finished = fit(settings, data, paths_of(settings))
    checkpoint = paths_of(settings).checkpoints / finished[FINAL].checkpoint
    return load_network(settings, checkpoint).state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(other[name], value) for name, value in one.items())


def test_worker_processes_do_not_change_the_weights(data: RunData, tmp_path: Path) -> None:
    """What an epoch draws depends on the seed and the epoch alone."""
    alone, helped = make_settings(tmp_path / "a"), make_settings(tmp_path / "b", workers=1)
    assert equal(weights(alone, data), weights(helped, data))


class _Cut(Exception):
    """Ends a run in the middle of an epoch, as a crash would."""


@pytest.mark.parametrize("at_step", [0, 3, 5], ids=["before", "second-epoch", "third-epoch"])
def test_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    """Cut within an epoch of either stage, then resumed: bit for bit the same, and nothing drawn twice."""
    straight = make_settings(
        tmp_path / "a", epochs=3, change={"model": {"width": 16, "heads": 2, "depth": 1, "dropout": 0.3}}
    )
    wanted = weights(straight, data)
    torn = straight.model_copy(update={"output": tmp_path / "b"})
    steps = 0
    original = AvffModule.training_step

    def training_step(self: AvffModule, batch: Batch, index: int) -> Tensor:
        nonlocal steps
        if steps == at_step:
            raise _Cut
        steps += 1
        return original(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(AvffModule, "training_step", training_step)
        with pytest.raises(_Cut):
            fit(torn, data, paths_of(torn))
    assert equal(wanted, weights(torn, data))
    epochs = [(e.stage, e.epoch) for e in read_history(paths_of(torn).history)]
    assert epochs == [("encoders", 0), *(("whole", n) for n in range(3))]


def test_finished_run_is_not_trained_again(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes straight to what comes after training."""
    settings = make_settings(tmp_path)
    first = fit(settings, data, paths_of(settings))

    def refuse(self: TrainingWindows, index: int) -> Batch:
        raise AssertionError("drawn again")

    monkeypatch.setattr(TrainingWindows, "__getitem__", refuse)
    assert fit(settings, data, paths_of(settings)) == first


def script_losses(monkeypatch: pytest.MonkeyPatch, losses: Sequence[float]) -> None:
    """Let the validation of each epoch find a loss from a list."""

    def scripted(self: AvffModule) -> None:
        self._answers.clear()
        self.log("val/loss", losses[self.current_epoch])
        self.log("val/auc", 0.5 + self.current_epoch / 100)

    def nothing(self: AvffModule, batch: Batch, index: int) -> None:
        del batch, index

    monkeypatch.setattr(AvffModule, "on_validation_epoch_end", scripted)
    monkeypatch.setattr(AvffModule, "validation_step", nothing)


def stopping_settings(
    output: Path, losses: Sequence[float], *, min_delta: float = 0.0, patience: int = 3
) -> RunSettings:
    """Settings of a run that may last as many epochs as there are losses."""
    stopping = {"metric": "val/loss", "patience": patience, "min_delta": min_delta}
    return make_settings(output, epochs=len(losses), train={"stopping": stopping, "windows_per_epoch": 2})


@pytest.mark.parametrize(
    ("losses", "min_delta", "epochs", "why"),
    [
        # Better by 0.1 and 0.2, then three times by no more than 0.05.
        (
            [1.0, 0.9, 0.7, 0.66, 0.68, 0.651, 0.1], 0.05, 6,
            "stopped after epoch 6: val/loss had not improved on 0.7000 by more than 0.05 for 3 epochs",
        ),
        # An improvement in the last epoch of patience begins the count anew.
        (
            [1.0, 1.1, 1.2, 0.5, 0.6, 0.6, 0.6, 0.1], 0.0, 7,
            "stopped after epoch 7: val/loss had not improved on 0.5000 by more than 0 for 3 epochs",
        ),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 0.05, 8, "all 8 epochs were trained"),
    ],
    ids=["too-little", "count-anew", "never"],
)  # fmt: skip
def test_early_stopping_follows_patience_and_min_delta(
    data: RunData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    min_delta: float,
    epochs: int,
    why: str,
) -> None:
    """With scripted validation losses it stops in exactly the epoch that the rule says, and tells why."""
    script_losses(monkeypatch, losses)
    settings = stopping_settings(tmp_path, losses, min_delta=min_delta)
    ended = fit(settings, data, paths_of(settings))[FINAL]
    assert (ended.epochs, ended.ended) == (epochs, why)


@pytest.mark.parametrize("ema", [None, 0.9], ids=["weights", "average"])
def test_run_killed_after_early_stopping_is_not_trained_on(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    """Between the last checkpoint and the stage's mark: the same end, and the same files."""
    losses = [1.0, 1.1, 1.2, 0.1, 0.1]
    script_losses(monkeypatch, losses)
    settings = stopping_settings(tmp_path, losses, patience=2)
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"ema": ema})})
    paths = paths_of(settings)
    wanted = fit(settings, data, paths)[FINAL]
    assert (wanted.epochs, wanted.checkpoint) == (3, "best_model.pth")
    files = ("best_model.pth", "last.pth", "whole.json")
    before = [(paths.checkpoints / name).read_bytes() for name in files]
    history = paths.history.read_bytes()
    (paths.checkpoints / "whole.json").unlink()
    assert fit(settings, data, paths)[FINAL] == wanted
    assert [(paths.checkpoints / name).read_bytes() for name in files] == before
    assert paths.history.read_bytes() == history


@pytest.mark.parametrize("stopping", [True, False], ids=["stopping", "no-stopping"])
def test_validation_loss_that_is_no_number_ends_the_run(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    """As a training loss does, and never as a want of improvement; the epoch before is kept."""
    losses = [1.0, math.nan, 0.5]
    settings = make_settings(tmp_path, epochs=3)
    if stopping:
        settings = stopping_settings(tmp_path, losses)
    with monkeypatch.context() as patched:
        script_losses(patched, losses)
        with pytest.raises(
            TrainingError, match=r"val/loss is nan in the validation of epoch 2, .* lower the learning rate"
        ):
            fit(settings, data, paths_of(settings))
    assert load_verified(paths_of(settings).checkpoints / "last.pth")["epoch"] == 0
    assert [e.epoch for e in read_history(paths_of(settings).history) if e.stage == FINAL] == [0]
    script_losses(monkeypatch, [1.0, 0.9, 0.8])
    assert fit(settings, data, paths_of(settings))[FINAL].epochs == 3


def test_loss_that_is_no_number_ends_the_run(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With epoch, step and a way out; the epoch before is kept and can be gone on from."""
    settings = make_settings(tmp_path, epochs=3)
    original = AvffModule._terms

    def terms(self: AvffModule, out: object, batch: Batch) -> dict[str, Tensor]:
        found = original(self, out, batch)  # type: ignore[arg-type]
        if self.training and self.current_epoch == 1:
            found["loss"] = found["loss"] * math.nan
        return found

    with monkeypatch.context() as patched:
        patched.setattr(AvffModule, "_terms", terms)
        with pytest.raises(
            TrainingError, match="the loss is nan in epoch 2, step 1; lower the learning rate"
        ):
            fit(settings, data, paths_of(settings))
    assert fit(settings, data, paths_of(settings))[FINAL].epochs == 3


def test_too_little_memory_says_what_to_change_and_keeps_the_epoch_before(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch is really asked for more than any machine has; with room again the same run goes on."""
    settings = make_settings(tmp_path, epochs=2)
    original = AvffModule.training_step

    def greedy(self: AvffModule, batch: Batch, index: int) -> Tensor:
        if self.current_epoch == 1:
            torch.empty(1 << 55, dtype=torch.uint8)
        return original(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(AvffModule, "training_step", greedy)
        with pytest.raises(TrainingError, match="out of memory in stage 'whole'") as caught:
            fit(settings, data, paths_of(settings))
    said = str(caught.value)
    assert "36028797018963968 bytes more were asked for" in said
    for setting in ("train.batch (now 2)", "train.accumulate (now 1)", "train.precision"):
        assert setting in said
    assert "\n" not in said
    kept = load_verified(paths_of(settings).checkpoints / "last.pth")
    assert kept["epoch"] == 0
    assert fit(settings, data, paths_of(settings))[FINAL].epochs == 2


def test_dry_run_says_which_batch_is_too_large(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether memory suffices is what a dry run is for; each stage has a batch of its own."""

    def greedy(self: EncoderStage, batch: Batch, index: int) -> Tensor:
        raise MemoryError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EncoderStage, "training_step", greedy)
    with pytest.raises(TrainingError, match=r"in stage 'encoders': lower encoders\.batch \(now 2\)"):
        dry_run(make_settings(tmp_path / "runs"), data)


def test_worker_that_is_killed_is_taken_for_want_of_memory(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does when memory runs out: no traceback, but the setting to lower."""

    def killed(self: TrainingWindows, index: int) -> Batch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    settings = make_settings(tmp_path, workers=1, change={"encoders": None}, train={"frozen_encoders": False})
    monkeypatch.setattr(TrainingWindows, "__getitem__", killed)
    with pytest.raises(TrainingError, match=r"died in stage 'whole'.* lower data\.workers \(now 1\)"):
        fit(settings, data, paths_of(settings))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_run_after_the_step(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """With the shell's exit code, the handlers of before put back, and the last whole epoch kept."""
    settings = make_settings(tmp_path, epochs=2)
    original = AvffModule.training_step

    def training_step(self: AvffModule, batch: Batch, index: int) -> Tensor:
        if self.current_epoch == 1:
            os.kill(os.getpid(), number)
        return original(self, batch, index)

    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(AvffModule, "training_step", training_step)
        with pytest.raises(Stopped, match="run the same command to go on") as stopped:
            fit(settings, data, paths_of(settings))
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before
    assert equal(weights(settings, data), weights(make_settings(tmp_path / "other", epochs=2), data))


def test_signal_to_every_process_is_as_one_to_the_first(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun does it: the workers outlive it, and the run ends after the step as ever."""
    settings = make_settings(tmp_path, epochs=2, workers=1)
    original = AvffModule.training_step

    def training_step(self: AvffModule, batch: Batch, index: int) -> Tensor:
        if self.current_epoch == 1:
            # By another process: a worker takes its parent's for its own end.
            workers = multiprocessing.active_children()
            assert workers
            pids = [os.getpid(), *(worker.pid for worker in workers)]
            subprocess.run(["kill", "-TERM", *map(str, pids)], check=True)
            for worker in workers:
                worker.join(2)  # time to die in, were it to; one that validated may end of itself
                assert worker.exitcode in (None, 0)
        return original(self, batch, index)

    monkeypatch.setattr(AvffModule, "training_step", training_step)
    with pytest.raises(Stopped) as stopped:
        fit(settings, data, paths_of(settings))
    assert stopped.value.exit_code == 143
    assert stopped.value.__cause__ is None, "no worker has failed"
    assert load_verified(paths_of(settings).checkpoints / "last.pth")["epoch"] == 0


def idle_worker(ready: Event) -> None:
    _start_worker(0)
    ready.set()
    time.sleep(300)


def test_worker_hears_its_parent_only() -> None:
    """A SIGTERM to all leaves it at work; at the end its parent waits for it, and is not kept waiting."""
    ready = multiprocessing.Event()
    worker = multiprocessing.Process(target=idle_worker, args=(ready,), daemon=True)
    worker.start()
    try:
        assert ready.wait(60)
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
        worker.join(1)
        assert worker.is_alive()
        worker.terminate()
        worker.join(60)
        assert worker.exitcode == 0
    finally:
        worker.kill()


def test_failure_that_follows_a_signal_is_the_signals(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another process of the run has ended already, and this one cannot reach it."""

    def training_step(self: AvffModule, batch: Batch, index: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("Connection closed by peer")

    settings = make_settings(tmp_path, change={"encoders": None}, train={"frozen_encoders": False})
    monkeypatch.setattr(AvffModule, "training_step", training_step)
    with pytest.raises(Stopped):
        fit(settings, data, paths_of(settings))


def test_dry_run_keeps_nothing(data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch goes through both stages; no checkpoint, no log."""
    monkeypatch.chdir(tmp_path)
    dry_run(make_settings(tmp_path / "runs"), data)
    assert list(tmp_path.iterdir()) == []


def test_end_to_end_training_moves_the_encoders(data: RunData, tmp_path: Path) -> None:
    """Without a stage of their own and not frozen, they learn with the rest."""
    settings = make_settings(tmp_path, change={"encoders": None}, train={"frozen_encoders": False})
    trained = weights(settings, data)
    again = make_settings(
        tmp_path / "again", change={"encoders": None}, train={"frozen_encoders": False, "seed": 1}
    )
    assert not torch.equal(trained["video.head.weight"], weights(again, data)["video.head.weight"])
    statistics = [v for k, v in trained.items() if k.startswith("video.") and k.endswith("running_mean")]
    assert any(v.abs().max() > 0 for v in statistics)


def test_natural_sampling_is_a_setting(data: RunData, tmp_path: Path) -> None:
    """It draws the training clips as they are, trains and ends well; balanced pairs are the default."""
    default = make_settings(tmp_path, change={"mix": {"generated": 1.0}})
    assert isinstance(training_windows(default, data), TrainingWindows)
    natural = make_settings(tmp_path, change={"mix": {"generated": 1.0}}, train={"sampling": "natural"})
    check_settings(natural)
    windows = training_windows(natural, data)
    assert sorted(float(windows[k].labels[0]) for k in range(4)) == [0, 0, 1, 1]
    assert fit(natural, data, paths_of(natural))[FINAL].epochs == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mix": {"lip_swop": 1.0}}, "mix: unknown kind 'lip_swop'; known: generated, audio_swap, desync"),
        ({"mix": {"real": 1.0}}, "mix: unknown kind 'real'"),
        ({"mix": {"vocoder": 1.0}}, "mix: the encoders learn from generated, self_blend, lip_swap"),
        ({"mix": {"lip_swap": 0.0}}, "mix: the encoders learn from"),
        ({"encoders": {"slices_per_epoch": 8}}, "encoders.slices_per_epoch is 8, less than one batch of 64"),
        ({"train": {"windows_per_epoch": 8}}, "train.windows_per_epoch is 8, less than one batch of 32"),
        (
            {"train": {"sampling": "natural"}},
            "train.sampling: natural takes clips as they are; drop freeze, ",
        ),
        ({"model": {"architecture": "avff-b"}}, "encoders: avff-b has no slice-local encoders"),
    ],
    ids=["misspelt", "real", "sound-only", "no-share", "slices", "windows", "natural", "no-encoders"],
)
def test_settings_that_do_not_fit_are_refused_before_the_data(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    """One line names the key, before a manifest is read or a clip decoded."""
    with pytest.raises(SettingsError) as caught:
        check_settings(make_settings(tmp_path, change=change))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_history_tells_each_epoch(data: RunData, tmp_path: Path) -> None:
    """Losses of both sides, the figure that chooses, accuracy, F1 and the rate: what the report draws."""
    settings = make_settings(tmp_path, epochs=2)
    fit(settings, data, paths_of(settings))
    last = read_history(paths_of(settings).history)[-1]
    assert (last.stage, last.epoch) == ("whole", 1)
    for name in ("train/loss", "val/loss", "val/auc", "val/accuracy", "val/f1", "lr"):
        assert math.isfinite(last.get(name)), name
    assert not [name for name in last.values if name.startswith("lr-")], "one rate has one name"


def test_learning_rate_is_one_line(data: RunData, tmp_path: Path) -> None:
    """Groups that differ only in whether they decay do not each draw the same curve."""
    settings = make_settings(tmp_path, epochs=2)
    fit(settings, data, paths_of(settings))
    for folder in ("encoders", "whole"):
        (log,) = (paths_of(settings).tensorboard / folder).glob("events.out.tfevents*")
        events = EventAccumulator(str(log)).Reload()
        assert [tag for tag in events.Tags()["scalars"] if "lr" in tag] == ["lr"]
        assert [e.step for e in events.Scalars("lr")] == [0]
