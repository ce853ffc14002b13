"""The section of the engine's benchmark that decides how the CPU engine runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from avff.trainer.engines.agreement import Agreement, Limits
from avff.trainer.engines.windows import LabelledSlices, read_clips
from tools.bench_hop import hop_of_model
from tools.bench_page import table
from tools.bench_plan import Bench, Section
from tools.bench_turns import Times, by_turns
from tools.bench_variants import Variant, check, load_variant, variants, weights_of
from tools.demo_data import write_demo_data

CLIPS = 32


def variants_section(bench: Bench) -> Section:
    """Time the variants by turns, and hold those whose numbers differ to the gate of FP16 engines."""
    contract, graphs = bench.source
    clips = _clips(bench.data)
    weights = weights_of(contract, graphs, clips)
    agreements = check(contract, weights, clips, Limits())
    chosen = variants(weights, bench.threads)
    hops = {v: hop_of_model(load_variant(v, contract, weights[v.weights]), bench.inputs) for v in chosen}
    times: dict[int, dict[str, Times]] = {}
    for batch in bench.batches:
        times[batch] = by_turns({str(v): partial(hop, batch) for v, hop in hops.items()}, bench.rounds)
    rows = [_row(v, times, weights, agreements) for v in hops]
    head = (
        "variant", "MB", *(f"batch {b}, ms/hop" for b in bench.batches), "logits by", "AUC by", "batch",
        "gate",
    )  # fmt: skip
    judged = next(iter(agreements.values()))
    origin = "of the demo clip (one face)" if bench.data == "demo" else "at hand"
    text = (
        f"Differences are from FP32, on {judged.windows} windows of {judged.clips} clips {origin}; *batch* "
        f"is the largest difference of a logit between a window alone and in a full batch. The limits are "
        f"logit {judged.limits.logit:g}, AUC {judged.limits.auc:g}, batch {judged.limits.batch:g}.\n\n"
        f"{table(head, rows)}\n{_decision(bench, hops, times, agreements)}\n"
    )
    figures = {
        str(v): {"ms_per_hop": {b: times[b][str(v)].p50_ms / b for b in times}, "gate": row[-1]}
        for v, row in zip(hops, rows, strict=True)
    }
    return Section("variants", "Variants of the CPU engine", text, (), figures)


def _clips(data: str) -> list[LabelledSlices]:
    with tempfile.TemporaryDirectory(prefix="avff-demo-") as scratch:
        root = write_demo_data(Path(scratch), clips=26) if data == "demo" else Path(data)
        return read_clips(root, count=CLIPS, split=None, say=lambda text: None)


def _row(
    variant: Variant,
    times: Mapping[int, Mapping[str, Times]],
    weights: Mapping[str, Mapping[str, bytes]],
    agreements: Mapping[str, Agreement],
) -> tuple[str, ...]:
    size = sum(map(len, weights[variant.weights].values())) / 1e6
    ms = [f"{made[str(variant)].p50_ms / batch:.2f}" for batch, made in times.items()]
    report = agreements.get(variant.weights)
    if report is None:
        return (str(variant), f"{size:.1f}", *ms, "", "", "", "the model itself")
    verdict = "refused" if report.excess() else "holds"
    differences = (f"{report.logit:.2g}", f"{report.drift:.2g}", f"{report.batch:.2g}")
    return (str(variant), f"{size:.1f}", *ms, *differences, verdict)


def _decision(
    bench: Bench,
    chosen: Sequence[Variant] | Mapping[Variant, object],
    times: Mapping[int, Mapping[str, Times]],
    agreements: Mapping[str, Agreement],
) -> str:
    """Say which variant is fastest among those that give the model's answers."""
    able = [v for v in chosen if v.weights not in agreements or not agreements[v.weights].excess()]
    words = []
    for batch in dict.fromkeys((min(bench.batches), max(bench.batches))):
        best = min(able, key=lambda v: times[batch][str(v)].p50_ms)
        words.append(f"at batch {batch}: {best} ({times[batch][str(best)].p50_ms / batch:.2f} ms/hop)")
    return f"Fastest of those that hold, {'; '.join(words)}. The default is FP32, all optimisations."
