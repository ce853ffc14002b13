"""Several networks as one model: its answers are the mean of theirs, whatever runs it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from avff.engine.backend import Tensors
from avff.engine.backends.scripted import ScriptedBackend
from avff.engine.contract import ENCODERS, GRAPHS, Affine, Calibration, Contract, GraphSpec
from avff.engine.frontend import Frontend
from avff.engine.model import Model, load_model
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Slice
from avff.engine.spec import SPEC
from avff.trainer.checkpoints import save_durably
from avff.trainer.config import RunSettings, TrainSettings
from avff.trainer.ensemble import Member, ensemble_of, joint_calibration, load_member
from avff.trainer.ensemble_cli import main
from avff.trainer.export import graphs_of, random_inputs, tensor_specs
from avff.trainer.model.avff import AvffConfig, StreamingNet
from avff.trainer.motion_stage import MotionSettings
from tests.support.engine import demo_items, face_models
from tests.support.engine import run as slices_of
from tests.support.training import CALIBRATION, SMALL, seeded_net
from tests.trainer.model.networks import small_streaming_net

WIDER = AvffConfig(width=24, heads=2, depth=1, dropout=0.0)
OTHER = Calibration(
    any={
        "av": Affine(0.5, 1.0, video=0.25, audio=0.75),
        "video": Affine(1.0, -0.5, video=0.5),
        "audio": Affine(0.25, 1.0, audio=0.875),
    },
    parts={"video": Affine(0.5, -1.0), "audio": Affine(2.0, 0.25)},
    threshold=0.8,
    limits={"audio": 64.0},
)


def save_member(outputs: Path, net: StreamingNet, calibration: Calibration) -> Path:
    """Leave behind what a finished run does, and return its folder."""
    motion = MotionSettings() if net.config.motion else None
    settings = RunSettings(name=outputs.name, mix={"lip_swap": 1.0}, model=net.config, motion=motion)
    contract = contract_of(net, calibration)
    content = {"settings": settings.model_dump_json(), "contract": contract.to_json()}
    save_durably({**content, "weights": net.state_dict()}, outputs / "best_model.pth")
    return outputs


def contract_of(net: StreamingNet, calibration: Calibration) -> Contract:
    """The contract of a network whose graphs no file holds."""
    graphs = {g: GraphSpec(f"{g}.onnx", "0" * 64, *tensor_specs(g, net.token_widths()), 0.0) for g in GRAPHS}
    return Contract("test", graphs, SPEC, calibration, {})


def in_torch(net: StreamingNet, calibration: Calibration) -> Model:
    """A model whose graphs are the torch modules themselves."""

    def infer(graph: str, inputs: Tensors) -> Tensors:
        given, wanted = tensor_specs(graph, net.token_widths())
        with torch.no_grad():
            made = graphs_of(net)[graph](*(torch.from_numpy(inputs[s.name]) for s in given))
        outputs = made if graph == "fusion" else [made]
        return {s.name: output.numpy() for s, output in zip(wanted, outputs, strict=True)}

    backends = {g: ScriptedBackend(functools.partial(infer, g)) for g in GRAPHS}
    return Model(contract_of(net, calibration), backends)


@functools.cache
def demo_slices() -> tuple[Slice, ...]:
    """Slices of the demo clip: more than one window of them."""
    frontend = Frontend(face_models(), has_video=True, has_audio=True)
    return tuple(slices_of(frontend, demo_items(3.3), flush=False))


def seen_by(modality: str) -> list[Slice]:
    """The demo clip's slices with what leaves the predictor this modality to score by."""
    if modality == "audio":
        gone = np.zeros(SPEC.slice_frames, np.bool_)
        return [dataclasses.replace(s, face=None, has_video=False, picture_ok=gone) for s in demo_slices()]
    if modality == "video":
        return [dataclasses.replace(s, audio=np.zeros_like(s.audio), audio_ok=0.0) for s in demo_slices()]
    return list(demo_slices())


