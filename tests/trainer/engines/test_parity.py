"""The gate: lets true FP16 graphs through, and says of the others which layer is to blame."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from avff.engine.backend import Backend, Tensors
from avff.engine.contract import NOVELTY_OUTPUTS, Contract
from avff.engine.model import Model
from avff.trainer.engines.agreement import Agreement, Limits
from avff.trainer.engines.chain import of_onnx
from avff.trainer.engines.errors import ParityError, WindowsError
from avff.trainer.engines.mixed import to_mixed
from avff.trainer.engines.parity import check_engines, check_parity
from avff.trainer.engines.windows import LabelledSlices, count_windows
from tests.support.engines import (
    Change,
    altered,
    contract_of,
    convolutions,
    demo_clips,
    graphs_in,
    rescale,
    scale,
    small_model,
    weights,
)

FEW = Limits(windows=6)
OUTPUTS = (
    "video.tokens", "audio.tokens", "landmarks.tokens", "fusion.clip", "fusion.frames", "fusion.sync",
    "fusion.novelty",
)  # fmt: skip
Graphs = Mapping[str, bytes]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(scope="module")
def clips() -> list[LabelledSlices]:
    """Three stretches of the demo clip with two windows each."""
    made = demo_clips()
    assert count_windows(made) == 6
    return made


@pytest.fixture(scope="module")
def contract(directory: Path) -> Contract:
    return contract_of(directory)


def _mixed(graphs: Graphs) -> Graphs:
    return {n: to_mixed(onnx.load_from_string(g)).SerializeToString() for n, g in graphs.items()}


def _refusal(contract: Contract, exact: Graphs, mixed: Graphs, clips: list[LabelledSlices]) -> str:
    with pytest.raises(ParityError) as caught:
        check_parity(contract, exact, mixed, clips, FEW)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _with(graphs: Graphs, name: str, change: Change) -> Graphs:
    return {**graphs, name: altered(graphs[name], change)}


def test_fp16_gives_the_models_answers(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """On windows of real media; the report has a figure of every output, is JSON, and is not idle."""
    graphs = graphs_in(directory)
    report = check_parity(contract, graphs, _mixed(graphs), clips, FEW)
    assert (report.clips, report.windows) == (3, 6)
    assert 0 < report.logit < FEW.logit
    assert report.drift <= FEW.auc
    assert 0 <= report.auc_expected <= 1
    assert 0 <= report.batch < FEW.batch
    assert set(report.outputs) == set(OUTPUTS)
    assert all(value > 0 for value in report.outputs.values())
    assert report.excess() == []
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["windows"] == 6


def test_equal_graphs_differ_in_nothing(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """The figures are of FP16 and of nothing else."""
    graphs = graphs_in(directory)
    report = check_parity(contract, graphs, graphs, clips, FEW)
    assert set(report.outputs.values()) == {0.0}
    assert report.auc_expected == report.auc_found


@pytest.mark.parametrize("name", ["audio", "video"])
def test_an_overflowing_network_is_refused_with_its_layer(
    name: str, directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """Its weights fit into FP16 and its answers in FP32 are as before; one layer's values do not fit."""
    graphs = _with(graphs_in(directory), name, lambda model: rescale(model, 60_000.0))
    layer = convolutions(onnx.load_from_string(graphs[name]))[1]
    message = _refusal(contract, graphs, _mixed(graphs), clips)
    assert "the FP16 graphs do not give the model's answers" in message
    assert f"FP16 overflows at layer {layer.name!r} (Conv, tensor {layer.output[0]!r})" in message
    assert f"of the graph {name!r}" in message
    assert message.endswith("and FP16 ends at 65504")


