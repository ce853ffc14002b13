"""A training run's stages, made of its settings and its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from avff.engine.errors import SettingsError
from avff.engine.spec import SPEC
from avff.engine.threads import stay_in_caller
from avff.trainer.checkpoints import CheckpointError, load_verified
from avff.trainer.config import RunSettings
from avff.trainer.data.courses import GenuineCourses, TrainingCourses, ValidationCourses
from avff.trainer.data.genuine import GenuineWindows
from avff.trainer.data.natural import NaturalWindows
from avff.trainer.data.slices import PICTURE_KINDS, SHORT_SLICES, TrainingSlices, ValidationSlices
from avff.trainer.data.windows import Shelf, TrainingWindows, ValidationWindows
from avff.trainer.distributed import world
from avff.trainer.encoder_stage import EncoderStage
from avff.trainer.model.avff import Avff, StreamingNet
from avff.trainer.model.registry import build
from avff.trainer.model.vit import AvffB
from avff.trainer.module import AvffModule
from avff.trainer.motion_stage import LipStage, MotionStage, voice_of
from avff.trainer.paths import RunPaths
from avff.trainer.pretrain import PretrainStage
from avff.trainer.pseudo import RECIPES
from avff.trainer.pseudo.courses import COURSES
from avff.trainer.run_data import RunData
from avff.trainer.stages import FINAL, Finished, Stage, run_stage, try_out


def validation_windows(settings: RunSettings, data: RunData) -> ValidationWindows:
    """Return the fixed validation set of a run: the kinds that it trains on, or that another does."""
    settings = data.judged_as or settings
    return ValidationWindows(
        Shelf(data.split.validation, data.store), sorted(k for k in RECIPES if settings.mix.get(k)),
        each=settings.train.validation_windows, seed=settings.train.seed, strength=settings.train.post_chain,
    )  # fmt: skip


def training_windows(settings: RunSettings, data: RunData) -> TrainingWindows | NaturalWindows:
    """Return the training set of a run's supervised stage."""
    train = settings.train
    shelf = Shelf(data.split.train, data.store)
    if train.sampling == "natural":
        return NaturalWindows(
            shelf, size=train.windows_per_epoch, seed=train.seed,
            modality_dropout=train.modality_dropout, strength=train.post_chain,
        )  # fmt: skip
    return TrainingWindows(
        shelf, settings.mix, size=train.windows_per_epoch, seed=train.seed,
        modality_dropout=train.modality_dropout, strength=train.post_chain,
    )  # fmt: skip


def fit(
    settings: RunSettings, data: RunData, paths: RunPaths, watchers: Sequence[Callback] = ()
) -> dict[str, Finished]:
    """Train every stage, going on from where an earlier start was stopped.

    Args:
        settings: of the run.
        data: of the run.
        paths: of the run.
        watchers: of the last stage, see :func:`run_stage`.

    Returns:
        how each stage ended, in order; the last one's checkpoint is the run's.

    Raises:
        TrainingError, CheckpointError: it cannot go on.
        Stopped: a signal came.
    """
    torch.set_num_threads(settings.train.threads)
    # Before the workers are forked, which would wait for ever for OpenCV's threads; and in this process as
    # in them, because BLAS sums in another order with more threads.
    stay_in_caller()
    lightning.seed_everything(settings.train.seed, workers=True, verbose=False)
    net = build(settings.model)
    finished: dict[str, Finished] = {}
    for make in _STAGES:
        stage = make(settings, data, net)
        if stage is not None:
            finished[stage.name] = run_stage(stage, settings, paths, watchers if stage.name == FINAL else ())
            load_weights(net, paths.checkpoints / finished[stage.name].checkpoint)
    return finished


def dry_run(settings: RunSettings, data: RunData) -> None:
    """Build everything and carry one batch through every stage; nothing is written."""
    stay_in_caller()
    net = build(settings.model)
    for make in _STAGES:
        stage = make(settings, data, net)
        if stage is not None:
            try_out(stage, settings)


