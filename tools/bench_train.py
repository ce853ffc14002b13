"""Measure training against its budgets: is data there in time, and does it fit a laptop's GPU?

python tools/bench.py train [--only speed|memory] [--rounds N] [--json FILE]

Prints a table, and exits with 1 when a budget is missed.  The data is a small replica of DFDC
that this command makes and prepares in a temporary folder; the recipes are those in
configs/train.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from avff.engine.settings import load_settings
from avff.engine.threads import stay_in_caller
from avff.trainer.config import RunSettings
from avff.trainer.data.windows import Batch
from avff.trainer.model.avff import AvffConfig
from avff.trainer.model.registry import build
from avff.trainer.run import encoder_stage, supervised_stage
from avff.trainer.run_data import RunData, load_data
from avff.trainer.stages import Stage, loader, precision_of
from tools.bench import Row, print_table
from tools.bench_memory import computed_peak, largest_batch, measured_peak, quiet
from tools.make_replica import write_dfdc

RATIO = 1.5
"""Items that the loader delivers for each that the step takes."""
GPU_GB = 8.0
RESERVE_GB = 1.0
"""For what the allocator does not see: CUDA context, workspaces of cuDNN and cuBLAS, fragmentation."""
WANTED = 32
"""Windows to one update."""
_RECIPES = Path(__file__).parents[1] / "configs" / "train"
_CLIPS, _CLIP_S = 24, 3.2
_BATCHES = 16
"""Of the loader in a round, each a batch of the recipe."""
_STEPS = 4
"""Timed in a round, after one that is not."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.py train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("speed", "memory"), help="one half; both by default")
    parser.add_argument("--rounds", type=int, default=2, help="of loader and step by turns (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, not at least 1")
    rows: list[Row] = []
    if options.only != "memory":
        with tempfile.TemporaryDirectory(prefix="avff-bench-") as folder:
            rows += speed_rows(Path(folder), options.rounds)
    if options.only != "speed":
        rows += memory_rows()
    print_table(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {**_machine(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.met for row in rows) else 1


def speed_rows(folder: Path, rounds: int) -> list[Row]:
    """Return what the loader delivers and the step takes, stage by stage.

    Args:
        folder: for clips; empty.
        rounds: how often each is measured; the best counts, noise of a shared machine only adds time.
    """
    stay_in_caller()  # before workers are forked, as a run does
    write_dfdc(folder / "dfdc", _CLIPS, _CLIP_S)
    settings = speed_settings(folder)
    torch.set_num_threads(settings.train.threads)
    data = load_data(settings)
    rows: list[Row] = []
    for name, stage, chosen in _stages(settings, data):
        made, used = [], []
        for _ in range(rounds):
            made.append(loader_speed(stage, chosen))
            used.append(step_speed(stage, chosen))
        unit = "slices/s" if stage.name == "encoders" else "windows/s"
        rows += [
            Row(f"{name}: loader, {settings.data.workers} workers, nobody trains", max(made), unit),
            Row(f"{name}: step, {settings.train.threads} thread, from memory", max(used), unit),
            Row(f"{name}: loader to step", max(made) / max(used), "x", RATIO, at_most=False),
        ]
    return rows


def speed_settings(folder: Path) -> RunSettings:
    """Return the embedded model's recipe, on the replica in ``folder``, with short epochs."""
    recipe = load_settings(_RECIPES / "selfmade.yaml", RunSettings)
    assert recipe.encoders is not None, "the recipe has that stage"
    places = {
        "output": str(folder), "data.root": str(folder / "dfdc"), "data.dataset": "dfdc",
        "data.split": "groups", "data.judge_split": "test", "data.validation_share": "0.4",
        "data.held_out_generators": "[]",
        "train.windows_per_epoch": str(_BATCHES * recipe.train.batch),
        "encoders.slices_per_epoch": str(_BATCHES * recipe.encoders.batch),
    }  # fmt: skip
    return load_settings(_RECIPES / "selfmade.yaml", RunSettings, list(places.items()))


def _stages(settings: RunSettings, data: RunData) -> list[tuple[str, Stage, RunSettings]]:
    """Return the stages that are timed: both of the recipe, and the second with nothing frozen."""
    encoders = encoder_stage(settings, data, build(settings.model))
    assert encoders is not None, "the recipe has that stage"
    whole = settings.model_copy(
        update={"train": settings.train.model_copy(update={"frozen_encoders": False})}
    )
    frozen = supervised_stage(settings, data, build(settings.model))
    return [
        ("encoders on slices", encoders, settings),
        ("windows, encoders frozen", frozen, settings),
        ("windows, all trained", supervised_stage(whole, data, build(settings.model)), whole),
    ]


def loader_speed(stage: Stage, settings: RunSettings) -> float:
    """Return the items a second of one epoch of a stage's loader, its workers' start included."""
    # The post-chain grows over the encoders' stage: the last epoch is the one that costs most.
    stage.train.epoch = stage.epochs
    started, items = time.perf_counter(), 0
    for batch in loader(stage.train, settings, stage.batch, last=True, dealt=True):
        items += len(batch.labels)
    return items / (time.perf_counter() - started)


def step_speed(stage: Stage, settings: RunSettings) -> float:
    """Return the items a second of forward, backward and update, on one batch that stays in memory."""
    module = stage.module.train()
    module.on_train_epoch_start()  # freezes what the stage does not train
    configured = module.configure_optimizers()
    assert isinstance(configured, dict), "as trainer.optim makes it"
    optimiser = configured["optimizer"]
    batch = one_batch(stage)
    mixed = precision_of(settings.train.precision) == "bf16-mixed"
    times: list[float] = []
    for _ in range(1 + _STEPS):
        started = time.perf_counter()
        with quiet(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = module.training_step(batch, 0)
        assert isinstance(loss, torch.Tensor), "no stage skips a batch"
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(module.parameters(), settings.train.gradient_clip)
        optimiser.step()
        times.append(time.perf_counter() - started)
    return stage.batch / min(times[1:])  # the first makes the optimiser's state


def one_batch(stage: Stage) -> Batch:
    """Return a batch of two items by turns: what a step takes does not depend on what it sees."""
    pair = [stage.train[k] for k in range(2)]
    return Batch._make(torch.stack(values) for values in zip(*(pair * (stage.batch // 2)), strict=True))


def memory_rows() -> list[Row]:
    """Return the peak of both networks' steps, of WANTED windows to an update, and what fits for avff-b."""
    train = load_settings(_RECIPES / "dfdc.yaml", RunSettings).train
    measured = torch.cuda.is_available()
    how = "measured" if measured else "computed"
    limit_gb = GPU_GB - RESERVE_GB
    small, large = AvffConfig(), AvffConfig(architecture="avff-b", recompute=True)

    def peak(config: AvffConfig, batch: int, mixed: bool) -> int:
        function = measured_peak if measured else computed_peak
        return function(config, batch, train, mixed=mixed)

    rows = []
    for mixed in (True, False):
        kind = "bf16-mixed" if mixed else "32-true"
        used = peak(small, WANTED, mixed) / 1e9
        rows.append(Row(f"avff-s, {kind}, batch {WANTED} ({how})", used, "GB", limit_gb))
    for mixed in (True, False):
        kind = "bf16-mixed" if mixed else "32-true"
        seen: dict[int, int] = {}

        def of_large(batch: int, mixed: bool = mixed, seen: dict[int, int] = seen) -> int:
            return seen.setdefault(batch, seen.get(batch) or peak(large, batch, mixed))

        most = largest_batch(of_large, round(limit_gb * 1e9))
        batch = even_share(most)
        rows.append(Row(f"avff-b, recompute, {kind}, largest batch ({how})", most, "windows"))
        used = of_large(batch) / 1e9
        what = f"avff-b, recompute, {kind}, batch {batch} x {WANTED // batch} ({how})"
        rows.append(Row(what, used, "GB", limit_gb))
    return rows


def even_share(most: int) -> int:
    """Return the largest batch, at most ``most`` and at least 1, that makes WANTED by accumulation."""
    return max(b for b in range(1, WANTED + 1) if WANTED % b == 0 and b <= max(1, most))


def _machine() -> dict[str, object]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
