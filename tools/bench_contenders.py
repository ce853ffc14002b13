"""The network in torch, as hops to be timed beside those of the engine's runtimes.

Inputs come from the host's memory and outputs go back there, on a GPU too: page-locked memory, without the
CPU in between.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avff.engine.backend import Tensors
from avff.engine.contract import GRAPHS, Contract, GraphSpec
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
    if gpu:
        return _hop_on_gpu(modules, contract, inputs)

    def run(batch: int) -> None:
        torch.set_num_threads(threads)  # one setting for the process; others have their turns between ours
        dtype = next(modules[GRAPHS[0]].parameters()).dtype
        with torch.inference_mode():
            for name, tensors in inputs.of(batch).items():
                given = _given(tensors, contract.graphs[name])
                modules[name](*(one.to(dtype) for one in given))

    return run


def _hop_on_gpu(modules: Mapping[str, nn.Module], contract: Contract, inputs: Inputs) -> Hop:
    """Return a hop that the GPU's queue takes as a whole, as it does TensorRT's.

    Inputs are FP32 in page-locked memory and made FP16 on the GPU; outputs are FP32 in page-locked memory.
    """
    pinned: dict[int, dict[str, list[torch.Tensor]]] = {}
    made: dict[tuple[int, str], list[torch.Tensor]] = {}

    def run(batch: int) -> None:
        if batch not in pinned:
            pinned[batch] = {
                name: [one.pin_memory() for one in _given(tensors, contract.graphs[name])]
                for name, tensors in inputs.of(batch).items()
            }
        with torch.inference_mode():
            for name, order in pinned[batch].items():
                outputs = _run_on_gpu(modules[name], order)
                if (batch, name) not in made:
                    made[batch, name] = [torch.empty(o.shape, pin_memory=True) for o in outputs]
                for target, output in zip(made[batch, name], outputs, strict=True):
                    target.copy_(output.float(), non_blocking=True)
            torch.cuda.synchronize()

    return run


def _run_on_gpu(module: nn.Module, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    dtype = next(module.parameters()).dtype
    outputs = module(*(one.to("cuda", non_blocking=True).to(dtype) for one in given))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _given(tensors: Tensors, spec: GraphSpec) -> list[torch.Tensor]:
    """Return a graph's inputs in the order of its arguments, in the memory they are in."""
    return [torch.from_numpy(tensors[one.name]) for one in spec.inputs]


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
