"""The average of the weights: it follows its formula, judges and is exported, and survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from avff.trainer.ema import Ema
from tests.support import training  # noqa: F401  # one thread

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
STEPS = 4
"""Optimiser steps in an epoch."""
State = dict[str, Tensor]


class Line(lightning.LightningModule):
    """A norm and a line: weights, running statistics and a counter of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.judged: list[State] = []
        self.trained: list[State] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        del index
        loss: Tensor = (self.net(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        del batch, index
        self.judged.append(copied(self.net))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        del outputs, batch, batch_idx
        self.trained.append(copied(self.net))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class SaveMidway(Callback):
    """Saves a checkpoint while the average is in place of the weights, as on a signal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *arguments: object
    ) -> None:
        del pl_module, arguments
        trainer.save_checkpoint(self._path)


def copied(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def fit(epochs: int, *callbacks: Callback, decay: float = 0.9, resume: Path | None = None) -> Line:
    module = Line()
    rows = torch.randn(STEPS * 8, 3, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(rows), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[Ema(decay), *callbacks],
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader(TensorDataset(rows[:8]), batch_size=8), ckpt_path=resume)
    return module


def averaged(trained: list[State], decay: float) -> State:
    """The formula, step by step: the first weights, then a decay that grows to its full value."""
    average = trained[0]
    for n, weights in enumerate(trained[1:], start=1):
        share = min(decay, (1 + n) / (10 + n))
        average = {
            name: share * average[name] + (1 - share) * value if value.is_floating_point() else value
            for name, value in weights.items()
        }
    return average


def assert_close(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_average_follows_its_formula(decay: float) -> None:
    """Weights and running statistics are averaged, whole numbers taken over, and the result is kept."""
    module = fit(3, decay=decay)
    assert len(module.trained) == 3 * STEPS
    assert_close(copied(module.net), averaged(module.trained, decay))


def test_first_weights_are_soon_forgotten() -> None:
    """After few steps a slow average has moved most of the way, which without warm-up it had not."""
    module = fit(3, decay=0.999)
    first, last = module.trained[0]["1.weight"], module.trained[-1]["1.weight"]
    way = float((copied(module.net)["1.weight"] - first).norm() / (last - first).norm())
    assert way > 0.4
    assert 1 - 0.999 ** (3 * STEPS) < 0.02


def test_validation_judges_the_average() -> None:
    """Each epoch's validation sees the average of the steps so far; training goes on from its own weights."""
    module = fit(3)
    for epoch, judged in enumerate(module.judged, start=1):
        assert_close(judged, averaged(module.trained[: epoch * STEPS], 0.9))
    # Without the callback the same steps lead to the same weights: the average moves nothing.
    plain = fit(3, decay=0.0)
    for one, other in zip(module.trained, plain.trained, strict=True):
        assert_close(one, other)


def test_resuming_is_exact(tmp_path: Path) -> None:
    """Two epochs and two more end, bit for bit, where four do, though the stop came amid a validation."""
    whole = fit(4)
    fit(2, SaveMidway(tmp_path / "last.ckpt"))
    resumed = fit(4, resume=tmp_path / "last.ckpt")
    assert len(resumed.trained) == 2 * STEPS
    for name, value in copied(whole.net).items():
        assert torch.equal(copied(resumed.net)[name], value), name


def test_checkpoint_names_average_and_weights(tmp_path: Path) -> None:
    """Export looks under ``state_dict`` and finds the average, even if it was saved amid a validation."""
    path = tmp_path / "midway.ckpt"
    module = fit(2, SaveMidway(path))
    saved = torch.load(path, weights_only=True)
    for key, wanted in (
        ("state_dict", averaged(module.trained, 0.9)),
        ("current_model_state", module.trained[-1]),
    ):
        assert_close({n.removeprefix("net."): v for n, v in saved[key].items()}, wanted)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    """An average that never moves, or runs away, is no setting."""
    with pytest.raises(ValueError, match="must be at least 0 and below 1"):
        Ema(decay)
