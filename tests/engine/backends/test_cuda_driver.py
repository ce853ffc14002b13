"""The real driver, as far as that goes without a GPU: what it asks of libraries, and how it takes answers."""

from __future__ import annotations

import ctypes
import importlib
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from avff.engine.backends import cuda_driver, cuda_libraries
from avff.engine.backends.cuda_driver import CudaDriver
from avff.engine.backends.cuda_graphs import CudaGraphs
from avff.engine.backends.gpu import Driver, DriverError, EngineTensor
from avff.engine.errors import GpuUnavailable
from tests.support.engines import needs_rtx


class RecordedCalls:
    """An object of a library: notes calls by name, and answers as told or with another such object."""

    def __init__(
        self, calls: list[tuple[str, tuple[Any, ...]]], answers: dict[str, Any], name: str = ""
    ) -> None:
        self._calls, self._answers, self._name = calls, answers, name

    def __getattr__(self, name: str) -> Any:
        answer = self._answers.get(name)
        if isinstance(answer, int | str | type | types.SimpleNamespace):
            return answer
        return RecordedCalls(self._calls, self._answers, name)

    def __call__(self, *arguments: Any) -> Any:
        self._calls.append((self._name, arguments))
        if self._name in self._answers:
            return self._answers[self._name](*arguments)
        return RecordedCalls(self._calls, self._answers, self._name)


class CudaError(Exception):
    pass


def _raise(error: Exception) -> Callable[..., Any]:
    def answer(*arguments: Any) -> Any:
        raise error

    return answer


class Libraries:
    """Scripted TensorRT and pycuda, which answer as they are told.

    Attributes:
        calls: what was asked of both, in order.
        answers: by the names of functions; attributes as they are.
        logger: that TensorRT was given.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {
            "count": lambda: 1,
            "compute_capability": lambda: (8, 6),
            "name": lambda: "GPU",
            "handle": 77,
            "Error": CudaError,
            "float32": "FLOAT",
            "num_io_tensors": 2,
            "get_tensor_name": lambda place: ("x", "tokens")[place],
            "get_tensor_mode": lambda name: {"x": "in", "tokens": "out"}[name],
            "get_tensor_dtype": lambda name: {"x": "FLOAT", "tokens": "HALF"}[name],
            "get_tensor_shape": lambda name: (-1, 4),
            "get_tensor_profile_shape": lambda name, profile: [(1, 4), (4, 4), (32, 4)],
            "TensorIOMode": types.SimpleNamespace(INPUT="in"),
            "serialize": lambda: b"kernels",
            "Runtime": self._runtime,
            "__version__": "9.9",
        }
        made = RecordedCalls(self.calls, self.answers)
        self.trt = types.SimpleNamespace(
            ILogger=type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0}),
            Runtime=made.Runtime,
            TensorIOMode=self.answers["TensorIOMode"],
            CudaGraphStrategy=types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
            DynamicShapesKernelSpecializationStrategy=types.SimpleNamespace(EAGER="eager"),
            float32="FLOAT",
            __version__="9.9",
        )
        self.cuda = made
        self.logger: Any = None

    def _runtime(self, logger: Any) -> Any:
        self.logger = logger
        return RecordedCalls(self.calls, self.answers)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Libraries:
    libraries = Libraries()
    monkeypatch.setattr(cuda_driver, "load_libraries", lambda flavour: (libraries.trt, libraries.cuda))
    return libraries


def test_it_is_a_driver(libraries: Libraries) -> None:
    """Type checkers know; this is for the names at run time."""
    driver: Driver = CudaDriver("rtx")
    assert (driver.version, driver.captures_itself, CudaDriver("tensorrt").captures_itself) == (
        "9.9",
        True,
        False,
    )


def test_opening_takes_the_primary_context_and_closing_gives_it_back(libraries: Libraries) -> None:
    driver = CudaDriver("tensorrt")
    device = driver.open()
    assert (device.name, device.compute_capability) == ("GPU", "8.6")
    assert libraries.names[:4] == ["init", "count", "Device", "retain_primary_context"]
    driver.close()
    driver.close()
    assert libraries.names.count("push") == libraries.names.count("pop") == 1


def test_no_gpu_is_an_error(libraries: Libraries) -> None:
    driver = CudaDriver("tensorrt")
    libraries.answers["count"] = lambda: 0
    with pytest.raises(DriverError, match="open failed: there is no GPU"):
        driver.open()
    libraries.answers["init"] = _raise(CudaError("cuInit failed:\n no CUDA-capable device is detected"))
    with pytest.raises(DriverError, match="open failed: cuInit failed: no CUDA-capable device is detected"):
        driver.open()
    driver.close()
    assert "pop" not in libraries.names


def test_an_engines_tensors_are_read(libraries: Libraries) -> None:
    driver = CudaDriver("tensorrt")
    driver.open()
    engine = driver.deserialize(b"engine", None)
    assert driver.tensors(engine) == [
        EngineTensor("x", True, "float32", (4,), (1, 32)),
        EngineTensor("tokens", False, "HALF", (4,), None),
    ]
    assert driver.kernels(engine) is None
    driver.free_engine(engine)
    assert engine.held is None


@pytest.mark.parametrize("kernels", [None, b"kept"])
def test_rtx_captures_and_compiles_at_once_and_caches(kernels: bytes | None, libraries: Libraries) -> None:
    driver = CudaDriver("rtx")
    driver.open()
    engine = driver.deserialize(b"engine", kernels)
    assert vars(engine.config)["cuda_graph_strategy"] == "whole"
    assert vars(engine.config)["dynamic_shapes_kernel_specialization_strategy"] == "eager"
    assert [arguments for name, arguments in libraries.calls if name == "deserialize"] == (
        [] if kernels is None else [(b"kept",)]
    )
    assert "set_runtime_cache" in libraries.names
    driver.create_context(engine, driver.create_stream())
    assert ("create_execution_context", (engine.config,)) in libraries.calls
    assert ("set_optimization_profile_async", (0, 77)) in libraries.calls
    assert driver.kernels(engine) == b"kernels"


def test_kernels_that_are_refused_are_passed_over(libraries: Libraries) -> None:
    """After an update of the GPU's driver, say."""
    libraries.answers["deserialize"] = lambda kernels: False
    driver = CudaDriver("rtx")
    driver.open()
    driver.deserialize(b"engine", b"of another driver")
    assert "set_runtime_cache" in libraries.names


