"""The real thing: engines built for this machine's GPU, run on it, compared with ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.backends import kernel_cache
from avff.engine.backends.cuda_driver import CudaDriver
from avff.engine.backends.engine_loader import load_engines
from avff.engine.backends.tensorrt import TensorRtBackend, buckets_of
from avff.engine.contract import GRAPHS
from avff.engine.errors import BackendDown, BackendError
from avff.engine.media import Float32
from avff.engine.model import Model, load_model
from avff.engine.predictor import Predictor, StreamState
from avff.engine.process.start import start_engines
from tests.support.avffd import avffd
from tests.support.engines import demo_slices
from tests.support.gpu import PROFILE, build_embedded, need_gpu

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
LOGIT = {"fp32": 2e-3, "fp16": 0.02}
"""Largest difference of a logit from the CPU's; that of FP16 is the gate's."""
BATCHES = 0.005
"""Largest difference of a logit between batch sizes, as in the gate."""


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def directory(precision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flavour = need_gpu()
    directory = tmp_path_factory.mktemp("engines") / precision
    build_embedded(directory, flavour, precision)
    return directory


@pytest.fixture(scope="module")
def reference() -> Model:
    return load_model(threads=2)


@pytest.fixture
def model(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Loaded in this process, by this thread."""
    monkeypatch.setattr(kernel_cache, "cache_directory", lambda: tmp_path)
    model = load_engines(directory, CudaDriver)
    yield model
    model.close()


def _random(model: Model, graph: str, count: int) -> Tensors:
    rng = np.random.default_rng(count)
    return {
        t.name: (
            rng.integers(0, 2, (count, *t.shape))
            if t.name.endswith("_ok")
            else rng.standard_normal((count, *t.shape))
        ).astype(np.float32)
        for t in model.contract.graphs[graph].inputs
    }


def _relative(found: Float32, expected: Float32) -> float:
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("graph", GRAPHS)
def test_random_inputs_give_what_the_cpu_gives(
    graph: str, model: Model, reference: Model, precision: str
) -> None:
    """Every size around every bucket; within the precision, relative to a tensor's largest value."""
    for count in (1, 2, 4, 5, 8, 9, 16, 17, 32, 33):
        inputs = _random(reference, graph, count)
        expected = reference.infer(graph, inputs)
        for name, values in model.infer(graph, inputs).items():
            assert np.isfinite(values).all()
            assert _relative(values, expected[name]) < (0.05 if precision == "fp16" else 2e-3), (name, count)


def _logits(model: Model, batch: int) -> list[float]:
    """All logits of real windows, in calls of so many slices."""
    predictor, state, slices = Predictor(model), StreamState(), demo_slices()
    made = []
    for start in range(0, len(slices), batch):
        made += predictor.predict([(state, piece) for piece in slices[start : start + batch]])
    return [prediction.logit for _, prediction in made if prediction.logit is not None]


def test_real_windows_give_the_scores_of_the_cpu(model: Model, reference: Model, precision: str) -> None:
    expected = _logits(reference, 8)
    assert len(expected) > 20
    np.testing.assert_allclose(_logits(model, 8), expected, atol=LOGIT[precision], rtol=0)


def test_a_batch_of_one_gives_what_a_full_one_gives(model: Model) -> None:
    np.testing.assert_allclose(_logits(model, 1), _logits(model, 32), atol=BATCHES, rtol=0)


def test_the_same_batch_gives_the_same_bits(model: Model) -> None:
    """By graphs, over and over, between others; what was returned stays."""
    inputs = _random(model, "fusion", 3)
    first = {name: values.copy() for name, values in model.infer("fusion", inputs).items()}
    for count in (1, 32, 7):
        model.infer("fusion", _random(model, "fusion", count))
        for name, values in model.infer("fusion", inputs).items():
            np.testing.assert_array_equal(values, first[name])


def test_cuda_graphs_are_used(directory: Path, model: Model) -> None:
    """Captured by us, one a bucket; TensorRT-RTX captures by itself."""
    for backend in model._backends.values():
        assert isinstance(backend, TensorRtBackend)
        expected = 0 if need_gpu() == "rtx" else len(buckets_of(PROFILE))
        assert backend.graphs == expected


def test_a_wrong_batch_is_an_error_and_the_gpu_goes_on(model: Model) -> None:
    backend = model._backends["landmarks"]
    with pytest.raises(BackendError):
        backend.infer({"landmarks": np.zeros((1, 3), np.float32)})
    assert len(model.infer("landmarks", _random(model, "landmarks", 2))["tokens"]) == 2


def test_loading_again_and_again_takes_no_more_memory(directory: Path) -> None:
    """What the driver has free before and after, once it has set itself up."""
    free = []
    for _ in range(4):
        load_engines(directory, CudaDriver).close()
        driver = CudaDriver(need_gpu())
        driver.open()
        free.append(driver._cuda.mem_get_info()[0])
        driver.close()
    assert min(free[1:]) >= free[0] - 16_000_000


def test_damaged_kernels_are_compiled_anew(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX's; TensorRT compiles none at load."""
    monkeypatch.setattr(kernel_cache, "cache_directory", lambda: tmp_path)
    for _ in range(2):
        load_engines(directory, CudaDriver).close()
        for path in (tmp_path / "kernels").glob("*"):
            path.write_bytes(path.read_bytes()[::-1])
    load_engines(directory, CudaDriver).close()


def test_the_process_survives_being_killed(directory: Path, reference: Model) -> None:
    """It comes back within 10 s, with the same answers."""
    said: list[str] = []
    model = start_engines(directory, say=said.append)
    try:
        inputs = _random(reference, "landmarks", 3)
        before = model.infer("landmarks", inputs)["tokens"]
        os.kill(model._release.__self__._child._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        began = time.monotonic()
        after = None
        while after is None and time.monotonic() - began < 10:
            try:
                after = model.infer("landmarks", inputs)["tokens"]
            except BackendDown:
                time.sleep(0.05)
        np.testing.assert_array_equal(after, before)
    finally:
        model.close()
    assert said[-1] == "the engine runs again"


def test_the_daemon_scores_the_demo_on_the_gpu(directory: Path, precision: str) -> None:
    """The first load compiles kernels, which may take longer than the helper waits."""
    start_engines(directory).close()
    done = avffd("--source", "demo", "--engine", "tensorrt", "--engine-dir", directory)
    on_cpu = avffd("--source", "demo", "--engine", "onnx")
    assert (done.code, {event["backend"] for event in done.scores}) == (0, {"tensorrt"})
    for one, other in zip(done.scores, on_cpu.scores, strict=True):
        assert one["reason"] == other["reason"]
        if one["score"] is not None:
            assert one["score"] == pytest.approx(other["score"], abs=LOGIT[precision])
