"""Early stopping: why it ended a stage, and that a stage it has ended stays ended."""

from __future__ import annotations

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping


class StayStopped(Callback):
    """Keeps a stage that early stopping has ended from being gone on with.

    Lightning restores the counts of early stopping, but not that they had run out: a run that was
    killed after its last checkpoint, before the stage was marked as finished, would train on.

    Args:
        stopping: early stopping of the stage.
    """

    def __init__(self, stopping: EarlyStopping) -> None:
        self._stopping = stopping

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Once the checkpoint's counts are in place, before the first epoch."""
        del pl_module
        if has_stopped(self._stopping):
            trainer.should_stop = True


def has_stopped(stopping: EarlyStopping) -> bool:
    """Whether early stopping has run out of patience."""
    return int(stopping.wait_count) >= int(stopping.patience)


def why_it_ended(stopping: EarlyStopping | None, *, epochs: int) -> str:
    """Return, for the report, what ended a stage; epochs count from 1.

    Args:
        stopping: the callback that could have ended it early, or None.
        epochs: that were planned.
    """
    if stopping is None or not has_stopped(stopping):
        return f"all {epochs} epochs were trained"
    best = float(stopping.best_score)
    return (
        f"stopped after epoch {stopping.stopped_epoch + 1}: {stopping.monitor} had not improved on "
        f"{best:.4f} by more than {abs(stopping.min_delta):g} for {stopping.patience} epochs"
    )