REFUSALS: dict[str, tuple[str, Any, Callable[[CudaDriver, Any], object]]] = {
    "deserialize": ("deserialize_cuda_engine", None, lambda d, s: d.deserialize(b"", None)),
    "create_context": ("create_execution_context", None, lambda d, s: d.create_context(_engine(d), s)),
    "profile": ("set_optimization_profile_async", False, lambda d, s: d.create_context(_engine(d), s)),
    "set_shape": ("set_input_shape", False, lambda d, s: d.set_shape(_context(d, s), "x", (1, 4))),
    "set_address": ("set_tensor_address", False, lambda d, s: d.set_address(_context(d, s), "x", 5)),
    "enqueue": ("execute_async_v3", False, lambda d, s: d.enqueue(_context(d, s), s)),
    "synchronize": ("synchronize", CudaError("lost"), lambda d, s: d.synchronize(s)),
    "allocate_host": ("pagelocked_empty", CudaError("out of memory"), lambda d, s: d.allocate_host((1,))),
    "allocate_device": ("mem_alloc", CudaError("out of memory"), lambda d, s: d.allocate_device(1)),
    "copy_in": (
        "memcpy_htod_async",
        CudaError("lost"),
        lambda d, s: d.copy_in(1, np.zeros(1, np.float32), s),
    ),
    "copy_out": (
        "memcpy_dtoh_async",
        CudaError("lost"),
        lambda d, s: d.copy_out(np.zeros(1, np.float32), 1, s),
    ),
    "create_stream": ("Stream", RuntimeError("lost"), lambda d, s: d.create_stream()),
}


def _engine(driver: CudaDriver) -> Any:
    return driver.deserialize(b"engine", None)


def _context(driver: CudaDriver, stream: Any) -> Any:
    return driver.create_context(_engine(driver), stream)


@pytest.mark.parametrize("case", REFUSALS)
def test_every_status_is_checked(case: str, libraries: Libraries) -> None:
    """False, None and exceptions are errors that name the call, with what the library logged if it did."""
    function, answer, call = REFUSALS[case]
    driver = CudaDriver("tensorrt")
    driver.open()
    stream = driver.create_stream()
    name = "create_context" if case == "profile" else case
    if isinstance(answer, Exception):
        libraries.answers[function] = _raise(answer)
        with pytest.raises(DriverError, match=f"^{name} failed: {answer}$"):
            call(driver, stream)
        return

    def refuse(*arguments: Any) -> Any:
        libraries.logger.log(2, "a warning")
        libraries.logger.log(1, "the\nreason")
        libraries.logger.log(1, "another")
        return answer

    libraries.answers[function] = refuse
    with pytest.raises(DriverError, match=f"^{name} failed: the reason$"):
        call(driver, stream)


def test_what_was_logged_before_is_not_the_reason(libraries: Libraries) -> None:
    driver = CudaDriver("tensorrt")
    driver.open()
    libraries.logger.log(1, "an old story")
    libraries.answers["deserialize_cuda_engine"] = lambda content: None
    with pytest.raises(DriverError, match="deserialize failed: no reason given"):
        driver.deserialize(b"", None)


def test_memory_is_freed_by_its_own_call(libraries: Libraries) -> None:
    """Page-locked memory is an array whose base holds the allocation."""
    driver = CudaDriver("tensorrt")
    driver.open()
    driver.free_device(driver.allocate_device(8))
    driver.free_host(driver.allocate_host((2, 3)))
    assert libraries.names[-4:] == ["mem_alloc", "free", "pagelocked_empty", "free"]
    assert libraries.calls[-2] == ("pagelocked_empty", ((2, 3), np.float32))


