"""The motion head's stages: predictors never see their own fold, and the classifiers leave them alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from avff.engine.spec import SPEC
from avff.trainer.data.courses import CourseBatch
from avff.trainer.model.avff import Avff
from avff.trainer.model.motion import LIPS, MotionHead
from avff.trainer.motion_stage import LipStage, MotionSettings, MotionStage, draw_shifts, late_sound, voice_of
from tests.support.training import WITH_MOTION

T = SPEC.window_frames
GROUPS = ["real", "generated", "stiff_head"]


def make_net() -> Avff:
    torch.manual_seed(0)
    return Avff(WITH_MOTION)


def head_of(net: Avff) -> MotionHead:
    assert net.motion is not None
    return net.motion


def make_batch(folds: list[int], seed: int = 0) -> CourseBatch:
    """Windows whose lips go as loud as they are, of people of these folds; every other one is fake."""
    make = torch.Generator().manual_seed(seed)
    count = len(folds)
    loud = torch.randn(count, T, 1, generator=make)
    sound = loud + 0.3 * torch.randn(count, T, 320, generator=make)
    landmarks = 0.3 * torch.randn(count, T, 184, generator=make)
    landmarks[..., list(LIPS)] += loud
    group = torch.arange(count) % 2
    there = torch.ones(count, T)
    return CourseBatch(landmarks, sound, there, there, group.float(), torch.tensor(folds), group)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the stages log, without a trainer."""
    values: dict[str, float] = {}
    for stage in (LipStage, MotionStage):
        monkeypatch.setattr(stage, "log", lambda self, name, value, **_: values.update({name: float(value)}))
        monkeypatch.setattr(
            stage, "log_dict", lambda self, named, **_: values.update({n: float(v) for n, v in named.items()})
        )
    return values


def lip_stage(net: Avff) -> LipStage:
    return LipStage(net, MotionSettings(), 30)


def motion_stage(net: Avff, *, smoothing: float = 0.0) -> MotionStage:
    return MotionStage(net, MotionSettings(), GROUPS, smoothing, 30)


def steps(stage: LipStage | MotionStage, batches: list[CourseBatch]) -> Iterator[float]:
    """Train as Lightning would, and yield the losses."""
    optimiser = stage.configure_optimizers()["optimizer"]
    stage.train()
    if isinstance(stage, MotionStage):
        stage.on_train_epoch_start()
    for number, batch in enumerate(batches):
        loss = stage.training_step(batch, number)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        yield float(loss.detach())


def snapshot(net: Avff) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in net.state_dict().items()}


def moved(net: Avff, before: dict[str, Tensor]) -> set[str]:
    return {name for name, x in net.state_dict().items() if not torch.equal(x, before[name])}


def test_lip_predictors_learn(logged: dict[str, float]) -> None:
    """Where lips follow the sound, a few steps find out how: for people seen and unseen."""
    stage = lip_stage(make_net())
    losses = list(steps(stage, [make_batch([0, 1, 0, 1], seed) for seed in range(25)]))
    assert all(math.isfinite(x) for x in losses)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert set(logged) == {"train/loss", "train/desync", "loss"}
    stage.eval()
    with torch.no_grad():
        stage.validation_step(make_batch([0, 1], seed=99), 0)
    assert set(logged) > {"val/loss", "val/shift_found"}
    assert logged["val/loss"] < 0.9


@pytest.mark.parametrize("fold", [0, 1])
def test_predictor_never_learns_from_its_own_fold(fold: int, logged: dict[str, float]) -> None:
    """People of a fold move the other predictor, and not one weight of the one that answers for them."""
    net = make_net()
    stage = lip_stage(net)
    torch.autograd.backward(stage.training_step(make_batch([fold] * 3), 0))
    lips = head_of(net).lips
    own, other = ([p.grad for p in lips[k].parameters()] for k in (fold, 1 - fold))
    assert not any(g is not None and g.any() for g in own)
    assert all(g is not None and g.any() for g in other)
    assert logged["train/loss"] > 0


def test_lip_stage_moves_predictors_synchrony_and_norms_alone(logged: dict[str, float]) -> None:
    """Neither the classifiers nor anything else of the network."""
    net = make_net()
    before = snapshot(net)
    list(steps(lip_stage(net), [make_batch([0, 1])] * 3))
    learnt = moved(net, before)
    parts = {".".join(name.split(".")[:2]) for name in learnt}
    assert parts == {"motion.lips", "motion.step", "motion.face_norm", "motion.sound_norm"}
    assert logged


def test_classifiers_learn_and_nothing_else_moves(logged: dict[str, float]) -> None:
    """A batch is learnt by heart; lips, synchrony, norms and the rest of the network stay to the bit."""
    net = make_net()
    groups = motion_stage(net).configure_optimizers()["optimizer"].param_groups
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in head_of(net).classifiers.parameters()}
    before = snapshot(net)
    losses = list(steps(motion_stage(net), [make_batch([0, 1, 1, 0])] * 25))
    assert losses[-1] < 0.7 * losses[0]
    assert {".".join(name.split(".")[:2]) for name in moved(net, before)} == {"motion.classifiers"}
    assert set(logged) == {"train/loss", "loss"}


