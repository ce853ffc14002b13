"""An ensemble of networks of which some have a motion head, and how far from home it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from avff.engine.contract import ENCODERS, GRAPHS, Affine, Calibration
from avff.engine.features import audio_tensor, video_tensor
from avff.engine.model import load_model
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Reason
from avff.engine.spec import SPEC
from avff.trainer.ensemble import JointNovelty, Member, ensemble_of, joint_calibration, load_member
from avff.trainer.ensemble_cli import main
from avff.trainer.model.avff import StreamingNet
from avff.trainer.model.novelty import Novelty
from tests.support.training import SMALL, WITH_MOTION, random_windows, seeded_net
from tests.trainer.test_ensemble import (
    OTHER,
    WIDER,
    demo_slices,
    in_torch,
    log_odds,
    predictions,
    save_member,
    seen_by,
)
from tests.trainer.test_export import assert_same_numbers

T, S = SPEC.window_frames, SPEC.window_slices
MOVING = Calibration(
    any={
        "av": Affine(2.0, -0.25, video=0.25, audio=0.25, motion=0.375, gain=0.75, shift=0.5),
        "video": Affine(0.0, 0.0, video=0.5, motion=0.5),
        "audio": Affine(1.0, 0.0, audio=0.5),
    },
    parts={name: Affine(0.5, -0.125) for name in ("video", "audio", "motion", "desync")},
    threshold=0.5,
    limits={"video": 64.0, "audio": 32.0},
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of two finished runs, the first with a motion head."""
    base = tmp_path_factory.mktemp("members")
    return [
        save_member(base / "moving", seeded_net(1, WITH_MOTION), MOVING),
        save_member(base / "plain", seeded_net(2, WIDER), OTHER),
    ]


@pytest.fixture(scope="module")
def members(runs: list[Path]) -> list[Member]:
    return [load_member(run) for run in runs]


