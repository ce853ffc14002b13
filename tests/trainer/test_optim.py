"""Schedules follow their formulas, and optimisers change what they should."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from avff.trainer.optim import OptimSettings, make_optimiser, schedule_factor

STEPS, EPOCHS = 400, 40


def factors(**settings: object) -> list[float]:
    """The factor of every step of 40 epochs of 10."""
    factor = schedule_factor(OptimSettings.model_validate(settings), steps=STEPS, epochs=EPOCHS)
    return [factor(step) for step in range(STEPS)]


@pytest.mark.parametrize(("first", "times"), [(10, 2), (5, 1), (3, 3)])
def test_cosine_restarts_equal_pytorchs(first: int, times: int) -> None:
    """``CosineAnnealingWarmRestarts`` with T_0 and T_mult, stepped by fractions of an epoch."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, T_0=first, T_mult=times)
    wanted = []
    for step in range(STEPS):
        reference.step(step * EPOCHS / STEPS)
        wanted.append(optimiser.param_groups[0]["lr"])
    found = factors(schedule="cosine_restarts", restart_epochs=first, restart_factor=times)
    assert found == pytest.approx(wanted, abs=1e-9)


def test_cosine_restarts_where_the_formula_says() -> None:
    """T_0 = 10 and T_mult = 2 restart after epochs 10 and 30, and fall as half a cosine between."""
    found = factors(schedule="cosine_restarts", restart_epochs=10, restart_factor=2)
    rises = [step for step, (a, b) in enumerate(itertools.pairwise(found), start=1) if b > a]
    assert rises == [100, 300]
    assert [found[0], found[100], found[300]] == pytest.approx([1, 1, 1])
    assert found[150] == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 20)))


def test_warm_cosine_rises_and_falls_once() -> None:
    """Linear to 1 over the warm-up, then down to nearly 0."""
    found = factors(schedule="warm_cosine", warmup_share=0.1)
    assert found[:40] == pytest.approx([(k + 1) / 40 for k in range(40)])
    assert all(a >= b for a, b in itertools.pairwise(found[39:]))
    assert found[-1] < 1e-3


def test_step_multiplies_after_whole_epochs() -> None:
    """Every 5 epochs by one half; constant never."""
    found = factors(schedule="step", step_epochs=5, step_factor=0.5)
    assert [found[k] for k in (0, 49, 50, 100, 399)] == [1, 1, 0.5, 0.25, 0.5**7]
    assert set(factors(schedule="constant")) == {1.0}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_every_optimiser_learns(name: str) -> None:
    """A few steps lower a simple loss, at the rate that the schedule gives."""
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    settings = OptimSettings.model_validate(
        {"optimiser": name, "schedule": "constant", "learning_rate": 0.05, "weight_decay": 0.0}
    )
    entry = make_optimiser(settings, [net], steps=20, epochs=1)
    x = torch.randn(32, 4)
    losses = []
    for _ in range(20):
        loss = (net(x) - x.sum(1, keepdim=True)).pow(2).mean()
        entry["optimizer"].zero_grad()
        loss.backward()
        entry["optimizer"].step()
        entry["lr_scheduler"]["scheduler"].step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert entry["optimizer"].param_groups[0]["lr"] == 0.05
