"""Variants of the CPU engine: threads, batches, optimisation levels, weights in FP16 and INT8.

All of them are the model's own graphs in ONNX Runtime.  Those whose numbers differ go through the gate that
FP16 engines go through, on windows of other clips than the ones that set the scales of INT8.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, load_from_string, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from avff.engine.backend import Backend, Tensors
from avff.engine.contract import GRAPHS, Contract, GraphSpec
from avff.engine.model import Model
from avff.trainer.engines.agreement import Agreement, Limits, compare
from avff.trainer.engines.chain import Chain, Graphs, of_onnx
from avff.trainer.engines.windows import LabelledSlices

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_SMALL = 1024
"""Constants with fewer values stay FP32: shapes of the graph may hang on them, and they weigh nothing."""
_TELLING = 6
"""Clips that tell INT8 how large values become."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the model on a CPU.

    Attributes:
        weights: key of the graphs, in words.
        threads: of one graph run.
        level: of the runtime's graph optimisations.
    """

    weights: str
    threads: int = 1
    level: str = "all"

    def __str__(self) -> str:
        cores = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.weights}, {cores}" + ("" if self.level == "all" else f", optimisations: {self.level}")


class LevelBackend:
    """A graph in ONNX Runtime as the engine loads it, but for the level of optimisation.

    Args:
        content: the ONNX file.
        spec: the graph's part of the contract.
        threads: of one run.
        level: a key of the levels.
    """

    def __init__(self, content: bytes, spec: GraphSpec, threads: int, level: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.graph_optimization_level = _LEVELS[level]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._outputs = [tensor.name for tensor in spec.outputs]

    def infer(self, inputs: Tensors) -> Tensors:
        """Run a batch."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))

    def close(self) -> None:
        """Drop the session."""
        del self._session


def variants(graphs: Mapping[str, Graphs], cores: int) -> list[Variant]:
    """Return all of them: levels for the plain graphs on one thread, the rest on one and on all cores."""
    plain, *others = graphs
    made = [Variant(plain, 1, level) for level in _LEVELS]
    made += [Variant(plain, cores)] * (cores > 1)
    return made + [Variant(name, n) for name in others for n in dict.fromkeys((1, cores))]


def load_variant(variant: Variant, contract: Contract, graphs: Graphs) -> Model:
    """Load a variant."""
    backends: dict[str, Backend] = {
        name: LevelBackend(graphs[name], contract.graphs[name], variant.threads, variant.level)
        for name in GRAPHS
    }
    return Model(contract, backends)


def weights_of(contract: Contract, graphs: Graphs, clips: Sequence[LabelledSlices]) -> dict[str, Graphs]:
    """Return the graphs in FP32 and with other weights, by what they are in words.

    Args:
        contract: of the model.
        graphs: its ONNX files.
        clips: that tell how large values become.
    """
    given = _inputs(contract, graphs, clips[:_TELLING])
    static = {name: _static(graphs[name], given[name]) for name in GRAPHS}
    return {
        "FP32": graphs,
        "FP16 weights": {name: _half_weights(graphs[name]) for name in GRAPHS},
        "INT8 products, dynamic": {name: _dynamic(graphs[name]) for name in GRAPHS},
        "INT8 convolutions, static": static,
        "INT8 both": {name: _dynamic(static[name]) for name in GRAPHS},
    }


def check(
    contract: Contract, weights: Mapping[str, Graphs], clips: Sequence[LabelledSlices], limits: Limits
) -> dict[str, Agreement]:
    """Compare each kind of weights with FP32 on the clips that told nothing; refuses none.

    Raises:
        WindowsError: the clips do not suffice.
    """
    plain, *others = weights
    judges = clips[_TELLING:]
    made: dict[str, Agreement] = {}
    for name in others:
        ours, theirs = (Chain(contract, of_onnx(contract, weights[n])) for n in (plain, name))
        made[name] = compare(contract, ours, theirs, judges, onnxruntime.__version__, limits).agreement
        ours.close()
        theirs.close()
    return made


def _inputs(
    contract: Contract, graphs: Graphs, clips: Sequence[LabelledSlices]
) -> Mapping[str, list[Tensors]]:
    """Return what the graphs read for the last window of each clip."""
    chain = Chain(contract, of_onnx(contract, graphs))
    given: dict[str, list[Tensors]] = {name: [] for name in GRAPHS}
    for window in chain.run(clips).windows[:: max(1, len(clips[0].ends()))]:
        for name, tensors in chain.inputs_of(window).items():
            given[name].append(tensors)
    chain.close()
    return given


def _half_weights(content: bytes) -> bytes:
    """Store large constants in FP16, each cast to FP32 before it is read."""
    model = load_from_string(content)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and values.size >= _SMALL:
            stored = f"{tensor.name}/f16"
            casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _dynamic(content: bytes) -> bytes:
    """Quantise matrix products; their inputs' scales are found at each run."""
    return _quantised(
        content, quantize_dynamic, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
    )


def _static(content: bytes, given: Sequence[Tensors]) -> bytes:
    """Quantise convolutions, with scales by what the graph was given."""
    if not any(node.op_type == "Conv" for node in load_from_string(content).graph.node):
        return content
    return _quantised(
        content, quantize_static, calibration_data_reader=_Reader(given), quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"], per_channel=True, weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )  # fmt: skip


def _quantised(content: bytes, quantise: Any, **options: Any) -> bytes:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises, on the root logger, to prepare graphs otherwise
    try:
        with tempfile.TemporaryDirectory(prefix="avff-int8-") as folder:
            source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
            source.write_bytes(content)
            quantise(source, target, **options)
            return target.read_bytes()
    finally:
        logging.root.setLevel(level)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, given: Sequence[Tensors]) -> None:
        self._left: Iterator[Tensors] = iter(given)

    def get_next(self) -> Tensors | None:
        return next(self._left, None)
