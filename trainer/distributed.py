"""One run in several processes, as ``torchrun`` starts them: who this process is, and what it draws.

``torchrun --nproc_per_node 2 -m avff.trainer --config …`` trains with two processes, each on a GPU of
its own or, where there is none, on the CPU.  Every process carries a batch of the settings' size, so
two of them do what one does with twice the batch: the same items in the same steps, gradients averaged.
Every process validates on everything, which needs no gathering and gives each of them the same figures
to stop and to choose by.  Files are written by the first process only.

What differs from one process: dropout draws per process; a loss that is a mean over some of a batch
(known labels, genuine windows) is averaged over the processes, whatever share of these each one has;
and batch norms that are being trained see their own process's items on a CPU, on GPUs those of all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import Sampler


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is.

    Attributes:
        rank: of this process, 0…size - 1.
        size: processes of the run.
        local_size: processes on this machine; every machine has as many.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """How many machines take part."""
        return self.size // self.local_size


def world() -> World:
    """Return what ``torchrun`` has said in the environment; without it a process is alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()):
        return World()
    return World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


@contextmanager
def first_speaks() -> Iterator[None]:
    """Let the first process alone write to ``sys.stderr``: what all of them do is told once.

    Errors are raised in every process, for one may meet what the others do not.  Worker
    processes write past this.
    """
    if world().is_first:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


def say(text: str) -> None:
    """Tell the user, beside the progress bars; the first process speaks for all."""
    if world().is_first:
        sys.stderr.write(f"avff-train: {text}\n")


def trainer_settings(place: World) -> dict[str, Any]:
    """Return how Lightning's ``Trainer`` is to use the processes that there are."""
    several = place.size > 1
    return {
        # By itself Lightning would start a process for every GPU it finds.
        "devices": place.local_size,
        "num_nodes": place.machines,
        # Frozen parts, and those of later stages, get no gradient: without this it would be waited for.
        "strategy": DDPStrategy(find_unused_parameters=True) if several else "auto",
        "sync_batchnorm": several and torch.cuda.is_available(),  # PyTorch has none for CPUs
        "enable_model_summary": False,  # the run prints its own; Lightning's cannot count in bfloat16
        "use_distributed_sampler": False,  # training items are dealt out, validation is every process's
    }


class Dealt(Sampler[int]):
    """The items of one process: its part of each batch of all processes together.

    Batch ``b`` of all is made of the items that follow one another from ``b * batch * size`` on, of
    which each process takes ``batch`` in a row: with an even batch, a manipulated item and its
    genuine twin stay in one process, where the losses compare them.  The last items of an epoch that are
    fewer than a batch of all are left out, as one process leaves out its last, smaller batch.

    Args:
        items: in an epoch.
        batch: items of one process in a step.
        place: of this process.
    """

    def __init__(self, items: int, batch: int, place: World) -> None:
        self._batch, self._place = batch, place
        self._steps = items // (batch * place.size)

    def __len__(self) -> int:
        return self._steps * self._batch

    def __iter__(self) -> Iterator[int]:
        for step in range(self._steps):
            start = (step * self._place.size + self._place.rank) * self._batch
            yield from range(start, start + self._batch)
