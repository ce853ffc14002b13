"""What watches over a stage while Lightning trains it: seeds, signals, losses that are no numbers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from avff.trainer.report.history import Epoch, append_epoch


class TrainingError(Exception):
    """Training cannot go on; the message says why and what to do."""


class Stopped(Exception):
    """A signal asked the run to end.

    Attributes:
        exit_code: 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}; the last whole epoch is kept, "
            "run the same command to go on from it"
        )
        self.exit_code = 128 + number


class _Epochs(Protocol):
    epoch: int


class EpochSeed(Callback):
    """Tells the training set which epoch it is in, and starts every epoch from a seed of its own.

    What an epoch draws then depends on the run's seed and the epoch alone, so a run that
    was stopped after any epoch ends with the weights of one that was not.

    Args:
        windows: the training set.
        seed: of the run.
    """

    def __init__(self, windows: _Epochs, seed: int) -> None:
        self._windows, self._seed = windows, seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Before the first batch is drawn."""
        del pl_module
        self._windows.epoch = trainer.current_epoch
        # For dropout.  The ranks of a distributed run must not drop the same places.
        torch.manual_seed(self._seed * 1_000_003 + trainer.current_epoch * 1009 + trainer.global_rank)


class FiniteLoss(Callback):
    """Ends a run whose loss is NaN or infinite, before such weights are saved.

    Args:
        watched: validation figures that must be numbers as well: those that a stage is judged by.
    """

    def __init__(self, *watched: str) -> None:
        self._watched = ("val/loss", *watched)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """After every step.

        Raises:
            TrainingError: the loss is not a number.
        """
        del pl_module, batch
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None and not torch.isfinite(loss).all():
            place = f"epoch {trainer.current_epoch + 1}, step {batch_idx + 1}"
            raise TrainingError(f"the loss is {float(loss):g} in {place}; {_CALMER}")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """After every validation: the last step of an epoch may have spoilt the weights unseen.

        Raises:
            TrainingError: a watched figure is not a number.
        """
        del pl_module
        for name in self._watched:
            figure = trainer.callback_metrics.get(name)
            if figure is not None and not torch.isfinite(figure):
                raise TrainingError(
                    f"{name} is {float(figure):g} in the validation of epoch {trainer.current_epoch + 1}, "
                    f"while the training loss was a number throughout; {_CALMER}"
                )


_CALMER = (
    "lower the learning rate or the precision's risk (32-true) under a new --name; "
    "the last whole epoch of this run is kept"
)


class LearningRate(Callback):
    """Logs ``lr`` for TensorBoard: one line, for all groups of a stage's optimiser follow one schedule.

    Args:
        every: updates between two points.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Before the weights change."""
        del pl_module
        if trainer.logger is not None and trainer.global_step % self._every == 0:
            trainer.logger.log_metrics({"lr": optimizer.param_groups[0]["lr"]}, step=trainer.global_step)


class History(Callback):
    """Writes what each epoch has measured to ``history.jsonl``.

    Args:
        path: of the file.
        stage: name of the stage.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """After the epoch's validation, before its checkpoint."""
        del pl_module
        if not trainer.is_global_zero:
            return
        values = {name: float(v) for name, v in trainer.callback_metrics.items() if name != "loss"}
        values["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        append_epoch(self._path, Epoch(self._stage, trainer.current_epoch, values))


class StopSignal(Callback):
    """Ends a run at the next step after SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._is_armed = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Catch the signals meanwhile.

        Raises:
            Stopped: in place of an error that came after a signal: other processes of the run get it
                too, and what fails because they have ended is the signal's doing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        self._is_armed = True
        try:
            yield
        except RuntimeError as error:
            if self._received is None:
                raise
            raise Stopped(self._received) from error
        finally:
            self._is_armed = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take SIGTERM back from Lightning, which has only now put its handler before ours.

        Its handler tells the other processes at once, in the midst of the gradients that they exchange:
        all of them then wait for each other until they are killed.
        """
        del trainer, pl_module
        if self._is_armed:
            signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """After every step.

        Raises:
            Stopped: a signal came.
        """
        self._check(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """After every validation step; as above."""
        self._check(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = number

    def _check(self, trainer: lightning.Trainer) -> None:
        # Together: a process that ended a step earlier would leave the others waiting for its gradients.
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            raise Stopped(self._received or signal.SIGTERM)
