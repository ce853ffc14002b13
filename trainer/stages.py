"""One stage of a run: trained from where it was left, to its end or an early one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset

from avff.trainer.callbacks import EpochSeed, FiniteLoss, History, LearningRate, StopSignal
from avff.trainer.checkpoints import DurableCheckpointIO, newest_whole
from avff.trainer.config import RunSettings, StoppingSettings
from avff.trainer.data.workers import keep_freed_memory
from avff.trainer.distributed import Dealt, trainer_settings, world
from avff.trainer.durable import write_durably
from avff.trainer.ema import Ema
from avff.trainer.memory import enough_memory
from avff.trainer.paths import RunPaths
from avff.trainer.spent import Ledger, ledger_of
from avff.trainer.stopping import StayStopped, why_it_ended

FINAL = "whole"
"""The stage whose best checkpoint is the run's ``best_model.pth``."""
_LOG_EVERY = 8
"""Updates between two points in TensorBoard."""


class TrainingSet(Protocol):
    """A training set that draws anew each epoch."""

    epoch: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Stage:
    """What is trained, on what, for how long.

    Attributes:
        name: of its checkpoints and logs.
        module: loss, validation and optimiser.
        train: training set.
        validation: fixed validation set.
        epochs: at most.
        batch: items in a step of each process.
        metric: what chooses the best checkpoint, for example ``val/auc``; empty: the last one counts.
        stopping: when to end early, or None.
        ema: decay of the moving average of its weights that counts, or None.
        section: of the settings that it comes from, where that is not its name.
    """

    name: str
    module: lightning.LightningModule
    train: TrainingSet
    validation: Dataset[Any] | TrainingSet
    epochs: int
    batch: int
    metric: str = ""
    stopping: StoppingSettings | None = None
    ema: float | None = None
    section: str = ""

    @property
    def best_name(self) -> str:
        """File name, without its ending, of the checkpoint that the metric has chosen."""
        return "best_model" if self.name == FINAL else f"{self.name}-best"

    @property
    def batch_key(self) -> str:
        """Dotted key of the setting that ``batch`` comes from."""
        return "train.batch" if self.name == FINAL else f"{self.section or self.name}.batch"

    @property
    def last_name(self) -> str:
        """File name, without its ending, of the newest checkpoint."""
        return "last" if self.name == FINAL else f"{self.name}-last"


@dataclass(frozen=True)
class Finished:
    """How a stage ended.

    Attributes:
        checkpoint: file name of the weights that count, in the run's checkpoints.
        ended: why it ended, in words.
        epochs: that were trained.
    """

    checkpoint: str
    ended: str
    epochs: int


def run_stage(
    stage: Stage, settings: RunSettings, paths: RunPaths, watchers: Sequence[Callback] = ()
) -> Finished:
    """Train a stage, going on from its last whole checkpoint; a finished stage is not trained again.

    Args:
        stage: what is trained.
        settings: of the run.
        paths: of the run.
        watchers: see each epoch once it is in the history, and may end the stage by raising.

    Raises:
        TrainingError, CheckpointError: it cannot go on.
        Stopped: a signal came.
    """
    mark = paths.checkpoints / f"{stage.name}.json"
    if mark.is_file():
        return Finished(**json.loads(mark.read_text(encoding="utf-8")))
    paths.outputs.mkdir(parents=True, exist_ok=True)
    last = paths.checkpoints / f"{stage.last_name}{_Checkpoint.FILE_EXTENSION}"
    resume = newest_whole(last)
    stop, stopping, best = StopSignal(), _stopping(stage), _best(stage, paths)
    callbacks = [
        *_present(best, stopping, stopping and StayStopped(stopping)),
        *_present(None if stage.ema is None else Ema(stage.ema)),
        _last(stage, paths),
        EpochSeed(stage.train, settings.train.seed),
        FiniteLoss(*_judged_by(stage)),
        History(paths.history, stage.name),
        Ledger(ledger_of(paths)),
        *watchers,
        stop,
        LearningRate(_LOG_EVERY),
        TQDMProgressBar(refresh_rate=4),
    ]
    trainer = _trainer(stage, settings, paths, callbacks)
    with enough_memory(stage.name, stage.batch_key, settings), stop.armed():
        trainer.fit(
            stage.module,
            _Lazily(loader(stage.train, settings, stage.batch, last=True, dealt=True)),
            loader(stage.validation, settings, stage.batch, last=False),
            ckpt_path=resume,
            weights_only=True,
        )
    file = Path(best.best_model_path).name if best is not None else last.name
    finished = Finished(file, why_it_ended(stopping, epochs=stage.epochs), trainer.current_epoch)
    if trainer.is_global_zero:
        text = json.dumps(asdict(finished)) + "\n"
        write_durably(mark, lambda file: file.write(text.encode()))
    return finished


