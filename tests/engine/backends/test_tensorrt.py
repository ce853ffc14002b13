"""The TensorRT backend's own affairs: buckets, CUDA graphs, memory, errors of every call."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest

from avff.engine.backends.sidecar import CompiledGraph, Profile
from avff.engine.backends.tensorrt import TensorRtBackend, buckets_of
from avff.engine.contract import GraphSpec
from avff.engine.errors import BackendError
from avff.engine.media import Float32
from tests.engine.backends.onnx_models import WEIGHT, add_inputs, spec_of, two_outputs
from tests.support.scripted_driver import RecordedKernels, ScriptedDriver

CONTENT = two_outputs().SerializeToString()
SPEC = spec_of(CONTENT, "tokens", "root")
CAPTURING = ("begin_capture", "end_capture")


def _load(
    driver: ScriptedDriver,
    *,
    content: bytes = CONTENT,
    profile: Profile | None = None,
    spec: GraphSpec = SPEC,
    kernels: RecordedKernels | None = None,
    said: list[str] | None = None,
) -> TensorRtBackend:
    digest = hashlib.sha256(content).hexdigest()
    profile = profile or Profile(1, 4, 32)
    return TensorRtBackend(
        driver,
        "stream",
        content,
        CompiledGraph("video.engine", digest, len(content), digest, digest, profile),
        spec,
        kernels=kernels or RecordedKernels(),
        say=(said if said is not None else []).append,
    )


def _batch(count: int) -> Float32:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


@pytest.mark.parametrize(
    ("least", "most", "buckets"),
    [
        (1, 32, (1, 4, 8, 16, 32)),
        (1, 31, (1, 4, 8, 16)),
        (1, 1, (1,)),
        (2, 8, (4, 8)),
        (2, 3, (3,)),
        (1, 64, (1, 4, 8, 16, 32)),
    ],
)
def test_buckets_are_within_the_profile(least: int, most: int, buckets: tuple[int, ...]) -> None:
    assert buckets_of(Profile(least, most, most)) == buckets


@pytest.mark.parametrize(
    ("count", "launches"), [(1, 1), (2, 1), (4, 1), (5, 1), (32, 1), (33, 2), (64, 2), (0, 0)]
)
def test_a_batch_is_one_launch_of_a_captured_graph(count: int, launches: int) -> None:
    """Copies are part of it: nothing else is asked of the driver."""
    driver = ScriptedDriver()
    backend = _load(driver)
    assert backend.graphs == 5
    driver.calls.clear()
    outputs = backend.infer({"x": _batch(count)})
    assert driver.calls == ["launch", "synchronize"] * launches
    np.testing.assert_array_equal(outputs["tokens"], _batch(count) + np.array(WEIGHT, np.float32))


def test_without_graphs_the_calls_are_made_one_by_one_and_it_is_said_once() -> None:
    driver, said = ScriptedDriver(capturable=False), list[str]()
    backend = _load(driver, said=said)
    assert (backend.graphs, len(said)) == (0, 1)
    assert said[0].startswith("video.engine: CUDA graphs cannot be captured")
    driver.calls.clear()
    backend.infer({"x": _batch(2)})
    assert driver.calls == ["copy_in", "enqueue", "copy_out", "copy_out", "synchronize"]


def test_a_runtime_that_captures_itself_is_left_to_it() -> None:
    """It is given two runs of each bucket: one to settle, one to capture."""
    driver, said = ScriptedDriver(captures_itself=True), list[str]()
    _load(driver, said=said)
    assert said == []
    assert not {"can_capture", *CAPTURING} & set(driver.calls)
    runs = [call for call in driver.calls if call in ("create_context", "enqueue", "synchronize")]
    assert runs == ["create_context", *["enqueue", "synchronize"] * 2] * 5


def test_every_bucket_is_run_before_it_is_captured() -> None:
    """What TensorRT sets up at the first run of a shape must not become part of a graph."""
    driver = ScriptedDriver()
    _load(driver)
    calls = [
        call for call in driver.calls if call in ("create_context", "enqueue", "synchronize", *CAPTURING)
    ]
    one = ["create_context", "enqueue", "synchronize", "begin_capture", "enqueue", "end_capture"]
    assert calls == one * 5


def _calls_of(driver: ScriptedDriver) -> int:
    backend = _load(driver)
    backend.infer({"x": _batch(33)})
    backend.close()
    return len(driver.calls)


@pytest.mark.parametrize("graphs", [True, False])
def test_any_call_may_fail_and_nothing_stays_allocated(graphs: bool) -> None:
    """Each call in turn: an error that names it and the engine, or, if it only captures, a run without."""
    for number in range(_calls_of(ScriptedDriver(capturable=graphs))):
        driver = ScriptedDriver(capturable=graphs, fail_at=number)
        error, tokens = _whole_life(driver)
        failed = driver.calls[number]
        if error:
            assert error == f"video.engine: TensorRT: {failed} failed: scripted"
        else:
            # Within a capture, any call may fail: then the bucket runs without.
            assert failed in (*CAPTURING, "copy_in", "enqueue", "copy_out", "kernels")
            np.testing.assert_array_equal(tokens, _batch(33) + np.array(WEIGHT, np.float32))
        assert driver.unfreed == {}, failed


def _whole_life(driver: ScriptedDriver) -> tuple[str, Float32 | None]:
    """Load, run, close; return what went wrong, and the answer."""
    tokens: Float32 | None = None
    try:
        backend = _load(driver)
        try:
            tokens = backend.infer({"x": _batch(33)})["tokens"]
        finally:
            backend.close()
    except BackendError as error:
        return str(error), tokens
    return "", tokens


def test_what_cannot_be_freed_does_not_keep_the_rest() -> None:
    """The rest is freed, then the failure is told; once."""
    loading = ScriptedDriver()
    _load(loading)
    driver = ScriptedDriver(fail_at=len(loading.calls) + 3)
    backend = _load(driver)
    with pytest.raises(BackendError, match=r"free_\w+ failed"):
        backend.close()
    assert driver.unfreed == {}
    backend.close()


def test_closing_twice_is_closing_once() -> None:
    driver = ScriptedDriver()
    backend = _load(driver)
    backend.close()
    calls = len(driver.calls)
    backend.close()
    assert len(driver.calls) == calls


def test_another_thread_is_refused() -> None:
    """A CUDA context belongs to the thread that made it current."""
    backend = _load(ScriptedDriver())
    errors: list[str] = []

    def use() -> None:
        for call in (lambda: backend.infer({"x": _batch(1)}), backend.close):
            try:
                call()
            except BackendError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == ["video.engine: used by another thread than the one that loaded it"] * 2
    assert backend.infer({"x": _batch(1)})["tokens"].shape == (1, 4)


def test_batches_of_different_sizes_are_refused() -> None:
    content = add_inputs().SerializeToString()
    backend = _load(ScriptedDriver(), content=content, spec=spec_of(content, "tokens", inputs=("x", "y")))
    assert backend.infer({"x": _batch(2), "y": _batch(2)})["tokens"].tolist() == (2 * _batch(2)).tolist()
    with pytest.raises(BackendError, match=r"got batches of \[1, 2\] in one call"):
        backend.infer({"x": _batch(1), "y": _batch(2)})


def test_an_engine_with_another_profile_is_refused() -> None:
    """The side-car says 16, the engine takes 32: one of them is not what was built."""
    driver = ScriptedDriver()
    with pytest.raises(BackendError, match="its tensor 'x' is not what the contract and side-car say"):
        _load(driver, profile=Profile(1, 4, 16))
    assert driver.unfreed == {}


def test_kernels_are_kept_and_given_back() -> None:
    """What the first load compiled is there for the second one, and after that."""
    kernels = RecordedKernels()
    for given in (None, b"compiled"):
        driver = ScriptedDriver(captures_itself=True)
        _load(driver, kernels=kernels)
        assert driver.given == [given]
    assert kernels.kept == {hashlib.sha256(CONTENT).hexdigest(): b"compiled"}
    kernels.kept.clear()
    _load(ScriptedDriver(), kernels=kernels)
    assert kernels.kept == {}


def test_kernels_are_gone_while_the_runtime_has_them() -> None:
    """A process that they crash is the last one that they crash."""
    kernels, seen = RecordedKernels(), dict[str, dict[str, bytes]]()
    digest = hashlib.sha256(CONTENT).hexdigest()
    kernels.kept[digest] = b"poison"
    driver = ScriptedDriver(captures_itself=True, before=lambda call: seen.update({call: dict(kernels.kept)}))
    _load(driver, kernels=kernels)
    assert driver.given == [b"poison"]
    assert seen["deserialize"] == seen["enqueue"] == seen["kernels"] == {}
    assert kernels.kept == {digest: b"compiled"}
