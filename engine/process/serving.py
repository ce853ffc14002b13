"""A process that serves, and the memory it shares with this one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from avff.engine.backend import Tensors
from avff.engine.backends.sidecar import Sidecar
from avff.engine.errors import BackendError
from avff.engine.process.handle import COMMAND, ChildProcess
from avff.engine.process.wire import Message, Views, shared_memory, tensors_at


class ServingProcess(ChildProcess):
    """A process with memory of its own.

    One that could not be ended, within a driver of the kernel, may still write: not into its successor's.

    Args:
        directory: folder of the engines.
        sidecar: what they must be.
        command: what is started.

    Raises:
        BackendError: it cannot be started.

    Attributes:
        asked: number of the last request; its answer has the same.
    """

    def __init__(self, directory: Path, sidecar: Sidecar, *, command: Sequence[str] = COMMAND) -> None:
        self.asked = 0
        self._contract = sidecar.contract
        try:
            descriptor = shared_memory(sidecar.contract)
            try:
                self._memory = mmap.mmap(descriptor, 0)
                super().__init__("serve", directory, sidecar.seal, descriptor, command=command)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BackendError(f"no memory to share with the engine's process ({error.strerror})") from error

    def ask(self, graph: str, inputs: Tensors, count: int, timeout_s: float) -> Message | None:
        """Have a graph run, and return what the process says of it, or None if it says nothing in time.

        Args:
            graph: name of it.
            inputs: of ``count`` items each.
            count: at most ``MAX_ITEMS``.
            timeout_s: how long to wait.

        Raises:
            WireError: the process is gone.
        """
        given, _ = self._tensors(graph, count)
        for name, values in inputs.items():
            given[name][:] = values
        self.asked += 1
        self.send({"graph": graph, "count": count, "number": self.asked})
        return self.receive(timeout_s)

    def outputs(self, graph: str, count: int) -> Tensors:
        """Return a copy of what a graph gave for so many items, once the process has said that it is done."""
        _, made = self._tensors(graph, count)
        return {name: values.copy() for name, values in made.items()}

    def _tensors(self, graph: str, count: int) -> tuple[Views, Views]:
        return tensors_at(self._memory, self._contract.graphs[graph], count)
