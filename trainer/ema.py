"""Exponential moving average of the weights, as a callback for any stage.

Lightning's ``WeightAveraging`` does the book-keeping: the average is in place during
validation and after training, and checkpoints hold it under ``state_dict``, where export
looks, beside the weights that training goes on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class Ema(WeightAveraging):
    """Averages weights and the statistics of norms after every optimiser step.

    The decay grows with the number of steps n as (1 + n) / (10 + n) up to its full value:
    the first, almost random weights would otherwise stay in the average for a thousand steps.

    Args:
        decay: share of the average that a step leaves, 0…1; .999 remembers some thousand steps.

    Raises:
        ValueError: the decay is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay of the weights' average is {decay}; it must be at least 0 and below 1")
        self._decay = decay
        self._swapped = False
        super().__init__(multi_avg_fn=self._move)

    def on_validation_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put the average in place."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = not self._swapped

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put the trained weights back."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save both sets of weights, each under its own name even in the middle of a validation."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            checkpoint["state_dict"], checkpoint["current_model_state"] = (
                checkpoint["current_model_state"],
                checkpoint["state_dict"],
            )

    def _move(self, averages: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        """Move the average towards the weights; whole numbers, such as a norm's counter, are taken over."""
        decay = min(self._decay, (1 + int(steps)) / (10 + int(steps)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
