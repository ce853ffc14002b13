"""The real driver, as far as that goes without a GPU: what it asks of libraries, and how it takes answers."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from avff.engine.backends import cuda_driver
from avff.engine.backends.cuda_driver import CudaDriver
from avff.engine.backends.cuda_graphs import CudaGraphs
from avff.engine.backends.gpu import Driver, DriverError, EngineTensor
from avff.engine.errors import GpuUnavailable


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


class RecordedMemory:
    """Memory of the GPU, which has an address and is freed by its own call; page-locked memory's base has."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __int__(self) -> int:
        return 5

    def free(self) -> None:
        self.calls.append(("free", ()))


MEMORY = RecordedMemory()
HOST: Any = types.SimpleNamespace(base=RecordedMemory())
"""Stands for a page-locked array."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING in cuda.h."""
THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL in cuda.h."""


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
    assert driver.open() == "8.6"
    assert libraries.names[:5] == ["init", "count", "Device", "retain_primary_context", "push"]
    libraries.calls.clear()
    driver.close()
    driver.close()
    # Detached while it is current: of one that was popped, pycuda does not release the primary context.
    assert libraries.calls == [("detach", ())]


def test_no_gpu_is_told_as_such(libraries: Libraries) -> None:
    driver = CudaDriver("tensorrt")
    libraries.answers["count"] = lambda: 0
    with pytest.raises(GpuUnavailable, match="there is no GPU"):
        driver.open()
    libraries.answers["init"] = _raise(CudaError("cuInit failed:\n no CUDA-capable device is detected"))
    with pytest.raises(GpuUnavailable, match=r"no GPU can be used \(cuInit failed: no CUDA-capable"):
        driver.open()
    driver.close()
    assert "detach" not in libraries.names


@pytest.mark.parametrize("function", ["Device", "retain_primary_context", "push", "Runtime"])
def test_a_gpu_that_cannot_be_opened_is_not_an_absent_one(function: str, libraries: Libraries) -> None:
    """It has no memory left, say: then going on without is not what was asked for."""
    refuse = _raise(CudaError("out of memory"))
    if function == "Runtime":
        libraries.trt.Runtime = refuse
    libraries.answers[function] = refuse
    driver = CudaDriver("tensorrt")
    with pytest.raises(DriverError, match="open failed: out of memory"):
        driver.open()
    driver.close()


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


CALLS: dict[str, tuple[Callable[[CudaDriver, Any, Any, Any], object], list[tuple[str, tuple[Any, ...]]]]] = {
    "create_stream": (lambda d, s, e, c: d.create_stream(), [("Stream", (NON_BLOCKING,))]),
    "allocate_host": (
        lambda d, s, e, c: d.allocate_host((2, 3)),
        [("pagelocked_empty", ((2, 3), np.float32))],
    ),
    "allocate_device": (lambda d, s, e, c: d.allocate_device(8), [("mem_alloc", (8,))]),
    "deserialize": (
        lambda d, s, e, c: d.deserialize(b"engine", None),
        [("deserialize_cuda_engine", (b"engine",))],
    ),
    "create_context": (
        lambda d, s, e, c: d.create_context(e, s),
        [("create_execution_context", ()), ("set_optimization_profile_async", (0, 77))],
    ),
    "set_shape": (lambda d, s, e, c: d.set_shape(c, "x", (1, 4)), [("set_input_shape", ("x", (1, 4)))]),
    "set_address": (lambda d, s, e, c: d.set_address(c, "x", MEMORY), [("set_tensor_address", ("x", 5))]),
    "copy_in": (
        lambda d, s, e, c: d.copy_in(MEMORY, HOST, s),
        [("memcpy_htod_async", (MEMORY, HOST, "the stream"))],
    ),
    "copy_out": (
        lambda d, s, e, c: d.copy_out(HOST, MEMORY, s),
        [("memcpy_dtoh_async", (HOST, MEMORY, "the stream"))],
    ),
    "enqueue": (lambda d, s, e, c: d.enqueue(c, s), [("execute_async_v3", (77,))]),
    "synchronize": (lambda d, s, e, c: d.synchronize(s), [("synchronize", ())]),
    "can_capture": (lambda d, s, e, c: d.can_capture(c, s), [("is_stream_capturable", (77,))]),
    "free_host": (lambda d, s, e, c: d.free_host(HOST), [("free", ())]),
    "free_device": (lambda d, s, e, c: d.free_device(MEMORY), [("free", ())]),
}
"""What is asked of the driver, and what exactly that asks of the libraries."""


@pytest.mark.parametrize("case", CALLS)
def test_a_call_is_handed_on_as_it_is(case: str, libraries: Libraries) -> None:
    """To the right function, on the right stream, in the right direction."""
    call, expected = CALLS[case]
    driver = CudaDriver("tensorrt")
    driver.open()
    stream, engine = driver.create_stream(), driver.deserialize(b"engine", None)
    context = driver.create_context(engine, stream)
    MEMORY.calls = HOST.base.calls = libraries.calls
    libraries.calls.clear()
    call(driver, stream, engine, context)
    told = [
        (name, tuple("the stream" if given is stream.held else given for given in arguments))
        for name, arguments in libraries.calls
    ]
    assert told == expected


def test_what_has_no_call_to_free_it_is_let_go(libraries: Libraries) -> None:
    """TensorRT's objects, and pycuda's streams, go with the last reference."""
    driver = CudaDriver("rtx")
    driver.open()
    stream, engine = driver.create_stream(), driver.deserialize(b"engine", None)
    context = driver.create_context(engine, stream)
    assert None not in (stream.held, context.held, engine.held, engine.config, engine.kernels)
    driver.free_context(context)
    driver.free_engine(engine)
    driver.free_stream(stream)
    assert [stream.held, context.held, engine.held, engine.config, engine.kernels] == [None] * 5


REFUSALS: dict[str, tuple[str, Any, Callable[[CudaDriver, Any], object]]] = {
    "deserialize": ("deserialize_cuda_engine", None, lambda d, s: d.deserialize(b"", None)),
    "runtime config": ("create_runtime_config", None, lambda d, s: d.deserialize(b"", None)),
    "runtime cache": ("create_runtime_cache", None, lambda d, s: d.deserialize(b"", None)),
    "set cache": ("set_runtime_cache", False, lambda d, s: d.deserialize(b"", None)),
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


OF_RTX = ("runtime config", "runtime cache", "set cache")


def _engine(driver: CudaDriver) -> Any:
    return driver.deserialize(b"engine", None)


def _context(driver: CudaDriver, stream: Any) -> Any:
    return driver.create_context(_engine(driver), stream)


@pytest.mark.parametrize("case", REFUSALS)
def test_every_status_is_checked(case: str, libraries: Libraries) -> None:
    """False, None and exceptions are errors that name the call, with what the library logged if it did."""
    function, answer, call = REFUSALS[case]
    name = {"profile": "create_context", **dict.fromkeys(OF_RTX, "deserialize")}.get(case, case)
    driver = CudaDriver("rtx" if case in OF_RTX else "tensorrt")
    driver.open()
    stream = driver.create_stream()
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


def _plain(argument: Any) -> object:
    """What a function of C is given: a number, or where to put one."""
    if isinstance(argument, ctypes.c_void_p):
        return argument.value
    return argument if isinstance(argument, int) else "a place"


class ScriptedCuda:
    """The functions of ``libcuda`` that graphs take: each notes its call and returns its status."""

    def __init__(self) -> None:
        self.status: dict[str, int] = {}
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append((name, tuple(map(_plain, arguments))))
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
        ("cuStreamBeginCapture_v2", (77, THREAD_LOCAL)),
        ("cuStreamEndCapture", (77, "a place")),
        ("cuGraphInstantiateWithFlags", ("a place", 11, 0)),
        ("cuGraphDestroy", (11,)),
        ("cuGraphLaunch", (22, 77)),
        ("cuGraphExecDestroy", (22,)),
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
    assert ("cuGraphDestroy" in cuda.names) == (function == "cuGraphInstantiateWithFlags")


def test_a_capture_that_failed_is_dropped_without_a_word(cuda: ScriptedCuda) -> None:
    cuda.status["cuStreamEndCapture"] = 901
    CudaGraphs().abandon(1)
    assert cuda.calls == [("cuStreamEndCapture", (1, "a place")), ("cuGraphDestroy", (11,))]


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
