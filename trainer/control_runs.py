"""Runs that a control trains for its figure: each goes on when it is stopped.

The figure is the one after the last epoch: choosing an epoch by it would flatter it.
"""

from __future__ import annotations

import hashlib
import re

from avff.trainer.config import RunSettings
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import read_history
from avff.trainer.run import fit
from avff.trainer.run_data import RunData

FUSION = "fusion"
HEADS = {
    FUSION: "auc/generated", "video": "auc/video/generated", "landmarks": "auc/landmarks/generated",
    "motion": "auc/motion/generated",
}  # fmt: skip
"""Figures of a run's history: AUC of the windows of generated clips against genuine ones."""


def digest_of(settings: RunSettings) -> str:
    """Return six digits for a run's name that other settings do not have."""
    whole = settings.model_dump_json(exclude={"output": True, "data": {"workers"}})
    return hashlib.sha256(whole.encode()).hexdigest()[:6]


def generated_aucs(settings: RunSettings, data: RunData, what: str) -> dict[str, float]:
    """Train a run of its own, and return each head's AUC of generated windows after its stage's last epoch.

    Args:
        settings: of the run; its name is made of them.
        data: of the run.
        what: distinguishes runs that differ in their data only.

    Raises:
        TrainingError, CheckpointError: training cannot go on.
        Stopped: a signal came; the same call goes on from there.
    """
    # The recipe is in the name: a run never goes on from the checkpoint of another.
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", what)
    name = f"{settings.name}-{plain}-{digest_of(settings)}"
    paths = RunPaths(settings.output, name)
    fit(settings.model_copy(update={"name": name}), data, paths)
    # Later epochs replace earlier ones.
    return {
        head: epoch.get(key)
        for epoch in read_history(paths.history)
        for head, key in HEADS.items()
        if key in epoch.values
    }
