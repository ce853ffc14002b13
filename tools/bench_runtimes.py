"""The section of the engine's benchmark on runtimes: latency, throughput, memory, cold start."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from onnx import load_from_string

from avff.engine.backends.sidecar import Profile
from avff.engine.model import load_model
from avff.engine.predictor import MAX_BATCH
from avff.engine.spec import SPEC
from avff.trainer.engines.build import BEST_BATCH
from avff.trainer.engines.builder import Builder
from avff.trainer.engines.errors import PackageError
from avff.trainer.engines.mixed import to_mixed
from tools import bench_contenders as contenders
from tools.bench_cold import cold_start
from tools.bench_hop import Hop, hop_of_model
from tools.bench_page import OPEN_GPU, OPEN_TORCH, Goal, table
from tools.bench_plan import Bench, Key, Section, timed
from tools.bench_turns import Times
from tools.engine_runtime import load_engines

HOPS_PER_STREAM = 1e9 / SPEC.slice_ns
"""In a second of a stream, at a hop of one slice."""
_KINDS = {"ONNX FP32": "onnx", "torch FP32, eager": "torch", "torch FP32, compiled": "compile"}
_ON_GPU = ("TensorRT FP16, GPU", "torch FP16, eager, GPU")


def backends_section(bench: Bench) -> Section:
    """Time every runtime at every batch size, by turns, and start each in a process of its own."""
    times: dict[Key, Times] = {}
    for threads in bench.cores():
        times |= timed(bench, threads, _cpu_hops(bench, threads))
    gpu_hops = _gpu_hops(bench)
    on_gpu = timed(bench, 0, gpu_hops)
    rows = [_row(key, made) for key, made in (times | on_gpu).items()]
    rows += [(name, "GPU", "", _why_open(bench, name), "", "") for name in _ON_GPU if name not in gpu_hops]
    head = ("runtime", "threads", "batch", "p50, ms", "p99, ms", "hops/s")
    text = table(head, rows) + "\n" + _cold_starts(bench)
    figures = [
        {
            "runtime": name,
            "threads": t,
            "batch": b,
            "p50_ms": m.p50_ms,
            "p99_ms": m.p99_ms,
            "runs": m.runs,
            "hops_s": m.rate(b),
        }
        for (name, t, b), m in (times | on_gpu).items()
    ]
    return Section(
        "backends", "Runtimes", text, (*_cpu_goals(bench, times), *_gpu_goals(bench, on_gpu)), figures
    )


def _cpu_hops(bench: Bench, threads: int) -> dict[str, Hop]:
    contract, inputs = bench.source[0], bench.inputs
    modules = contenders.torch_modules(contenders.timing_net(bench.model))
    hop = partial(contenders.hop_of_torch, contract=contract, inputs=inputs, threads=threads)
    made = {
        "ONNX FP32": hop_of_model(load_model(bench.model, threads=threads), inputs),
        "torch FP32, eager": hop(modules),
    }
    if bench.compile and contenders.has_compiler():
        made["torch FP32, compiled"] = hop(contenders.compiled(modules))
    return made


def _gpu_hops(bench: Bench) -> dict[str, Hop]:
    made: dict[str, Hop] = {}
    if bench.engines is not None:
        made[_ON_GPU[0]] = hop_of_model(load_engines(bench.engines), bench.inputs)
    if torch.cuda.is_available():
        net = contenders.timing_net(bench.model)
        modules = contenders.torch_modules(net, half=True, gpu=True)
        made[_ON_GPU[1]] = contenders.hop_of_torch(modules, bench.source[0], bench.inputs, gpu=True)
    return made


def _row(key: Key, made: Times) -> tuple[str, ...]:
    name, threads, batch = key
    place = str(threads) if threads else "GPU"
    return name, place, str(batch), f"{made.p50_ms:.2f}", made.slowest(), f"{made.rate(batch):.0f}"


def _cpu_goals(bench: Bench, times: dict[Key, Times]) -> list[Goal]:
    own = {(t, b): made for (name, t, b), made in times.items() if name == "ONNX FP32"}
    goals = []
    if (1, 1) in own:
        goals.append(Goal("hop of one stream, ONNX FP32, one thread, p50", own[1, 1].p50_ms, "ms", 10.0))
    rate = max(made.rate(b) for (_, b), made in own.items())
    what = f"hops of many streams, ONNX FP32, at most {bench.threads} threads, the best batch"
    return [*goals, Goal(what, rate, "hops/s", 150.0, at_most=False)]


def _gpu_goals(bench: Bench, times: dict[Key, Times]) -> list[Goal]:
    ours, theirs = ({b: m for (name, _, b), m in times.items() if name == one} for one in _ON_GPU)
    reason, without = (_why_open(bench, name) for name in _ON_GPU)
    first = ours[1].p99_ms if 1 in ours else reason
    share = theirs[32].p50_ms / ours[32].p50_ms if 32 in ours and 32 in theirs else without
    rate = max(m.rate(b) for b, m in ours.items()) / HOPS_PER_STREAM if ours else reason
    return [
        Goal("hop of one stream, TensorRT FP16 on a GPU, p99", first, "ms", 2.0),
        Goal("TensorRT FP16 against torch FP16 eager, batch 32", share, "x", 3.0, at_most=False),
        Goal(
            "streams in real time on one GPU, TensorRT FP16, the network alone",
            rate,
            "streams",
            1000.0,
            at_most=False,
        ),
    ]


def _why_open(bench: Bench, name: str) -> str:
    """Say why a runtime on the GPU has no figure."""
    if torch.cuda.is_available():
        return "open: batch not timed" if bench.engines is not None else "open: no engines given (--engines)"
    # Engines are there, so a GPU may be: it is torch that cannot use it.
    if bench.engines is not None:
        return OPEN_TORCH if name == _ON_GPU[1] else "open: batch not timed"
    return OPEN_GPU


def _cold_starts(bench: Bench) -> str:
    kinds = dict(_KINDS)
    if not (bench.compile and contenders.has_compiler()):
        del kinds["torch FP32, compiled"]
    places: dict[str, Path | None] = dict.fromkeys(kinds, bench.model)
    if bench.engines is not None:
        kinds[_ON_GPU[0]], places[_ON_GPU[0]] = "engine", bench.engines
    if torch.cuda.is_available():
        kinds[_ON_GPU[1]], places[_ON_GPU[1]] = "torch-fp16", bench.model
    rows = []
    for name, kind in kinds.items():
        cold = cold_start(kind, places[name])
        rows.append((name, f"{cold.start_s:.2f}", f"{cold.ready_s:.2f}", f"{cold.memory_mb:.0f}"))
    rows += [(name, _why_open(bench, name), "", "") for name in _ON_GPU if name not in kinds]
    head = ("runtime, in a new process", "to the first hop, s", "of it after imports, s", "peak memory, MB")
    return table(head, rows) + _engine_build(bench)


def _engine_build(bench: Bench) -> str:
    """Say how long TensorRT-RTX takes to compile the graphs in FP16; it needs no GPU for that."""
    contract, graphs = bench.source
    try:
        builder = Builder("rtx")
    except PackageError as error:
        return f"\nBuilding engines: open: {error}.\n"
    mixed = {n: to_mixed(load_from_string(g)).SerializeToString() for n, g in graphs.items()}
    started, size = time.perf_counter(), 0
    for name, content in mixed.items():
        size += len(builder.build(name, content, contract.graphs[name], Profile(1, BEST_BATCH, MAX_BATCH)))
    taken = time.perf_counter() - started
    made = f"builds the FP16 engines ({size / 1e6:.1f} MB) in {taken:.1f} s, without a GPU"
    return f"\nTensorRT-RTX {builder.version} {made}.\n"
