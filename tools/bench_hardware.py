"""What this machine could do at best, in products and bytes a second, and what a graph asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, load_from_string, numpy_helper

from avff.engine.contract import GRAPHS, Contract

_COPY_BYTES = 256 << 20
SIDES = (256, 512, 1024, 2048)
"""Sizes of square matrices; the one a machine multiplies fastest is not known beforehand."""
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Hardware:
    """Rates of this machine.

    Attributes:
        gflop_s: of the fastest product of two square matrices that was found, in torch or ONNX Runtime.
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


def demand_of(contract: Contract, graphs: Mapping[str, bytes]) -> Demand:
    """Return what one slice through each encoder and one window through the fusion graph ask.

    Args:
        contract: of the model.
        graphs: its ONNX files, in FP32.
    """
    weights = sum(
        numpy_helper.to_array(tensor).size
        for content in graphs.values()
        for tensor in load_from_string(content).graph.initializer
    )
    specs = [spec for name in GRAPHS for g in [contract.graphs[name]] for spec in (*g.inputs, *g.outputs)]
    borders = sum(4 * int(np.prod(spec.shape)) for spec in specs)
    return Demand(sum(g.gflop for g in contract.graphs.values()), 4 * weights, borders)


def measure(threads: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Hardware:
    """Measure a CPU's rates in so many threads, or a GPU's.

    The best of many short tries counts: a busy neighbour spoils some.

    Args:
        threads: on the CPU.
        device: ``cpu`` or ``cuda``.
        dtype: of the matrices.
    """
    torch.set_num_threads(threads)
    on_cpu = device == "cpu"
    rates = [_rate(_torch_product(n if on_cpu else 8 * n, device, dtype), device) for n in SIDES]
    if on_cpu:
        rates += [_rate(_onnx_product(n, threads), device) for n in SIDES]
    source = torch.zeros(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _best_s(lambda: target.copy_(source), device)
    return Hardware(max(rates), 2 * _COPY_BYTES / copy_s / 1e9)


def _rate(product: tuple[int, Callable[[], object]], device: str) -> float:
    """Return the GFLOP/s of a product of square matrices."""
    side, run = product
    return float(2 * side**3 / _best_s(run, device) / 1e9)


def _torch_product(side: int, device: str, dtype: torch.dtype) -> tuple[int, Callable[[], object]]:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return side, lambda: torch.mm(left, right)


def _onnx_product(side: int, threads: int) -> tuple[int, Callable[[], object]]:
    """Return a product with a constant matrix, which ONNX Runtime lays out for it when it loads."""
    values = np.random.default_rng(0).standard_normal((side, side), np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "product", ends[:1], ends[1:],
        [numpy_helper.from_array(values, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return side, lambda: session.run(None, {"x": values})


def _best_s(run: Callable[[], object], device: str) -> float:
    taken = []
    for _ in range(1 + _TRIES):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
