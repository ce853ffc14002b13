"""What every backend owes its caller, asked of ONNX Runtime and of TensorRT on a scripted GPU alike."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from avff.engine.backend import Backend, Tensors
from avff.engine.backends.ort import OrtBackend
from avff.engine.backends.sidecar import CompiledGraph, Profile
from avff.engine.backends.tensorrt import TensorRtBackend
from avff.engine.contract import GraphSpec
from avff.engine.errors import BackendError
from avff.engine.media import Float32
from avff.engine.process.start import RemoteBackend
from avff.engine.process.wire import tensors_at
from tests.engine.backends.onnx_models import WEIGHT, add_inputs, add_weight, spec_of, two_outputs
from tests.support.scripted_driver import RecordedKernels, ScriptedDriver

Load = Callable[[bytes, GraphSpec], Backend]


def _ort(content: bytes, spec: GraphSpec) -> Backend:
    return OrtBackend(content, spec, threads=1)


def _tensorrt(content: bytes, spec: GraphSpec, driver: ScriptedDriver, most: int = 32) -> Backend:
    digest = hashlib.sha256(content).hexdigest()
    compiled = CompiledGraph("video.engine", digest, len(content), digest, digest, Profile(1, 1, most))
    return TensorRtBackend(
        driver, "stream", content, compiled, spec, kernels=RecordedKernels(), say=lambda line: None
    )


class InThisProcess:
    """Stands for the engine's process: reads and writes the memory as that one does, without going there."""

    def __init__(self, backend: Backend, spec: GraphSpec) -> None:
        self._backend, self._spec = backend, spec
        self._memory = mmap.mmap(-1, 1 << 20)

    def run(self, graph: str, inputs: Tensors, count: int) -> Tensors:
        given, made = tensors_at(self._memory, self._spec, count)
        for name, values in inputs.items():
            given[name][:] = values
        for name, values in self._backend.infer(given).items():
            made[name][:] = values
        return {name: values.copy() for name, values in made.items()}


def _remote(content: bytes, spec: GraphSpec) -> Backend:
    process: Any = InThisProcess(_tensorrt(content, spec, ScriptedDriver()), spec)
    return RemoteBackend(process, "video", spec)


LOADERS: dict[str, Load] = {
    "onnx": _ort,
    "tensorrt with graphs": lambda content, spec: _tensorrt(content, spec, ScriptedDriver()),
    "tensorrt without graphs": lambda content, spec: _tensorrt(
        content, spec, ScriptedDriver(capturable=False)
    ),
    "tensorrt that captures itself": lambda content, spec: _tensorrt(
        content, spec, ScriptedDriver(captures_itself=True)
    ),
    "tensorrt of at most 5": lambda content, spec: _tensorrt(
        content, spec, ScriptedDriver(batches=(1, 5)), most=5
    ),
    "in another process": _remote,
}


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Load:
    return LOADERS[request.param]


def _loaded(load: Load) -> Backend:
    content = two_outputs().SerializeToString()
    return load(content, spec_of(content, "tokens", "root"))


def _batch(count: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).uniform(0, 100, (count, 4)).astype(np.float32)


def test_every_size_of_a_batch_gives_its_own_items(load: Load) -> None:
    """1 to 33, and more than any bucket holds; what a batch is padded with is not to be seen."""
    backend = _loaded(load)
    for count in (*range(1, 34), 64, 71):
        x = _batch(count, seed=count)
        outputs = backend.infer({"x": x})
        expected = x + np.array(WEIGHT, np.float32)
        np.testing.assert_array_equal(outputs["tokens"], expected)
        np.testing.assert_allclose(outputs["root"], np.sqrt(expected), rtol=1e-6)
        assert outputs["tokens"].dtype == outputs["root"].dtype == np.float32
    backend.close()


def test_an_item_is_the_same_alone_and_in_a_batch(load: Load) -> None:
    backend = _loaded(load)
    x = _batch(33)
    whole = backend.infer({"x": x})
    for name in ("tokens", "root"):
        alone = np.concatenate([backend.infer({"x": x[i : i + 1]})[name] for i in range(33)])
        np.testing.assert_array_equal(alone, whole[name])


def test_results_stay_after_later_runs(load: Load) -> None:
    """What a run returned is the caller's to keep and to change, also after the end."""
    backend = _loaded(load)
    first = backend.infer({"x": _batch(3)})
    kept = {name: values.copy() for name, values in first.items()}
    second = backend.infer({"x": _batch(3, seed=1)})
    for values in second.values():
        values[:] = -1
    backend.infer({"x": _batch(33, seed=2)})
    backend.close()
    for name, values in first.items():
        np.testing.assert_array_equal(values, kept[name])


def test_nan_of_one_item_stays_with_it(load: Load) -> None:
    """It passes through, into neither its neighbours nor the next batch."""
    backend = _loaded(load)
    x = _batch(3)
    x[1] = np.nan
    assert np.isnan(backend.infer({"x": x})["tokens"]).any(axis=1).tolist() == [False, True, False]
    assert not np.isnan(backend.infer({"x": _batch(2)})["root"]).any()


def test_inputs_may_be_views(load: Load) -> None:
    """Not contiguous, or read-only."""
    backend = _loaded(load)
    x = np.asfortranarray(_batch(6))[::2]
    x.setflags(write=False)
    np.testing.assert_array_equal(backend.infer({"x": x})["tokens"], x + np.array(WEIGHT, np.float32))


@pytest.mark.parametrize("shape", [(2, 5), (4,), (2, 4, 1), (2, 3)])
def test_a_wrong_shape_is_a_backend_error(shape: tuple[int, ...], load: Load) -> None:
    """Of one line, and the backend goes on."""
    backend = _loaded(load)
    with pytest.raises(BackendError) as caught:
        backend.infer({"x": np.zeros(shape, np.float32)})
    assert "\n" not in str(caught.value)
    assert backend.infer({"x": _batch(1)})["tokens"].shape == (1, 4)


def test_a_wrong_type_or_name_is_a_backend_error(load: Load) -> None:
    backend = _loaded(load)
    for inputs in ({"x": np.zeros((1, 4), np.int64)}, {"y": _batch(1)}, {}):
        with pytest.raises(BackendError):
            backend.infer(inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (33, 1)])
def test_batches_of_different_sizes_are_refused(sizes: tuple[int, int], load: Load) -> None:
    """One of a single item would be repeated for the others."""
    content = add_inputs().SerializeToString()
    backend = load(content, spec_of(content, "tokens", inputs=("x", "y")))
    x = _batch(2)
    np.testing.assert_array_equal(backend.infer({"x": x, "y": x})["tokens"], 2 * x)
    with pytest.raises(BackendError, match="got batches of"):
        backend.infer({"x": _batch(sizes[0]), "y": _batch(sizes[1])})


@pytest.mark.parametrize(("inputs", "outputs"), [(("y",), ("tokens",)), (("x",), ("logits",))])
def test_other_tensors_than_the_contracts_are_refused(
    inputs: tuple[str, ...], outputs: tuple[str, ...], load: Load
) -> None:
    """When it is loaded, not when it is run."""
    content = add_weight().SerializeToString()
    with pytest.raises(BackendError):
        load(content, spec_of(content, *outputs, inputs=inputs))
