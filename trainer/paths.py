"""Where a run keeps what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Folders and files of one run.

    Attributes:
        root: of all runs, ``output`` in the settings.
        name: of the run.
    """

    root: Path
    name: str

    @property
    def checkpoints(self) -> Path:
        """What a stopped run goes on from, and the best of every stage."""
        return self.root / "checkpoints" / self.name

    @property
    def outputs(self) -> Path:
        """What a run is for: ``best_model.pth``, the exported model, predictions, the report."""
        return self.root / "outputs" / self.name

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's logs, a folder a stage."""
        return self.root / "logs" / self.name / "tensorboard_logs"

    @property
    def settings(self) -> Path:
        """The recipe as it was used."""
        return self.outputs / "settings.json"

    @property
    def model(self) -> Path:
        """The exported model, for ``avffd --model``."""
        return self.outputs / "model"

    @property
    def history(self) -> Path:
        """A line per epoch."""
        return self.outputs / "history.jsonl"

    @property
    def predictions(self) -> Path:
        """A line per judged clip."""
        return self.outputs / "predictions.jsonl"

    @property
    def report(self) -> Path:
        """The report; its pictures lie beside it in ``assets``."""
        return self.outputs / "training_report.md"
