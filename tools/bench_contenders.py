"""The network in torch, as hops to be timed beside those of the engine's runtimes.

Inputs come from the host's memory and outputs go back there, on a GPU too.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avff.engine.contract import GRAPHS, Contract
from avff.trainer.config import RunSettings
from avff.trainer.export import graphs_of
from avff.trainer.model.avff import StreamingNet
from avff.trainer.model.registry import build
from tools.bench_hop import Hop, Inputs

EMBEDDED = Path(__file__).resolve().parents[1] / "engine" / "weights" / "avff-s"


def timing_net(model: Path | None = None) -> StreamingNet:
    """Return a network of a model's size; its weights are random, and cost what others do.

    Args:
        model: directory with a ``settings.json``, or a run's ``model`` beside one; the embedded one unless
            given.

    Raises:
        FileNotFoundError: there is no recipe.
    """
    places = [EMBEDDED] if model is None else [model, model.parent]
    path = next((p / "settings.json" for p in places if (p / "settings.json").is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{model}: no settings.json in it or beside it, to build its network in torch"
        )
    torch.manual_seed(0)
    net = build(RunSettings.model_validate_json(path.read_text(encoding="utf-8")).model)
    assert isinstance(net, StreamingNet), "what is served streams"
    return net.eval()


def torch_modules(net: StreamingNet, *, half: bool = False, gpu: bool = False) -> dict[str, nn.Module]:
    """Return the modules that become graphs, in FP32 or FP16, on the CPU or the GPU."""
    placed = net.half() if half else net
    return graphs_of(placed.cuda() if gpu else placed)


def hop_of_torch(
    modules: Mapping[str, nn.Module],
    contract: Contract,
    inputs: Inputs,
    *,
    threads: int = 1,
    gpu: bool = False,
) -> Hop:
    """Return the hop of torch modules.

    Args:
        modules: by graph, in inference mode.
        contract: has the order of their arguments.
        inputs: of the graphs.
        threads: that torch may use on the CPU.
        gpu: whether the modules are on one.
    """
    dtype = next(modules[GRAPHS[0]].parameters()).dtype

    def run(batch: int) -> None:
        torch.set_num_threads(threads)  # one setting for the process; others have their turns between ours
        with torch.inference_mode():
            for name, tensors in inputs.of(batch).items():
                order = [torch.from_numpy(tensors[spec.name]) for spec in contract.graphs[name].inputs]
                made: Any = modules[name](*(one.to("cuda" if gpu else "cpu", dtype) for one in order))
                for output in made if isinstance(made, tuple) else (made,):
                    output.cpu()

    return run


def window_of_torch(
    modules: Mapping[str, nn.Module], contract: Contract, inputs: Inputs, *, threads: int
) -> Hop:
    """Return what windows cost torch when no slice's tokens are kept from before; a batch is of windows."""

    def run(batch: int) -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for name in GRAPHS:
                tensors = inputs.of(batch if name == GRAPHS[-1] else 8 * batch)[name]
                modules[name](*(torch.from_numpy(tensors[s.name]) for s in contract.graphs[name].inputs))

    return run


def compiled(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return modules that ``torch.compile`` compiles when they are first run."""
    return {name: _Compiled(module) for name, module in modules.items()}


class _Compiled(nn.Module):
    """Quiet about what torch's compiler uses of itself that will go away."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module  # its parameters stay in sight
        self._call: Any = torch.compile(module)

    def forward(self, *given: torch.Tensor) -> Any:
        """Run it; compiles at first, and for the second batch size with the batch left open."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._call(*given)


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which ``torch.compile`` needs on a CPU."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))
