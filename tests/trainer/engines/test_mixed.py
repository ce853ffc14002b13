"""FP16 products, FP32 islands: which operator of a mixed graph runs in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper, shape_inference

from avff.engine.contract import GRAPHS
from avff.trainer.engines.mixed import PRODUCTS, to_mixed
from tests.support.engines import graphs_in, small_model

ISLANDS = {
    "LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax", "Pow", "Sqrt", "Div", "Clip",
    "BatchNormalization",
}  # fmt: skip
HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp() / "small")


def _types(model: ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _reads_inputs(model: ModelProto, node: NodeProto) -> bool:
    """Whether a node reads an input of the graph, or a part of one."""
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    names = [node.input[0]]
    while names[-1] in makers and makers[names[-1]].op_type in {"Concat", "Slice", "Reshape", "Transpose"}:
        names.append(makers[names[-1]].input[0])
    return names[-1] in {value.name for value in model.graph.input}


FIRST = helper.make_node("Relu", ["x"], ["r"], "first")
"""What lies between a graph's input and its first product, for a product that is FP16."""


def _graph(
    nodes: list[NodeProto], constants: Mapping[str, npt.ArrayLike], outputs: tuple[str, ...] = ("y",)
) -> ModelProto:
    """A graph of ``x``, FP32 ``[batch, 4]``."""
    sides = [
        [helper.make_tensor_value_info(name, FULL, ["batch", 4]) for name in names]
        for names in (("x",), outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", sides[0], sides[1], tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def _eye(factor: float) -> npt.NDArray[np.float32]:
    return np.diag(np.full(4, factor, np.float32))


@pytest.mark.parametrize("graph", GRAPHS)
def test_products_are_fp16_and_islands_fp32(graph: str, model: Path) -> None:
    """Of every graph of a network with all that ours have; what reads the graph's inputs is an island too."""
    plain = onnx.load_from_string(graphs_in(model)[graph])
    mixed = to_mixed(plain)
    types = _types(mixed)
    first = {
        node.name for node in plain.graph.node if node.op_type in PRODUCTS and _reads_inputs(plain, node)
    }
    # The pictures are scaled before their first convolution.
    assert len(first) == {"video": 0, "audio": 1, "landmarks": 1, "fusion": 5}[graph]
    seen = set()
    for node in mixed.graph.node:
        floats = {types[name] for name in (*node.input, *node.output) if types.get(name) in (HALF, FULL)}
        if node.op_type in PRODUCTS:
            assert floats == ({FULL} if node.name in first else {HALF}), node.name
        elif node.op_type in ISLANDS:
            assert floats == {FULL}, node.name
            seen.add(node.op_type)
        elif node.op_type != "Cast":
            assert len(floats) <= 1, node.name
    assert {node.op_type for node in mixed.graph.node} & PRODUCTS
    assert (graph == "fusion") == ({"LayerNormalization", "Softmax", "BatchNormalization"} <= seen)


@pytest.mark.parametrize("graph", GRAPHS)
def test_borders_are_those_of_the_contract(graph: str, model: Path) -> None:
    """Inputs and outputs keep names, order, shapes and FP32; layers keep names and order."""
    plain = onnx.load_from_string(graphs_in(model)[graph])
    mixed = to_mixed(plain)
    assert list(mixed.graph.input) == list(plain.graph.input)
    assert list(mixed.graph.output) == list(plain.graph.output)
    layers = [node.name for node in mixed.graph.node if node.op_type != "Cast"]
    assert layers == [node.name for node in plain.graph.node]
    assert list(mixed.opset_import) == list(plain.opset_import)


def test_video_weights_are_stored_in_fp16_only(model: Path) -> None:
    """The graph is about half as large: no constant is kept in both precisions without need."""
    content = graphs_in(model)["video"]
    mixed = to_mixed(onnx.load_from_string(content))
    assert mixed.ByteSize() < 0.6 * len(content)
    read = {name for node in mixed.graph.node for name in node.input}
    assert {tensor.name for tensor in mixed.graph.initializer} <= read


def test_no_tensor_is_cast_twice(model: Path) -> None:
    """One cast serves all that read a tensor in the other precision, and none goes there and back."""
    mixed = to_mixed(onnx.load_from_string(graphs_in(model)["fusion"]))
    casts = [node for node in mixed.graph.node if node.op_type == "Cast"]
    assert casts
    sources = [node.input[0] for node in casts]
    assert len(set(sources)) == len(sources)
    assert not set(sources) & {node.output[0] for node in casts}


def test_values_stay_in_fp16_from_product_to_product() -> None:
    """Bias, ReLU and transposition between two products need no cast."""
    nodes = [
        FIRST,
        helper.make_node("MatMul", ["r", "w"], ["a"], "one"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"], "two"),
    ]
    mixed = to_mixed(_graph(nodes, {"w": _eye(2), "b": np.ones(4, np.float32)}))
    inner = [node.op_type for node in mixed.graph.node][1:]
    assert inner == ["Cast", "MatMul", "Add", "Relu", "MatMul", "Cast"]
    assert {tensor.data_type for tensor in mixed.graph.initializer} == {HALF}


def test_what_reads_both_precisions_is_fp32() -> None:
    """A residual stream that starts at an input stays FP32 throughout."""
    nodes = [
        FIRST,
        helper.make_node("MatMul", ["r", "w"], ["a"]),
        helper.make_node("Add", ["x", "a"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["b"]),
        helper.make_node("Add", ["s", "b"], ["y"], "sum"),
    ]
    mixed = to_mixed(_graph(nodes, {"w": _eye(2)}))
    types = _types(mixed)
    assert [types[node.output[0]] for node in mixed.graph.node if node.op_type == "Add"] == [FULL, FULL]


@pytest.mark.parametrize(("largest", "precision"), [(65504.0, HALF), (65536.0, FULL), (np.inf, FULL)])
def test_a_constant_beyond_fp16_keeps_its_product_in_fp32(largest: float, precision: int) -> None:
    mixed = to_mixed(_graph([FIRST, helper.make_node("MatMul", ["r", "w"], ["y"])], {"w": _eye(largest)}))
    (tensor,) = mixed.graph.initializer
    assert tensor.data_type == precision


@pytest.mark.parametrize(
    ("before", "precision"), [("Reshape", FULL), ("Transpose", FULL), ("Relu", HALF), ("Add", HALF)]
)
def test_a_product_of_what_the_graph_is_given_is_fp32(before: str, precision: int) -> None:
    """Also of a view of it; not of what was made of it."""
    arguments = {"Reshape": ["x", "s"], "Add": ["x", "b"]}.get(before, ["x"])
    nodes = [
        helper.make_node(before, arguments, ["v"]),
        helper.make_node("MatMul", ["w", "v"], ["y"], "product"),
    ]
    constants: dict[str, npt.ArrayLike] = {"w": _eye(2), "s": np.array([4, -1]), "b": np.ones(4, np.float32)}
    mixed = to_mixed(_graph(nodes, constants))
    (product,) = (node for node in mixed.graph.node if node.name == "product")
    assert _types(mixed)[product.output[0]] == precision


def test_an_output_that_layers_read_too_is_fp32_outside_and_fp16_inside() -> None:
    """It keeps its name for the contract; the next product reads the FP16 values it was made of."""
    nodes = [
        FIRST,
        helper.make_node("MatMul", ["r", "w"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
        helper.make_node("Softmax", ["z"], ["p"]),
    ]
    mixed = to_mixed(_graph(nodes, {"w": _eye(2)}, ("z", "y", "p")))
    types = _types(mixed)
    assert [types[name] for name in ("z", "y", "p")] == [FULL, FULL, FULL]
    second = [node for node in mixed.graph.node if node.op_type == "MatMul"][1]
    assert second.input[0] == "z/f16"
    (softmax,) = (node for node in mixed.graph.node if node.op_type == "Softmax")
    assert softmax.input[0] == "z"


def test_indices_and_shapes_are_left_alone() -> None:
    """Integers stay what they are, and inputs that are left out stay out."""
    nodes = [
        FIRST,
        helper.make_node("MatMul", ["r", "w"], ["a"]),
        helper.make_node("Gather", ["a", "i"], ["b"], axis=1),
        helper.make_node("Reshape", ["b", "s"], ["c"]),
        helper.make_node("Clip", ["c", "", "most"], ["y"]),
    ]
    constants: dict[str, npt.ArrayLike] = {
        "w": _eye(1), "i": np.array([3, 2, 1, 0]), "s": np.array([-1, 4]), "most": np.float32(2.5),
    }  # fmt: skip
    mixed = to_mixed(_graph(nodes, constants))
    assert {t.name: t.data_type for t in mixed.graph.initializer} == {
        "w/f16": HALF, "i": TensorProto.INT64, "s": TensorProto.INT64, "most": FULL,
    }  # fmt: skip
    session = onnxruntime.InferenceSession(mixed.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.array([[1, 2, 3, 4]], np.float32)})
    assert found.tolist() == [[2.5, 2.5, 2, 1]]


def test_a_graph_that_is_none_is_refused() -> None:
    """With the error of the library that read it."""
    with pytest.raises((checker.ValidationError, shape_inference.InferenceError)):
        to_mixed(_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((3, 4), np.float32)}))
    with pytest.raises((checker.ValidationError, shape_inference.InferenceError)):
        to_mixed(_graph([helper.make_node("Conjure", ["x"], ["y"])], {}))
