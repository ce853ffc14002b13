"""The Lightning modules: figures that choose the checkpoint, and what the optimiser does to which weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from avff.trainer.config import EncoderSettings, TrainSettings
from avff.trainer.data.slices import PICTURE_KINDS
from avff.trainer.data.windows import Batch
from avff.trainer.encoder_stage import EncoderStage
from avff.trainer.losses import masked_bce
from avff.trainer.model.avff import Avff
from avff.trainer.model.fusion import Fusion
from avff.trainer.module import AvffModule, at_even_odds, group_aucs
from tests.support.training import SMALL, random_windows

GROUPS = ["real", "generated", "lip_swap", "desync", "freeze"]


def module(train: TrainSettings | None = None) -> AvffModule:
    torch.manual_seed(0)
    return AvffModule(Avff(SMALL), train or TrainSettings(), GROUPS, 100)


def fusion_of(made: AvffModule) -> Fusion:
    assert isinstance(made.net, Avff)
    return made.net.fusion


def make_batch(count: int = 4) -> Batch:
    """Random windows of two genuine and two generated clips."""
    video, audio, landmarks, seen, heard = random_windows(count)
    labels = torch.tensor([[k % 2, k % 2, 0, 0] for k in range(count)], dtype=torch.float32)
    frames = labels[:, None, :3].expand(-1, 64, -1).clone()
    group = torch.tensor([k % 2 for k in range(count)])
    return Batch(video, audio, landmarks, seen, heard, labels, frames, group)


def test_group_aucs_equal_scikit_learns() -> None:
    """Each group is compared with genuine windows by its own head; ties count a half."""
    rng = np.random.default_rng(0)
    group = torch.from_numpy(rng.integers(0, len(GROUPS), 200))
    clip = torch.from_numpy(np.round(rng.normal(0, 2, (200, 4)), 1).astype(np.float32))
    found = group_aucs(clip, group, GROUPS)
    assert list(found) == GROUPS[1:]
    for number, name in enumerate(GROUPS[1:], start=1):
        chosen = ((group == 0) | (group == number)).numpy()
        column = 3 if name in ("desync", "freeze") else 0
        wanted = roc_auc_score((group == number).numpy()[chosen], clip[chosen, column].numpy())
        assert found[name] == pytest.approx(wanted, abs=1e-6), name


def test_higher_logits_for_fakes_are_better() -> None:
    """1 means fake: a group far above the genuine windows has an AUC of 1, one far below of 0."""
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    clip = torch.zeros(7, 4)
    clip[3:5, 0], clip[5:, 0] = 5.0, -5.0
    assert group_aucs(clip, group, GROUPS[:3]) == {"generated": 1.0, "lip_swap": 0.0}


def test_accuracy_and_f1_are_for_the_reader() -> None:
    """At a probability of one half; benign groups count as genuine."""
    group = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4])
    clip = torch.zeros(8, 4)
    clip[:, 0] = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    assert at_even_odds(clip, group, GROUPS) == pytest.approx(
        {"accuracy": 5 / 8, "f1": 4 / 7, "prior": 3 / 8}
    )


def test_decay_groups_hold_every_parameter_once() -> None:
    """Between them the optimiser's groups are all that the second stage trains, none twice."""
    made = module()
    optimiser = made.configure_optimizers()["optimizer"]
    held = [id(p) for g in optimiser.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    trained = {n for n, _ in fusion_of(made).named_parameters() if not n.startswith("tokens.")}
    assert set(held) == {id(fusion_of(made).get_parameter(n)) for n in trained}


def test_only_weights_decay() -> None:
    """Biases, norms, positions and tokens for missing evidence do not shrink."""
    made = module()
    names = {id(p): n for n, p in fusion_of(made).named_parameters()}
    groups = made.configure_optimizers()["optimizer"].param_groups
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    decayed, kept = ({names[id(p)] for p in g["params"]} for g in groups)
    assert decayed
    assert all(n.endswith("weight") for n in decayed)
    assert {"position", "unseen", "unheard"} <= kept


def test_the_second_stage_leaves_encoders_and_their_heads_alone() -> None:
    """A step moves the fusion graph; encoders, token heads and the statistics of norms stay as they were."""
    made = module().train()
    made.on_train_epoch_start()
    before = {n: t.clone() for n, t in made.net.state_dict().items()}
    optimiser = made.configure_optimizers()["optimizer"]
    out = made(make_batch())
    (out.clip.sum() + out.frames.sum()).backward()
    optimiser.step()
    moved = {n for n, t in made.net.state_dict().items() if not torch.equal(t, before[n])}
    assert moved
    assert all(n.startswith("fusion.") and not n.startswith("fusion.tokens.") for n in moved)


def test_a_few_steps_lower_the_loss() -> None:
    """The whole module learns a batch by heart."""
    made, batch = module().train(), make_batch(2)
    optimiser = torch.optim.AdamW(made.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = made._terms(made(batch), batch)["loss"]
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(math.isfinite(x) for x in losses)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_gamma_of_the_settings_is_that_of_the_loss(gamma: float) -> None:
    """A step of the module costs what the formula says of its own answers; 0 is the cross-entropy."""
    made = module(TrainSettings.model_validate({"loss": {"focal_gamma": gamma, "label_smoothing": 0.0}}))
    batch = make_batch()
    out = made.eval()(batch)
    right = torch.sigmoid((2 * batch.frame_labels - 1) * out.frames)
    wanted = (-((1 - right) ** gamma) * right.log()).mean()
    torch.testing.assert_close(made._terms(out, batch)["frames"], wanted, rtol=1e-5, atol=0)


def test_encoder_stage_validates_on_all_slices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses as in training, over every known label; AUC by kind under names of their own."""
    torch.manual_seed(0)
    stage = EncoderStage(Avff(SMALL), EncoderSettings(), TrainSettings(), 10).eval()
    logged: dict[str, float] = {}
    monkeypatch.setattr(stage, "log", lambda name, value, **_: logged.update({name: float(value)}))
    monkeypatch.setattr(
        stage, "log_dict", lambda named, **_: logged.update({n: float(v) for n, v in named.items()})
    )
    batches = [slices_of(group, seed) for seed, group in enumerate([0, 1, 2, 3])]
    with torch.no_grad():
        for number, batch in enumerate(batches):
            stage.validation_step(batch, number)
        stage.on_validation_epoch_end()
        everything = Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
        logits = stage(everything)["audio"]
    labels, smoothing = everything.frame_labels[..., 2], TrainSettings().loss.label_smoothing
    wanted = masked_bce(logits, labels, smoothing) + masked_bce(logits.mean(1), labels.mean(1), smoothing)
    assert logged["val/audio"] == pytest.approx(float(wanted), rel=1e-5)
    parts = [logged[f"val/{name}"] for name in ("video", "landmarks", "audio")]
    assert logged["val/loss"] == pytest.approx(sum(parts), rel=1e-5)
    auc = {f"auc/{name}/{kind}" for name in ("video", "landmarks") for kind in PICTURE_KINDS}
    assert {n for n in logged if n.startswith("auc/")} == {*auc, "auc/audio/vocoder"}
    logged.clear()
    stage.training_step(batches[0], 0)
    assert set(logged) == {"train/video", "train/landmarks", "train/audio", "train/loss", "loss"}


def slices_of(group: int, seed: int) -> Batch:
    """Two slices of a kind; what is heard of a generated clip (kind 1) nobody has labelled."""
    video, audio, landmarks, *_ = (x[:, :1] for x in random_windows(2, seed))
    frames = torch.full((2, 8, 3), float(group > 0))
    frames[..., 2] = math.nan if group == 1 else frames[..., 2]
    there = torch.ones(2, 8)
    return Batch(video, audio, landmarks, there, there, torch.zeros(2, 4), frames, torch.full((2,), group))


def test_encoder_stage_answers_picture_by_picture() -> None:
    """Each encoder has its own logit for every picture; of the fusion graph only the token heads learn."""
    torch.manual_seed(0)
    net = Avff(SMALL)
    stage = EncoderStage(net, EncoderSettings(), TrainSettings(), 10)
    video, audio, landmarks, *_ = (x[:, :1] for x in random_windows(2))
    unused = torch.zeros(2, 8)
    batch = Batch(video, audio, landmarks, unused, unused, torch.zeros(2, 4), unused, unused)
    answers = stage(batch)
    assert {name: tuple(x.shape) for name, x in answers.items()} == dict.fromkeys(
        ("video", "landmarks", "audio"), (2, 8)
    )
    torch.autograd.backward(torch.stack([x.square().sum() for x in answers.values()]).sum())
    learnt = {n for n, p in net.fusion.named_parameters() if p.grad is not None}
    assert learnt == {n for n, _ in net.fusion.named_parameters() if n.startswith("tokens.")}
    encoders = [net.video, net.audio, net.landmarks]
    assert all(p.grad is not None for m in encoders for p in m.parameters())
