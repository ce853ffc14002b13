"""The exported graphs: the trained network, in a shape that every runtime can take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from avff import engine
from avff.engine.calibration import joined
from avff.engine.contract import ENCODERS, GRAPHS, parse_contract
from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.model import CONTRACT_FILE, DEFAULT_MODEL, load_model
from avff.engine.predictor import Predictor, StreamState
from avff.engine.spec import SPEC
from avff.trainer import export
from avff.trainer.export import OPSET, ExportError, export_model, graphs_of, random_inputs, tensor_specs
from avff.trainer.model.avff import Architecture, Avff, StreamingNet
from avff.trainer.model.registry import answer, build
from tests.support.engine import make_face, make_slice
from tests.support.training import CALIBRATION, exported, seeded_net
from tests.trainer.model.networks import (
    ALL,
    BASELINES,
    random_batch,
    small_config,
    small_net,
    small_streaming_net,
)


class Baseline(NamedTuple):
    """A network of the streaming family and its exported model."""

    net: StreamingNet
    directory: Path


@pytest.fixture(scope="module")
def net() -> Avff:
    return seeded_net()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.getbasetemp() / "untrained")


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("graph", GRAPHS)
def test_onnx_equals_torch(net: Avff, directory: Path, graph: str, batch: int) -> None:
    """Every graph gives the network's numbers to 1e-4, alone or in a batch."""
    for name, spread in assert_same_numbers(net, directory, graph, batch).items():
        assert spread > 0.01, name