def pretrain_stage(settings: RunSettings, data: RunData, net: nn.Module) -> Stage | None:
    """Return the self-supervised stage; None when there is none."""
    if settings.pretrain is None:
        return None
    stage, seed = settings.pretrain, settings.train.seed
    assert isinstance(net, Avff), "check_settings() has seen to it"
    train = GenuineWindows(
        data.split.train, data.store, size=stage.windows_per_epoch, seed=seed, strength=stage.post_chain
    )
    validation = GenuineWindows(
        data.split.validation, data.store, size=stage.validation_windows, seed=seed, strength=stage.post_chain
    )
    steps = _updates(stage.epochs, len(train), stage.batch, settings.train.accumulate)
    return Stage("pretrain", PretrainStage(net, stage, steps), train, validation, stage.epochs, stage.batch)


def encoder_stage(settings: RunSettings, data: RunData, net: nn.Module) -> Stage | None:
    """Return the stage of the encoders alone, on single slices; None when it is turned off."""
    if settings.encoders is None:
        return None
    stage, whole = settings.encoders, settings.train
    assert isinstance(net, StreamingNet), "check_settings() has seen to it"
    frames = SHORT_SLICES * SPEC.slice_frames
    train = TrainingSlices(
        Shelf(data.split.train, data.store, frames=frames), settings.mix,
        size=stage.slices_per_epoch, epochs=stage.epochs, seed=whole.seed, strength=whole.post_chain,
    )  # fmt: skip
    validation = ValidationSlices(
        Shelf(data.split.validation, data.store, frames=frames),
        each=4 * whole.validation_windows, seed=whole.seed, strength=whole.post_chain,
    )  # fmt: skip
    steps = _updates(stage.epochs, len(train), stage.batch, whole.accumulate)
    module = EncoderStage(net, stage, whole, steps)
    return Stage("encoders", module, train, validation, stage.epochs, stage.batch, ema=stage.ema)


def _without_pictures(data: RunData) -> tuple[Shelf, Shelf]:
    train, validation = data.split.train, data.split.validation
    return Shelf(train, data.store, pictures=False), Shelf(validation, data.store, pictures=False)


def _lip_stage(settings: RunSettings, data: RunData, net: nn.Module) -> Stage | None:
    if settings.motion is None:
        return None
    stage, whole = settings.motion, settings.train
    train, validation = _without_pictures(data)
    courses = GenuineCourses(train, size=stage.windows_per_epoch, seed=whole.seed, strength=whole.post_chain)
    judges = GenuineCourses(
        validation, size=8 * whole.validation_windows, seed=whole.seed, strength=whole.post_chain
    )
    steps = _updates(stage.lip_epochs, len(courses), stage.batch, whole.accumulate)
    module = LipStage(net, stage, steps)
    return Stage("lips", module, courses, judges, stage.lip_epochs, stage.batch, section="motion")


def _motion_stage(settings: RunSettings, data: RunData, net: nn.Module) -> Stage | None:
    if settings.motion is None:
        return None
    stage, whole = settings.motion, settings.train
    assert isinstance(net, StreamingNet), "check_settings() has seen to it"
    assert net.motion is not None, "RunSettings has seen to it"
    train, validation = _without_pictures(data)
    by_voice = voice_of(net.motion)
    courses = TrainingCourses(
        train, stage.mix, by_voice, size=stage.windows_per_epoch, seed=whole.seed,
        strength=whole.post_chain, dropout=stage.mute,
    )  # fmt: skip
    judges = ValidationCourses(
        validation, by_voice, each=4 * whole.validation_windows, seed=whole.seed, strength=whole.post_chain
    )
    steps = _updates(stage.epochs, len(courses), stage.batch, whole.accumulate)
    module = MotionStage(net, stage, judges.groups, whole.loss.label_smoothing, steps)
    return Stage("motion", module, courses, judges, stage.epochs, stage.batch, ema=stage.ema)


