"""What an engine is built of: an exported model, the embedded one, or a finished run's checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avff.engine.backend import Backend
from avff.engine.backends.ort import ort_factory
from avff.engine.contract import GRAPHS, Contract, GraphSpec
from avff.engine.errors import ContractError
from avff.engine.model import CONTRACT_FILE, load_model

CHECKPOINT_FILE = "best_model.pth"
EXPORT_FOLDER = "model"
"""Beside the checkpoint, where a run has exported and calibrated its network."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model before it is compiled.

    Attributes:
        contract: with its calibration.
        graphs: ONNX files by name, verified, and loaded once by the reference runtime.
        network: the trained network's modules by graph; None where there is no checkpoint.
    """

    contract: Contract
    graphs: Mapping[str, bytes]
    network: Mapping[str, Backend] | None


def read_source(path: Path | None) -> Source:
    """Read what is to be compiled.

    Of a run's folder, the graphs and the calibration are those of its exported model, if it is there;
    otherwise the checkpoint is exported, with the calibration it keeps.

    Args:
        path: directory of an exported model, folder of a run under ``outputs``, or the ``best_model.pth``
            in it; None for the embedded model.

    Raises:
        FileNotFoundError: there is nothing.
        ContractError, BackendError: the model is altered, or not to be run.
        CheckpointError, EnsembleError: the checkpoint is damaged, of another version, or of an
            architecture that cannot be exported.
    """
    if path is None:
        return Source(*read_model(None), None)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such model; give the directory that avff-train exported, or a run's folder"
        )
    if path.suffix == ".onnx":
        raise ContractError(f"{path}: is one graph; give the folder, a model is four graphs and a contract")
    checkpoint = path / CHECKPOINT_FILE if path.is_dir() else path
    if (path / CONTRACT_FILE).is_file() or not checkpoint.is_file():
        return Source(*read_model(path), None)
    return _of_checkpoint(checkpoint)


def read_model(path: Path | None) -> tuple[Contract, dict[str, bytes]]:
    """Return the contract and the verified graphs, each of which the reference runtime has loaded.

    Args:
        path: directory of an exported model; None for the embedded one.
    """
    read: dict[GraphSpec, bytes] = {}
    load = ort_factory(threads=1)

    def keep(content: bytes, spec: GraphSpec) -> Backend:
        read[spec] = content
        return load(content, spec)

    model = load_model(path, factory=keep)
    model.close()
    return model.contract, {name: read[model.contract.graphs[name]] for name in GRAPHS}


def _of_checkpoint(checkpoint: Path) -> Source:
    # Torch takes seconds to import, and a machine that compiles exported models has no use for it.
    from avff.trainer.engines.checkpoint import export_member, modules_of
    from avff.trainer.ensemble import load_member

    member = load_member(checkpoint)
    exported = checkpoint.parent / EXPORT_FOLDER
    if (exported / CONTRACT_FILE).is_file():
        contract, graphs = read_model(exported)
    else:
        with tempfile.TemporaryDirectory(prefix="avff-export-") as scratch:
            export_member(member, Path(scratch))
            contract, graphs = read_model(Path(scratch))
    return Source(contract, graphs, modules_of(member.net, contract))
