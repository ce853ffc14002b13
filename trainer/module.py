"""The training story: one step, one validation, one optimiser."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from avff.engine.errors import SettingsError
from avff.trainer.config import TrainSettings
from avff.trainer.data.windows import Batch
from avff.trainer.losses import auc_of, total_loss
from avff.trainer.model.avff import StreamingNet
from avff.trainer.model.fusion import FusionOut
from avff.trainer.model.registry import answer
from avff.trainer.optim import make_optimiser

DESYNC_GROUPS = frozenset({"desync", "freeze"})
"""Validation groups that are no fakes: they are judged by the desync head."""


class AvffModule(lightning.LightningModule):
    """The supervised stage: trains a network of any architecture on whole windows.

    Args:
        net: the network.
        train: optimisation settings.
        groups: names of the validation groups; the first is genuine footage.
        total_steps: optimiser steps of the whole stage, for the schedule.
    """

    def __init__(self, net: nn.Module, train: TrainSettings, groups: list[str], total_steps: int) -> None:
        super().__init__()
        self.net = net
        self._frozen = [*(encoder_parts(net) if train.frozen_encoders else []), *_motion_of(net)]
        self._settings, self._groups, self._total_steps = train, groups, total_steps
        self._answers: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        """Keep what an earlier stage has made: no gradient, and no new statistics in its norms."""
        for part in self._frozen:
            part.eval().requires_grad_(False)

    def forward(self, batch: Batch) -> FusionOut:
        """Run the network on a batch of windows."""
        return answer(self.net, batch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch."""
        del index
        terms = self._terms(self(batch), batch)
        named = {f"train/{name}": term for name, term in terms.items()}
        self.log_dict(named, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.labels))
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
        """Log each group's AUC against genuine windows, their mean, and what a threshold of 0.5 gives.

        The mean AUC may choose the checkpoint.  Accuracy and F1 are for the reader: with uneven
        classes a constant answer can win them.
        """
        clip = torch.cat([a for a, _ in self._answers])
        group = torch.cat([g for _, g in self._answers])
        self._answers.clear()
        figures = group_aucs(clip, group, self._groups)
        for name, auc in figures.items():
            self.log(f"auc/{name}", auc)
        self.log("val/auc", sum(figures.values()) / len(figures), prog_bar=True)
        self.log_dict({f"val/{k}": v for k, v in at_even_odds(clip, group, self._groups).items()})

    def configure_optimizers(self) -> Any:
        """Return the optimiser of all that is not frozen, with its schedule."""
        settings = self._settings
        return make_optimiser(
            settings.optim, [self.net], frozen=self._frozen, steps=self._total_steps, epochs=settings.epochs
        )

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


def encoder_parts(net: nn.Module) -> list[nn.Module]:
    """Return what the encoders' stage trains: the encoders and the heads on their tokens.

    Raises:
        SettingsError: the architecture has no slice-local encoders.
    """
    if not isinstance(net, StreamingNet):
        raise SettingsError("train.frozen_encoders: avff-b has no encoders of its own; set it to false")
    return [net.video, net.audio, net.landmarks, net.fusion.tokens]


def _motion_of(net: nn.Module) -> list[nn.Module]:
    """Return the motion head, if there is one: it has its own stage, and no part in this one's loss."""
    return [net.motion] if isinstance(net, StreamingNet) and net.motion is not None else []


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
        figures[name] = float(auc_of(clip[chosen, column], group[chosen] == i))
    return figures


def at_even_odds(clip: Tensor, group: Tensor, names: list[str]) -> dict[str, float]:
    """Return accuracy and F1 of calling windows fake from a probability of one half on; the share of fakes.

    Args:
        clip, group, names: as for :func:`group_aucs`; benign groups count as genuine.
    """
    fakes = torch.tensor([i > 0 and n not in DESYNC_GROUPS for i, n in enumerate(names)], device=group.device)
    truth, called = fakes[group], clip[:, 0] >= 0
    hits = (truth & called).sum()
    return {
        "accuracy": float((truth == called).float().mean()),
        "prior": float(truth.float().mean()),
        "f1": float(2 * hits / (truth.sum() + called.sum()).clamp(min=1)),
    }


def _float(out: FusionOut) -> FusionOut:
    (a, b), (c, d) = out.predicted
    return FusionOut(
        out.clip.float(), out.frames.float(), out.sync.float(),
        out.sync_video.float(), out.sync_audio.float(), ((a.float(), b.float()), (c.float(), d.float())),
    )  # fmt: skip