def supervised_stage(settings: RunSettings, data: RunData, net: nn.Module) -> Stage:
    """Return the stage on whole windows, which makes the model."""
    whole = settings.train
    train = training_windows(settings, data)
    validation = validation_windows(settings, data)
    steps = _updates(whole.epochs, len(train), whole.batch, whole.accumulate)
    module = AvffModule(net, whole, validation.groups, steps)
    return Stage(
        FINAL, module, train, validation, whole.epochs, whole.batch,
        metric=whole.select, stopping=whole.stopping, ema=whole.ema,
    )  # fmt: skip


_STAGES: tuple[Callable[[RunSettings, RunData, nn.Module], Stage | None], ...] = (
    pretrain_stage, encoder_stage, _lip_stage, _motion_stage, supervised_stage,
)  # fmt: skip


def _updates(epochs: int, size: int, batch: int, accumulate: int) -> int:
    """Return how often weights change in a stage; the last batches of an epoch may be fewer."""
    return epochs * -(-(size // (batch * world().size)) // accumulate)


def load_weights(net: nn.Module, checkpoint: Path) -> None:
    """Put the network's weights of a stage's checkpoint in place.

    Raises:
        CheckpointError: damaged, or of another network.
    """
    state = load_verified(checkpoint)["state_dict"]
    # A stage of its own keeps what it trains under its own names.
    weights = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: holds the weights of another network") from error


def load_network(settings: RunSettings, checkpoint: Path) -> StreamingNet | AvffB:
    """Return the network of a checkpoint, ready for inference."""
    net = build(settings.model)
    load_weights(net, checkpoint)
    return net.eval()


def check_settings(settings: RunSettings) -> None:
    """Refuse what would fail only after the data is prepared, or after the first stage."""
    unknown = set(settings.mix) - set(RECIPES) - {"generated"}
    if unknown:
        raise SettingsError(
            f"mix: unknown kind {min(unknown)!r}; known: generated, {', '.join(sorted(RECIPES))}"
        )
    made = sorted(kind for kind in RECIPES if settings.mix.get(kind))
    if settings.train.sampling == "natural" and made:
        raise SettingsError(
            f"train.sampling: natural takes clips as they are; drop {', '.join(made)} from mix, or balance"
        )
    if settings.encoders is not None and not any(settings.mix.get(kind) for kind in PICTURE_KINDS):
        raise SettingsError(
            f"mix: the encoders learn from {', '.join(PICTURE_KINDS)}; give one of them a share"
        )
    if settings.motion is not None:
        if not any(settings.motion.mix.values()):
            raise SettingsError("motion.mix: gives no kind a share; give one, for example generated: 1")
        odd = set(settings.motion.mix) - set(COURSES) - {"generated"}
        if odd:
            known = ", ".join(sorted(COURSES))
            raise SettingsError(f"motion.mix: unknown kind {min(odd)!r}; known: generated, {known}")
    if settings.encoders is not None and settings.model.architecture == "avff-b":
        raise SettingsError("encoders: avff-b has no slice-local encoders; set it to null")
    if settings.pretrain is not None and settings.model.architecture != "avff-s":
        raise SettingsError(f"pretrain: is for avff-s, not {settings.model.architecture}; set it to null")
    sizes = [(settings.train.windows_per_epoch, settings.train.batch, "train.windows_per_epoch")]
    if settings.encoders is not None:
        sizes.append(
            (settings.encoders.slices_per_epoch, settings.encoders.batch, "encoders.slices_per_epoch")
        )
    if settings.motion is not None:
        sizes.append((settings.motion.windows_per_epoch, settings.motion.batch, "motion.windows_per_epoch"))
    processes = world().size
    for size, batch, key in sizes:
        if size < batch * processes:
            of_all = f" in each of {processes} processes" if processes > 1 else ""
            raise SettingsError(f"{key} is {size}, less than one batch of {batch}{of_all}")
