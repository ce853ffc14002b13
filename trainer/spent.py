"""What a run has cost: time and GPU memory, over all times that its command was given.

The ledger lies beside the checkpoints and is renewed, durably, with every epoch, so that a run that
is killed loses at most the minutes of the epoch it was in.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from avff.trainer.checkpoints import CheckpointError
from avff.trainer.durable import write_durably
from avff.trainer.paths import RunPaths


@dataclass(frozen=True)
class Spent:
    """What training has cost so far.

    Attributes:
        seconds: spent in stages, epochs that were trained again included.
        peak_gpu_bytes: most memory that the first process has had on its GPU; None without a GPU.
    """

    seconds: float = 0.0
    peak_gpu_bytes: int | None = None


def ledger_of(paths: RunPaths) -> Path:
    """Return the file that a run's costs are kept in."""
    return paths.checkpoints / "spent.json"


def read_spent(ledger: Path) -> Spent | None:
    """Return what was spent so far, None when nobody has kept a ledger.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return Spent(**json.loads(ledger.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{ledger}: is damaged; delete it and run the same command again") from error


class Ledger(Callback):
    """Adds what a stage costs to what was spent before, after every epoch and at its end.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before, self._started_s = Spent(), 0.0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Before anything is trained."""
        del trainer, pl_module
        self._before, self._started_s = read_spent(self._path) or Spent(), time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Before the epoch's checkpoint: what is in that is in the ledger as well."""
        del pl_module
        self._note(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """When the stage has ended."""
        del pl_module
        self._note(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """When it was stopped; why that was matters more than whether its minutes can be kept."""
        del pl_module, exception
        with suppress(OSError):
            self._note(trainer)

    def _note(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero or not self._started_s:
            return
        peaks = [peak for peak in (self._before.peak_gpu_bytes, _peak_gpu_bytes()) if peak is not None]
        spent = Spent(
            round(self._before.seconds + time.monotonic() - self._started_s, 3), max(peaks, default=None)
        )
        text = json.dumps(asdict(spent)) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, lambda file: file.write(text.encode()))


def _peak_gpu_bytes() -> int | None:
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
