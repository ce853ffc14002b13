"""The seam between the predictor and an inference runtime.

A backend runs one graph.  It is synchronous, used by one thread at a time, and
returns arrays that the caller may keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from avff.engine.contract import GraphSpec, TensorSpec, check_tensors
from avff.engine.errors import BackendError, ContractError

Tensors = Mapping[str, npt.NDArray[np.float32]]


class Backend(Protocol):
    """One loaded graph."""

    def infer(self, inputs: Tensors) -> Tensors:
        """Run a batch; tensors are named as in the contract, the batch is axis 0.

        Raises:
            BackendError: the runtime failed.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds; the backend must not be used afterwards."""
        ...


def size_of(name: str, specs: tuple[TensorSpec, ...], inputs: Tensors) -> int:
    """Check the inputs of a batch and return its size: a wrong one would be read beyond, or repeated.

    Args:
        name: of the graph or its file, for messages.
        specs: its inputs.
        inputs: float32 ``[batch, *shape]`` each.

    Raises:
        BackendError: other tensors, or not of one size.
    """
    try:
        check_tensors(name, specs, inputs)
    except ContractError as error:
        raise BackendError(str(error)) from error
    sizes = {len(values) for values in inputs.values()}
    if len(sizes) != 1:
        raise BackendError(f"{name}: got batches of {sorted(sizes)} in one call")
    return sizes.pop()


BackendFactory = Callable[[bytes, GraphSpec], Backend]
"""Loads a graph from the verified bytes of its file; raises BackendError."""