@pytest.mark.parametrize("asked", [True, False, None])
def test_a_context_is_asked_whether_it_can_be_captured(asked: bool | None, libraries: Libraries) -> None:
    """If its version can be asked; else trying tells."""
    driver = CudaDriver("tensorrt")
    driver.open()
    stream = driver.create_stream()
    context = _context(driver, stream)
    if asked is None:
        context.held = object()
    else:
        libraries.answers["is_stream_capturable"] = lambda handle: asked
    assert driver.can_capture(context, stream) == (asked is not False)


class ScriptedCuda:
    """The functions of ``libcuda`` that graphs take: each notes its call and returns its status."""

    def __init__(self) -> None:
        self.status: dict[str, int] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"not permitted"
            if name in ("cuStreamEndCapture", "cuGraphInstantiateWithFlags"):
                place = arguments[1 if name == "cuStreamEndCapture" else 0]
                place._obj.value = 11 if name == "cuStreamEndCapture" else 22
            return self.status.get(name, 0)

        setattr(self, name, call)
        return call


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> ScriptedCuda:
    cuda = ScriptedCuda()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda)
    return cuda


def test_a_graph_is_captured_launched_and_freed(cuda: ScriptedCuda, libraries: Libraries) -> None:
    """Through the driver; what was recorded is not kept beside what can be launched."""
    driver = CudaDriver("tensorrt")
    driver.open()
    stream = driver.create_stream()
    driver.begin_capture(stream)
    graph = driver.end_capture(stream)
    driver.launch(graph, stream)
    driver.free_graph(graph)
    assert graph == 22
    assert cuda.calls == [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
    ]


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("cuStreamBeginCapture_v2", lambda graphs: graphs.begin(1)),
        ("cuStreamEndCapture", lambda graphs: graphs.end(1)),
        ("cuGraphInstantiateWithFlags", lambda graphs: graphs.end(1)),
        ("cuGraphLaunch", lambda graphs: graphs.launch(22, 1)),
        ("cuGraphExecDestroy", lambda graphs: graphs.free(22)),
    ],
)
def test_every_status_of_a_graph_is_checked(
    function: str, call: Callable[[CudaGraphs], object], cuda: ScriptedCuda
) -> None:
    cuda.status[function] = 900
    with pytest.raises(DriverError, match=rf"{function} failed: not permitted \(900\)"):
        call(CudaGraphs())
    assert ("cuGraphDestroy" in cuda.calls) == (function == "cuGraphInstantiateWithFlags")


def test_a_capture_that_failed_is_dropped_without_a_word(cuda: ScriptedCuda) -> None:
    cuda.status["cuStreamEndCapture"] = 901
    CudaGraphs().abandon(1)
    assert cuda.calls == ["cuStreamEndCapture", "cuGraphDestroy"]


def test_without_a_cuda_driver_there_are_no_graphs(
    libraries: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error like others: the engine runs without."""
    monkeypatch.setattr(ctypes, "CDLL", _raise(OSError("no such library")))
    driver = CudaDriver("tensorrt")
    driver.open()
    stream = driver.create_stream()
    with pytest.raises(DriverError, match="begin_capture failed: no such library"):
        driver.begin_capture(stream)
    driver.abandon_capture(stream)


@pytest.mark.parametrize(
    ("flavour", "words"),
    [("rtx", "pip install 'avff[rtx]' pycuda"), ("tensorrt", "pip install 'avff[gpu]'"), ("gold", "'gold'")],
)
def test_a_missing_package_is_named_with_the_extra(
    flavour: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, "import_module", _raise(ImportError("no\nmodule")))
    with pytest.raises(GpuUnavailable) as caught:
        CudaDriver(flavour)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


USED = {
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        "create_execution_context", "create_runtime_config", "get_tensor_dtype", "get_tensor_mode",
        "get_tensor_name", "get_tensor_profile_shape", "get_tensor_shape", "num_io_tensors",
    ),
    "IExecutionContext": (
        "execute_async_v3", "is_stream_capturable", "set_input_shape", "set_optimization_profile_async",
        "set_tensor_address",
    ),
    "IRuntimeConfig": (
        "create_runtime_cache", "cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy",
        "set_runtime_cache",
    ),
    "IRuntimeCache": ("deserialize", "serialize"),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "TensorIOMode": ("INPUT",),
    "ILogger": ("ERROR", "INTERNAL_ERROR"),
}  # fmt: skip


@needs_rtx
def test_tensorrt_has_what_is_asked_of_it() -> None:
    """By name; TensorRT-RTX's package is there on machines without a GPU too."""
    trt = importlib.import_module("tensorrt_rtx")
    absent = [
        f"{kind}.{name}"
        for kind, names in USED.items()
        for name in names
        if not hasattr(getattr(trt, kind), name)
    ]
    assert absent == []
    assert trt.float32 == trt.DataType.FLOAT


@needs_rtx
def test_the_real_logger_keeps_the_reason() -> None:
    """A real runtime refuses what is no engine, with or without a GPU, and prints nothing."""
    trt = importlib.import_module("tensorrt_rtx")
    messages: deque[str] = deque()
    runtime = trt.Runtime(cuda_libraries.logger_into(trt, messages))
    assert runtime.deserialize_cuda_engine(b"no engine" * 100) is None
    assert "Serialization" in messages[0]
