"""A training run from settings to a fitted network: prepare, split, train."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset

from avff.engine.errors import SettingsError
from avff.engine.spec import SPEC
from avff.trainer.config import RunSettings
from avff.trainer.data.manifest import Clip, read_manifest
from avff.trainer.data.prepare import prepare
from avff.trainer.data.slices import PICTURE_KINDS, SHORT_SLICES, TrainingSlices, ValidationSlices
from avff.trainer.data.splits import Split, SplitError, check_split, split_clips
from avff.trainer.data.windows import Batch, Shelf, TrainingWindows, ValidationWindows
from avff.trainer.encoder_stage import EncoderStage
from avff.trainer.model.avff import Avff
from avff.trainer.module import AvffModule
from avff.trainer.pseudo import RECIPES

DATA_VARIABLE = "AVFF_DATA"


@dataclass(frozen=True)
class RunData:
    """A run's clips and where they are.

    Attributes:
        root: data root.
        manifest: the manifest file.
        cache: prepared clips.
        split: training and validation clips.
        judges: clips that judge the finished model.
    """

    root: Path
    manifest: Path
    cache: Path
    split: Split
    judges: tuple[Clip, ...]


def load_data(settings: RunSettings) -> RunData:
    """Read the manifest, split it, and prepare the clips that training needs.

    Raises:
        SettingsError: no data root, or settings that do not fit together.
        ManifestError, SplitError: the data is not fit for training.
    """
    _check(settings)
    data = settings.data
    root = data.root or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if root is None:
        raise SettingsError(
            f"no data: set data.root in the configuration or {DATA_VARIABLE} in the environment"
        )
    manifest = root / data.manifest
    clips = read_manifest(manifest)
    split = split_clips(
        [c for c in clips if c.split == data.train_split],
        share=data.validation_share,
        held_out=data.held_out_generators,
        seed=settings.train.seed,
    )
    judges = tuple(c for c in clips if c.split == data.judge_split)
    if len({c.label for c in judges}) < 2:
        raise SplitError(f"split {data.judge_split!r} of {manifest} needs genuine and generated clips")
    cache = settings.output / "cache"
    bad = prepare([*split.train, *split.validation], root, cache, workers=max(1, data.workers))
    for uid, reason in bad.items():
        sys.stderr.write(f"avff-train: left out {uid}: {reason}\n")
    usable = Split(
        tuple(c for c in split.train if c.uid not in bad),
        tuple(c for c in split.validation if c.uid not in bad),
    )
    check_split(usable)
    return RunData(root, manifest, cache, usable, judges)


def validation_windows(settings: RunSettings, data: RunData) -> ValidationWindows:
    """Return the fixed validation set of a run."""
    return ValidationWindows(
        Shelf(data.split.validation, data.cache), sorted(RECIPES),
        each=settings.train.validation_windows, seed=settings.train.seed, strength=settings.train.post_chain,
    )  # fmt: skip


def fit(settings: RunSettings, data: RunData, directory: Path) -> Path:
    """Train both stages, resuming from the run's last checkpoint if there is one.

    Returns:
        the checkpoint with the best mean validation AUC.
    """
    torch.set_num_threads(settings.train.threads)
    # Here, and not in the workers: they are forked, and would wait for ever for OpenCV's threads.
    cv2.setNumThreads(1)
    lightning.seed_everything(settings.train.seed, workers=True, verbose=False)
    encoders = directory / "checkpoints" / "encoders.pth"
    if not encoders.is_file():
        _fit_encoders(settings, data, directory, encoders)
    return _fit_whole(settings, data, directory, encoders)


def _fit_encoders(settings: RunSettings, data: RunData, directory: Path, target: Path) -> None:
    stage, whole = settings.encoders, settings.train
    frames = SHORT_SLICES * SPEC.slice_frames
    train = TrainingSlices(
        Shelf(data.split.train, data.cache, frames=frames), settings.mix,
        size=stage.slices_per_epoch, epochs=stage.epochs, seed=whole.seed, strength=whole.post_chain,
    )  # fmt: skip
    validation = ValidationSlices(
        Shelf(data.split.validation, data.cache, frames=frames),
        each=4 * whole.validation_windows, seed=whole.seed, strength=whole.post_chain,
    )  # fmt: skip
    net = Avff(settings.model)
    module = EncoderStage(net, stage, whole, stage.epochs * (len(train) // stage.batch))
    checkpoint = ModelCheckpoint(directory / "checkpoints", "encoders-{epoch}", save_last=False)
    trainer = _trainer(settings, directory, "encoders", stage.epochs, [checkpoint, _EpochSeed(train)])
    trainer.fit(
        module,
        _loader(train, settings, stage.batch, last=True),
        _loader(validation, settings, stage.batch, last=False),
    )
    # Written when the stage is complete: its presence means that it need not run again.
    scratch = target.with_suffix(".tmp")
    torch.save(net.state_dict(), scratch)
    scratch.replace(target)


def _fit_whole(settings: RunSettings, data: RunData, directory: Path, encoders: Path) -> Path:
    whole = settings.train
    train = TrainingWindows(
        Shelf(data.split.train, data.cache), settings.mix, size=whole.windows_per_epoch, seed=whole.seed,
        modality_dropout=whole.modality_dropout, strength=whole.post_chain,
    )  # fmt: skip
    validation = validation_windows(settings, data)
    steps = whole.epochs * (len(train) // whole.batch)
    module = AvffModule(settings.model, whole, validation.groups, steps)
    module.net.load_state_dict(torch.load(encoders, map_location="cpu", weights_only=True))
    best = ModelCheckpoint(directory / "checkpoints", "best", monitor="val/auc", mode="max")
    # Not save_last: Lightning writes that only when the best improves, and a resumed run would go back to it.
    latest = ModelCheckpoint(
        directory / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = _trainer(settings, directory, "whole", whole.epochs, [best, latest, _EpochSeed(train)])
    last = directory / "checkpoints" / "last.ckpt"
    trainer.fit(
        module,
        _Lazily(_loader(train, settings, whole.batch, last=True)),
        _loader(validation, settings, whole.batch, last=False),
        ckpt_path=last if last.is_file() else None,
        weights_only=True,
    )
    return Path(best.best_model_path)


def _trainer(
    settings: RunSettings, directory: Path, stage: str, epochs: int, callbacks: list[Callback]
) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs,
        precision=settings.train.precision,
        gradient_clip_val=settings.train.gradient_clip,
        logger=TensorBoardLogger(directory / "tensorboard", name=stage, version=""),
        callbacks=[*callbacks, LearningRateMonitor("step"), TQDMProgressBar(refresh_rate=4)],
        num_sanity_val_steps=0,
        log_every_n_steps=8,
        deterministic=True,
    )


def load_network(settings: RunSettings, checkpoint: Path) -> Avff:
    """Return the network of a checkpoint, ready for inference."""
    net = Avff(settings.model)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    return net.eval()


def describe_split(split: Split) -> list[str]:
    """Return lines that say what is on either side."""
    lines = []
    for name, side in (("train", split.train), ("validation", split.validation)):
        generators = Counter(c.generator for c in side if c.label)
        genuine = sum(not c.label for c in side)
        listed = ", ".join(f"{g} {n}" for g, n in sorted(generators.items()))
        lines.append(f"{name}: {genuine} genuine, {sum(generators.values())} generated ({listed})")
    return lines


def _check(settings: RunSettings) -> None:
    """Refuse what would fail only after the data is prepared, or after the first stage."""
    unknown = set(settings.mix) - set(RECIPES) - {"generated"}
    if unknown:
        raise SettingsError(
            f"mix: unknown kind {min(unknown)!r}; known: generated, {', '.join(sorted(RECIPES))}"
        )
    if not any(settings.mix.get(kind) for kind in PICTURE_KINDS):
        raise SettingsError(
            f"mix: the encoders learn from {', '.join(PICTURE_KINDS)}; give one of them a share"
        )
    if settings.model.width % settings.model.heads:
        raise SettingsError(
            f"model.width ({settings.model.width}) is no multiple of model.heads ({settings.model.heads})"
        )
    for size, batch, key in (
        (settings.encoders.slices_per_epoch, settings.encoders.batch, "encoders.slices_per_epoch"),
        (settings.train.windows_per_epoch, settings.train.batch, "train.windows_per_epoch"),
    ):
        if size < batch:
            raise SettingsError(f"{key} is {size}, less than one batch of {batch}")


class _EpochSeed(Callback):
    """Tells the training set which epoch it is in, so that every epoch draws new windows."""

    def __init__(self, windows: TrainingWindows | TrainingSlices) -> None:
        self._windows = windows

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self._windows.epoch = trainer.current_epoch


class _Lazily:
    """Starts a loader's workers when the first batch is asked for.

    Lightning asks a resumed run's loader for its iterator before it tells the epoch:
    workers forked by then would draw the windows of epoch 0 again.
    """

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._loader


def _loader(windows: Dataset[Batch], settings: RunSettings, batch: int, *, last: bool) -> DataLoader[Batch]:
    # Workers start afresh each epoch: they must see the new epoch number.
    return DataLoader(
        windows, batch_size=batch, num_workers=settings.data.workers, drop_last=last,
        prefetch_factor=4 if settings.data.workers else None, worker_init_fn=_one_thread,
    )  # fmt: skip


def _one_thread(worker: int) -> None:
    del worker
    torch.set_num_threads(1)
