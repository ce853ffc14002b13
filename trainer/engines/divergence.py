"""Which layer of a graph is the first whose FP16 values overflow, or part from the FP32 ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, load_from_string, shape_inference

from avff.engine.backend import Tensors
from avff.engine.backends.ort import OrtBackend
from avff.engine.contract import GraphSpec, TensorSpec

PARTED = 0.05
"""Largest difference, as a share of the tensor's largest value, that rounding explains: FP16 has 11 bits,
1/2000, and what dozens of layers add to that stays far below."""

_SMALLEST = 2.0**-24
"""The smallest number above 0 that FP16 has; what is below it cannot be told from rounding."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two runs of a graph part.

    Attributes:
        graph: its name.
        layer: name of the node.
        operator: of the node.
        tensor: that the node gives.
        exact: largest magnitude of its FP32 values.
        share: largest difference as a share of that; infinite where FP16 gives NaN or infinity.
    """

    graph: str
    layer: str
    operator: str
    tensor: str
    exact: float
    share: float

    @property
    def is_large(self) -> bool:
        """Whether rounding does not explain it."""
        return not self.share <= PARTED

    def __str__(self) -> str:
        place = f"layer {self.layer!r} ({self.operator}, tensor {self.tensor!r}) of the graph {self.graph!r}"
        if not np.isfinite(self.exact):
            return f"the model itself gives NaN or infinity, first at {place}"
        if not self.is_large:
            return f"no layer stands out; the largest difference, {self.share:.2%}, is at {place}"
        if np.isfinite(self.share):
            return f"FP16 parts from FP32 at {place}, by {self.share:.2%} of its largest value"
        return f"FP16 overflows at {place}: {self.exact:.4g} in FP32, and FP16 ends at 65504"


def find_divergence(spec: GraphSpec, name: str, exact: bytes, rounded: bytes, inputs: Tensors) -> Divergence:
    """Run both versions of a graph with all that lies between, and compare in the order of the layers.

    Args:
        spec: the graph's part of the contract.
        name: of the graph.
        exact: the FP32 graph.
        rounded: the FP16 one as :mod:`avff.trainer.engines.rounded` writes it.
        inputs: one batch.

    Returns:
        the first layer that :attr:`Divergence.is_large`; if there is none, the one with the largest share.

    Raises:
        BackendError: a graph cannot be run.
    """
    shared = _tensors(rounded)
    layers = [(node, tensor) for node, tensor in _layers(exact) if tensor in shared]
    names = [tensor for _, tensor in layers]
    ours, theirs = (_run(spec, graph, names, inputs) for graph in (exact, rounded))
    found: list[Divergence] = []
    for node, tensor in layers:
        made = _compare(name, node, tensor, ours[tensor], theirs[tensor])
        if made.is_large:
            return made
        found.append(made)
    return max(found, key=lambda one: one.share)


def _compare(graph: str, node: NodeProto, tensor: str, exact: np.ndarray, rounded: np.ndarray) -> Divergence:
    largest = float(np.abs(exact).max(initial=0.0))
    if np.isfinite(exact).all() and np.isfinite(rounded).all():
        share = float(np.abs(exact - rounded).max(initial=0.0)) / max(largest, _SMALLEST)
    else:
        share = np.inf
    return Divergence(graph, node.name, node.op_type, tensor, largest, share)


def _layers(graph: bytes) -> Iterator[tuple[NodeProto, str]]:
    """Yield the nodes and their FP32 results, in order."""
    model = load_from_string(graph)
    floats = _tensors(graph)
    for node in model.graph.node:
        for tensor in node.output:
            if tensor in floats:
                yield node, tensor


def _tensors(graph: bytes) -> set[str]:
    """Return the FP32 tensors that nodes of a graph give."""
    inferred = shape_inference.infer_shapes(load_from_string(graph), strict_mode=True).graph
    values = (*inferred.value_info, *inferred.output)
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _run(spec: GraphSpec, graph: bytes, names: list[str], inputs: Tensors) -> Tensors:
    """Run a graph with other outputs than its own."""
    model: ModelProto = load_from_string(graph)
    del model.graph.output[:]
    for name in names:
        model.graph.output.add().name = name
    outputs = tuple(TensorSpec(name, "float32", ()) for name in names)
    backend = OrtBackend(model.SerializeToString(), replace(spec, outputs=outputs), threads=1)
    made = backend.infer(inputs)
    backend.close()
    return made
