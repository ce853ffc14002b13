"""The first stage: each encoder learns on single slices to tell genuine from manipulated.

A linear head on the tokens of every encoder is trained picture by picture, with no
fusion behind it.  The heads of picture and sound stay part of the network.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from avff.trainer.config import EncoderSettings, TrainSettings
from avff.trainer.data.slices import GROUPS, SOUND_KIND
from avff.trainer.data.windows import Batch
from avff.trainer.losses import auc_of, masked_bce
from avff.trainer.model.avff import StreamingNet
from avff.trainer.optim import make_optimiser

_LABEL = {"video": 1, "landmarks": 1, "audio": 2}
"""Column of the frame labels (any, video, audio) that each encoder answers for."""


class EncoderStage(lightning.LightningModule):
    """Trains the encoders of a network in place.

    Args:
        net: the network; its fusion graph is left alone but for the token heads.
        settings: of this stage.
        train: of the run: label smoothing.
        total_steps: optimiser steps, for the schedule.
    """

    def __init__(
        self,
        net: StreamingNet,
        settings: EncoderSettings,
        train: TrainSettings,
        total_steps: int,
    ) -> None:
        super().__init__()
        # The network as a whole, so that checkpoints of all stages name their weights alike.
        self.net = net
        # The landmarks' head only teaches their encoder; the fusion graph has no use for it.
        self.landmark_head = nn.Linear(net.config.width, 1)
        self._settings, self._train, self._total_steps = settings, train, total_steps
        self._answers: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return logits ``[N, pictures]`` by encoder."""
        inputs = {"video": batch.video, "landmarks": batch.landmarks, "audio": batch.audio}
        return {
            name: self._head(name)(getattr(self.net, name)(x.flatten(0, 1))).reshape(len(x), -1)
            for name, x in inputs.items()
        }

    def _head(self, name: str) -> nn.Module:
        return self.landmark_head if name == "landmarks" else getattr(self.net.fusion.tokens, name)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch: per picture, and of the slice's mean."""
        del index
        terms = self._terms(self(batch), batch.frame_labels)
        named = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(named, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.labels))
        self.log("loss", terms["loss"].detach(), prog_bar=True, logger=False)
        return terms["loss"]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the answers."""
        del index
        self._answers.append((self(batch), batch.frame_labels, batch.group))

    def on_validation_epoch_end(self) -> None:
        """Log losses, and each encoder's AUC against genuine slices, by kind where the picture differs."""
        answers, labels, groups = zip(*self._answers, strict=True)
        self._answers.clear()
        logits = {name: torch.cat([a[name] for a in answers]) for name in _LABEL}
        # Over all slices at once: a batch may hold none whose label is known.
        terms = self._terms(logits, torch.cat(labels))
        self.log_dict({f"val/{name}": term for name, term in terms.items()})
        scores, group = {name: x.float().mean(1) for name, x in logits.items()}, torch.cat(groups)
        for at, kind in enumerate(GROUPS[1:], start=1):
            chosen = (group == 0) | (group == at)
            for name in ("video", "landmarks"):
                self.log(f"auc/{name}/{kind}", auc_of(scores[name][chosen], group[chosen] == at))
        # The sound of generated clips may be genuine: it is judged on vocoded slices only.
        chosen = group != GROUPS.index("generated")
        self.log(f"auc/audio/{SOUND_KIND}", auc_of(scores["audio"][chosen], group[chosen] > 0))

    def _terms(self, logits: dict[str, Tensor], frame_labels: Tensor) -> dict[str, Tensor]:
        """Return the loss of each encoder, and their sum under ``loss``."""
        smoothing = self._train.loss.label_smoothing
        terms = {}
        for name, each in logits.items():
            labels = frame_labels[..., _LABEL[name]]
            # The slice is one question too: its mean answers with less noise.
            terms[name] = masked_bce(each.float(), labels, smoothing) + masked_bce(
                each.float().mean(1), labels.mean(1), smoothing
            )
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    def configure_optimizers(self) -> Any:
        """Return the optimiser with its schedule."""
        settings = self._settings
        trained = [*(getattr(self.net, name) for name in _LABEL), self.net.fusion.tokens, self.landmark_head]
        return make_optimiser(settings.optim, trained, steps=self._total_steps, epochs=settings.epochs)
