"""The seam between the TensorRT backend and a GPU: every call that can fail, and nothing else.

:class:`avff.engine.backends.cuda_driver.CudaDriver` is the real one.  All of it belongs to the thread
that opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from avff.engine.media import Float32

Handle: TypeAlias = Any
"""What a driver gives out for a stream, a buffer, an engine, a context or a graph: its own affair."""


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """An input or output of an engine.

    Attributes:
        name: as in the contract.
        is_input: whether it is one.
        dtype: numpy's name of its type.
        shape: after the batch.
        batches: least and most in a batch by profile 0; None of an output.
    """

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    batches: tuple[int, int] | None


class DriverError(Exception):
    """A call of a driver failed.

    Args:
        call: which one.
        said: what the libraries said of it.
    """

    def __init__(self, call: str, said: str) -> None:
        super().__init__(f"{call} failed: {said}")


class Driver(Protocol):
    """CUDA and TensorRT, as far as one GPU and one thread need them; every call raises DriverError.

    Attributes:
        version: of TensorRT.
        captures_itself: whether the runtime captures CUDA graphs on its own, so that nobody else should.
    """

    version: str
    captures_itself: bool

    def open(self) -> str:
        """Take the first GPU and make its context current in this thread.

        Returns:
            its compute capability, such as ``8.6``.

        Raises:
            GpuUnavailable: there is none; DriverError, as all calls: there is one, and it refuses.
        """
        ...

    def close(self) -> None:
        """Give the context back; everything else has to be freed before.

        It may follow an :meth:`open` that failed half-way.
        """
        ...

    def create_stream(self) -> Handle:
        """Make a stream that does not wait for the default one."""
        ...

    def free_stream(self, stream: Handle) -> None: ...

    def allocate_host(self, shape: tuple[int, ...]) -> Float32:
        """Return page-locked memory: float32, of this shape, not initialised."""
        ...

    def free_host(self, memory: Float32) -> None: ...

    def allocate_device(self, size: int) -> Handle:
        """Return memory of the GPU, in bytes."""
        ...

    def free_device(self, memory: Handle) -> None: ...

    def deserialize(self, content: bytes, kernels: bytes | None) -> Handle:
        """Load an engine.

        Args:
            content: verified.
            kernels: what :meth:`kernels` gave earlier for the same engine; of no use elsewhere, and then
                passed over.
        """
        ...

    def free_engine(self, engine: Handle) -> None: ...

    def tensors(self, engine: Handle) -> list[EngineTensor]:
        """Return the inputs and outputs of an engine."""
        ...

    def kernels(self, engine: Handle) -> bytes | None:
        """Return what was compiled for this GPU while the engine was loaded and run; None if nothing is."""
        ...

    def create_context(self, engine: Handle, stream: Handle) -> Handle:
        """Make an execution context with profile 0."""
        ...

    def free_context(self, context: Handle) -> None: ...

    def set_shape(self, context: Handle, name: str, shape: tuple[int, ...]) -> None:
        """Set the shape of an input, batch included."""
        ...

    def set_address(self, context: Handle, name: str, memory: Handle) -> None:
        """Bind a tensor to memory of the GPU."""
        ...

    def copy_in(self, memory: Handle, host: Float32, stream: Handle) -> None:
        """Copy page-locked memory to the GPU, in the order of the stream."""
        ...

    def copy_out(self, host: Float32, memory: Handle, stream: Handle) -> None:
        """Copy from the GPU to page-locked memory, in the order of the stream."""
        ...

    def enqueue(self, context: Handle, stream: Handle) -> None:
        """Run the engine, in the order of the stream."""
        ...

    def synchronize(self, stream: Handle) -> None:
        """Wait for the end of all that is in a stream."""
        ...

    def can_capture(self, context: Handle, stream: Handle) -> bool:
        """Return whether a run of this context can become part of a CUDA graph."""
        ...

    def begin_capture(self, stream: Handle) -> None:
        """Record what goes into the stream from here on instead of doing it."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """Return what was recorded, as a graph that can be launched."""
        ...

    def abandon_capture(self, stream: Handle) -> None:
        """Drop what was recorded after a call in between failed; never fails itself."""
        ...

    def free_graph(self, graph: Handle) -> None: ...

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Do what a graph holds, in the order of the stream."""
        ...


MakeDriver: TypeAlias = Callable[[str], Driver]
"""Makes the driver of a flavour, ``rtx`` or ``tensorrt``; raises GpuUnavailable without its packages."""
