"""What an FP16 graph computes, on a CPU that has no FP16.

ONNX Runtime runs an FP16 operator on a CPU by casting to FP32 and back, and then drops every pair of
casts that meet: what lies between two operators is never rounded, and nothing overflows.  An FP16
graph that gives infinity on a GPU gives the right answer there.  So the graph is written anew in FP32,
with every FP16 value truly rounded to one that FP16 has: a product's terms are multiplied and added up
in FP32, as tensor cores do, and the sum is rounded.

The rounding is a cast to FP16, a copy, and a cast back; the copy keeps the casts from meeting.
:func:`check_rounding` makes sure that the installed runtime leaves it in.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from avff.engine.backends.ort import OrtBackend
from avff.engine.contract import GraphSpec, TensorSpec
from avff.engine.media import Float32
from avff.trainer.engines.errors import BuildError

_PROBE_IN = (1.0 / 3.0, 70_000.0, -70_000.0, 1e-9)
_PROBE_OUT = (0.333251953125, np.inf, -np.inf, 0.0)
"""The same rounded to 11 bits, beyond the range to either side, and below the smallest number."""


def to_rounded(mixed: ModelProto) -> ModelProto:
    """Return a graph in FP32 with the values of a mixed one; names of its tensors are kept.

    Raises:
        onnx.shape_inference.InferenceError: it is no valid graph.
    """
    graph = shape_inference.infer_shapes(mixed, strict_mode=True).graph
    half = {v.name for v in (*graph.input, *graph.value_info, *graph.output) if _is_half(v)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Cast" and {*node.input, *node.output} & half:
            nodes += _cast(node, half)
            continue
        copied = NodeProto()
        copied.CopyFrom(node)
        nodes.append(copied)
        for place, name in enumerate(node.output):
            if name in half:
                copied.output[place] = f"{name}/exact"
                nodes += _rounding(f"{name}/exact", name)
    constants = [_widened(tensor) for tensor in graph.initializer]
    return helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, constants),
        opset_imports=mixed.opset_import,
        ir_version=mixed.ir_version,
    )


def check_rounding() -> None:
    """Check that the installed ONNX Runtime carries the rounding out.

    Raises:
        BuildError: it optimises it away, so that nothing it says of FP16 can be believed.
    """
    found = _round_in_runtime(np.array([_PROBE_IN], np.float32))
    if not np.array_equal(found[0], np.array(_PROBE_OUT, np.float32)):
        raise BuildError(
            f"ONNX Runtime rounds {list(_PROBE_IN)} to {found[0].tolist()} instead of {list(_PROBE_OUT)} in "
            f"FP16, so it cannot judge FP16 graphs; install another version of onnxruntime"
        )


def _round_in_runtime(values: Float32) -> Float32:
    before, after = (helper.make_node("Neg", [x], [y]) for x, y in (("x", "n"), ("r", "y")))
    nodes = [before, *_rounding("n", "r"), after]
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(_PROBE_IN)]) for name in "xy"
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "rounding", sides[:1], sides[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    inputs, outputs = ((TensorSpec(name, "float32", (len(_PROBE_IN),)),) for name in "xy")
    backend = OrtBackend(
        model.SerializeToString(), GraphSpec("rounding", "", inputs, outputs, 0.0), threads=1
    )
    found = backend.infer({"x": values})["y"]
    backend.close()
    return found


def _is_half(value: ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _cast(node: NodeProto, half: set[str]) -> list[NodeProto]:
    """Return what stands for a cast: rounding on the way to FP16, nothing on the way back."""
    if node.output[0] in half:
        return _rounding(node.input[0], node.output[0])
    return [helper.make_node("Identity", node.input, node.output)]


def _rounding(source: str, target: str) -> list[NodeProto]:
    rounded, copied = f"{target}/rounded", f"{target}/copied"
    return [
        helper.make_node("Cast", [source], [rounded], to=TensorProto.FLOAT16),
        helper.make_node("Identity", [rounded], [copied]),
        helper.make_node("Cast", [copied], [target], to=TensorProto.FLOAT),
    ]


def _widened(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