def test_head_is_handed_back_as_it_came() -> None:
    """After the stage every part of it can be trained again."""
    net = make_net()
    stage = motion_stage(net).train()
    stage.on_train_epoch_start()
    assert not any(p.requires_grad for p in head_of(net).lips.parameters())
    assert not head_of(net).face_norm.training
    stage.teardown("fit")
    assert all(p.requires_grad for p in head_of(net).parameters())
    assert all(module.training for module in head_of(net).modules())


def test_predictor_of_the_fold_answers_while_training(logged: dict[str, float]) -> None:
    """Classifiers learn a person from the predictor that has not seen them; strangers are judged by both."""
    net = make_net()
    stage = motion_stage(net).train()
    stage.on_train_epoch_start()
    for module in head_of(net).classifiers:
        module.eval()  # no dropout: what differs is the predictor
    batch = make_batch([0, 0])
    with torch.no_grad():
        one, other = stage(batch), stage(batch._replace(fold=1 - batch.fold))
        assert one.shape == (2, 3)
        assert (one - other).abs().max() > 1e-4
        stage.eval()
        one, other = stage(batch), stage(batch._replace(fold=1 - batch.fold))
    assert one.shape == (2, 1)
    assert torch.equal(one, other)
    assert logged == {}


def test_unknown_labels_teach_nothing(logged: dict[str, float]) -> None:
    """A window of which nobody knows costs nothing, and the loss is the mean of the others'."""
    stage = motion_stage(make_net()).eval()
    batch = make_batch([0, 0, 1])
    half = stage.training_step(batch._replace(label=torch.tensor([0.0, 1.0, math.nan])), 0)
    wanted = stage.training_step(CourseBatch(*(x[:2] for x in batch)), 0)
    torch.testing.assert_close(half, wanted)
    assert torch.isfinite(torch.tensor(logged["train/loss"]))


def test_validation_logs_each_groups_auc(logged: dict[str, float]) -> None:
    """Against genuine windows, over all batches; a group of which none came is not a number."""
    stage = motion_stage(make_net()).eval()
    batches = [make_batch([0, 1, 0], seed) for seed in range(3)]
    with torch.no_grad():
        for number, batch in enumerate(batches):
            stage.validation_step(batch, number)
        stage.on_validation_epoch_end()
        logits = torch.cat([stage(batch) for batch in batches]).squeeze(1)
    fake = torch.cat([batch.group for batch in batches]) == 1
    above = (logits[fake][:, None] > logits[~fake][None]).float().mean()
    assert logged["auc/motion/generated"] == pytest.approx(float(above))
    assert math.isnan(logged["auc/motion/stiff_head"])
    assert set(logged) == {"auc/motion/generated", "auc/motion/stiff_head"}


def test_voice_is_a_copy_that_stays_as_it_is() -> None:
    """What the predictor of the fold says, in numpy; training the head afterwards does not change it."""
    head = head_of(make_net()).eval()
    sound = make_batch([0]).sound
    voice = voice_of(head)
    with torch.no_grad():
        wanted = [head.lips_by_sound(sound, torch.tensor([fold]))[0].numpy() for fold in (0, 1)]
        for parameter in head.parameters():
            parameter.add_(1.0)
    for fold in (0, 1):
        found = voice(sound[0].numpy(), fold)
        assert (found.shape, str(found.dtype)) == ((T, 114), "float32")
        np.testing.assert_allclose(found, wanted[fold], atol=1e-6)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3


def test_shifts_are_half_in_step() -> None:
    """Within 2 pictures, or 3 to 15 either way; the same seed gives the same."""
    late = draw_shifts(4000, seed=1)
    assert torch.equal(late, draw_shifts(4000, seed=1))
    assert not torch.equal(late, draw_shifts(4000, seed=2))
    assert set(late.tolist()) == set(range(-15, 16))
    assert float((late.abs() <= 2).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((late > 2).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_late_sound_comes_late() -> None:
    """By its own number of pictures in each window; what is not known then is not there."""
    sound, heard = torch.arange(1.0, T + 1).reshape(1, T, 1).repeat(3, 1, 2), torch.ones(3, T)
    heard[0, 10] = 0.0
    moved_by, there = late_sound(sound, heard, torch.tensor([0, 3, -3]))
    assert torch.equal(moved_by[0, :, 0], (sound[0, :, 0] * heard[0]))
    assert moved_by[1, :, 1].tolist() == [0.0] * 3 + [float(k + 1) for k in range(T - 3)]
    assert moved_by[2, :, 1].tolist() == [float(k + 1) for k in range(3, T)] + [0.0] * 3
    assert [there[k].sum().item() for k in range(3)] == [T - 1, T - 3, T - 3]
