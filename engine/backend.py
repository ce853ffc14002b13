"""The seam between the predictor and an inference runtime.

A backend runs one graph.  It is synchronous, used by one thread at a time, and
returns arrays that the caller may keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from avff.engine.contract import GraphSpec

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


BackendFactory = Callable[[bytes, GraphSpec], Backend]
"""Loads a graph from the verified bytes of its file; raises BackendError."""
