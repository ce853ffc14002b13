"""A scripted GPU: ONNX Runtime computes, every call can be made to fail, and what is not freed is counted.

Its "engines" are ONNX files.  Memory of the GPU is a separate array, so that a copy that is missing, or
has the wrong size, is seen in the answers; a captured graph does what was recorded, when it is launched.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from avff.engine.backends.gpu import DriverError, EngineTensor
from avff.engine.media import Float32

T = TypeVar("T")
VERSION = "1.7.1.116"
MOST = 4
"""In a batch of engines that a scripted process runs: fewer buckets load sooner."""
_FREED_BY = {
    "open": "close", "create_stream": "free_stream", "allocate_host": "free_host",
    "allocate_device": "free_device", "deserialize": "free_engine", "create_context": "free_context",
    "end_capture": "free_graph",
}  # fmt: skip


@dataclass(eq=False)
class _Context:
    engine: onnxruntime.InferenceSession
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


class ScriptedDriver:
    """See :class:`avff.engine.backends.gpu.Driver`.

    Args:
        fail_at: number of the call that fails, from 0; None for no call.
        captures_itself: as of TensorRT-RTX.
        capturable: whether a context can be captured.
        batches: least and most of profile 0.
        compute_capability: of its GPU.
        before: is told the name of a call before it is made; may raise, crash or hang.

    Attributes:
        calls: names of the calls so far, in order.
        alive: how many of each kind of thing are not freed.
        given: kernels that engines were loaded with.
    """

    version = VERSION

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        captures_itself: bool = False,
        capturable: bool = True,
        batches: tuple[int, int] = (1, 32),
        compute_capability: str = "8.6",
        before: Callable[[str], None] = lambda call: None,
    ) -> None:
        self.captures_itself = captures_itself
        self.calls: list[str] = []
        self.alive: Counter[str] = Counter()
        self.given: list[bytes | None] = []
        self._fail_at, self._capturable, self._batches = fail_at, capturable, batches
        self._compute_capability, self._before = compute_capability, before
        self._stream: list[Callable[[], None]] = []
        self._recorded: list[Callable[[], None]] | None = None

    @property
    def unfreed(self) -> dict[str, int]:
        """What is still allocated, by the call that made it."""
        return {call: count for call, count in self.alive.items() if count}

    def open(self) -> str:
        self._call("open")
        return self._compute_capability

    def close(self) -> None:
        self._call("close")

    def create_stream(self) -> str:
        self._call("create_stream")
        return "stream"

    def free_stream(self, stream: Any) -> None:
        self._call("free_stream")

    def allocate_host(self, shape: tuple[int, ...]) -> Float32:
        self._call("allocate_host")
        return np.full(shape, np.nan, np.float32)

    def free_host(self, memory: Float32) -> None:
        self._call("free_host")
        memory[:] = np.nan

    def allocate_device(self, size: int) -> npt.NDArray[np.uint8]:
        self._call("allocate_device")
        return np.full(size, 0xFF, np.uint8)  # NaN, as float32

    def free_device(self, memory: npt.NDArray[np.uint8]) -> None:
        self._call("free_device")
        memory[:] = 0xFF

    def deserialize(self, content: bytes, kernels: bytes | None) -> onnxruntime.InferenceSession:
        self._call("deserialize")
        self.given.append(kernels)
        return _session(content)

    def free_engine(self, engine: Any) -> None:
        self._call("free_engine")

    def tensors(self, engine: onnxruntime.InferenceSession) -> list[EngineTensor]:
        self._call("tensors")
        sides = ((engine.get_inputs(), True, self._batches), (engine.get_outputs(), False, None))
        return [
            EngineTensor(found.name, is_input, "float32", tuple(found.shape[1:]), batches)
            for side, is_input, batches in sides
            for found in side
        ]

    def kernels(self, engine: Any) -> bytes | None:
        self._call("kernels")
        return b"compiled" if self.captures_itself else None

    def create_context(self, engine: onnxruntime.InferenceSession, stream: Any) -> _Context:
        self._call("create_context")
        return _Context(engine)

    def free_context(self, context: _Context) -> None:
        self._call("free_context")

    def set_shape(self, context: _Context, name: str, shape: tuple[int, ...]) -> None:
        self._call("set_shape")
        assert self._batches[0] <= shape[0] <= self._batches[1], "beyond the profile"
        context.shapes[name] = shape

    def set_address(self, context: _Context, name: str, memory: npt.NDArray[np.uint8]) -> None:
        self._call("set_address")
        context.addresses[name] = memory

    def copy_in(self, memory: npt.NDArray[np.uint8], host: Float32, stream: Any) -> None:
        self._call("copy_in")

        def copy() -> None:
            memory[: host.nbytes] = host.reshape(-1).view(np.uint8)

        self._put(copy)

    def copy_out(self, host: Float32, memory: npt.NDArray[np.uint8], stream: Any) -> None:
        self._call("copy_out")

        def copy() -> None:
            host[:] = memory[: host.nbytes].view(np.float32).reshape(host.shape)

        self._put(copy)

    def enqueue(self, context: _Context, stream: Any) -> None:
        self._call("enqueue")
        self._put(functools.partial(_compute, context))

    def synchronize(self, stream: Any) -> None:
        self._call("synchronize")
        assert self._recorded is None, "a stream that is recorded cannot be waited for"
        for do in self._stream:
            do()
        self._stream.clear()

    def can_capture(self, context: _Context, stream: Any) -> bool:
        self._call("can_capture")
        return self._capturable

    def begin_capture(self, stream: Any) -> None:
        self._call("begin_capture")
        assert self._recorded is None, "a recording goes on"
        self._recorded = []

    def end_capture(self, stream: Any) -> list[Callable[[], None]]:
        recorded, self._recorded = self._recorded, None
        self._call("end_capture")
        assert recorded is not None, "nothing is recorded"
        return recorded

    def abandon_capture(self, stream: Any) -> None:
        self._recorded = None

    def free_graph(self, graph: Any) -> None:
        self._call("free_graph")

    def launch(self, graph: list[Callable[[], None]], stream: Any) -> None:
        self._call("launch")
        self._stream += graph

    def _put(self, do: Callable[[], None]) -> None:
        (self._stream if self._recorded is None else self._recorded).append(do)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        # What cannot be freed is gone all the same: nothing more can be done about it.
        freed = next((made for made, free in _FREED_BY.items() if free == name), None)
        if freed is not None and (name != "close" or self.alive["open"]):
            self.alive[freed] -= 1
            assert self.alive[freed] >= 0, f"{name} of nothing"
        self._before(name)
        if len(self.calls) - 1 == self._fail_at:
            raise DriverError(name, "scripted")
        if name in _FREED_BY:
            self.alive[name] += 1


class RecordedKernels:
    """Keeps compiled kernels in a dictionary; see :class:`avff.engine.backends.tensorrt.Kernels`."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def take(self, engine: str) -> bytes | None:
        return self.kept.pop(engine, None)

    def keep(self, engine: str, kernels: bytes) -> None:
        self.kept[engine] = kernels


def _compute(context: _Context) -> None:
    shapes = context.shapes
    inputs = {
        name: context.addresses[name][: 4 * int(np.prod(shape))].view(np.float32).reshape(shape)
        for name, shape in shapes.items()
    }
    names = [output.name for output in context.engine.get_outputs()]
    for name, values in zip(names, context.engine.run(names, inputs), strict=True):
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        context.addresses[name][: len(flat)] = flat


@functools.lru_cache(maxsize=32)
def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
