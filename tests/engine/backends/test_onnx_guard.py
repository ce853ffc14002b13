from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from avff.engine.backends.onnx_guard import refuse_external_data
from avff.engine.errors import BackendError
from tests.engine.backends.onnx_models import WEIGHT, add_weight, external_weight, sparse_weight, two_outputs

LINKS = "refers to data in another file"


def _nested(inner: GraphProto, depth: int) -> GraphProto:
    """Wrap a graph into the branches of ``depth`` If nodes."""
    for _ in range(depth):
        outputs = list(inner.output)
        condition = helper.make_node(
            "Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])
        )
        branch = helper.make_node(
            "If", ["c"], [o.name for o in outputs], then_branch=inner, else_branch=inner
        )
        inner = helper.make_graph([condition, branch], "outer", [], outputs)
    return inner


def _constant(tensor: TensorProto) -> NodeProto:
    return helper.make_node("Constant", [], ["w"], value=tensor)


def _graph(node: NodeProto, *weights: TensorProto) -> GraphProto:
    out = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])
    return helper.make_graph([node], "g", [], [out], list(weights))


def _in_initializer() -> ModelProto:
    return helper.make_model(_graph(helper.make_node("Relu", ["x"], ["w"]), external_weight()))


def _in_constant() -> ModelProto:
    return helper.make_model(_graph(_constant(external_weight())))


def _in_tensor_list() -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["w"])
    node.attribute.append(helper.make_attribute("values", [external_weight()]))
    return helper.make_model(_graph(node))


def _in_branch() -> ModelProto:
    return helper.make_model(_nested(_graph(_constant(external_weight())), 1))


def _in_deep_branch() -> ModelProto:
    return helper.make_model(_nested(_graph(helper.make_node("Relu", ["x"], ["w"]), external_weight()), 5))


def _in_graph_list() -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["w"])
    node.attribute.append(helper.make_attribute("graphs", [_graph(_constant(external_weight()))]))
    return helper.make_model(_graph(node))


def _in_function() -> ModelProto:
    model = helper.make_model(_graph(helper.make_node("F", [], ["w"], domain="own")))
    function = FunctionProto(name="F", domain="own", output=["w"], node=[_constant(external_weight())])
    model.functions.append(function)
    return model


def _in_function_default() -> ModelProto:
    model = helper.make_model(_graph(helper.make_node("F", [], ["w"], domain="own")))
    default = AttributeProto(name="value", type=AttributeProto.TENSOR, t=external_weight())
    model.functions.append(FunctionProto(name="F", domain="own", output=["w"], attribute_proto=[default]))
    return model


def _in_training() -> ModelProto:
    model = two_outputs()
    model.training_info.add().algorithm.CopyFrom(_graph(_constant(external_weight())))
    return model


def _by_location_alone() -> ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4))
    weight.data_location = TensorProto.EXTERNAL
    return helper.make_model(_graph(helper.make_node("Relu", ["x"], ["w"]), weight))


@pytest.mark.parametrize(
    "make",
    [
        _in_initializer,
        _in_constant,
        _in_tensor_list,
        _in_branch,
        _in_deep_branch,
        _in_graph_list,
        _in_function,
        _in_function_default,
        _in_training,
        _by_location_alone,
    ],
)
def test_external_data_is_found_wherever_it_is(make: Callable[[], ModelProto]) -> None:
    """A tensor that names another file is refused in every place that ONNX knows for tensors."""
    with pytest.raises(BackendError, match=f"video.onnx: {LINKS}; export it as one file"):
        refuse_external_data(make().SerializeToString(), "video.onnx")


def test_sparse_initializers_are_refused() -> None:
    """A sparse tensor, whose parts could be external, is refused as such."""
    model = add_weight(np.ones(4))
    model.graph.sparse_initializer.append(sparse_weight())
    with pytest.raises(BackendError, match="m: holds sparse tensors"):
        refuse_external_data(model.SerializeToString(), "m")


def test_sparse_attributes_are_refused() -> None:
    """A sparse constant is refused too."""
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse_weight())
    with pytest.raises(BackendError, match="sparse"):
        refuse_external_data(helper.make_model(_graph(node)).SerializeToString(), "m")


@pytest.mark.parametrize("depth", [0, 1, 8])
def test_a_model_of_one_file_passes(depth: int) -> None:
    """A model that holds its own data passes, however deep its graphs are nested."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4))
    refuse_external_data(
        helper.make_model(_nested(_graph(_constant(weight)), depth)).SerializeToString(), "m"
    )


def test_data_that_looks_like_a_link_passes() -> None:
    """Weights are not mistaken for structure, whatever their bytes are."""
    inside = _in_initializer().SerializeToString()
    weight = helper.make_tensor("w", TensorProto.UINT8, [len(inside)], inside, raw=True)
    model = helper.make_model(_graph(helper.make_node("Relu", ["x"], ["w"]), weight))
    refuse_external_data(model.SerializeToString(), "m")


def _field(number: int, content: bytes, *, beyond: int = 0) -> bytes:
    """A length-delimited field; ``beyond`` sets bits of its key above the 32 that a key has."""
    return _varint(number << 3 | 2 | beyond << 32) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("beyond", [1, 7])
def test_an_overlong_field_number_is_refused(beyond: int) -> None:
    """A key above 32 bits, of which ONNX Runtime drops the upper ones, cannot hide a tensor."""
    model = add_weight()
    weight = model.graph.initializer.pop().SerializeToString()
    graph = model.graph.SerializeToString() + _field(5, weight, beyond=beyond)
    model.ClearField("graph")
    content = model.SerializeToString() + _field(7, graph)
    with pytest.raises(BackendError, match="m: is not an ONNX file"):
        refuse_external_data(content, "m")
    # This is why: the runtime does find the tensor there.
    (found,) = onnxruntime.InferenceSession(content).run(None, {"x": np.zeros((1, 4), np.float32)})
    np.testing.assert_array_equal(found, [WEIGHT])


def test_merged_occurrences_are_all_searched() -> None:
    """Protobuf merges a message that occurs twice: a link in the second occurrence is found."""
    with pytest.raises(BackendError, match=LINKS):
        refuse_external_data(two_outputs().SerializeToString() + _in_initializer().SerializeToString(), "m")


@pytest.mark.parametrize("seed", range(5))
def test_garbage_ends_in_a_backend_error_or_passes(seed: int) -> None:
    """Random bytes and models with flipped bits never end in another error, or in none at all."""
    rng = np.random.default_rng(seed)
    content = _in_deep_branch().SerializeToString()
    refused = 0
    for _ in range(200):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=3)] ^= np.uint8(1) << rng.integers(8, dtype=np.uint8)
        for data in (damaged.tobytes(), rng.bytes(int(rng.integers(1, 100)))):
            try:
                refuse_external_data(data, "m")
            except BackendError:
                refused += 1
    assert refused > 200


def test_a_model_that_breaks_off_within_a_field_is_refused() -> None:
    """Every prefix is refused as no ONNX file, but for those that end between two fields of the model."""
    model = two_outputs()
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    after_version = ModelProto(ir_version=model.ir_version).ByteSize()
    after_graph = after_version + ModelProto(graph=model.graph).ByteSize()
    passed = set()
    for size in range(len(content)):
        try:
            refuse_external_data(content[:size], "m")
        except BackendError as error:
            told = str(error)
            if not told.startswith("m: is not an ONNX file"):
                pytest.fail(told)
        else:
            passed.add(size)
    assert passed == {0, after_version, after_graph}
