"""The trainer's benchmark: memory agrees with an independent count, and rates are of what they say."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from avff.trainer.config import TrainSettings
from avff.trainer.data.splits import Split
from avff.trainer.model.avff import AvffConfig
from avff.trainer.model.registry import build
from avff.trainer.run import supervised_stage
from avff.trainer.run_data import RunData
from tests.support.training import SMALL, fill_cache, make_clip
from tools import bench_train
from tools.bench_memory import (
    AllocatorTrace,
    AsOnGpu,
    bare_module,
    blank_windows,
    computed_peak,
    in_blocks,
    largest_batch,
    quiet,
)
from tools.soak_train import tiny_settings

TRAIN = TrainSettings(frozen_encoders=False)
SMALL_B = AvffConfig(architecture="avff-b", width=16, heads=2, depth=1)


@pytest.mark.parametrize("config", [SMALL, SMALL_B], ids=["avff-s", "avff-b"])
def test_trace_agrees_with_what_autograd_really_keeps(config: AvffConfig) -> None:
    """After a forward pass: weights, batch, and every tensor saved for the way back, counted by hooks."""
    with FakeTensorMode(allow_non_fake_inputs=True), AllocatorTrace() as trace, AsOnGpu(), quiet():
        module, batch = bare_module(build(config), TRAIN, "cpu"), blank_windows(2)
        loss = module.training_step(batch, 0)
        traced = trace.live
        del loss  # only now: it holds what was kept
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = in_blocks(storage.nbytes())
        return tensor

    with AsOnGpu(), quiet():
        module, batch = bare_module(build(config), TRAIN, "cpu"), blank_windows(2)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module.training_step(batch, 0)
    for tensor in (*module.parameters(), *module.buffers(), *batch):
        keep(tensor)
    assert loss.requires_grad
    assert traced == pytest.approx(sum(kept.values()), rel=0.02)


def test_trace_follows_storages_until_they_are_freed() -> None:
    """In blocks of 512 bytes; views cost nothing."""
    with FakeTensorMode(), AllocatorTrace() as trace:
        a = torch.zeros(1000)  # 4000 bytes
        b = a * 2
        assert trace.live == 2 * 4096
        view = b[10:].reshape(-1, 2)
        del b
        assert trace.live == 2 * 4096
        del view
        assert trace.live == 4096
        del a
    assert (trace.live, trace.peak) == (0, 2 * 4096)


def test_operators_keep_what_a_gpu_keeps() -> None:
    """A dropout mask of a byte, and a softmax in 32 bits under mixed precision."""
    x = torch.ones(4, 8, requires_grad=True)
    kept: list[torch.dtype] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.dtype)
        return tensor

    with AsOnGpu(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.nn.functional.dropout(x, 0.5, training=True)
    assert kept == [torch.bool]
    with AsOnGpu(), torch.autocast("cpu", torch.bfloat16):
        assert torch.softmax(torch.ones(4, 8, dtype=torch.bfloat16), dim=-1).dtype == torch.float32
        assert (x @ x.T).dtype == torch.bfloat16


def test_peak_holds_weights_gradients_and_optimiser() -> None:
    """And grows with the batch; recomputing saves the more, the deeper the network."""
    config = AvffConfig(architecture="avff-b", width=16, heads=2, depth=3)
    plain = computed_peak(config, 1, TRAIN, mixed=False)
    weights = sum(4 * p.numel() for p in build(config).parameters())
    spare = AvffConfig(architecture="avff-b", width=16, heads=2, depth=3, recompute=True)
    assert plain > 4 * weights
    assert computed_peak(config, 2, TRAIN, mixed=False) > 1.5 * plain
    assert computed_peak(spare, 1, TRAIN, mixed=False) < 0.7 * plain


@pytest.mark.parametrize(("limit", "batch"), [(99, 0), (100, 1), (149, 1), (150, 2), (800, 14), (1050, 18)])
def test_largest_batch_is_the_last_that_fits(limit: int, batch: int) -> None:
    """Also where the peak grows faster than the first two windows foretell: by 60 from the eleventh on."""

    def peak(size: int) -> int:
        return 50 + 50 * size + 10 * max(0, size - 10)

    found = largest_batch(peak, limit)
    assert found == batch
    assert found == 0 or peak(found) <= limit
    assert peak(found + 1) > limit


@pytest.mark.parametrize(("most", "batch"), [(0, 1), (1, 1), (5, 4), (16, 16), (31, 16), (40, 32)])
def test_accumulated_batches_make_the_wanted_one(most: int, batch: int) -> None:
    """All batches of an update are alike."""
    assert bench_train.even_share(most) == batch


def test_missed_memory_budget_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Rows for both networks and precisions in the table and in the JSON; 1 when one is over its limit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def scripted(small_gb: float) -> None:
        def peak(config: AvffConfig, batch: int, train: TrainSettings, *, mixed: bool) -> int:
            per_window = small_gb / 32 if config.architecture == "avff-s" else 1.3
            return round(batch * per_window * 1e9)

        monkeypatch.setattr(bench_train, "computed_peak", peak)

    file = tmp_path / "figures" / "bench.json"
    scripted(small_gb=6.9)
    assert bench_train.main(["--only", "memory", "--json", str(file)]) == 0
    table = capsys.readouterr().out
    assert "| avff-s, bf16-mixed, batch 32 (computed) | 6.9 GB | ≤ 7 GB | met |" in table
    assert "| avff-b, recompute, 32-true, largest batch (computed) | 5 windows |" in table
    assert "| avff-b, recompute, 32-true, batch 4 x 8 (computed) | 5.2 GB | ≤ 7 GB | met |" in table
    assert len(json.loads(file.read_text())["rows"]) == len(table.splitlines()) - 2 == 6
    scripted(small_gb=7.1)
    assert bench_train.main(["--only", "memory"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_speeds_are_of_a_whole_epoch_and_of_a_whole_step(tmp_path: Path) -> None:
    """The loader delivers the stage's last epoch, where the post-chain is at its strongest; a step trains."""
    clips = [make_clip(f"{k}.mp4", identity=f"p{k}") for k in range(2)]
    clips.append(make_clip("fake.mp4", label=1, generator="g", label_video=1, label_audio=0))
    split = Split(tuple(clips), tuple(clips))
    settings = tiny_settings(tmp_path, seed=0)
    net = build(settings.model)
    stage = supervised_stage(settings, RunData(tmp_path, None, fill_cache(tmp_path, clips), split, ()), net)
    assert bench_train.loader_speed(stage, settings) > 0
    assert stage.train.epoch == stage.epochs
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert bench_train.step_speed(stage, settings) > 0
    changed = {n.split(".")[0] for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"fusion"}  # its encoders are frozen


def test_subcommand_leads_to_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``bench.py train`` hands its arguments on."""
    script = Path(bench_train.__file__).with_name("bench.py")
    monkeypatch.setattr(sys, "argv", [str(script), "train", "--rounds", "0"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 2
    assert re.search(r"bench.py train: error: --rounds is 0", capsys.readouterr().err)