def try_out(stage: Stage, settings: RunSettings) -> None:
    """Carry one batch of a stage forward, back and through validation, and keep nothing.

    Raises:
        TrainingError: the loss is no number, or there is too little memory.
    """
    trainer = lightning.Trainer(
        **trainer_settings(world()),
        fast_dev_run=1, precision=precision_of(settings.train.precision), deterministic=True,
        gradient_clip_val=settings.train.gradient_clip, callbacks=[FiniteLoss()], enable_progress_bar=False,
    )  # fmt: skip
    with enough_memory(stage.name, stage.batch_key, settings):
        trainer.fit(
            stage.module,
            loader(stage.train, settings, stage.batch, last=True, dealt=True),
            loader(stage.validation, settings, stage.batch, last=False),
        )


def loader(
    windows: Dataset[Any] | TrainingSet, settings: RunSettings, batch: int, *, last: bool, dealt: bool = False
) -> DataLoader[Any]:
    """Return a loader whose workers start afresh each epoch: they must see the new epoch number.

    Args:
        windows: what to draw from.
        settings: of the run.
        batch: items in a step.
        last: whether a last, smaller batch is left out.
        dealt: whether each process of a distributed run gets its part only.
    """
    sampler = Dealt(len(windows), batch, world()) if dealt else None  # type: ignore[arg-type]
    return DataLoader(
        windows, batch_size=batch, sampler=sampler, drop_last=last,  # type: ignore[arg-type]
        num_workers=settings.data.workers,
        prefetch_factor=4 if settings.data.workers else None, worker_init_fn=_start_worker,
    )  # fmt: skip


def _trainer(
    stage: Stage, settings: RunSettings, paths: RunPaths, callbacks: list[Callback]
) -> lightning.Trainer:
    train = settings.train
    return lightning.Trainer(
        **trainer_settings(world()),
        max_epochs=stage.epochs,
        precision=precision_of(train.precision),
        gradient_clip_val=train.gradient_clip,
        accumulate_grad_batches=train.accumulate,
        logger=TensorBoardLogger(paths.tensorboard, name=stage.name, version=""),
        callbacks=callbacks,
        plugins=[DurableCheckpointIO()],
        num_sanity_val_steps=0,
        log_every_n_steps=_LOG_EVERY,
        deterministic=True,
    )


class _Checkpoint(ModelCheckpoint):
    FILE_EXTENSION = ".pth"


def precision_of(wanted: str) -> Any:
    """Return Lightning's name of the precision; ``auto`` is chosen by what the processor computes in."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def _best(stage: Stage, paths: RunPaths) -> ModelCheckpoint | None:
    if not stage.metric:
        return None
    return _Checkpoint(
        paths.checkpoints, stage.best_name, monitor=stage.metric, mode=direction(stage.metric),
        enable_version_counter=False,
    )  # fmt: skip


def _last(stage: Stage, paths: RunPaths) -> ModelCheckpoint:
    # Not save_last: Lightning writes that only when the best improves, and a resumed run would go back to it.
    return _Checkpoint(
        paths.checkpoints, stage.last_name, save_on_train_epoch_end=True, enable_version_counter=False
    )


def _stopping(stage: Stage) -> EarlyStopping | None:
    if stage.stopping is None:
        return None
    metric = stage.stopping.metric
    return EarlyStopping(
        metric, min_delta=stage.stopping.min_delta, patience=stage.stopping.patience, mode=direction(metric),
        check_finite=False,  # FiniteLoss does, and says so
    )  # fmt: skip


def _judged_by(stage: Stage) -> list[str]:
    """Return the figures that stop a stage or choose its checkpoint."""
    stops = stage.stopping.metric if stage.stopping is not None else ""
    return [name for name in (stage.metric, stops) if name]


def direction(metric: str) -> str:
    """Return ``min`` for losses and ``max`` for everything else."""
    return "min" if metric.endswith("loss") else "max"


def _present(*callbacks: Callback | None) -> list[Callback]:
    return [c for c in callbacks if c is not None]


class _Lazily:
    """Starts a loader's workers when the first batch is asked for.

    Lightning asks a resumed run's loader for its iterator before it tells the epoch:
    workers forked by then would draw the windows of epoch 0 again.
    """

    def __init__(self, batches: DataLoader[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self._batches


def _start_worker(worker: int) -> None:
    del worker
    torch.set_num_threads(1)
    keep_freed_memory()
    # torchrun sends it to every process there is; the process that trains decides what it means, and a
    # worker that died of it would end the step with an error.  That process itself uses it too, at its end,
    # and would wait for ever for a worker that heard nothing at all.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
