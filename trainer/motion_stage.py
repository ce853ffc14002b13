"""The stages of the motion head: first its lip predictors on genuine speech, then the head itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from avff.engine.media import Float32
from avff.trainer.data.courses import CourseBatch
from avff.trainer.losses import auc_of, masked_bce
from avff.trainer.model.fusion import MAX_SHIFT
from avff.trainer.model.motion import FOLDS, MotionHead, MotionOut
from avff.trainer.optim import OptimSettings, Positive, make_optimiser

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
_IN_STEP = 2
"""Pictures (80 ms) up to which lips and sound are in step; one more is neither."""


class MotionSettings(BaseModel):
    """Two stages for the motion head of avff-s, on points and sound alone (docs/decisions/0012)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lip_epochs: Positive = 6
    """Of the lip predictors, on genuine windows."""
    epochs: Positive = 12
    """Of the head."""
    windows_per_epoch: Positive = 6144
    batch: Positive = 48
    mix: dict[str, Weight] = {
        "generated": 0.5, "lips_by_sound": 0.25, "foreign_lips": 0.1, "stiff_head": 0.1, "unsteady": 0.05,
    }  # fmt: skip
    """Shares of generated clips and of the pseudo-fakes of ``avff.trainer.pseudo.courses``."""
    mute: Share = 0.15
    """Probability that a window's sound is withheld, so that a picture alone can be judged."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    ema: Annotated[float, Field(ge=0, lt=1)] | None = 0.995
    lip_optim: OptimSettings = OptimSettings(learning_rate=2e-3)
    optim: OptimSettings = OptimSettings(learning_rate=2e-3)


class _OfMotion(lightning.LightningModule):
    """What both stages share: they train a part of the network that has a motion head, in place."""

    def __init__(self, net: Any, settings: MotionSettings, total_steps: int) -> None:
        super().__init__()
        # The network as a whole, so that checkpoints of all stages name their weights alike.
        self.net = net
        self._settings, self._total_steps = settings, total_steps

    @property
    def head(self) -> MotionHead:
        head: MotionHead = self.net.motion
        return head


class LipStage(_OfMotion):
    """Trains the lip predictors, each on the people of the other fold, and the norms.

    Args:
        net: the network.
        settings: of the motion head.
        total_steps: optimiser steps, for the schedule.
    """

    def training_step(self, batch: CourseBatch, index: int) -> Tensor:
        """Return the loss of one batch: the prediction's error, in variances, and the synchrony's."""
        lips, predicted, there = self._predicted(batch, batch.sound, batch.audio_ok)
        error = _error(lips, predicted, there)
        # Seeds depend on the step only, so resuming is exact.
        late = draw_shifts(len(batch.fold), seed=self.global_step * 1_000_003 + index).to(self.device)
        desync = self._desync(batch, late)
        target = (late.abs() > _IN_STEP).float().unsqueeze(1)
        unclear = late.abs().unsqueeze(1) == _IN_STEP + 1
        step = masked_bce(desync.float(), target.masked_fill(unclear, torch.nan), 0.0)
        named = {"train/loss": error.detach(), "train/desync": step.detach()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(batch.fold))
        self.log("loss", error.detach(), prog_bar=True, logger=False)
        return error + step

    def validation_step(self, batch: CourseBatch, index: int) -> None:
        """Log the error on people whom no predictor has seen, and how often the shift is found.

        Found is a peak of the curve within 2 pictures (80 ms) of the true one: 5 places of 31.
        """
        lips, predicted, there = self._predicted(batch, batch.sound, batch.audio_ok)
        late = draw_shifts(len(batch.fold), seed=index).to(self.device)
        rolled, heard = late_sound(batch.sound, batch.audio_ok, late)
        _, moved, _ = self._predicted(batch, rolled, heard)
        _, curve = self.head.step(lips, moved)
        found = ((curve.argmax(dim=1) - MAX_SHIFT - late).abs() <= _IN_STEP).float().mean()
        named = {"val/loss": _error(lips, predicted, there), "val/shift_found": found}
        self.log_dict(named, batch_size=len(batch.fold))

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the predictors and of what reads their curve."""
        return make_optimiser(
            self._settings.lip_optim, [self.head.lips, self.head.step], steps=self._total_steps,
            epochs=self._settings.lip_epochs,
        )  # fmt: skip

    def _predicted(
        self, batch: CourseBatch, sound: Tensor, audio_ok: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return lips and prediction ``[N, 114, T, 1]``, and where there is evidence ``[N, 1, T, 1]``."""
        _, lips = self.head.face(batch.landmarks, batch.video_ok)
        there = (batch.video_ok * audio_ok).unsqueeze(1).unsqueeze(3)
        # The predictor that may *answer* for a person is the one that is not trained on them.
        trained = FOLDS - 1 - batch.fold
        heard = audio_ok.unsqueeze(1).unsqueeze(3)
        return lips, self.head.predict(self.head.speech(sound, audio_ok), trained) * heard, there

    def _desync(self, batch: CourseBatch, late: Tensor) -> Tensor:
        """Return the logit of synchrony for late sound, by the predictor that knows nobody here."""
        sound, heard = late_sound(batch.sound, batch.audio_ok, late)
        with torch.no_grad():
            _, lips = self.head.face(batch.landmarks, batch.video_ok)
            speech = self.head.speech(sound, heard)
            predicted = self.head.predict(speech, batch.fold) * heard.unsqueeze(1).unsqueeze(3)
        logit: Tensor = self.head.step(lips, predicted)[0]
        return logit


def draw_shifts(count: int, *, seed: int) -> Tensor:
    """Return by how many pictures sounds come late, int ``[count]``, -15…15: half of them in step (-2…2)."""
    make = torch.Generator().manual_seed(seed)
    near = torch.randint(-_IN_STEP, _IN_STEP + 1, (count,), generator=make)
    far = torch.randint(_IN_STEP + 1, MAX_SHIFT + 1, (count,), generator=make)
    far = torch.where(torch.rand(count, generator=make) < 0.5, far, -far)
    return torch.where(torch.rand(count, generator=make) < 0.5, near, far)


def late_sound(sound: Tensor, audio_ok: Tensor, late: Tensor) -> tuple[Tensor, Tensor]:
    """Let the sound of each window come late; where none is known then, there is none.

    Args:
        sound: ``[N, T, C]``.
        audio_ok: ``[N, T]``.
        late: int ``[N]``, pictures.

    Returns:
        both, shifted.
    """
    length = sound.shape[1]
    source = torch.arange(length, device=sound.device) - late.to(sound.device).unsqueeze(1)  # [N, T]
    known = (source >= 0) & (source < length)
    source = source.clamp(0, length - 1)
    moved = torch.gather(sound, 1, source.unsqueeze(2).expand(-1, -1, sound.shape[2]))
    heard = torch.gather(audio_ok, 1, source) * known
    return moved * heard.unsqueeze(2), heard


def _error(lips: Tensor, predicted: Tensor, there: Tensor) -> Tensor:
    error = (predicted - lips).square() * there
    return error.sum() / (there.sum() * lips.shape[1]).clamp(min=1.0)


class MotionStage(_OfMotion):
    """Trains the classifier; predictors and norms stay as the stage before has left them.

    Args:
        net: the network.
        settings: of the motion head.
        groups: names of the validation groups; the first is genuine footage.
        smoothing: of the labels.
        total_steps: optimiser steps, for the schedule.
    """

    def __init__(
        self, net: Any, settings: MotionSettings, groups: Sequence[str], smoothing: float, total_steps: int
    ) -> None:
        super().__init__(net, settings, total_steps)
        self._groups, self._smoothing = groups, smoothing
        self._answers: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        """Keep the predictors: pseudo-fakes are made with them as they are."""
        for part in (self.head.lips, self.head.step, self.head.face_norm, self.head.sound_norm):
            part.eval().requires_grad_(False)

    def teardown(self, stage: str) -> None:
        """Hand the head back as one that can be trained throughout."""
        del stage
        self.head.train().requires_grad_(True)

    def forward(self, batch: CourseBatch) -> Tensor:
        """Return logits: ``[N, 3]``, of each classifier, while training, else ``[N, 1]``."""
        fold = batch.fold if self.training else None
        said: MotionOut = self.head(batch.landmarks, batch.sound, batch.video_ok, batch.audio_ok, fold)
        return said.logit

    def training_step(self, batch: CourseBatch, index: int) -> Tensor:
        """Return the loss of one batch."""
        del index
        answers = self(batch).float()
        loss = masked_bce(answers, batch.label.unsqueeze(1).expand_as(answers), self._smoothing)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch.fold))
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: CourseBatch, index: int) -> None:
        """Collect the answers."""
        del index
        self._answers.append((self(batch).float().squeeze(1), batch.group))

    def on_validation_epoch_end(self) -> None:
        """Log each group's AUC against genuine windows."""
        logits, group = (torch.cat(parts) for parts in zip(*self._answers, strict=True))
        self._answers.clear()
        for place, name in enumerate(self._groups[1:], start=1):
            chosen = (group == 0) | (group == place)
            self.log(f"auc/motion/{name}", auc_of(logits[chosen], group[chosen] == place))

    def configure_optimizers(self) -> Any:
        """Return the optimiser of all but the predictors."""
        return make_optimiser(
            self._settings.optim, [self.head], frozen=[self.head.lips, self.head.step],
            steps=self._total_steps, epochs=self._settings.epochs,
        )  # fmt: skip


def voice_of(head: MotionHead) -> Callable[[Float32, int], Float32]:
    """Return the lip predictors as a function of numpy arrays: sound ``[T, 320]``, fold to ``[T, 114]``.

    A copy: it goes to the processes that draw windows, and must not change under them.
    """
    copy = MotionHead()
    copy.load_state_dict(head.state_dict())
    copy.eval().requires_grad_(False)

    def moves(sound: Float32, fold: int) -> Float32:
        with torch.inference_mode():
            made = copy.lips_by_sound(torch.from_numpy(sound)[None], torch.tensor([fold]))[0]
        return np.asarray(made.numpy(), np.float32)

    return moves
