"""What is said when a stage needs more memory than there is: what to change, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from avff.trainer.callbacks import TrainingError
from avff.trainer.commands import lacks_memory
from avff.trainer.config import RunSettings

_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")
# A worker process that the system has killed: it does so when memory runs out.
_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")


class MemoryShort(TrainingError):
    """There is too little memory for the settings; the last whole epoch is kept."""


@contextmanager
def enough_memory(stage: str, batch: str, settings: RunSettings) -> Iterator[None]:
    """Tell, of the errors raised within, those of memory apart from the others.

    Args:
        stage: name of the stage that is trained.
        batch: dotted key of its batch size.
        settings: of the run.

    Raises:
        MemoryShort: in place of what torch, Python or a dead worker process raised.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (lacks_memory(error) or _WORKER.search(str(error))):
            raise
        raise MemoryShort(_advice(stage, batch, settings, error)) from error


def _advice(stage: str, batch: str, settings: RunSettings, error: BaseException) -> str:
    if _WORKER.search(str(error)):
        return (
            f"a process that draws windows died in stage {stage!r}, most likely for want of memory: "
            f"lower data.workers (now {settings.data.workers}) and run the same command to go on from the "
            "last whole epoch"
        )
    asked = _ASKED.search(str(error))
    more = f" ({asked[1]} more were asked for)" if asked else ""
    *groups, last = batch.split(".")
    size = getattr(getattr(settings, groups[0]), last)
    recompute = ", model.recompute true" if settings.model.architecture == "avff-b" else ""
    return (
        f"out of memory in stage {stage!r}{more}: lower {batch} (now {size}) and raise train.accumulate (now "
        f"{settings.train.accumulate}) to make up for it, or set train.precision to bf16-mixed (now "
        f"{settings.train.precision}){recompute}, under a new --name; the last whole epoch of this run is "
        "kept, and with more memory free the same command goes on from it"
    )
