"""The training story: one step, one validation, one optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from avff.trainer.config import TrainSettings
from avff.trainer.data.windows import Batch
from avff.trainer.losses import total_loss
from avff.trainer.model.avff import Avff, AvffConfig
from avff.trainer.model.fusion import FusionOut

DESYNC_GROUPS = frozenset({"desync", "freeze"})
"""Validation groups that are no fakes: they are judged by the desync head."""


class AvffModule(lightning.LightningModule):
    """Trains :class:`avff.trainer.model.avff.Avff`.

    Args:
        config: size of the network.
        train: optimisation settings.
        groups: names of the validation groups; the first is genuine footage.
        total_steps: optimiser steps of the whole run, for the schedule.
    """

    def __init__(self, config: AvffConfig, train: TrainSettings, groups: list[str], total_steps: int) -> None:
        super().__init__()
        self.net = Avff(config)
        self._frozen = [self.net.video, self.net.audio, self.net.landmarks, self.net.fusion.tokens]
        self._settings, self._groups, self._total_steps = train, groups, total_steps
        self._answers: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        """Keep what the first stage has made: no gradient, and no new statistics in its norms."""
        for part in self._frozen:
            part.eval().requires_grad_(False)

    def forward(self, batch: Batch) -> FusionOut:
        """Run the network on a batch of windows."""
        out: FusionOut = self.net(batch.video, batch.audio, batch.landmarks, batch.video_ok, batch.audio_ok)
        return out

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch."""
        del index
        terms = self._terms(self(batch), batch)
        self.log_dict({f"train/{k}": v for k, v in terms.items()}, batch_size=len(batch.labels))
        self.log("loss", terms["loss"].detach(), prog_bar=True, logger=False)
        return terms["loss"]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the answers; the figures need all of them."""
        del index
        out = self(batch)
        terms = self._terms(out, batch)
        self.log_dict({f"val/{k}": v for k, v in terms.items()}, batch_size=len(batch.labels))
        self._answers.append((out.clip.float(), batch.group))

    def on_validation_epoch_end(self) -> None:
        """Log each group's AUC against genuine windows, and their mean, which chooses the checkpoint."""
        clip = torch.cat([a for a, _ in self._answers])
        group = torch.cat([g for _, g in self._answers])
        self._answers.clear()
        figures = group_aucs(clip, group, self._groups)
        for name, auc in figures.items():
            self.log(f"auc/{name}", auc)
        self.log("val/auc", sum(figures.values()) / len(figures), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW on the fusion graph with the schedule of :func:`warm_cosine`."""
        trained = [m for name, m in self.net.fusion.named_children() if name != "tokens"]
        groups = decay_groups(trained, self._settings.learning_rate, self._settings.weight_decay)
        groups[1]["params"] += list(self.net.fusion.parameters(recurse=False))
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        return warm_cosine(optimiser, self._total_steps, self._settings.warmup_share)

    def _terms(self, out: FusionOut, batch: Batch) -> dict[str, Tensor]:
        # The losses are small sums of logs: they stay in 32 bits.
        with torch.autocast(self.device.type, enabled=False):
            return total_loss(
                _float(out),
                batch.labels,
                batch.frame_labels,
                batch.video_ok,
                batch.audio_ok,
                self._settings.loss,
            )


def decay_groups(modules: Sequence[nn.Module], rate: float, decay: float) -> list[dict[str, Any]]:
    """Return optimiser groups in which weights decay, but biases and norms do not."""
    parameters = [p for m in modules for p in m.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    kept = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": decayed, "lr": rate, "weight_decay": decay},
        {"params": kept, "lr": rate, "weight_decay": 0.0},
    ]


def warm_cosine(optimiser: torch.optim.Optimizer, steps: int, warmup_share: float) -> dict[str, Any]:
    """Return Lightning's optimiser entry with linear warm-up and one cosine to zero.

    One cosine and no restart, which would lift a late rate.
    """
    warmup = max(1, round(warmup_share * steps))

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, scale)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def group_aucs(clip: Tensor, group: Tensor, names: list[str]) -> dict[str, float]:
    """Return, by group, the AUC of its windows against genuine ones.

    Args:
        clip: logits ``[n, 4]``: any, video, audio, desync.
        group: ``[n]`` index into ``names``; 0 is genuine footage.
        names: of the groups; those in ``DESYNC_GROUPS`` are judged by the desync logit.
    """
    figures = {}
    for i, name in enumerate(names[1:], start=1):
        column = 3 if name in DESYNC_GROUPS else 0
        chosen = (group == 0) | (group == i)
        figures[name] = float(binary_auroc(clip[chosen, column], (group[chosen] == i).int()))
    return figures


def _float(out: FusionOut) -> FusionOut:
    (a, b), (c, d) = out.predicted
    return FusionOut(
        out.clip.float(), out.frames.float(), out.sync.float(),
        out.sync_video.float(), out.sync_audio.float(), ((a.float(), b.float()), (c.float(), d.float())),
    )  # fmt: skip
