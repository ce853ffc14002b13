"""The engine's benchmark: contenders take turns, rivals have their size, and what has no figure says so."""

from __future__ import annotations

import json
import math
import re
import runpy
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from avff.engine.model import load_model
from avff.trainer.engines.agreement import Agreement, Limits
from avff.trainer.engines.source import read_model
from avff.trainer.model.size import gflop
from tests.support.engines import contract_of, demo_clips, graphs_in, small_model
from tests.support.training import WITH_MOTION, seeded_net
from tools import (
    bench_cold,
    bench_comparisons,
    bench_engine,
    bench_hardware,
    bench_hop,
    bench_runtimes,
    bench_turns,
    bench_variants,
    bench_variants_section,
)
from tools.bench_cold import Cold, cold_start
from tools.bench_contenders import hop_of_torch, timing_net, torch_modules, window_of_torch
from tools.bench_hardware import Hardware, demand_of
from tools.bench_hop import Inputs, hop_of_model, window_of_model
from tools.bench_page import OPEN_GPU, OPEN_TORCH, Goal, goals_table
from tools.bench_plan import Bench, Section
from tools.bench_rivals import OpenAvff, Seed, windows_of
from tools.bench_turns import by_turns
from tools.bench_variants import Variant, check, load_variant, variants, weights_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture
def one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is a single run."""
    monkeypatch.setattr(bench_turns, "LEAST_S", 1e-9)


def test_contenders_take_turns(one_run: None) -> None:
    """In every round each of them, after a run that does not count."""
    calls: list[str] = []
    times = by_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)  # type: ignore[misc]
    assert "".join(calls) == "ab" + "ab" * 3
    assert [made.runs for made in times.values()] == [3, 3]
    assert all(0 <= made.p50_ms <= made.p99_ms for made in times.values())


def test_rates_are_of_all_runs_and_few_runs_have_no_percentile() -> None:
    """One slow run in two counts; the slowest of two is called that."""
    few = bench_turns._times([0.01, 0.03])
    assert few.rate(4) == pytest.approx(2 * 4 / 0.04)
    assert few.slowest() == "30.00 (max of 2)"
    assert bench_turns._times([0.01] * 100).slowest() == "10.00"


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (9.9, True, "met"), (10.1, True, "MISSED"), (9.9, False, "MISSED"), (10.0, False, "met"),
        (math.nan, True, "MISSED"), (math.nan, False, "MISSED"), (OPEN_GPU, True, "open"),
    ],
)  # fmt: skip
def test_goals_are_met_missed_or_open(value: float | str, at_most: bool, verdict: str) -> None:
    """A figure that is none is missed; one that nobody could take is open, in words."""
    goal = Goal("hop", value, "ms", 10.0, at_most)
    assert goal.is_missed == (verdict == "MISSED")
    assert goals_table([goal]).splitlines()[-1].endswith(f" 10 ms | {verdict} |")


def test_a_hop_is_a_slice_and_a_window_in_every_runtime(model: Path) -> None:
    """In torch, in halved torch and in ONNX Runtime, for batches and for a window without kept tokens."""
    contract = contract_of(model)
    inputs = Inputs(contract)
    loaded = load_model(model, threads=1)
    hop_of_model(loaded, inputs)(2)
    window_of_model(loaded, inputs)()
    loaded.close()
    for half in (False, True):
        modules = torch_modules(seeded_net(config=WITH_MOTION), half=half)
        hop_of_torch(modules, contract, inputs)(2)
    window_of_torch(torch_modules(seeded_net(config=WITH_MOTION)), contract, inputs, threads=1)(1)
    assert inputs.of(2) is inputs.of(2)
    assert inputs.of(2)["fusion"]["video_ok"].min() == 1


def test_torch_on_a_gpu_waits_once_a_hop(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locked FP32 is made once, halved behind the copy, never on the CPU; a scripted GPU counts."""
    pins: list[torch.Tensor] = []
    copies: list[tuple[torch.dtype, bool]] = []
    waits: list[int] = []
    to, empty = torch.Tensor.to, torch.empty

    def scripted_to(one: torch.Tensor, *where: Any, non_blocking: bool = False, **rest: Any) -> torch.Tensor:
        if where != ("cuda",):
            return to(one, *where, **rest)
        copies.append((one.dtype, non_blocking))
        return one

    def scripted_pin(one: torch.Tensor) -> torch.Tensor:
        pins.append(one)
        return one

    monkeypatch.setattr(torch.Tensor, "to", scripted_to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", scripted_pin)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **rest: empty(*shape, **rest))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    contract = contract_of(model)
    modules = torch_modules(seeded_net(config=WITH_MOTION), half=True)
    hop = hop_of_torch(modules, contract, Inputs(contract), gpu=True)
    count = sum(len(graph.inputs) for graph in contract.graphs.values())
    for _ in range(3):
        hop(2)
    assert len(pins) == count
    assert copies == [(torch.float32, True)] * (3 * count)
    assert len(waits) == 3


def test_the_network_that_is_timed_in_torch_is_the_embedded_one(model: Path) -> None:
    """Its graphs ask for as many operations; another model needs its recipe."""
    contract, _ = read_model(None)
    net = timing_net()
    inputs = Inputs(contract)
    made = gflop(lambda: hop_of_torch(torch_modules(net), contract, inputs)(1))
    assert made == pytest.approx(sum(graph.gflop for graph in contract.graphs.values()), rel=0.01)
    with pytest.raises(FileNotFoundError, match=r"no settings\.json in it or beside it"):
        timing_net(model)


@pytest.mark.parametrize(("kind", "millions", "cost"), [(OpenAvff, 185, 474), (Seed, 182, 324)])
def test_rivals_have_their_size(kind: type[torch.nn.Module], millions: float, cost: float) -> None:
    """Parameters and GFLOP of a pass; counted without computing, attention's own products too."""
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        net = kind().eval()
        window = windows_of(net)
        assert net(*window).shape == (1, 2)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
        assert gflop(lambda: net(*window)) == pytest.approx(cost, rel=0.03)


def test_the_least_that_a_hop_takes(model: Path) -> None:
    """Weights once a run, products and borders once a stream."""
    demand = demand_of(contract_of(model), graphs_in(model))
    assert 0.9 < demand.weight_bytes / sum(map(len, graphs_in(model).values())) < 1.05
    one, four = (demand.least_ms(Hardware(gflop_s=10.0, gb_s=1.0), batch) for batch in (1, 4))
    assert one[0] == pytest.approx(100 * demand.gflop)
    assert four[0] == pytest.approx(4 * one[0])
    assert one[1] == pytest.approx((demand.weight_bytes + demand.border_bytes) / 1e6)
    assert four[1] - one[1] == pytest.approx(3 * demand.border_bytes / 1e6)
    assert Hardware(1, 4).better_of(Hardware(2, 3)) == Hardware(2, 4)


def test_a_machines_rate_is_that_of_its_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch or ONNX Runtime, of any size; a share above 1 is explained."""
    monkeypatch.setattr(bench_hardware, "SIDES", (64, 128))
    monkeypatch.setattr(bench_hardware, "_COPY_BYTES", 1 << 20)
    of_onnx: Any = bench_hardware._onnx_product(64, 1)[1]()
    of_torch: Any = bench_hardware._torch_product(64, "cpu", torch.float32)[1]()
    assert of_onnx[0].shape == of_torch.shape == (64, 64)
    rates = iter([3.0, 4.0, 7.0, 5.0])
    monkeypatch.setattr(bench_hardware, "_rate", lambda product, device: next(rates))
    hardware = bench_hardware.measure(1)
    assert hardware.gflop_s == 7.0
    assert hardware.gb_s > 0
    assert bench_comparisons._beyond([0.5, 1.0]) == ""
    assert "above 100 %" in bench_comparisons._beyond([0.5, 1.2])


def test_variants_are_held_to_the_gate(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By clips that INT8's scales were not taken from; what rounds most differs most."""
    monkeypatch.setattr(bench_variants, "_TELLING", 1)
    contract, graphs, clips = contract_of(model), graphs_in(model), demo_clips()
    weights = weights_of(contract, graphs, clips)
    halved = sum(map(len, weights["FP16 weights"].values()))
    assert halved < 0.7 * sum(map(len, graphs.values()))
    reports = check(contract, weights, clips, Limits(windows=4))
    assert set(reports) == set(weights) - {"FP32"}
    assert {report.windows for report in reports.values()} == {4}
    assert reports["FP16 weights"].excess() == []
    assert reports["FP16 weights"].logit < reports["INT8 both"].logit
    made = variants(weights, 2)
    assert len(set(made)) == len(made) == 4 + 1 + 2 * 4
    assert str(Variant("FP32", 2)) == "FP32, 2 threads"
    for variant in (made[3], made[-1]):
        loaded = load_variant(variant, contract, weights[variant.weights])
        hop_of_model(loaded, Inputs(contract))(2)
        loaded.close()


def test_a_cold_start_is_a_process_of_its_own(tmp_path: Path) -> None:
    """From the interpreter's start on; what cannot be started says why."""
    cold = cold_start("onnx", None, starts=1)
    assert 0 < cold.ready_s < cold.start_s
    assert 50 < cold.memory_mb < 400
    with pytest.raises(RuntimeError, match="Error"):
        cold_start("engine", tmp_path)


def test_the_middle_one_of_three_cold_starts_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its whole duration; its other figures are of the same start."""
    starts = iter([Cold(9.0, 1.0, 100.0), Cold(2.0, 3.0, 300.0), Cold(4.0, 2.0, 200.0)])
    monkeypatch.setattr(bench_cold, "_start", lambda kind, place: next(starts))
    assert cold_start("onnx", None) == Cold(4.0, 2.0, 200.0)


def test_torch_starts_without_the_onnx_graphs(model: Path, tmp_path: Path) -> None:
    """Its contract is read from the file alone."""
    shutil.copy(model / "contract.json", tmp_path)
    assert bench_hop.contract_of(tmp_path) == contract_of(model)


def test_the_page_has_goals_and_tables(
    one_run: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the terminal, on the page and, as figures, in the JSON."""
    page, figures = tmp_path / "page.md", tmp_path / "new" / "figures.json"
    arguments = [
        "--only",
        "limits",
        "--threads",
        "1",
        "--batches",
        "2,1",
        "--rounds",
        "1",
        "--note",
        "A trial.",
    ]
    assert bench_engine.main([*arguments, "--page", str(page), "--json", str(figures)]) == 0
    text = page.read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    assert "**A trial.**" in text
    assert re.search(r"\| 1 thread, batch 2 \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \d+% \|", text)
    assert f"GPU: {OPEN_GPU}" in text or torch.cuda.is_available()
    assert [row["batch"] for row in json.loads(figures.read_text(encoding="utf-8"))["limits"]] == [1, 2]


def test_a_missed_goal_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And an open one does not."""

    def scripted(value: float | str) -> None:
        section = Section("rivals", "Rivals", "", (Goal("speed", value, "x", 2.0, at_most=False),), {})
        monkeypatch.setitem(bench_engine.SECTIONS, "rivals", lambda bench: section)

    for value, code in ((1.0, 1), (3.0, 0), (OPEN_GPU, 0)):
        scripted(value)
        assert bench_engine.main(["--only", "rivals"]) == code
    assert "| speed | open: no NVIDIA GPU here | ≥ 2 x | open |" in capsys.readouterr().out


BENCH = Bench(None, (1, 2), 1, 1, False, None, "demo")


def test_runtimes_are_timed_and_started(one_run: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime and torch at each batch size; what needs a GPU is open, and says why."""
    monkeypatch.setattr(bench_runtimes, "cold_start", lambda kind, place: Cold(1.5, 0.25, 100.0))
    monkeypatch.setattr(bench_runtimes, "_engine_build", lambda bench: "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    section = bench_runtimes.backends_section(BENCH)
    timed = [(row["runtime"], row["batch"]) for row in section.figures]
    assert timed == [(name, b) for b in (1, 2) for name in ("ONNX FP32", "torch FP32, eager")]
    assert [type(goal.value) for goal in section.goals] == [float, float, str, str, str]
    assert section.goals[0].value == section.figures[0]["p50_ms"]
    assert section.goals[1].value == max(
        row["hops_s"] for row in section.figures if row["runtime"] == "ONNX FP32"
    )
    assert f"| TensorRT FP16, GPU | GPU |  | {OPEN_GPU} |  |  |" in section.text
    assert "| torch FP32, eager | 1.50 | 0.25 | 100 |" in section.text


def test_engines_without_a_torch_that_sees_the_gpu(one_run: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT has its figures, torch has the reason why not, and it is not that there is no GPU."""
    monkeypatch.setattr(bench_runtimes, "cold_start", lambda kind, place: Cold(1.5, 0.25, 100.0))
    monkeypatch.setattr(bench_runtimes, "_engine_build", lambda bench: "")
    monkeypatch.setattr(bench_runtimes, "load_engines", lambda engines: load_model(threads=1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    section = bench_runtimes.backends_section(replace(BENCH, batches=(1,), engines=Path("engines")))
    assert f"| torch FP16, eager, GPU | GPU |  | {OPEN_TORCH} |  |  |" in section.text
    assert OPEN_GPU not in section.text
    first, share, rate = (goal.value for goal in section.goals[-3:])
    assert (type(first), share, type(rate)) == (float, OPEN_TORCH, float)


def test_rivals_are_compared_with_a_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with a whole window, by which the goals are judged; the hop's factor stands beside."""
    monkeypatch.setattr(bench_comparisons, "OpenAvff", lambda: 0.06)
    monkeypatch.setattr(bench_comparisons, "Seed", lambda: 0.03)
    monkeypatch.setattr(bench_comparisons, "pass_of", lambda seconds, threads: lambda: time.sleep(seconds))
    section = bench_comparisons.rivals_section(BENCH)
    hop, whole, *_, seed, theirs = section.figures.values()
    assert whole > hop
    assert theirs >= 60 > seed >= 30
    assert [goal.value for goal in section.goals] == pytest.approx([theirs / whole, seed / whole])
    for goal, rival in zip(section.goals, (theirs, seed), strict=True):
        assert f"(a hop's: {rival / hop:.3g} x)" in goal.what
    assert [goal.limit for goal in section.goals] == [100, 50]


def test_the_fastest_variant_is_one_that_holds(one_run: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate refuses is in the table, and is not chosen."""
    _, graphs = read_model(None)
    report = Agreement(1, 64, 0.5, 0.9, 0.9, 0.0, 0, {}, "", Limits())
    monkeypatch.setattr(bench_variants_section, "_clips", lambda data: [])
    monkeypatch.setattr(bench_variants_section, "weights_of", lambda *_: {"FP32": graphs, "INT8": graphs})
    monkeypatch.setattr(bench_variants_section, "check", lambda *_: {"INT8": report})
    section = bench_variants_section.variants_section(BENCH)
    assert section.figures["INT8, 1 thread"]["gate"] == "refused"
    assert section.figures["FP32, 1 thread"]["gate"] == "the model itself"
    chosen = section.text.splitlines()[-1]
    assert chosen.startswith("Fastest of those that hold, at batch 1: FP32")
    assert "INT8" not in chosen


def test_cores_are_one_and_all() -> None:
    assert [Bench(None, (1,), n, 1, False, None, "demo").cores() for n in (1, 4)] == [[1], [1, 4]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "speed"], "no section 'speed'; there are backends, variants, rivals, limits"),
        (["--rounds", "0"], "'0' is not a whole number above 0"),
        (["--batches", "1,x"], "'x' is not a whole number above 0"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the subcommand, which hands its arguments on."""
    script = Path(bench_engine.__file__).with_name("bench.py")
    monkeypatch.setattr(sys, "argv", [str(script), "engine", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
