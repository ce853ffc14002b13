"""What this machine could do at best, in products and bytes a second, and what a graph asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import load_from_string, numpy_helper

from avff.engine.contract import GRAPHS, Contract

_COPY_BYTES = 256 << 20
_SIDE = 1024
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Hardware:
    """Rates of this machine.

    Attributes:
        gflop_s: of a product of two square matrices.
        gb_s: read and written while copying.
    """

    gflop_s: float
    gb_s: float

    def better_of(self, other: Hardware) -> Hardware:
        """Return the better rates of two measurements: a busy neighbour only ever lowers them."""
        return Hardware(max(self.gflop_s, other.gflop_s), max(self.gb_s, other.gb_s))


@dataclass(frozen=True, slots=True)
class Demand:
    """What a hop asks of a machine.

    Attributes:
        gflop: for one stream, two operations per multiply-add.
        weight_bytes: read once a run, whatever the batch.
        border_bytes: of inputs and outputs, for one stream.
    """

    gflop: float
    weight_bytes: int
    border_bytes: int

    def least_ms(self, hardware: Hardware, batch: int) -> tuple[float, float]:
        """Return what a batch takes at least, for its products and for its traffic.

        What lies between two layers is not counted: it may stay in a cache.
        """
        traffic = self.weight_bytes + batch * self.border_bytes
        return 1e3 * batch * self.gflop / hardware.gflop_s, 1e3 * traffic / (hardware.gb_s * 1e9)


def demand_of(contract: Contract, graphs: Mapping[str, bytes], *, value_bytes: int = 4) -> Demand:
    """Return what one slice through each encoder and one window through the fusion graph ask.

    Args:
        contract: of the model.
        graphs: its ONNX files.
        value_bytes: of a weight; inputs and outputs have 4.
    """
    weights = sum(
        numpy_helper.to_array(tensor).size
        for content in graphs.values()
        for tensor in load_from_string(content).graph.initializer
    )
    specs = [spec for name in GRAPHS for g in [contract.graphs[name]] for spec in (*g.inputs, *g.outputs)]
    borders = sum(4 * int(np.prod(spec.shape)) for spec in specs)
    return Demand(sum(g.gflop for g in contract.graphs.values()), weights * value_bytes, borders)


def measure(threads: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Hardware:
    """Measure a CPU's rates in so many threads, or a GPU's.

    The best of many short tries counts: a busy neighbour spoils some.

    Args:
        threads: on the CPU.
        device: ``cpu`` or ``cuda``.
        dtype: of the matrices.
    """
    torch.set_num_threads(threads)
    side = _SIDE if device == "cpu" else 8 * _SIDE
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    product_s = _best_s(lambda: torch.mm(left, right), device)
    copy_s = _best_s(lambda: target.copy_(source), device)
    return Hardware(2 * side**3 / product_s / 1e9, 2 * _COPY_BYTES / copy_s / 1e9)


def _best_s(run: Callable[[], object], device: str) -> float:
    taken = []
    for _ in range(1 + _TRIES):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
