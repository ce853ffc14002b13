"""Compiled engines on a GPU, TensorRT's and TensorRT-RTX's alike.

A batch is padded to the next of a few sizes, its buckets.  Each bucket has an execution context of its
own, with shapes and addresses that never change, and a CUDA graph of all that a run takes: copies in, the
engine, copies out.  A captured graph holds the state of the context it was captured from, so contexts
are not shared.  Host buffers are page-locked, one stream orders everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from avff.engine.backend import Tensors, size_of
from avff.engine.backends.gpu import Driver, DriverError, EngineTensor, Handle
from avff.engine.backends.sidecar import CompiledGraph, Profile
from avff.engine.contract import GraphSpec, TensorSpec
from avff.engine.errors import BackendError
from avff.engine.media import Float32

BUCKETS = (1, 4, 8, 16, 32)
"""Sizes that batches are padded to, as far as an engine takes them."""
T = TypeVar("T")


class Kernels(Protocol):
    """Where kernels that were compiled at load are kept: :class:`avff.engine.backends.kernel_cache`."""

    def take(self, engine: str) -> bytes | None:
        """Return what was kept for an engine, by its SHA-256, and keep it no longer."""
        ...

    def keep(self, engine: str, kernels: bytes) -> None:
        """Keep it for the next time; never fails."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Buffer:
    """The two memories of a tensor, float32 ``[largest bucket, *shape]``."""

    host: Float32
    device: Handle


@dataclass(slots=True, eq=False)
class _Run:
    """Everything that a run of one bucket takes; ``graph`` is None without a captured one."""

    bucket: int
    context: Handle
    graph: Handle | None = None


def buckets_of(profile: Profile) -> tuple[int, ...]:
    """Return the sizes of a batch that an engine is run at; the largest is never beyond its profile."""
    return tuple(size for size in BUCKETS if profile.least <= size <= profile.most) or (profile.most,)


