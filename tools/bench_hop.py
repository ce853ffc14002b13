"""A hop of a batch of streams: what is timed, whatever the runtime.

A hop is what a stream costs from one score to the next: one slice through each encoder, one window
through the fusion graph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from avff.engine.backend import Tensors
from avff.engine.contract import GRAPHS, Contract, parse_contract
from avff.engine.model import CONTRACT_FILE, Model

Hop = Callable[[int], object]
"""Computes one hop for so many streams at once."""


class Inputs:
    """Inputs of all graphs by batch size, normally distributed, with evidence everywhere; made once.

    Args:
        contract: of the model.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._made: dict[int, dict[str, Tensors]] = {}

    def of(self, batch: int) -> dict[str, Tensors]:
        """Return the inputs by graph."""
        if batch not in self._made:
            rng = np.random.default_rng(0)
            self._made[batch] = {name: self._graph(name, batch, rng) for name in GRAPHS}
        return self._made[batch]

    def _graph(self, name: str, batch: int, rng: np.random.Generator) -> Tensors:
        shapes = {spec.name: (batch, *spec.shape) for spec in self._contract.graphs[name].inputs}
        return {
            tensor: np.ones(shape, np.float32)
            if tensor.endswith("_ok")
            else rng.standard_normal(shape, np.float32)
            for tensor, shape in shapes.items()
        }


def hop_of_model(model: Model, inputs: Inputs) -> Hop:
    """Return the hop of a loaded model: ONNX graphs, or engines."""

    def run(batch: int) -> None:
        for name, tensors in inputs.of(batch).items():
            model.infer(name, tensors)

    return run


def window_of_model(model: Model, inputs: Inputs) -> Callable[[], object]:
    """Return what one window costs when no slice's tokens are kept from before: eight slices, one window."""

    def run() -> None:
        for name in GRAPHS[:-1]:
            model.infer(name, inputs.of(8)[name])
        model.infer(GRAPHS[-1], inputs.of(1)[GRAPHS[-1]])

    return run


def contract_of(model: Path) -> Contract:
    """Return the contract of a model's directory; no graph is loaded for it."""
    return parse_contract((model / CONTRACT_FILE).read_text(encoding="utf-8"))
