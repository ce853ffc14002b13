"""Settings of a training run; ``configs/train/*.yaml`` are instances."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from avff.trainer.losses import LossWeights
from avff.trainer.model.avff import AvffConfig

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """Which clips, and how they are split."""

    root: Path | None = None
    """Directory with the manifest; None: the environment variable ``AVFF_DATA``."""
    manifest: str = "manifest.csv"
    train_split: str = "train"
    """Rows of the manifest that training, validation and calibration may use."""
    judge_split: str = "dev"
    """Rows that only judge the finished model."""
    validation_share: Share = 0.2
    """Part of the genuine people held out."""
    held_out_generators: list[str] = []
    """Generators whose clips are in validation only."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that prepare clips and draw windows."""


class EncoderSettings(_Strict):
    """The first stage: encoders alone, on single slices (docs/decisions/0005)."""

    epochs: Positive = 20
    slices_per_epoch: Positive = 2048
    batch: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3


class TrainSettings(_Strict):
    """The second stage: the fusion graph on whole windows, on encoders that stay as they are."""

    seed: int = 0
    epochs: Positive = 20
    windows_per_epoch: Positive = 1024
    batch: Positive = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_share: Share = 0.05
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    modality_dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Probability that a window's picture is withheld, and the same for its sound."""
    post_chain: Share = 0.5
    """Strength of the degradation that genuine and manipulated windows share."""
    validation_windows: Positive = 32
    """Validation windows of each kind."""
    precision: Literal["bf16-mixed", "32-true", "16-mixed"] = "bf16-mixed"
    threads: Positive = 1
    """Threads of the network on a CPU.  Leave cores to the window workers: with every core taken,
    OpenMP's barriers made a step six times slower (measured on two cores)."""
    loss: LossWeights = LossWeights()


class RunSettings(_Strict):
    """One run of ``avff-train``."""

    name: str
    output: Path = Path("runs")
    """Checkpoints, logs, exported model and report go to ``output/name``."""
    data: DataSettings = DataSettings()
    mix: dict[str, Annotated[float, Field(ge=0)]]
    """Shares of ``generated`` clips and pseudo-fake recipes; each stands beside a genuine window."""
    model: AvffConfig = AvffConfig()
    encoders: EncoderSettings = EncoderSettings()
    train: TrainSettings = TrainSettings()
