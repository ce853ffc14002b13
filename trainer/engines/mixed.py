"""Mixed precision in the ONNX graph itself, for builders whose networks are strongly typed.

The rule is that of PyTorch's autocast, carried over to ONNX operators:

- convolutions and matrix products take FP16 and give FP16, but for those that read the graph's inputs as
  they come: measurements are differences of large numbers (a point's place less the nose's, a band less its
  mean), and rounded to 11 bits before they are subtracted they keep only a few;
- operators that move, join, add or bend values stay in FP16 where *all* they read is FP16;
- everything else is an island of FP32: normalisations with their statistics, softmax, powers, roots,
  divisions, reductions, and with them the graph's inputs and outputs, so that one contract holds for
  both precisions.

``onnxruntime.transformers.float16`` works the other way round: everything but a list of operators.  It
would round the graph's inputs before the islands read them, and it pulls constants that are too large
for FP16 back into its range without a word.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper, shape_inference

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
CARRIERS = frozenset({
    "Add", "Concat", "Expand", "Flatten", "Gather", "Gelu", "Mul", "Relu", "Reshape", "Slice", "Split",
    "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
VIEWS = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Of these, the ones that give the values they were given."""
_LARGEST = float(np.finfo(np.float16).max)
_SUFFIX: dict[int, str] = {TensorProto.FLOAT16: "/f16", TensorProto.FLOAT: "/f32"}


def to_mixed(model: ModelProto) -> ModelProto:
    """Return a graph with FP16 products and FP32 islands; names of tensors and layers are kept.

    A product with a constant beyond FP16's range stays FP32.

    Args:
        model: FP32 throughout, without graphs inside of operators (``If``, ``Loop``); not changed.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: it is no valid graph.
    """
    typed = shape_inference.infer_shapes(model, strict_mode=True)
    mixed = _Mixed(typed)
    for node in typed.graph.node:
        mixed.add(node)
    made = helper.make_model(
        helper.make_graph(
            mixed.nodes, typed.graph.name, typed.graph.input, typed.graph.output, mixed.initializers()
        ),
        opset_imports=typed.opset_import,
        ir_version=typed.ir_version,
    )
    checker.check_model(made, full_check=True)
    return made


class _Mixed:
    """The graph as it grows: nodes in their order, with casts where precisions meet.

    Attributes:
        nodes: so far.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self._types[value.name] = value.type.tensor_type.elem_type
        self._results = {value.name for value in graph.output}
        self._given = {value.name for value in graph.input}
        """Tensors that hold the graph's inputs and nothing else."""
        self._half: set[str] = set()
        """Tensors that are FP16 under their own name."""
        self._versions: dict[tuple[str, int], str] = {}
        """Name of a tensor in the other precision, once there is one."""
        self._used: dict[str, TensorProto] = {}
        self.nodes: list[NodeProto] = []

    def add(self, node: NodeProto) -> None:
        """Append a node in the precision it is due, with casts of what it reads."""
        precision = TensorProto.FLOAT16 if self._is_half(node) else TensorProto.FLOAT
        if node.op_type in VIEWS and self._data(node) and self._given.issuperset(self._data(node)):
            self._given |= set(node.output)
        copied = NodeProto()
        copied.CopyFrom(node)
        for place, name in enumerate(node.input):
            copied.input[place] = self._in(name, precision) if self._is_float(name) else self._as_is(name)
        self.nodes.append(copied)
        if precision == TensorProto.FLOAT16:
            for place, name in enumerate(node.output):
                copied.output[place] = self._half_result(name)

    def initializers(self) -> list[TensorProto]:
        """Return the constants that are read, each in the precisions it is read in."""
        return list(self._used.values())

    def _is_half(self, node: NodeProto) -> bool:
        data = self._data(node)
        constants = [name for name in node.input if name in self._constants and self._is_float(name)]
        if not data or not all(self._fits(name) for name in constants):
            return False
        if node.op_type in PRODUCTS:
            return self._given.isdisjoint(data)
        return node.op_type in CARRIERS and self._half.issuperset(data)

    def _data(self, node: NodeProto) -> list[str]:
        """Return the float tensors that a node reads, without constants."""
        return [name for name in node.input if self._is_float(name) and name not in self._constants]

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) == TensorProto.FLOAT

    def _fits(self, constant: str) -> bool:
        values = np.abs(numpy_helper.to_array(self._constants[constant]))
        return bool(values.max(initial=0.0) <= _LARGEST)

    def _as_is(self, name: str) -> str:
        """Return what is neither FP32 nor FP16: indices, shapes, inputs left out."""
        if name in self._constants:
            self._used[name] = self._constants[name]
        return name

    def _in(self, name: str, precision: int) -> str:
        """Return the name of a tensor's version in a precision, made here if nothing asked for it before."""
        own = TensorProto.FLOAT16 if name in self._half else TensorProto.FLOAT
        if precision == own:
            return self._as_is(name)
        if (name, precision) not in self._versions:
            self._versions[name, precision] = self._convert(name, precision)
        return self._versions[name, precision]

    def _convert(self, name: str, precision: int) -> str:
        made = name + _SUFFIX[precision]
        if name in self._constants:
            values = numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._used[made] = numpy_helper.from_array(values, made)
        else:
            self.nodes.append(helper.make_node("Cast", [name], [made], f"{made}/cast", to=precision))
        return made

    def _half_result(self, name: str) -> str:
        """Return the name an FP16 result gets; one of the graph's outputs is cast back to its own name."""
        if name not in self._results:
            self._half.add(name)
            return name
        made = name + _SUFFIX[TensorProto.FLOAT16]
        self.nodes.append(helper.make_node("Cast", [made], [name], f"{name}/cast", to=TensorProto.FLOAT))
        self._versions[name, TensorProto.FLOAT16] = made
        return made
