"""Several processes: each draws its part, and together they learn what one with a large batch does."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avff.trainer.callbacks import Stopped
from avff.trainer.checkpoints import load_verified
from avff.trainer.config import RunSettings
from avff.trainer.data.splits import Split
from avff.trainer.data.windows import Batch, TrainingWindows
from avff.trainer.distributed import Dealt, World, world
from avff.trainer.module import AvffModule
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import read_history
from avff.trainer.run import fit
from avff.trainer.run_data import RunData
from tests.support.training import fill_cache, make_clip, write_manifest

pytestmark = [
    # Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
WINDOWS, EPOCHS = 8, 2
Work = Callable[[int, int, RunSettings, RunData], None]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_steps_of_all_processes_are_those_of_one_with_their_batches(size: int) -> None:
    """In every step the same items, none lost or twice; what fills no batch of all is left out."""
    dealt = [list(Dealt(26, 4, World(rank, size, size))) for rank in range(size)]
    alone = list(Dealt(26, 4 * size, World()))
    steps = len(alone) // (4 * size)
    together = [i for step in range(steps) for part in dealt for i in part[4 * step : 4 * step + 4]]
    assert together == alone == list(range(26 // (4 * size) * 4 * size))
    assert {len(part) for part in dealt} == {len(Dealt(26, 4, World(size - 1, size, size)))}


def test_twins_stay_in_one_process() -> None:
    """A manipulated window, odd, and the genuine one before it are compared there."""
    for rank in range(2):
        items = list(Dealt(24, 4, World(rank, 2, 2)))
        assert [i + 1 for i in items[::2]] == items[1::2]
        assert all(i % 2 == 0 for i in items[::2])


def test_process_is_alone_unless_torchrun_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's own variables of the same names make no distributed run."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert world() == World()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert world() == World(3, 8, 4)
    assert world().machines == 2
    assert not world().is_first


def make_settings(output: Path, batch: int) -> RunSettings:
    """A run whose losses are means over as many items in every process, and which draws no dropout."""
    return RunSettings.model_validate(
        {
            "name": "tiny",
            "output": output,
            "data": {"workers": 0},
            "mix": {"self_blend": 1.0},
            "model": {"width": 16, "heads": 2, "depth": 1, "dropout": 0.0},
            "encoders": {"epochs": 1, "slices_per_epoch": 4, "batch": 2},
            "train": {
                "epochs": EPOCHS,
                "windows_per_epoch": WINDOWS,
                "batch": batch,
                "validation_windows": 1,
                "post_chain": 0.0,
                "modality_dropout": 0.0,
                "precision": "32-true",  # what is compared is how sums are split, not how numbers are cut
                # Not Adam, which makes whole steps of rounding errors where the gradient is 0.
                "optim": {"optimiser": "sgd", "learning_rate": 0.02},
            },
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    root = tmp_path_factory.mktemp("data")
    clips = [make_clip(f"{name}.mp4", identity=name) for name in "abcd"]
    clips += [make_clip(f"f{k}.mp4", label=1, generator="F", label_video=1) for k in range(2)]
    split = Split((*clips[:2], clips[4]), (*clips[2:4], clips[5]))
    return RunData(root, None, fill_cache(root / "cache", clips), split, ())


def train_as(rank: int, port: int, settings: RunSettings, data: RunData) -> None:
    """Train as one of two processes of torchrun, and note which windows are drawn."""
    warnings.simplefilter("ignore")  # the marks above are pytest's, which does not watch this process
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    original = TrainingWindows.__getitem__

    def noting(self: TrainingWindows, index: int) -> Batch:
        with (settings.output / f"drawn-{rank}.txt").open("a") as file:
            file.write(f"{self.epoch} {index}\n")
        return original(self, index)

    TrainingWindows.__getitem__ = noting  # type: ignore[method-assign]
    try:
        fit(settings, data, RunPaths(settings.output, settings.name))
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def train_until_told(rank: int, port: int, settings: RunSettings, data: RunData) -> None:
    """Train as one of two processes; the second gets a SIGTERM in the second epoch, before a step."""
    original = AvffModule.training_step

    def training_step(self: AvffModule, batch: Batch, index: int) -> Tensor:
        if self.current_epoch == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    AvffModule.training_step = training_step  # type: ignore[method-assign]
    train_as(rank, port, settings, data)


def train_as_two(settings: RunSettings, data: RunData, work: Work = train_as) -> list[int | None]:
    """Train as two processes, and return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not forked: autograd has threads of its own by now.
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=(rank, port, settings, data)) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_torchrun_tells_everything_once(tmp_path: Path) -> None:
    """What both processes do, finding and preparing the clips, only the first one talks about."""
    clips = [make_clip(f"{name}.mp4", identity=name) for name in "abcde"]
    clips += [make_clip(f"{g}.mp4", label=1, generator=g, label_video=1) for g in "FG"]
    judges = [make_clip(f"j{k}.mp4", label=k, generator="J" * k, split="dev") for k in range(2)]
    write_manifest(tmp_path, [*clips, *judges])
    fill_cache(tmp_path / "runs" / "cache", [c for c in clips if c.uid != "a.mp4"])
    places = {"root": tmp_path, "workers": 1, "validation_share": 0.4, "held_out_generators": ["G"]}
    settings = RunSettings.model_validate(
        {"name": "tiny", "output": tmp_path / "runs", "data": places, "mix": {"self_blend": 1.0}}
    )
    script = tmp_path / "data_of_a_run.py"
    script.write_text(
        "import sys\n"
        "from avff.trainer.config import RunSettings\n"
        "from avff.trainer.run_data import load_data\n"
        "load_data(RunSettings.model_validate_json(sys.argv[1]))\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    done = subprocess.run(
        [*torchrun, str(script), settings.model_dump_json()],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for told in ("avff-train: left out a.mp4: ", "prepare: 0 clips prepared, 6 were in "):
        assert done.stderr.count(told) == 1, (told, done.stderr)


def state_of(output: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_verified(RunPaths(output, "tiny").checkpoints / "last.pth")["state_dict"]
    return state


def test_two_processes_learn_what_one_with_the_doubled_batch_does(data: RunData, tmp_path: Path) -> None:
    """From the same encoders: every item once an epoch, each file written once, the same weights."""
    alone, two = make_settings(tmp_path / "alone", 4), make_settings(tmp_path / "two", 2)
    fit(alone, data, RunPaths(alone.output, "tiny"))
    start = tmp_path / "two" / "checkpoints" / "tiny"
    start.mkdir(parents=True)
    for file in RunPaths(alone.output, "tiny").checkpoints.glob("encoders*"):
        shutil.copy(file, start)
    assert train_as_two(two, data) == [0, 0]
    drawn = [
        sorted(map(str.split, (two.output / f"drawn-{rank}.txt").read_text().splitlines()))
        for rank in range(2)
    ]
    wanted = sorted([str(epoch), str(item)] for epoch in range(EPOCHS) for item in range(WINDOWS))
    assert sorted(drawn[0] + drawn[1]) == wanted
    assert len(drawn[0]) == len(drawn[1])
    history = read_history(RunPaths(two.output, "tiny").history)
    assert [(e.stage, e.epoch) for e in history] == [("whole", epoch) for epoch in range(EPOCHS)]
    by_one, by_two = state_of(alone.output), state_of(two.output)
    before = load_verified(start / "encoders-last.pth")["state_dict"]
    assert any((by_one[k] - before[k]).abs().max() > 1e-3 for k in by_one if k in before)
    for name, value in by_one.items():
        torch.testing.assert_close(by_two[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_signal_to_one_process_ends_both_after_the_step(data: RunData, tmp_path: Path) -> None:
    """Neither waits for the other: both end with the shell's code, and the last whole epoch is kept."""
    settings = make_settings(tmp_path, 2).model_copy(update={"encoders": None})
    settings = settings.model_copy(
        update={"train": settings.train.model_copy(update={"frozen_encoders": False})}
    )
    assert train_as_two(settings, data, train_until_told) == [143, 143]
    assert load_verified(RunPaths(tmp_path, "tiny").checkpoints / "last.pth")["epoch"] == 0
