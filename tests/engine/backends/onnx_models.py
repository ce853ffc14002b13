"""Small ONNX models for the backends' tests, and the contract's view of them."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from avff.engine.contract import GraphSpec, TensorSpec

WEIGHT = (1.0, 2.0, 3.0, 4.0)


def add_weight(weight: npt.ArrayLike = WEIGHT) -> ModelProto:
    """``tokens = x + weight``, float32 ``[batch, 4]``."""
    return _model([helper.make_node("Add", ["x", "w"], ["tokens"])], ["tokens"], weight)


def two_outputs() -> ModelProto:
    """``tokens = x + weight`` and ``root``, the square root of that: NaN below zero."""
    nodes = [helper.make_node("Add", ["x", "w"], ["tokens"]), helper.make_node("Sqrt", ["tokens"], ["root"])]
    return _model(nodes, ["tokens", "root"], WEIGHT)


def add_inputs() -> ModelProto:
    """``tokens = x + y``."""
    return _model([helper.make_node("Add", ["x", "y"], ["tokens"])], ["tokens"], WEIGHT, inputs=("x", "y"))


def external_weight() -> TensorProto:
    """A tensor ``w`` whose data lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def sparse_weight() -> SparseTensorProto:
    """A sparse tensor ``w`` with one value."""
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    return helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [1], [2]), [4])


def spec_of(content: bytes, *outputs: str, inputs: tuple[str, ...] = ("x",)) -> GraphSpec:
    """The contract's part for one of these models."""
    sides = [tuple(TensorSpec(name, "float32", (4,)) for name in names) for names in (inputs, outputs)]
    return GraphSpec("video.onnx", hashlib.sha256(content).hexdigest(), sides[0], sides[1], 0.0)


def _model(
    nodes: list[NodeProto], outputs: list[str], weight: npt.ArrayLike, inputs: tuple[str, ...] = ("x",)
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in outputs],
        [helper.make_tensor("w", TensorProto.FLOAT, [4], np.asarray(weight, np.float32))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
