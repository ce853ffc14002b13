"""A stand-in backend that answers from a function: for tests and for trying the daemon."""

from __future__ import annotations

from collections.abc import Callable

from avff.engine.backend import Tensors


class ScriptedBackend:
    """Runs a Python function in place of a graph.

    Attributes:
        batches: sizes of the batches it was given, in order.
        closed: whether it was closed.
    """

    def __init__(self, answer: Callable[[Tensors], Tensors]) -> None:
        self._answer = answer
        self.batches: list[int] = []
        self.closed = False

    def infer(self, inputs: Tensors) -> Tensors:
        """Return the function's answer."""
        self.batches.append(len(next(iter(inputs.values()))))
        return self._answer(inputs)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True