class TensorRtBackend:
    """One engine.  Loaded, used and closed by one thread.

    Args:
        driver: open.
        stream: that all runs are ordered by.
        content: the engine, verified.
        compiled: what the side-car says of it.
        spec: the graph's part of the contract.
        kernels: where compiled kernels are kept.
        say: is told, once, if the engine cannot be part of a CUDA graph.

    Raises:
        BackendError: the engine cannot be loaded or run, or is not the one the contract describes;
            nothing is left allocated.

    Attributes:
        graphs: how many buckets are run as a captured CUDA graph.
    """

    def __init__(
        self,
        driver: Driver,
        stream: Handle,
        content: bytes,
        compiled: CompiledGraph,
        spec: GraphSpec,
        *,
        kernels: Kernels,
        say: Callable[[str], None],
    ) -> None:
        self._driver, self._stream, self._spec = driver, stream, spec
        self._file = compiled.file
        self._thread = threading.get_ident()
        self._buckets = buckets_of(compiled.profile)
        self._inputs: dict[str, _Buffer] = {}
        self._outputs: dict[str, _Buffer] = {}
        self._runs: list[_Run] = []
        self._owned = ExitStack()
        self._unfreed: DriverError | None = None
        try:
            self._load(content, compiled, kernels)
        except DriverError as error:
            self._owned.close()  # what cannot be freed now is lost with the GPU; the first error counts
            raise self._failed(error) from error
        except BaseException:  # an interruption too leaves nothing behind
            self._owned.close()
            raise
        self.graphs = sum(run.graph is not None for run in self._runs)
        if self.graphs < len(self._runs) and not driver.captures_itself:
            say(f"{self._file}: CUDA graphs cannot be captured; it runs without them, a little slower")

    def infer(self, inputs: Tensors) -> Tensors:
        """Run a batch of any size; see :class:`avff.engine.backend.Backend`."""
        self._check_thread()
        count = size_of(self._file, self._spec.inputs, inputs)
        outputs = {t.name: np.empty((count, *t.shape), np.float32) for t in self._spec.outputs}
        try:
            for start in range(0, count, self._buckets[-1]):
                self._run(inputs, outputs, start, min(start + self._buckets[-1], count))
        except DriverError as error:
            raise self._failed(error) from error
        return outputs

    def close(self) -> None:
        """Free everything; twice is once.

        Raises:
            BackendError: something could not be freed; the rest was.
        """
        self._check_thread()
        self._runs, self._inputs, self._outputs = [], {}, {}
        self._owned.close()
        unfreed, self._unfreed = self._unfreed, None
        if unfreed is not None:
            raise self._failed(unfreed) from unfreed

    def _load(self, content: bytes, compiled: CompiledGraph, kernels: Kernels) -> None:
        # Kernels that crash the runtime are gone by then; those that do not are kept again.
        kept = kernels.take(compiled.sha256)
        engine = self._own(self._driver.deserialize(content, kept), self._driver.free_engine)
        self._check(self._driver.tensors(engine), compiled.profile)
        self._inputs = {t.name: self._buffer(t) for t in self._spec.inputs}
        self._outputs = {t.name: self._buffer(t) for t in self._spec.outputs}
        self._runs = [self._prepare(engine, bucket) for bucket in self._buckets]
        self._keep(engine, compiled.sha256, kernels)

    def _buffer(self, tensor: TensorSpec) -> _Buffer:
        host = self._driver.allocate_host((self._buckets[-1], *tensor.shape))
        self._own(host, self._driver.free_host)
        host[:] = 0
        device = self._own(self._driver.allocate_device(host.nbytes), self._driver.free_device)
        return _Buffer(host, device)

    def _prepare(self, engine: Handle, bucket: int) -> _Run:
        """Make a bucket's context, and run it: what is compiled late must not be late for a caller."""
        context = self._own(self._driver.create_context(engine, self._stream), self._driver.free_context)
        for tensor in self._spec.inputs:
            self._driver.set_shape(context, tensor.name, (bucket, *tensor.shape))
        for name, buffer in {**self._inputs, **self._outputs}.items():
            self._driver.set_address(context, name, buffer.device)
        run = _Run(bucket, context)
        for _ in range(2 if self._driver.captures_itself else 1):  # the first settles, the second captures
            self._issue(run)
            self._driver.synchronize(self._stream)
        if not self._driver.captures_itself and self._driver.can_capture(context, self._stream):
            run.graph = self._capture(run)
        return run

    def _capture(self, run: _Run) -> Handle | None:
        """Return the CUDA graph of a run, or None where it cannot be had: then runs go on without."""
        try:
            self._driver.begin_capture(self._stream)
            try:
                self._issue(run)
            except DriverError:
                self._driver.abandon_capture(self._stream)
                raise
            return self._own(self._driver.end_capture(self._stream), self._driver.free_graph)
        except DriverError:
            # Either a graph is not possible, or the GPU is lost, which the next run tells.
            self._issue(run)
            self._driver.synchronize(self._stream)
            return None

    def _keep(self, engine: Handle, sha256: str, kernels: Kernels) -> None:
        try:
            compiled = self._driver.kernels(engine)
        except DriverError:
            return  # they only save time
        if compiled is not None:
            kernels.keep(sha256, compiled)

    def _issue(self, run: _Run) -> None:
        for buffer in self._inputs.values():
            self._driver.copy_in(buffer.device, buffer.host[: run.bucket], self._stream)
        self._driver.enqueue(run.context, self._stream)
        for buffer in self._outputs.values():
            self._driver.copy_out(buffer.host[: run.bucket], buffer.device, self._stream)

    def _run(self, inputs: Tensors, outputs: dict[str, Float32], start: int, stop: int) -> None:
        size = stop - start
        run = next(run for run in self._runs if run.bucket >= size)
        for name, buffer in self._inputs.items():
            buffer.host[:size] = inputs[name][start:stop]
        if run.graph is None:
            self._issue(run)
        else:
            self._driver.launch(run.graph, self._stream)
        self._driver.synchronize(self._stream)
        for name, buffer in self._outputs.items():
            outputs[name][start:stop] = buffer.host[:size]

    def _check(self, found: Sequence[EngineTensor], profile: Profile) -> None:
        """Check that the engine is what contract and side-car say, or it would be fed by guesswork."""
        batches = (profile.least, profile.most)
        sides = ((self._spec.inputs, True, batches), (self._spec.outputs, False, None))
        expected = {
            EngineTensor(t.name, is_input, t.dtype, t.shape, sizes)
            for tensors, is_input, sizes in sides
            for t in tensors
        }
        odd = sorted(set(found) ^ expected, key=lambda tensor: tensor.name)
        if odd:
            raise BackendError(
                f"{self._file}: its tensor {odd[0].name!r} is not what the contract and side-car say"
            )

    def _own(self, handle: T, free: Callable[[T], None]) -> T:
        """Have something freed at the end, after all that was made later."""
        self._owned.callback(self._release, handle, free)
        return handle

    def _release(self, handle: T, free: Callable[[T], None]) -> None:
        try:
            free(handle)
        except DriverError as error:
            self._unfreed = self._unfreed or error

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise BackendError(f"{self._file}: used by another thread than the one that loaded it")

    def _failed(self, error: DriverError) -> BackendError:
        return BackendError(f"{self._file}: TensorRT: {error}")
