"""A trained network as graphs to compile, and as modules to compare them with: all there is of torch here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from avff.engine.backend import Backend, Tensors
from avff.engine.contract import Contract, GraphSpec
from avff.engine.errors import BackendError
from avff.trainer.ensemble import Member
from avff.trainer.export import export_model, graphs_of
from avff.trainer.model.avff import StreamingNet


class TorchBackend:
    """A module of a network, behind the seam of the inference runtimes.

    Args:
        module: in inference mode; takes and gives the graph's tensors in the contract's order.
        spec: the graph's part of the contract.
    """

    def __init__(self, module: nn.Module, spec: GraphSpec) -> None:
        self._module, self._spec = module, spec

    def infer(self, inputs: Tensors) -> Tensors:
        """Run a batch; see :class:`avff.engine.backend.Backend`."""
        given = [torch.from_numpy(np.ascontiguousarray(inputs[t.name])) for t in self._spec.inputs]
        try:
            with torch.inference_mode():
                made = self._module(*given)
        except RuntimeError as error:  # what torch raises for all but wrong Python types
            line = str(error).splitlines()[0]
            raise BackendError(f"{self._spec.file}: torch failed ({line})") from error
        outputs = made if isinstance(made, tuple) else (made,)
        return {t.name: o.numpy() for t, o in zip(self._spec.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Let go of the module."""
        del self._module


def modules_of(net: StreamingNet, contract: Contract) -> dict[str, Backend]:
    """Return the modules that become graphs, by graph."""
    return {name: TorchBackend(module, contract.graphs[name]) for name, module in graphs_of(net).items()}


def export_member(member: Member, directory: Path) -> Contract:
    """Write a run's network as its run would, with its own calibration.

    Args:
        member: from :func:`avff.trainer.ensemble.load_member`.
        directory: where the files go.
    """
    facts = {"checkpoint_sha256": member.sha256, "torch": str(torch.__version__)}
    return export_model(
        member.net, directory, name=member.name, calibration=member.calibration, provenance=facts
    )
