"""A model: its contract and its four graphs, verified and loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from avff.engine.backend import Backend, BackendFactory, Tensors
from avff.engine.contract import GRAPHS, Contract, check_tensors, parse_contract
from avff.engine.errors import ContractError

CONTRACT_FILE = "contract.json"
DEFAULT_MODEL = "avff-s"


class Model:
    """The loaded graphs of one contract.  Used by one thread at a time.

    Args:
        contract: what the graphs promise.
        backends: one per graph name.
        release: frees what the backends share, after them.
    """

    def __init__(
        self,
        contract: Contract,
        backends: Mapping[str, Backend],
        *,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.contract = contract
        self._backends = backends
        self._release = release

    @property
    def name(self) -> str:
        """Architecture and the first digits of the fusion graph's hash: tells models apart in events."""
        return f"{self.contract.name}@{self.contract.graphs['fusion'].sha256[:8]}"

    def infer(self, graph: str, inputs: Tensors) -> Tensors:
        """Run one graph on a batch.

        Raises:
            ContractError: the inputs, or what the runtime returned, do not fit the contract.
            BackendError: the runtime failed; BackendDown if it may succeed again later.
        """
        spec = self.contract.graphs[graph]
        check_tensors(graph, spec.inputs, inputs)
        outputs = self._backends[graph].infer(inputs)
        check_tensors(graph, spec.outputs, outputs)
        return outputs

    def close(self) -> None:
        """Free the graphs and what they share, all of it even where something cannot be freed.

        Raises:
            BackendError: the first of the last things that could not be freed.
        """
        with ExitStack() as closing:
            closing.callback(self._release)
            for backend in self._backends.values():
                closing.callback(backend.close)


def load_model(path: Path | None = None, *, threads: int = 2, factory: BackendFactory | None = None) -> Model:
    """Load and verify a model.

    Args:
        path: directory with ``contract.json`` and the graphs; None for the embedded default.
        threads: threads that one graph run may use.
        factory: how graphs are loaded; ONNX Runtime on the CPU unless given.

    Raises:
        ContractError: the directory holds no model, another one, or an altered one.
        BackendError: the runtime cannot load a graph.
    """
    if factory is None:
        from avff.engine.backends.ort import ort_factory

        factory = ort_factory(threads=threads)
    directory = _directory(path)
    contract = _contract_in(directory)
    loaded: dict[str, Backend] = {}
    for name in GRAPHS:
        loaded[name] = factory(_verified(directory, contract, name), contract.graphs[name])
    return Model(contract, loaded)


def read_contract(path: Path | None = None) -> Contract:
    """Read the contract of a model, and nothing of its graphs.

    Args:
        path: as for :func:`load_model`.

    Raises:
        ContractError: the directory holds no model, or another one.
    """
    return _contract_in(_directory(path))


def _directory(path: Path | None) -> Traversable:
    return path if path is not None else files("avff.engine") / "weights" / DEFAULT_MODEL


def _contract_in(directory: Traversable) -> Contract:
    try:
        return parse_contract((directory / CONTRACT_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{directory}: holds no model ({CONTRACT_FILE} cannot be read)") from error
    except ContractError as error:
        raise ContractError(f"{directory}: {error}") from error


def _verified(directory: Traversable, contract: Contract, graph: str) -> bytes:
    spec = contract.graphs[graph]
    if Path(spec.file).name != spec.file:
        raise ContractError(f"{directory}: the contract names the file {spec.file!r} outside the model")
    try:
        content = (directory / spec.file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ContractError(f"{directory}: {spec.file!r} cannot be read ({reason})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != spec.sha256:
        raise ContractError(
            f"{directory}: {spec.file} has SHA-256 {found[:12]}…, the contract says {spec.sha256[:12]}…; "
            f"the file was altered or belongs to another model"
        )
    return content
