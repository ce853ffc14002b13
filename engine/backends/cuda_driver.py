"""The real driver: pycuda for memory and streams, TensorRT or TensorRT-RTX for engines.

The packages are loaded when a driver is made, so that nothing here is needed on other machines.
TensorRT's objects have no call to free them: they go when the last reference goes, so handles are boxes
that are emptied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from avff.engine.backends.cuda_graphs import CudaGraphs
from avff.engine.backends.cuda_libraries import load_libraries, logger_into
from avff.engine.backends.gpu import DriverError, EngineTensor
from avff.engine.errors import GpuUnavailable
from avff.engine.media import Float32

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: no waiting for the default stream."""
_KEPT_MESSAGES = 8
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Box:
    """Holds an object of a library until it is freed; of engines, what they are run with too."""

    held: Any
    config: Any = None
    kernels: Any = None


def _checked(
    method: Callable[Concatenate[CudaDriver, P], T],
) -> Callable[Concatenate[CudaDriver, P], T]:
    """Turn whatever the libraries raise into a :class:`DriverError` with the name of the call."""

    def checked(self: CudaDriver, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.messages.clear()
        try:
            return method(self, *args, **kwargs)
        except (self.error, RuntimeError, TypeError, ValueError) as error:
            raise DriverError(method.__name__, self.said(str(error))) from error

    return checked


class CudaDriver:
    """CUDA and TensorRT for one thread; see :class:`avff.engine.backends.gpu.Driver`.

    Args:
        flavour: ``rtx`` or ``tensorrt``.

    Raises:
        GpuUnavailable: a package, or the driver of a GPU, is not installed.

    Attributes:
        version: of the TensorRT package.
        captures_itself: True for ``rtx``, which knows when its kernels have settled for a shape, and
            needs engines of another kind to be captured from outside.
        error: base of what pycuda raises.
        messages: what TensorRT logged as errors during the last call.
    """

    def __init__(self, flavour: str) -> None:
        self._trt, self._cuda = load_libraries(flavour)
        self.version = str(self._trt.__version__)
        self.captures_itself = flavour == "rtx"
        self.error: type[Exception] = self._cuda.Error
        self.messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)
        self._log = logger_into(self._trt, self.messages)
        self._context: Any = None
        self._runtime: Any = None
        self._graphs: CudaGraphs | None = None

    def said(self, otherwise: str = "no reason given") -> str:
        """Return the first error that TensorRT logged, or else this, as one line of bearable length."""
        text = self.messages[0] if self.messages else otherwise
        return " ".join(text.split())[:300]

    @_checked
    def open(self) -> str:
        try:
            self._cuda.init()
            count = self._cuda.Device.count()
        except self.error as error:
            raise GpuUnavailable(f"no GPU can be used ({self.said(str(error))})") from error
        if not count:
            raise GpuUnavailable("there is no GPU")
        device = self._cuda.Device(0)
        # The primary context is the one that TensorRT's own use of the CUDA runtime ends up in.
        self._context = device.retain_primary_context()
        self._context.push()
        self._runtime = self._trt.Runtime(self._log)
        major, minor = device.compute_capability()
        return f"{major}.{minor}"

    @_checked
    def close(self) -> None:
        self._runtime = None
        if self._context is not None:
            self._context, context = None, self._context
            context.detach()  # releases the primary context; after a pop, pycuda would not

    @_checked
    def create_stream(self) -> _Box:
        return _Box(self._cuda.Stream(_NON_BLOCKING))

    @_checked
    def free_stream(self, stream: _Box) -> None:
        stream.held = None

    @_checked
    def allocate_host(self, shape: tuple[int, ...]) -> Float32:
        memory: Float32 = self._cuda.pagelocked_empty(shape, np.float32)
        return memory

    @_checked
    def free_host(self, memory: Float32) -> None:
        allocation: Any = memory.base
        allocation.free()

    @_checked
    def allocate_device(self, size: int) -> Any:
        return self._cuda.mem_alloc(size)

    @_checked
    def free_device(self, memory: Any) -> None:
        memory.free()

    @_checked
    def deserialize(self, content: bytes, kernels: bytes | None) -> _Box:
        engine = self._given("deserialize", self._runtime.deserialize_cuda_engine(content))
        if not self.captures_itself:
            return _Box(engine)
        config = self._given("deserialize", engine.create_runtime_config())
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Each context has one shape for life: compile for it at once, not after some runs without.
        strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        cache = self._given("deserialize", config.create_runtime_cache())
        if kernels is not None:
            cache.deserialize(kernels)  # refuses, and stays empty, after an update of the GPU's driver
        self._given("deserialize", config.set_runtime_cache(cache))
        return _Box(engine, config, cache)

    @_checked
    def free_engine(self, engine: _Box) -> None:
        engine.kernels = engine.config = engine.held = None

    @_checked
    def tensors(self, engine: _Box) -> list[EngineTensor]:
        found = engine.held
        return [self._tensor(found, found.get_tensor_name(i)) for i in range(found.num_io_tensors)]

    @_checked
    def kernels(self, engine: _Box) -> bytes | None:
        return None if engine.kernels is None else bytes(engine.kernels.serialize())

    @_checked
    def create_context(self, engine: _Box, stream: _Box) -> _Box:
        arguments = () if engine.config is None else (engine.config,)
        made = self._given("create_context", engine.held.create_execution_context(*arguments))
        self._given("create_context", made.set_optimization_profile_async(0, stream.held.handle))
        return _Box(made)

    @_checked
    def free_context(self, context: _Box) -> None:
        context.held = None

    @_checked
    def set_shape(self, context: _Box, name: str, shape: tuple[int, ...]) -> None:
        self._given("set_shape", context.held.set_input_shape(name, shape))

    @_checked
    def set_address(self, context: _Box, name: str, memory: Any) -> None:
        self._given("set_address", context.held.set_tensor_address(name, int(memory)))

    @_checked
    def copy_in(self, memory: Any, host: Float32, stream: _Box) -> None:
        self._cuda.memcpy_htod_async(memory, host, stream.held)

    @_checked
    def copy_out(self, host: Float32, memory: Any, stream: _Box) -> None:
        self._cuda.memcpy_dtoh_async(host, memory, stream.held)

    @_checked
    def enqueue(self, context: _Box, stream: _Box) -> None:
        self._given("enqueue", context.held.execute_async_v3(stream.held.handle))

    @_checked
    def synchronize(self, stream: _Box) -> None:
        stream.held.synchronize()

    @_checked
    def can_capture(self, context: _Box, stream: _Box) -> bool:
        asked = getattr(context.held, "is_stream_capturable", None)  # not in every version
        return asked is None or bool(asked(stream.held.handle))

    @_checked
    def begin_capture(self, stream: _Box) -> None:
        self._capturing().begin(stream.held.handle)

    @_checked
    def end_capture(self, stream: _Box) -> int:
        return self._capturing().end(stream.held.handle)

    def abandon_capture(self, stream: _Box) -> None:
        if self._graphs is not None:
            self._graphs.abandon(stream.held.handle)

    @_checked
    def free_graph(self, graph: int) -> None:
        self._capturing().free(graph)

    @_checked
    def launch(self, graph: int, stream: _Box) -> None:
        self._capturing().launch(graph, stream.held.handle)

    def _tensor(self, engine: Any, name: str) -> EngineTensor:
        is_input = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        found = engine.get_tensor_dtype(name)
        dtype = "float32" if found == self._trt.float32 else str(found)
        batches = None
        if is_input:
            least, _, most = engine.get_tensor_profile_shape(name, 0)
            batches = int(least[0]), int(most[0])
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))[1:]
        return EngineTensor(name, is_input, dtype, shape, batches)

    def _capturing(self) -> CudaGraphs:
        if self._graphs is None:
            try:
                self._graphs = CudaGraphs()
            except (OSError, AttributeError) as error:
                raise DriverError("begin_capture", str(error)) from error
        return self._graphs

    def _given(self, call: str, given: Any) -> Any:
        """Check a status, or an object that is None where the call was refused."""
        if given is None or given is False:
            raise DriverError(call, self.said())
        return given