def predictions(model: Model, slices: Sequence[Slice]) -> list[Prediction]:
    """The scored windows of a stream."""
    state = StreamState()
    made = [p for _, p in Predictor(model).predict([(state, s) for s in slices])]
    return [p for p in made if p.logit is not None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of two finished runs that differ in architecture, width and calibration."""
    base = tmp_path_factory.mktemp("members")
    return [
        save_member(base / "first", seeded_net(1, WIDER), CALIBRATION),
        save_member(base / "second", small_streaming_net("late-fusion"), OTHER),
    ]


@pytest.fixture(scope="module")
def members(runs: list[Path]) -> list[Member]:
    return [load_member(run) for run in runs]


@pytest.fixture(scope="module")
def directory(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ensemble, exported by the command."""
    target = tmp_path_factory.mktemp("ensemble") / "both"
    assert main([*map(str, runs), "-o", str(target), "--name", "both"]) == 0
    return target


@pytest.mark.parametrize("modality", ["av", "video", "audio"])
def test_log_odds_are_the_mean_of_the_members(directory: Path, members: list[Member], modality: str) -> None:
    """Every window's score is the mean of what the members' own predictors say, to 1e-5."""
    slices = seen_by(modality)
    joint = predictions(load_model(directory, threads=1), slices)
    single = [predictions(in_torch(m.net, m.calibration), slices) for m in members]
    assert len(joint) >= 2
    for both, *each in zip(joint, *single, strict=True):
        assert {p.modality for p in (both, *each)} == {modality}
        first, second = (p.logit for p in each)
        assert first is not None
        assert second is not None
        assert abs(first - second) > 0.01
        assert both.logit == pytest.approx((first + second) / 2, abs=1e-5)


def test_parts_are_the_mean_of_the_members(directory: Path, members: list[Member]) -> None:
    """Log-odds of the parts that both offer are averaged; a part that one lacks is not shown."""
    joint = predictions(load_model(directory, threads=1), seen_by("av"))[-1]
    single = [predictions(in_torch(m.net, m.calibration), seen_by("av"))[-1] for m in members]
    assert "desync" in single[0].parts
    assert set(joint.parts) == {"video", "audio"}
    for part, probability in joint.parts.items():
        mean = sum(log_odds(p.parts[part]) for p in single) / 2
        assert log_odds(probability) == pytest.approx(mean, abs=1e-4), part


def log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("graph", GRAPHS)
def test_onnx_equals_torch(directory: Path, members: list[Member], graph: str) -> None:
    """Each exported graph gives the joined network's numbers, in a batch."""
    net = ensemble_of(members)
    inputs = random_inputs(graph, net.token_widths(), 3)
    if graph == "fusion":
        inputs |= {name: np.round(inputs[name]) for name in ("video_ok", "audio_ok")}
    session = onnxruntime.InferenceSession(
        str(directory / f"{graph}.onnx"), providers=["CPUExecutionProvider"]
    )
    found = session.run([s.name for s in tensor_specs(graph, net.token_widths())[1]], inputs)
    with torch.no_grad():
        expected = graphs_of(net)[graph](*(torch.from_numpy(a) for a in inputs.values()))
    for one, other in zip(found, expected if graph == "fusion" else [expected], strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4)
        assert np.ptp(one) > 0.001


def test_contract_says_what_it_is_made_of(directory: Path, runs: list[Path]) -> None:
    """Widths add up, members are named with their files' hashes, the threshold is declared not frozen."""
    contract = load_model(directory, threads=1).contract
    assert contract.name == "both"
    widths = [contract.token_shape(encoder)[-1] for encoder in ENCODERS]
    assert widths == [WIDER.width + SMALL.width] * 3
    for number, run in enumerate(runs, start=1):
        digest = hashlib.sha256((run / "best_model.pth").read_bytes()).hexdigest()
        assert contract.provenance[f"member_{number}"] == f"{run.name} {digest}"
    assert "not frozen on validation clips" in contract.provenance["threshold"]
    # Log-odds of 0.5 and 0.8 are 0 and ln 4; half of that is ln 2, the log-odds of two thirds.
    assert contract.calibration.threshold == pytest.approx(2 / 3, abs=1e-4)
    assert set(contract.calibration.any) == {"av", "video", "audio"}


def test_modality_counts_only_if_every_member_offers_it(members: list[Member]) -> None:
    """What one member was not sure of has no score from the ensemble either."""
    first, second = members
    deaf = Calibration({k: v for k, v in OTHER.any.items() if k != "audio"}, OTHER.parts, 0.5)
    shy = dataclasses.replace(second, calibration=deaf)
    assert list(joint_calibration([first, shy]).any) == ["av", "video"]
    assert list(joint_calibration([first, shy]).parts) == ["video", "audio"]


def test_curve_is_of_the_members_that_compare(members: list[Member]) -> None:
    """A late-fusion member has no sync curve, and its zeros do not flatten the others'."""
    first, _ = members
    net = ensemble_of(members)
    tokens = [torch.randn(2, SPEC.window_frames, net.config.width) for _ in range(3)]
    masks = [torch.ones(2, SPEC.window_frames)] * 2
    with torch.no_grad():
        alone = first.net.fusion(*(x[..., : WIDER.width] for x in tokens), *masks).sync
        torch.testing.assert_close(net.fusion(*tokens, *masks).sync, alone)
    assert alone.abs().max() > 0.01


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        ("alone", 78, ["two members"]),
        ("twice", 78, ["given twice"]),
        ("nothing in common", 78, ["no modality", "first: av, video, audio", "silent: none"]),
        ("not streaming", 78, ["big", "avff-b cannot be exported"]),
        ("checkpoint of a stage", 78, ["stage", "no finished run"]),
        ("absent", 74, ["nowhere", "no such checkpoint"]),
        ("damaged", 74, ["hurt", "damaged"]),
        ("another version", 78, ["old", "another version of avff"]),
    ],
)
def test_what_cannot_be_joined_is_one_line(
    runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
    code: int,
    words: list[str],
) -> None:
    """Each error names the run and ends with its code, and nothing is written."""
    target = tmp_path / "model"
    assert main([str(runs[0]), *map(str, others(case, runs[0], tmp_path)), "-o", str(target)]) == code
    stderr = capsys.readouterr().err
    assert stderr.startswith("avff-ensemble: ")
    assert stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr
    assert not target.exists()


def others(case: str, first: Path, base: Path) -> list[Path]:
    """What is given beside the first run."""
    whole = TrainSettings(frozen_encoders=False)
    big = RunSettings(name="big", mix={}, model=AvffConfig(architecture="avff-b"), encoders=None, train=whole)
    match case:
        case "alone":
            return []
        case "twice":
            return [first]
        case "nothing in common":
            return [save_member(base / "silent", seeded_net(3, SMALL), Calibration({}, {}, 0.5))]
        case "not streaming":
            save_durably({"settings": big.model_dump_json(), "weights": {}}, base / "big" / "best_model.pth")
            return [base / "big"]
        case "checkpoint of a stage":
            save_durably({"state_dict": {}}, base / "stage" / "best_model.pth")
            return [base / "stage"]
        case "another version":
            save_durably({"settings": "{}", "weights": {}}, base / "old" / "best_model.pth")
            return [base / "old"]
        case "damaged":
            hurt = save_member(base / "hurt", seeded_net(4, SMALL), CALIBRATION) / "best_model.pth"
            content = bytearray(hurt.read_bytes())
            content[len(content) // 2] ^= 1
            hurt.write_bytes(content)
            return [hurt]
    return [base / "nowhere"]