def test_values_that_vanish_are_refused_with_their_layer(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """Nothing overflows: the weights of one layer are below FP16's smallest number."""
    graphs = _with(graphs_in(directory), "audio", lambda model: rescale(model, 2e-8))
    layer = convolutions(onnx.load_from_string(graphs["audio"]))[1]
    message = _refusal(contract, graphs, _mixed(graphs), clips)
    assert f"FP16 parts from FP32 at layer {layer.name!r} (Conv" in message
    assert "100.00% of its largest value" in message


def test_a_model_that_gives_nan_by_itself_is_told_from_fp16(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """The cause is not FP16, and the message does not say so."""

    def spoil(model: ModelProto) -> None:
        name = convolutions(model)[1].input[1]
        values = weights(model, name).copy()
        values.flat[0] = np.nan
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    graphs = _with(graphs_in(directory), "audio", spoil)
    layer = convolutions(onnx.load_from_string(graphs["audio"]))[1]
    message = _refusal(contract, graphs, _mixed(graphs), clips)
    assert f"the model itself gives NaN or infinity, first at layer {layer.name!r}" in message


def test_a_graph_that_mixes_its_batch_is_refused(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """A window's answer may not depend on what it shares a batch with."""

    def mix(model: ModelProto) -> None:
        (maker,) = (node for node in model.graph.node if "clip" in node.output)
        maker.output[list(maker.output).index("clip")] = "own"
        first = numpy_helper.from_array(np.array([0], np.int64), "first")
        model.graph.initializer.append(first)
        model.graph.node.append(helper.make_node("ReduceMean", ["own", "first"], ["shared"], "shared"))
        model.graph.node.append(helper.make_node("Add", ["own", "shared"], ["clip"], "mix"))

    graphs = _with(graphs_in(directory), "fusion", mix)
    message = _refusal(contract, graphs, _mixed(graphs), clips)
    assert "largest difference between batch sizes" in message
    assert "largest difference of a logit" not in message
    assert "no layer stands out" in message


def test_too_few_windows_do_not_suffice(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """64 unless told otherwise."""
    graphs = graphs_in(directory)
    with pytest.raises(WindowsError, match="have 2 windows with a score, at least 64 are needed"):
        check_parity(contract, graphs, graphs, clips[:1])
    with pytest.raises(WindowsError, match="have 0 windows with a score"):
        check_parity(contract, graphs, graphs, [])


def test_windows_of_one_class_do_not_suffice(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """They have no AUC."""
    graphs = graphs_in(directory)
    alike = [LabelledSlices(clip.uid, 1, clip.slices) for clip in clips]
    with pytest.raises(WindowsError, match="of one class"):
        check_parity(contract, graphs, graphs, alike, FEW)


def test_windows_without_a_score_do_not_count(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """A model that is not calibrated for what a clip offers gives no score, and nothing to compare."""
    graphs = graphs_in(directory)
    audio = {"audio": contract.calibration.any["audio"]}
    only_audio = replace(contract, calibration=replace(contract.calibration, any=audio))
    silent = [
        LabelledSlices(clip.uid, clip.label, tuple(replace(s, audio_ok=0.0) for s in clip.slices))
        for clip in clips
    ]
    with pytest.raises(WindowsError, match="have 0 windows with a score"):
        check_parity(only_audio, graphs, graphs, silent, FEW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logit": 0.0201}, "largest difference of a logit 0.0201, at most 0.02"),
        ({"logit": float("nan")}, "largest difference of a logit nan, at most 0.02"),
        ({"auc_found": 0.8985}, "difference of the AUC 0.0015, at most 0.001"),
        ({"auc_found": float("nan")}, "difference of the AUC nan"),
        ({"batch": 0.0051}, "largest difference between batch sizes 0.0051, at most 0.005"),
        ({"batch": float("nan")}, "largest difference between batch sizes nan"),
        ({"outputs": {"fusion.sync": float("nan")}}, "fusion.sync is not finite"),
        ({"reasons": 1}, "windows whose reason for no score differs 1, at most 0"),
    ],
)
def test_each_limit_is_kept(changes: dict[str, object], words: str) -> None:
    """And NaN is beyond all of them."""
    report = Agreement(
        clips=1, windows=64, logit=0.02, auc_expected=0.9, auc_found=0.8995, batch=0.005, reasons=0,
        outputs={}, runtime="", limits=Limits(),
    )  # fmt: skip
    assert report.excess() == []
    (excess,) = replace(report, **changes).excess()  # type: ignore[arg-type]
    assert excess.startswith(words)


@pytest.mark.parametrize("name", ["landmarks", "fusion"])
def test_every_graph_takes_part(
    name: str, directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """Where one FP16 graph is another model's, it is found out and named."""
    graphs = graphs_in(directory)
    model = onnx.load_from_string(graphs[name])
    constants = {tensor.name for tensor in model.graph.initializer}
    product = next(n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants)
    other = _mixed(_with(graphs, name, lambda model: scale(model, product.input[1], 3.0)))
    message = _refusal(contract, graphs, other, clips)
    assert f"FP16 parts from FP32 at layer {product.name!r} (MatMul" in message
    assert f"of the graph {name!r}" in message


class ScriptedFault:
    """A runtime that alters what a graph gives.

    Args:
        backend: runs the graph.
        alter: changes the outputs of one batch in place.
    """

    def __init__(self, backend: Backend, alter: Callable[[Tensors], None]) -> None:
        self._backend, self._alter = backend, alter

    def infer(self, inputs: Tensors) -> Tensors:
        made = {name: values.copy() for name, values in self._backend.infer(inputs).items()}
        self._alter(made)
        return made

    def close(self) -> None:
        self._backend.close()


def _altered_runtime(
    contract: Contract, graphs: Graphs, name: str, alter: Callable[[Tensors], None]
) -> Model:
    backends = of_onnx(contract, graphs)
    return Model(contract, {**backends, name: ScriptedFault(backends[name], alter)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_not_finite_is_refused_in_every_output(
    output: str, value: float, directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """One number of the last of a batch, in each output in turn; the line names it."""
    name, tensor = output.split(".")

    def spoil(made: Tensors) -> None:
        made[tensor][-1].flat[-1] = value

    graphs = graphs_in(directory)
    engines = _altered_runtime(contract, graphs, name, spoil)
    with pytest.raises(ParityError) as caught:
        check_engines(contract, graphs, engines, clips, "scripted", FEW)
    assert f"{output} is not finite" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("output", ["clip", "frames", "sync", "novelty"])
def test_nan_in_a_batch_of_one_is_refused(
    output: str, directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """From the second window on that is run alone; in batches all is finite."""
    alone = 0

    def spoil(made: Tensors) -> None:
        nonlocal alone
        alone += len(made["clip"]) == 1
        if alone > 1:
            made[output].flat[0] = np.nan

    graphs = graphs_in(directory)
    engines = _altered_runtime(contract, graphs, "fusion", spoil)
    with pytest.raises(ParityError, match=r"gives? the model's answers: .*between batch sizes nan"):
        check_engines(contract, graphs, engines, clips, "scripted", FEW)
    assert alone > 1


def test_a_window_that_only_one_of_them_takes_for_unfamiliar_is_refused(
    directory: Path, contract: Contract, clips: list[LabelledSlices]
) -> None:
    """The logits are the same; the daemon would say nothing where the model has a score."""
    graphs = graphs_in(directory)
    limits = {name: 1e6 for name in NOVELTY_OUTPUTS}
    known = replace(contract, calibration=replace(contract.calibration, limits=limits))

    def estrange(made: Tensors) -> None:
        made["novelty"][0] = 2e6

    engines = _altered_runtime(known, graphs, "fusion", estrange)
    with pytest.raises(
        ParityError, match=r"answers: windows whose reason for no score differs 1, at most 0$"
    ):
        check_engines(known, graphs, engines, clips, "scripted", FEW)
