from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from avff.engine.backends.ort import OrtBackend, ort_factory
from avff.engine.errors import BackendError
from avff.engine.media import Float32
from tests.engine.backends.onnx_models import WEIGHT, add_weight, external_weight, spec_of, two_outputs


def _load(model: ModelProto, *outputs: str) -> OrtBackend:
    content = model.SerializeToString()
    return OrtBackend(content, spec_of(content, *outputs), threads=1)


def _batch(count: int) -> Float32:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


@pytest.mark.parametrize("count", [1, 2, 33])
def test_a_graph_runs_on_any_batch(count: int) -> None:
    """A graph gives its outputs by name for every batch size."""
    backend = _load(two_outputs(), "tokens", "root")
    x = _batch(count)
    outputs = backend.infer({"x": x})
    assert set(outputs) == {"tokens", "root"}
    np.testing.assert_allclose(outputs["tokens"], x + np.array(WEIGHT, np.float32))
    np.testing.assert_allclose(outputs["root"], np.sqrt(x + np.array(WEIGHT, np.float32)), rtol=1e-6)
    assert outputs["tokens"].dtype == np.float32


def test_outputs_do_not_depend_on_their_order() -> None:
    """Outputs are found by their names, not by their places."""
    outputs = _load(two_outputs(), "root", "tokens").infer({"x": _batch(1)})
    np.testing.assert_allclose(outputs["root"], np.sqrt(outputs["tokens"]), rtol=1e-6)


def test_results_stay_after_the_next_run() -> None:
    """What a run returned is the caller's to keep: the next run does not write over it."""
    backend = _load(add_weight(), "tokens")
    first = backend.infer({"x": _batch(2)})["tokens"]
    kept = first.copy()
    backend.infer({"x": _batch(2) * 100})
    np.testing.assert_array_equal(first, kept)


def test_nan_passes_through() -> None:
    """NaN in, or made by the graph, comes out as NaN and is not smoothed over."""
    backend = _load(two_outputs(), "tokens", "root")
    x = np.array([[np.nan, -100, np.inf, 0]], np.float32)
    outputs = backend.infer({"x": x})
    assert np.isnan(outputs["tokens"][0]).tolist() == [True, False, False, False]
    assert np.isnan(outputs["root"][0]).tolist() == [True, True, False, False]
    assert np.isinf(outputs["root"][0, 2])


def test_the_factory_loads_from_bytes() -> None:
    """The factory gives a backend for the bytes of a graph, with the threads that were asked for."""
    content = add_weight().SerializeToString()
    backend = ort_factory(threads=2)(content, spec_of(content, "tokens"))
    assert backend.infer({"x": _batch(1)})["tokens"].shape == (1, 4)
    backend.close()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (("y",), ("tokens",), r"video.onnx: has inputs \['x'\], contract says \['y'\]"),
        (("x", "z"), ("tokens",), r"has inputs \['x'\], contract says \['x', 'z'\]"),
        (("x",), ("logits",), r"has outputs \['tokens'\], contract says \['logits'\]"),
        (("x",), ("tokens", "root"), r"has outputs \['tokens'\], contract says \['root', 'tokens'\]"),
    ],
)
def test_other_names_than_the_contracts_are_refused(
    inputs: tuple[str, ...], outputs: tuple[str, ...], message: str
) -> None:
    """A graph with other tensors than its contract says is refused at load, with both lists."""
    content = add_weight().SerializeToString()
    with pytest.raises(BackendError, match=message):
        OrtBackend(content, spec_of(content, *outputs, inputs=inputs), threads=1)


def test_external_data_is_refused_before_it_is_read() -> None:
    """A graph that names another file never reaches the runtime."""
    model = add_weight()
    model.graph.initializer[0].CopyFrom(external_weight())
    with pytest.raises(BackendError, match=r"video\.onnx: refers to data in another file"):
        _load(model, "tokens")


def test_a_graph_that_takes_other_shapes_than_the_contracts_is_a_backend_error() -> None:
    """An input that the graph cannot take is an error of one line, never an answer."""
    content = add_weight().SerializeToString()
    spec = spec_of(content, "tokens")
    wider = replace(spec, inputs=(replace(spec.inputs[0], shape=(5,)),))
    backend = OrtBackend(content, wider, threads=1)
    with pytest.raises(BackendError, match=r"video\.onnx: ONNX Runtime failed \(.+\)") as caught:
        backend.infer({"x": np.zeros((2, 5), np.float32)})
    assert "\n" not in str(caught.value)


def test_no_gpu_is_used_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an ONNX Runtime that could: only the CPU is asked for, and only the CPU is got."""
    asked: list[object] = []
    make = onnxruntime.InferenceSession

    def record(*arguments: object, **options: object) -> object:
        asked.append(options["providers"])
        return make(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    backend = _load(add_weight(), "tokens")
    assert asked == [["CPUExecutionProvider"]]
    assert backend._session.get_providers() == ["CPUExecutionProvider"]


def test_an_operator_that_does_not_exist_is_refused() -> None:
    """A graph that the runtime does not know how to run is refused at load."""
    model = add_weight()
    model.graph.node[0].op_type = "Conjure"
    with pytest.raises(BackendError, match=r"video\.onnx: ONNX Runtime cannot load it"):
        _load(model, "tokens")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"This is no model.", b"\xff" * 1000, b"ORTM" * 10, b"\x08\x00\x00\x00ORTM" + b"\0" * 64],
)
def test_garbage_is_refused(content: bytes) -> None:
    """Bytes that are no ONNX model, of another runtime format too, are a backend error."""
    with pytest.raises(BackendError, match=r"video\.onnx: "):
        OrtBackend(content, spec_of(content, "tokens"), threads=1)


def test_every_truncation_is_refused_or_harmless() -> None:
    """A model that breaks off anywhere is a backend error, or still the same graph: nothing crashes."""
    model = add_weight()
    model.doc_string = "x" * 20
    content = model.SerializeToString()
    onnx.checker.check_model(model)
    refused = 0
    for size in range(len(content)):
        try:
            backend = OrtBackend(content[:size], spec_of(content, "tokens"), threads=1)
        except BackendError:
            refused += 1
        else:
            np.testing.assert_allclose(backend.infer({"x": _batch(1)})["tokens"], [[1, 3, 5, 7]])
    assert refused > 0.9 * len(content)


def test_a_graph_of_another_type_is_a_backend_error() -> None:
    """A graph that fits by name but not by type fails when it runs, and gives no answer."""
    model = add_weight()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.DOUBLE, [4], WEIGHT))
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        _load(model, "tokens").infer({"x": _batch(1)})