@pytest.fixture(scope="module")
def directory(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("ensemble") / "mixed"
    assert main([*map(str, runs), "-o", str(target), "--name", "mixed"]) == 0
    return target


@pytest.mark.parametrize("graph", GRAPHS)
def test_onnx_equals_torch(directory: Path, members: list[Member], graph: str) -> None:
    """Each exported graph gives the joined network's numbers to 1e-4."""
    for name, spread in assert_same_numbers(ensemble_of(members), directory, graph, 3).items():
        assert spread > 1e-3, name


@pytest.mark.parametrize("modality", ["av", "video", "audio"])
def test_log_odds_are_the_mean_of_the_members(directory: Path, members: list[Member], modality: str) -> None:
    """Every window's score is the mean of what the members' own predictors say, to 1e-4."""
    slices = seen_by(modality)
    joint = predictions(load_model(directory, threads=1), slices)
    single = [predictions(in_torch(m.net, m.calibration), slices) for m in members]
    assert len(joint) >= 2
    for both, *each in zip(joint, *single, strict=True):
        first, second = (p.logit for p in each)
        assert first is not None
        assert second is not None
        assert abs(first - second) > 0.01
        assert both.logit == pytest.approx((first + second) / 2, abs=1e-4)
        for part in ("video", "audio"):
            if part in both.parts:
                mean = sum(log_odds(p.parts[part]) for p in each) / 2
                assert log_odds(both.parts[part]) == pytest.approx(mean, abs=1e-3)


def test_part_is_shown_if_every_member_has_it(members: list[Member]) -> None:
    """Motion of one alone counts in its own score; of two it is a part of the ensemble's as well."""
    twin = dataclasses.replace(members[0], net=seeded_net(5, WITH_MOTION))
    assert list(joint_calibration(members).parts) == ["video", "audio"]
    both = joint_calibration([members[0], twin])
    assert list(both.parts) == ["video", "audio", "desync", "motion"]
    windows = random_windows(2)
    with torch.no_grad():
        heads = [m.net(*windows).all_heads()[:, 4] for m in (members[0], twin)]
    joint = served(ensemble_of([members[0], twin]), windows)
    torch.testing.assert_close(joint[:, 4], 0.5 * (heads[0] + heads[1]) / 2 - 0.125, rtol=0, atol=1e-4)
    assert (heads[0] - heads[1]).abs().min() > 1e-3


@torch.no_grad()
def served(net: StreamingNet, windows: list[Tensor]) -> Tensor:
    """The heads' logits of an ensemble, ``[n, 5]``, by its served graphs."""
    graphs = net.served()
    tokens = [
        graphs[name](x.flatten(0, 1)).reshape(len(x), T, -1)
        for name, x in zip(ENCODERS, windows, strict=False)
    ]
    heads: Tensor = graphs["fusion"](*tokens, *windows[3:]).all_heads()
    return heads


def test_widths_are_the_sums_of_the_members(directory: Path, members: list[Member]) -> None:
    """Carried values of each member lie beside its own tokens."""
    width = SMALL.width + WIDER.width
    widths = {"video": width, "audio": width + 320, "landmarks": width + 184}
    assert ensemble_of(members).token_widths() == widths
    contract = load_model(directory, threads=1).contract
    assert {name: contract.token_shape(name)[1] for name in ENCODERS} == widths


def fitted(width: int, seed: int) -> Novelty:
    torch.manual_seed(seed)
    made = Novelty(width)
    made.fit(torch.randn(100, width), 0.5 * torch.randn(100, width))
    return made


def knowing(seed: int, width: int, limits: Mapping[str, float]) -> Member:
    """A member of this width whose novelty has these limits."""
    net = seeded_net(seed, dataclasses.replace(SMALL, width=width))
    net.novelty = fitted(width, seed)
    return Member(f"m{seed}", net, Calibration({"av": Affine(1.0, 0.0)}, {}, 0.5, limits), "")


def test_joint_novelty_is_the_highest_in_parts_of_the_limits() -> None:
    """Each member's own tokens, by its own limits, modality by modality: above 1 is too far for somebody."""
    limits = [{"video": 0.8, "audio": 2.0}, {"video": 2.0, "audio": 0.8}]
    members = [knowing(1, 8, limits[0]), knowing(2, 16, limits[1])]
    tokens = [torch.randn(20, T, width) + torch.randn(20, 1, width) for width in (8, 16)]
    sounds = [torch.randn(20, T, width) + torch.randn(20, 1, width) for width in (8, 16)]
    there = torch.ones(20, T)
    joint = JointNovelty(members)(torch.cat(tokens, dim=2), torch.cat(sounds, dim=2), there, there)
    each = torch.stack(
        [
            m.net.novelty(v, a, there, there)
            / torch.tensor([m.calibration.limits[k] for k in ("video", "audio")])
            for m, v, a in zip(members, tokens, sounds, strict=True)
        ]
    )
    torch.testing.assert_close(joint, each.amax(dim=0))
    winners = each.argmax(dim=0)
    assert set(winners.flatten().tolist()) == {0, 1}


def test_member_without_a_limit_is_never_surprised() -> None:
    """What it says of novelty does not count; the other's does; with no limits at all, none is offered."""
    known, unknown = knowing(1, 8, {"video": 2.0}), knowing(2, 16, {})
    there = torch.ones(2, T)
    video, audio = torch.randn(2, T, 24), torch.randn(2, T, 24)
    joint = JointNovelty([known, unknown])(video, audio, there, there)
    alone = known.net.novelty(video[..., :8], audio[..., :8], there, there)
    torch.testing.assert_close(joint[:, 0], alone[:, 0] / 2)
    assert joint[:, 1].tolist() == [0.0, 0.0]
    assert joint_calibration([known, unknown]).limits == {"video": 1.0}
    assert joint_calibration([unknown, unknown]).limits == {}


@torch.no_grad()
def novelties(net: StreamingNet) -> Tensor:
    """What a network finds of each window of the demo clip, ``[windows, 2]``."""
    slices = [(s.face, s.audio) for s in demo_slices()]
    video = net.video(torch.from_numpy(np.stack([video_tensor(f.faces) for f, _ in slices if f is not None])))
    audio = net.audio(torch.from_numpy(np.stack([audio_tensor(sound) for _, sound in slices])))
    there = torch.ones(1, T)
    made = [
        net.novelty(video[k : k + S].reshape(1, T, -1), audio[k : k + S].reshape(1, T, -1), there, there)
        for k in range(len(slices) - S + 1)
    ]
    return torch.cat(made)


def test_ensemble_abstains_where_a_member_does() -> None:
    """Window by window, for the same reason: its contract's limit is 1."""
    nets = [seeded_net(1, WITH_MOTION), seeded_net(2, SMALL)]
    found = [novelties(net) for net in nets]
    # The first member knows the picture of half the windows, the second all but the most novel sound.
    bounds = [
        (float(found[0][:, 0].median()), 2 * float(found[0][:, 1].max())),
        (2 * float(found[1][:, 0].max()), 0.999 * float(found[1][:, 1].max())),
    ]
    members = [
        Member(
            str(k), net, Calibration({"av": Affine(1.0, 0.0)}, {}, 0.5, {"video": video, "audio": audio}), ""
        )
        for k, (net, (video, audio)) in enumerate(zip(nets, bounds, strict=True))
    ]
    model = in_torch(ensemble_of(members), joint_calibration(members))
    state, slices = StreamState(), list(demo_slices())
    made = [p for _, p in Predictor(model).predict([(state, piece) for piece in slices])][S - 1 :]
    far = [
        any(bool((x[k] > torch.tensor(bound)).any()) for x, bound in zip(found, bounds, strict=True))
        for k in range(len(made))
    ]
    assert [p.reason is Reason.UNFAMILIAR for p in made] == far
    assert 0 < sum(far) < len(far)
