"""Settings of a training run; ``configs/train/*.yaml`` are instances."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from avff.trainer.losses import LossWeights
from avff.trainer.model.avff import AvffConfig
from avff.trainer.motion_stage import MotionSettings
from avff.trainer.optim import OptimSettings
from avff.trainer.pretrain import PretrainSettings

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Metric = Literal["val/loss", "val/auc", "val/accuracy"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """Which clips, and how they are split."""

    root: Path | None = None
    """Data root; None: the environment variable ``AVFF_DATA``."""
    dataset: str = "table"
    """How the root is laid out; one of ``avff.trainer.datasets.DATASETS``."""
    manifest: str = "manifest.csv"
    """Of ``table``: its file, CSV or the JSON Lines of :mod:`avff.trainer.data.manifest`."""
    prepared: Path | None = None
    """A folder that ``avff-prepare`` has filled; None: clips are prepared first, into ``output/cache``."""
    split: Literal["people", "groups", "official"] = "people"
    """``people``: some genuine people and all clips of the held-out generators validate.
    ``groups``: whole groups (people, footage) go to judging and to validation by their shares,
    each class and generator as evenly as groups allow.  ``official``: by the dataset's own lists."""
    train_split: str = "train"
    """Official split that training, validation and calibration may use."""
    validation_split: str | None = None
    """Official split that validates; None: a share of the training split does."""
    judge_split: str = "dev"
    """Official split that only judges the finished model; with ``groups``, the name of that part."""
    validation_share: Share = 0.2
    """Part of the genuine people (``people``), or of the clips that do not judge, that validates."""
    judge_share: Share = 0.2
    """Part of all clips that judges, with ``groups``."""
    held_out_generators: list[str] = []
    """Generators whose clips are in validation only, with ``people``."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that prepare clips and draw windows."""


class EncoderSettings(_Strict):
    """A stage for the encoders alone, on single slices (docs/decisions/0005)."""

    epochs: Positive = 20
    slices_per_epoch: Positive = 2048
    batch: Positive = 64
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the moving average of the weights that the stage leaves behind; None: the last ones."""
    optim: OptimSettings = OptimSettings(learning_rate=2e-3)


class StoppingSettings(_Strict):
    """A stage ends when its metric has not improved by more than ``min_delta`` for ``patience`` epochs."""

    metric: Metric = "val/loss"
    patience: Positive = 5
    min_delta: Annotated[float, Field(ge=0)] = 0.001


class TrainSettings(_Strict):
    """The supervised stage on whole windows, and what all stages share."""

    seed: int = 0
    epochs: Positive = 20
    windows_per_epoch: Positive = 1024
    batch: Positive = 32
    accumulate: Positive = 1
    """Batches whose gradients are summed up for one update: a large batch in little memory."""
    sampling: Literal["balanced", "natural"] = "balanced"
    """``balanced``: half of the supervised stage's windows are genuine, people and generators equally
    often, the others by ``mix``.  ``natural``: every clip equally often, classes at their share of the
    clips; without pseudo-fakes, which come beside a genuine window."""
    optim: OptimSettings = OptimSettings()
    stopping: StoppingSettings | None = None
    select: Metric = "val/auc"
    """Which epoch's weights count.  Never a figure that a constant answer can win, such as F1."""
    frozen_encoders: bool = True
    """Whether the encoders stay as the stages before have left them."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of a moving average of the supervised stage's weights, for example 0.999, which then
    validates and is exported; None: the weights themselves."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    modality_dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Probability that a window's picture is withheld, and the same for its sound."""
    post_chain: Share = 0.5
    """Strength of the degradation that genuine and manipulated windows share."""
    validation_windows: Positive = 32
    """Validation windows of each kind."""
    precision: Literal["auto", "bf16-mixed", "32-true", "16-mixed"] = "auto"
    """``auto``: bf16-mixed on GPUs and CPUs that compute in it, which halves the time, else 32-true: on
    other CPUs PyTorch imitates it, a hundred times slower (measured)."""
    threads: Positive = 1
    """Threads of the network on a CPU.  Leave cores to the window workers: with every core taken,
    OpenMP's barriers made a step six times slower (measured on two cores)."""
    loss: LossWeights = LossWeights()


class RunSettings(_Strict):
    """One run of ``avff-train``."""

    name: str
    output: Path = Path("runs")
    """Root of all runs; see :mod:`avff.trainer.paths`."""
    data: DataSettings = DataSettings()
    mix: dict[str, Annotated[float, Field(ge=0)]]
    """Shares of ``generated`` clips and pseudo-fake recipes; each stands beside a genuine window."""
    model: AvffConfig = AvffConfig()
    pretrain: PretrainSettings | None = None
    """AVFF's self-supervised first stage, on the genuine clips; None: no such stage."""
    encoders: EncoderSettings | None = EncoderSettings()
    """None: no such stage, the supervised one trains everything."""
    motion: MotionSettings | None = None
    """The motion head of avff-s, with ``model.motion: true``; None: it has none."""
    train: TrainSettings = TrainSettings()

    @model_validator(mode="after")
    def _something_is_trained(self) -> RunSettings:
        if self.encoders is None and self.pretrain is None and self.train.frozen_encoders:
            raise ValueError("train.frozen_encoders is true, but no stage before trains the encoders")
        if self.model.motion != (self.motion is not None):
            raise ValueError("model.motion is true exactly when there is a section motion, which trains it")
        return self