def assert_same_numbers(net: StreamingNet, directory: Path, graph: str, batch: int) -> dict[str, float]:
    """Compare a graph with its module, and return how far each output's values lie apart."""
    inputs = random_inputs(graph, net.token_widths(), batch, seed=batch)
    if graph == "fusion":
        inputs |= {name: np.round(inputs[name]) for name in ("video_ok", "audio_ok")}
    session = onnxruntime.InferenceSession(
        str(directory / f"{graph}.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [spec.name for spec in tensor_specs(graph, net.token_widths())[1]]
    found = session.run(names, inputs)
    with torch.no_grad():
        expected = graphs_of(net)[graph](*(torch.from_numpy(a) for a in inputs.values()))
    for name, one, other in zip(names, found, expected if graph == "fusion" else [expected], strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4, err_msg=name)
    return {name: float(np.ptp(one)) for name, one in zip(names, found, strict=True)}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_suits_every_runtime(directory: Path, graph: str) -> None:
    """Opset 18 or later, only the batch is dynamic, no operator that TensorRT refuses or FP16 overflows."""
    model = onnx.load(str(directory / f"{graph}.onnx"), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert OPSET >= 18
    assert [(s.domain, s.version) for s in model.opset_import if s.domain in ("", "ai.onnx")] == [("", OPSET)]
    for value in (*model.graph.input, *model.graph.output):
        batch, *others = value.type.tensor_type.shape.dim
        assert batch.dim_param
        assert all(d.dim_value > 0 and not d.dim_param for d in others), value.name
    operators = {node.op_type for node in model.graph.node}
    banned = {"Loop", "If", "Scan", "NonZero", "TopK", "GridSample", "LSTM", "GRU", "BatchNormalization"}
    assert not operators & banned


def test_layer_norm_is_one_operator(net: Avff, directory: Path) -> None:
    """Taken apart it would overflow in FP16: each layer norm of the network is one node."""
    norms = sum(isinstance(m, torch.nn.LayerNorm) for m in net.fusion.modules())
    model = onnx.load(str(directory / "fusion.onnx"))
    found = sum(node.op_type == "LayerNormalization" for node in model.graph.node)
    assert found == norms > 0


@pytest.mark.parametrize("graph", ["landmarks", "fusion"])
@pytest.mark.parametrize("made", ["fresh", "embedded"])
def test_gelu_is_one_operator(directory: Path, made: str, graph: str) -> None:
    """Taken apart it is eight, which no runtime is sure to put together again."""
    folder = directory if made == "fresh" else Path(engine.__file__).parent / "weights" / DEFAULT_MODEL
    operators = {node.op_type for node in onnx.load(str(folder / f"{graph}.onnx")).graph.node}
    assert "Gelu" in operators
    assert "Tanh" not in operators


@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_is_one_file(directory: Path, graph: str) -> None:
    """No tensor lives in another file, and nothing else lies in the directory."""
    model = onnx.load(str(directory / f"{graph}.onnx"), load_external_data=False)
    assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    assert {p.name for p in directory.iterdir()} == {CONTRACT_FILE, *(f"{g}.onnx" for g in GRAPHS)}


def test_graphs_tell_nothing_of_the_machine_they_were_made_on(directory: Path) -> None:
    """No path of the source tree ends up in the weights that are published."""
    here = str(Path(__file__).parents[2]).encode()
    assert not [g for g in GRAPHS if here in (directory / f"{g}.onnx").read_bytes()]


def test_export_is_repeatable(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights give the same bytes, so a hash names a model."""
    monkeypatch.setattr(export, "graphs_of", lambda net: {"landmarks": net.landmarks})
    facts = {"seed": "0"}
    again = export_model(seeded_net(), tmp_path, name="again", calibration=CALIBRATION, provenance=facts)
    first = parse_contract((directory / CONTRACT_FILE).read_text())
    assert again.graphs["landmarks"].sha256 == first.graphs["landmarks"].sha256


def test_contract_round_trip_loads_in_the_engine(net: Avff, directory: Path) -> None:
    """The engine reads back what the trainer wrote, and the graphs answer in the promised shapes."""
    model = load_model(directory, threads=1)
    contract = model.contract
    assert contract == parse_contract(contract.to_json())
    assert (contract.name, contract.spec) == ("untrained", SPEC)
    assert {contract.token_shape(name) for name in ENCODERS} == {(SPEC.slice_frames, net.config.width)}
    assert contract.calibration == CALIBRATION
    assert contract.provenance == {"seed": "0", "trained": "no"}
    for graph in GRAPHS:
        inputs, outputs = tensor_specs(graph, net.token_widths())
        assert (contract.graphs[graph].inputs, contract.graphs[graph].outputs) == (inputs, outputs)
        answers = model.infer(graph, random_inputs(graph, net.token_widths(), 3))
        assert {n: a.shape for n, a in answers.items()} == {s.name: (3, *s.shape) for s in outputs}
    model.close()


def test_cost_of_a_hop_is_within_the_budget(net: Avff, directory: Path) -> None:
    """A slice through the encoders and a window through fusion: below 1 GFLOP, 2.5 times less than all."""
    graphs = load_model(directory, threads=1).contract.graphs
    encoders = sum(graphs[name].gflop for name in ENCODERS)
    hop = encoders + graphs["fusion"].gflop
    assert 0 < hop < 1
    assert 8 * encoders + graphs["fusion"].gflop >= 2.5 * hop
    # Two operations per multiply-add: a linear layer over 64 tokens is counted by hand.
    see = 2 * 64 * net.fusion.see.in_features * net.fusion.see.out_features / 1e9
    assert graphs["fusion"].gflop > see
    assert graphs["audio"].gflop == pytest.approx(_audio_gflop(net), rel=0.01)


def _audio_gflop(net: Avff) -> float:
    """Multiply-adds of the audio encoder from its layers' shapes, twice."""
    height, width, total = SPEC.bands, SPEC.slice_spectra, 0
    for layer in net.audio.net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            height, width = height // layer.stride[0], width // layer.stride[1]
            total += height * width * layer.out_channels * layer.in_channels * 9
    total += SPEC.slice_frames * net.audio.head.in_features * net.audio.head.out_features
    return 2 * total / 1e9


@pytest.fixture(scope="module", params=BASELINES)
def baseline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """A small network of another architecture, and where it was exported to."""
    net, directory = small_streaming_net(request.param), tmp_path_factory.mktemp(request.param)
    # What noise looks like to an untrained encoder is far from anything.
    calibration = replace(CALIBRATION, limits={})
    export_model(net, directory, name=request.param, calibration=calibration, provenance={})
    return Baseline(net, directory)


@pytest.mark.parametrize("graph", GRAPHS)
def test_other_architectures_are_the_same_graphs(baseline: Baseline, graph: str) -> None:
    """They too equal torch to 1e-4; a graph they have no use for answers with zeros."""
    absent = {"audio-only": {"video", "landmarks"}, "video-only": {"audio"}}
    assert_same_numbers(baseline.net, baseline.directory, graph, 1)
    spread = assert_same_numbers(baseline.net, baseline.directory, graph, 3)
    assert spread.get("novelty", 1.0) > 0.001
    for name in {"clip", "frames", "tokens"} & set(spread):
        assert (spread[name] > 0.001) != (graph in absent.get(baseline.net.config.architecture, ())), name


@pytest.mark.parametrize("architecture", [a for a in ALL if a != "avff-b"])
def test_log_sum_exp_is_exported_as_torch_computes_it(architecture: Architecture, tmp_path: Path) -> None:
    """To 1e-4, with evidence missing here and there, and with none at all; the engine takes the model."""
    config = replace(small_config(architecture), pooling="lse", pooling_temperature=0.5)
    net = build(config)
    assert isinstance(net, StreamingNet)
    net.load_state_dict(small_streaming_net(architecture).state_dict())
    export_model(net, tmp_path, name="lse", calibration=CALIBRATION, provenance={})
    model = load_model(tmp_path, threads=1)
    inputs = random_inputs("fusion", net.token_widths(), 4)
    inputs |= {name: np.round(inputs[name]) for name in ("video_ok", "audio_ok")}
    inputs["video_ok"][1:3], inputs["audio_ok"][2:] = 0, 0
    found = model.infer("fusion", inputs)["clip"]
    model.close()
    tensors = [torch.from_numpy(a) for a in inputs.values()]
    with torch.no_grad():
        expected = net.fusion(*tensors).clip.numpy()
        by_mean = small_streaming_net(architecture).fusion(*tensors).clip.numpy()
    np.testing.assert_allclose(found[:, :4], expected, rtol=0, atol=1e-4)
    assert np.abs(found[:, :4] - by_mean).max() > 0.01


def test_other_architectures_run_in_the_engine(baseline: Baseline) -> None:
    """A stream through the engine's predictor gets the number that the torch network gives."""
    slices = [make_slice(k, face=make_face(seed=k)) for k in range(SPEC.window_slices)]
    model = load_model(baseline.directory, threads=1)
    state = StreamState()
    *_, (_, made) = Predictor(model).predict([(state, piece) for piece in slices])
    model.close()
    faces = [piece.face for piece in slices if piece.face is not None]
    batch = random_batch(1)._replace(
        video=torch.from_numpy(np.stack([video_tensor(f.faces) for f in faces]))[None],
        audio=torch.from_numpy(np.stack([audio_tensor(piece.audio) for piece in slices]))[None],
        landmarks=torch.from_numpy(np.stack([landmark_tensor(f.landmarks, f.motion) for f in faces]))[None],
    )
    with torch.no_grad():
        any_logit, video, audio, _ = answer(baseline.net, batch).clip[0].tolist()
    by = CALIBRATION.any["av"]
    expected = joined(by, CALIBRATION.parts, np.array([any_logit, video, audio, 0.0]))
    assert (made.modality, made.reason) == ("av", None)
    assert made.logit == pytest.approx(expected, abs=1e-4)


def test_the_papers_size_says_why_it_cannot_serve(tmp_path: Path) -> None:
    """avff-b is refused in one line with the way out, and nothing is written."""
    target = tmp_path / "model"
    with pytest.raises(ExportError, match=r"avff-b cannot be exported.*GFLOP.*export avff-s") as error:
        export_model(small_net("avff-b"), target, name="b", calibration=CALIBRATION, provenance={})
    assert "\n" not in str(error.value)
    assert not target.exists()
