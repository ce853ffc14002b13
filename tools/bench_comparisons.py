"""The sections of the engine's benchmark that compare: with other networks, with the machine's limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from avff.engine.model import load_model
from tools import bench_contenders as contenders
from tools.bench_hardware import SIDES, demand_of, measure
from tools.bench_hop import hop_of_model, window_of_model
from tools.bench_page import OPEN_GPU, Goal, table
from tools.bench_plan import Bench, Section, timed
from tools.bench_rivals import OpenAvff, Seed, pass_of
from tools.bench_turns import by_turns


def rivals_section(bench: Bench) -> Section:
    """Time a window's score by this network and by its rivals, by turns, on one core.

    On one, so that a busy neighbour costs each its share of time: threads that wait for each other's core,
    as torch's do at every layer, may lose a hundred times that.
    """
    contract, _ = bench.source
    model = load_model(bench.model, threads=1)
    modules = contenders.torch_modules(contenders.timing_net(bench.model))
    torch_hop = contenders.hop_of_torch(modules, contract, bench.inputs, threads=1)
    torch_window = contenders.window_of_torch(modules, contract, bench.inputs, threads=1)
    ours, anew = "avff-s, a hop (seven slices kept)", "avff-s, the whole window anew"
    things: dict[str, Callable[[], object]] = {
        ours: partial(hop_of_model(model, bench.inputs), 1),
        anew: window_of_model(model, bench.inputs),
        "avff-s in torch, a hop": partial(torch_hop, 1),
        "avff-s in torch, the whole window anew": partial(torch_window, 1),
        "the seed's network (ViT-B/16, wav2vec 2.0 base)": pass_of(Seed(), 1),
        "OpenAVFF's network (two ViT-B)": pass_of(OpenAvff(), 1),
    }
    times = by_turns(things, bench.rounds)
    hop, whole = times[ours].p50_ms, times[anew].p50_ms
    *_, seed, theirs = things
    goals = (
        _goal("OpenAVFF's network", times[theirs].p50_ms, hop, whole, 100.0),
        _goal("the seed's network", times[seed].p50_ms, hop, whole, 50.0),
    )
    rows = [
        (name, f"{made.p50_ms:.1f}", f"{made.p50_ms / hop:.1f}", f"{made.p50_ms / whole:.1f}")
        for name, made in times.items()
    ]
    head = ("one score of one window", "p50, ms", "times a hop", "times a whole window")
    text = "One thread, FP32; ONNX Runtime in the first two rows, torch with random weights in the rest.\n\n"
    text += table(head, rows)
    return Section("rivals", "Rivals", text, goals, {name: made.p50_ms for name, made in times.items()})


def _goal(rival: str, ms: float, hop_ms: float, whole_ms: float, limit: float) -> Goal:
    """Judge by the whole window, as the rival keeps nothing; say what the hop would give."""
    what = f"a whole window's score, against {rival} (a hop's: {ms / hop_ms:.3g} x)"
    return Goal(what, ms / whole_ms, "x faster", limit, at_most=False)


def limits_section(bench: Bench) -> Section:
    """Compare a hop in ONNX Runtime with what this machine's products and copies would allow."""
    contract, graphs = bench.source
    demand = demand_of(contract, graphs)
    rows: list[tuple[str, ...]] = []
    figures: list[dict[str, float]] = []
    rates: list[str] = []
    for threads in bench.cores():
        hop = hop_of_model(load_model(bench.model, threads=threads), bench.inputs)
        before = measure(threads)
        times = timed(bench, threads, {"ONNX FP32": hop})
        hardware = before.better_of(measure(threads))
        cores = f"{threads} thread{'s' * (threads > 1)}"
        rates.append(f"{cores}: {hardware.gflop_s:.0f} GFLOP/s, {hardware.gb_s:.1f} GB/s")
        for (_, _, batch), made in times.items():
            products, traffic = demand.least_ms(hardware, batch)
            share = max(products, traffic) / made.p50_ms
            rows.append((
                f"{cores}, batch {batch}", f"{made.p50_ms:.2f}", f"{products:.2f}",
                f"{traffic:.2f}", f"{share:.0%}",
            ))  # fmt: skip
            figures.append({"threads": threads, "batch": batch, "ms": made.p50_ms, "limit_share": share})
    head = ("ONNX FP32", "p50, ms", "products alone, ms", "traffic alone, ms", "limit / measured")
    text = (
        f"A hop is {demand.gflop:.2f} GFLOP; {demand.weight_bytes / 1e6:.1f} MB of weights are read once a "
        f"run, {demand.border_bytes / 1e6:.2f} MB of inputs and outputs for each stream; what lies between "
        f"layers is not counted. Products (FP32, the fastest of torch's and ONNX Runtime's "
        f"at {SIDES[0]} to {SIDES[-1]}) and copies here, {'; '.join(rates)}. "
        f"GPU: {_gpu_rates()}.\n\n"
    )
    text += table(head, rows) + _beyond([row["limit_share"] for row in figures])
    return Section("limits", "Distance to the machine's limits", text, (), figures)


def _beyond(shares: Sequence[float]) -> str:
    """Say what a share above 1 means, where there is one."""
    if max(shares) <= 1:
        return ""
    return (
        "\nWhere the share is above 100 % the hop was faster than its limit: the products that were timed "
        "are not the fastest this machine can do, or a neighbour slowed them more than the hop.\n"
    )


def _gpu_rates() -> str:
    if not torch.cuda.is_available():
        return OPEN_GPU
    made = measure(1, device="cuda", dtype=torch.float16)
    return f"{made.gflop_s / 1e3:.0f} TFLOP/s in FP16, {made.gb_s:.0f} GB/s"
