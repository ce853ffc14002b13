"""FP16 on a CPU: every value is one that FP16 has, and what overflows there overflows here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from avff.engine.media import Float32
from avff.trainer.engines import rounded
from avff.trainer.engines.errors import BuildError
from avff.trainer.engines.mixed import to_mixed
from avff.trainer.engines.rounded import check_rounding, to_rounded


def _chain(*layers: tuple[str, npt.NDArray[np.float32] | None]) -> ModelProto:
    """Operators one after the other, each with one constant or none, FP32 ``[batch, 4]``.

    Before them the input changes its sign twice: a product of the input itself would be FP32.
    """
    layers = (("Neg", None), ("Neg", None), *layers)
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    for k, (operator, constant) in enumerate(layers):
        names = [f"t{k}"]
        if constant is not None:
            names.append(f"w{k}")
            constants.append(numpy_helper.from_array(constant, f"w{k}"))
        nodes.append(helper.make_node(operator, names, [f"t{k + 1}"], f"layer {k}"))
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])]
        for name in ("t0", f"t{len(layers)}")
    ]
    return helper.make_model(
        helper.make_graph(nodes, "g", sides[0], sides[1], constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def _run(model: ModelProto, values: Sequence[float]) -> Float32:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"t0": np.array([values], np.float32)})
    return np.asarray(found[0], np.float32)


def _eye(factor: float) -> npt.NDArray[np.float32]:
    return np.diag(np.full(4, factor, np.float32))


def _half(values: npt.ArrayLike) -> Float32:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


VALUES = (1 / 3, -2.7182817, 100.1, 1e-6)


def test_every_value_is_rounded_where_fp16_rounds_it() -> None:
    """Input, weight, product, bias and sum, each by itself: bit for bit what numpy's FP16 gives."""
    bias = np.full(4, 0.1, np.float32)
    model = _chain(("MatMul", _eye(1 / 7)), ("Add", bias), ("Relu", None), ("MatMul", _eye(1 / 3)))
    found = _run(to_rounded(to_mixed(model)), VALUES)
    product = _half(_half(VALUES) * _half(1 / 7))
    expected = _half(np.maximum(_half(product + _half(bias)), 0) * _half(1 / 3))
    assert found.tolist() == expected.tolist()
    assert not np.array_equal(found, _run(model, VALUES))


def test_islands_are_not_rounded() -> None:
    """A power, a root and a division between two products keep FP32's precision."""
    model = _chain(("MatMul", _eye(1)), ("Pow", np.array(2, np.float32)), ("Div", np.array(3, np.float32)))
    found = _run(to_rounded(to_mixed(model)), VALUES)
    np.testing.assert_array_equal(found, _half(VALUES) ** 2 / np.float32(3))
    assert not np.array_equal(found, _half(found))


@pytest.mark.parametrize("between", [("Relu", None), ("Gelu", None), ("Softplus", None), ("Add", _eye(0)[0])])
def test_an_overflow_that_the_next_layer_takes_back_is_seen(
    between: tuple[str, npt.NDArray[np.float32] | None],
) -> None:
    """ONNX Runtime's own FP16 on a CPU may give the FP32 answer here, 200."""
    model = _chain(("MatMul", _eye(2000)), between, ("MatMul", _eye(0.001)))
    values = (100.0, 1.0, 1.0, 1.0)
    assert _run(model, values)[0] == pytest.approx(200, rel=0.001)
    found = _run(to_rounded(to_mixed(model)), values)
    # The product's sum over infinity times 0 is NaN; either way the value is lost.
    assert not np.isfinite(found[0])


def test_small_values_vanish_as_in_fp16() -> None:
    """Half of FP16's smallest number rounds to 0, three quarters to the number itself."""
    smallest = 2.0**-24
    found = _run(
        to_rounded(to_mixed(_chain(("MatMul", _eye(1))))), (smallest / 2, smallest * 0.75, 1, -smallest)
    )
    assert found.tolist() == [0, smallest, 1, -smallest]


def test_the_installed_runtime_rounds() -> None:
    """Otherwise the gate must not be believed, and nothing is built."""
    check_rounding()


def test_a_runtime_that_drops_the_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would that took a cast there and back for nothing."""

    def nothing(source: str, target: str) -> list[NodeProto]:
        return [helper.make_node("Identity", [source], [target])]

    monkeypatch.setattr(rounded, "_rounding", nothing)
    with pytest.raises(BuildError, match="cannot judge FP16 graphs; install another version") as caught:
        check_rounding()
    assert "\n" not in str(caught.value)
