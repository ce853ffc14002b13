"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]


class OptimSettings(BaseModel):
    """How weights change.

    The rate of a step is ``learning_rate`` times the schedule's factor:

    - ``warm_cosine``: linear warm-up over ``warmup_share`` of all steps, then one cosine to zero;
    - ``cosine_restarts``: a cosine from 1 to 0 that begins anew after ``restart_epochs``, and after
      ``restart_factor`` times as many each further time (SGDR, Loshchilov and Hutter, ICLR 2017,
      arXiv:1608.03983; in PyTorch ``CosineAnnealingWarmRestarts``, stepped within epochs);
    - ``step``: times ``step_factor`` after every ``step_epochs``;
    - ``constant``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Of weights; biases and norms do not decay.  ``adamw`` decouples it from the gradient."""
    schedule: Literal["warm_cosine", "cosine_restarts", "step", "constant"] = "warm_cosine"
    warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    restart_epochs: Positive = 10
    restart_factor: Positive = 2
    step_epochs: Positive = 5
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.5


def make_optimiser(
    settings: OptimSettings,
    parts: Iterable[nn.Module],
    *,
    steps: int,
    epochs: int,
    frozen: Iterable[nn.Module] = (),
) -> dict[str, Any]:
    """Return Lightning's entry for an optimiser with its schedule, stepped after every update.

    Args:
        settings: which, and how fast.
        parts: what is trained.
        steps: updates of the whole stage.
        epochs: of the whole stage.
        frozen: parts of the parts that are not.
    """
    groups = decay_groups(parts, frozen, settings.learning_rate, settings.weight_decay)
    optimiser = _OPTIMISERS[settings.optimiser](groups)
    factor = schedule_factor(settings, steps=steps, epochs=epochs)
    return {
        "optimizer": optimiser,
        "lr_scheduler": {"scheduler": LambdaLR(optimiser, factor), "interval": "step"},
    }


def decay_groups(
    parts: Iterable[nn.Module], frozen: Iterable[nn.Module], rate: float, decay: float
) -> list[dict[str, Any]]:
    """Return optimiser groups in which weights decay; biases, norms, positions and learned tokens do not."""
    left_out = {id(p) for part in frozen for p in part.parameters()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for owner in (module for part in parts for module in part.modules()):
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in left_out:
                shrinks = name == "weight" and parameter.ndim > 1
                (decayed if shrinks else kept).append(parameter)
    return [
        {"params": decayed, "lr": rate, "weight_decay": decay},
        {"params": kept, "lr": rate, "weight_decay": 0.0},
    ]


def schedule_factor(settings: OptimSettings, *, steps: int, epochs: int) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the updates made so far."""
    per_epoch = max(1.0, steps / max(1, epochs))
    if settings.schedule == "warm_cosine":
        return _warm_cosine(steps, settings.warmup_share)
    if settings.schedule == "cosine_restarts":
        first, factor = settings.restart_epochs * per_epoch, settings.restart_factor
        return lambda step: _cosine(_place_in_cycle(step, first, factor))
    if settings.schedule == "step":
        return lambda step: settings.step_factor ** int(step / (settings.step_epochs * per_epoch))
    return lambda _: 1.0


def _warm_cosine(steps: int, warmup_share: float) -> Callable[[int], float]:
    warmup = max(1, round(warmup_share * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return _cosine(min(1.0, (step - warmup) / max(1, steps - warmup)))

    return factor


def _cosine(place: float) -> float:
    """Half a cosine: 1 at place 0, 0 at place 1."""
    return 0.5 * (1 + math.cos(math.pi * place))


def _place_in_cycle(step: float, length: float, factor: int) -> float:
    """Return where in its cycle a step lies, 0…1; each cycle is ``factor`` times as long as the last."""
    while step >= length:
        step -= length
        length *= factor
    return step / length


def _sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True)


def _adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups)


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


_OPTIMISERS = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}
