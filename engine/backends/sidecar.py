"""What is written beside compiled engines: what they are, what for, and what they were checked by.

``engine.json`` ends with a seal, the SHA-256 of all that stands before it, so that damage anywhere in it
is seen; it holds the hash of every engine, so damage there is seen too.  A seal is no signature: whoever
may write the folder can write another one.  Engines are code.  Keep the folder out of others' reach.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from avff.engine.contract import GRAPHS, Contract, parse_contract
from avff.engine.errors import ContractError, EngineFileError

SIDECAR_FILE = "engine.json"
FORMAT = 1
FLAVOURS = ("rtx", "tensorrt")
PRECISIONS = ("fp16", "fp32")
_SEAL = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n\}\n\Z')
_VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,40}")
_CAPABILITY = re.compile(r"([0-9]{1,2})\.([0-9])")


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes of a batch that an engine takes: the least, the one it is tuned for, the most."""

    least: int
    best: int
    most: int


@dataclass(frozen=True, slots=True)
class CompiledGraph:
    """One engine.

    Attributes:
        file: name beside the side-car.
        sha256: of the file.
        size: of the file in bytes.
        onnx_sha256: of the model's graph it was made of.
        compiled_sha256: of the graph that was compiled: the same in FP32, the mixed one in FP16.
        profile: of all its inputs; their shapes after the batch are in the contract.
    """

    file: str
    sha256: str
    size: int
    onnx_sha256: str
    compiled_sha256: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Everything that is known of a set of engines.

    Attributes:
        flavour: builder and runtime: ``rtx`` or ``tensorrt``.
        version: of the builder; the runtime must have the same.
        compute_capabilities: GPUs the engines run on, such as ``8.6``; ``12.0+`` is that and later ones.
        precision: ``fp16`` (mixed) or ``fp32``.
        graphs: by the names of the contract.
        contract: of the model, with its calibration.
        parity: the gate's reports as JSON, ``export`` and ``fp16``; None where there was nothing to compare,
            in FP32.
    """

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    precision: str
    graphs: Mapping[str, CompiledGraph]
    contract: Contract
    parity: Mapping[str, Any] | None

    @property
    def seal(self) -> str:
        """SHA-256 of all that is known of the engines, with their own hashes: the same for the same bytes."""
        return hashlib.sha256(self._body()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the file: JSON with the seal as its last key."""
        return self._body() + b',\n "seal": "' + self.seal.encode() + b'"\n}\n'

    def runs_on(self, compute_capability: str) -> bool:
        """Return whether a GPU of this compute capability is one of those it was built for."""
        found = capability(compute_capability)
        named = {own: capability(own.removesuffix("+")) for own in self.compute_capabilities}
        return any(found == one or (own.endswith("+") and found > one) for own, one in named.items())

    def _body(self) -> bytes:
        raw = {**asdict(self), "format": FORMAT, "contract": json.loads(self.contract.to_json())}
        return json.dumps(raw, indent=1, allow_nan=False).encode().removesuffix(b"\n}")


def capability(text: str) -> tuple[int, int]:
    """Read a compute capability such as ``8.6``.

    Raises:
        ValueError: it is none.
    """
    match = _CAPABILITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no compute capability such as 8.6")
    return int(match[1]), int(match[2])


def parse_sidecar(content: bytes) -> Sidecar:
    """Read a side-car and check all of it that can be checked without the engines.

    Raises:
        EngineFileError: damaged, of another format, or at odds with itself or with this program.
    """
    seal = _SEAL.search(content)
    if seal is None:
        raise EngineFileError("is cut off or no side-car: its seal is missing")
    found = hashlib.sha256(content[: seal.start()]).hexdigest()
    if found != seal[1].decode():
        raise EngineFileError(f"is damaged: SHA-256 {found[:12]}…, its seal says {seal[1].decode()[:12]}…")
    try:
        raw = json.loads(content)
        if raw["format"] != FORMAT:
            raise EngineFileError(f"has format {raw['format']}, this program reads {FORMAT}")
        sidecar = _sidecar(raw)
        sidecar.to_bytes()  # infinity and the like could be read, but not be sealed again
        return sidecar
    except EngineFileError:
        raise
    except ContractError as error:
        raise EngineFileError(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise EngineFileError(f"is no side-car ({type(error).__name__}: {error})") from error


def _sidecar(raw: dict[str, Any]) -> Sidecar:
    contract = parse_contract(json.dumps(raw["contract"]))
    graphs = {name: _compiled(values) for name, values in raw["graphs"].items()}
    if set(graphs) != set(GRAPHS):
        raise ValueError(f"it has engines for {sorted(graphs)}, expected {sorted(GRAPHS)}")
    for name, graph in graphs.items():
        if graph.onnx_sha256 != contract.graphs[name].sha256:
            raise ValueError(f"its engine {name!r} was not built from the graph in its contract")
    capabilities = tuple(str(text) for text in raw["compute_capabilities"])
    for text in capabilities:
        capability(text.removesuffix("+"))
    flavour, version, precision = (str(raw[name]) for name in ("flavour", "version", "precision"))
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour is {flavour!r}")
    if not _VERSION.fullmatch(version):
        raise ValueError(f"version is {version!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}")
    parity = raw["parity"]
    if precision == "fp16" and not isinstance(parity.get("fp16") if isinstance(parity, dict) else None, dict):
        raise ValueError("there is no report of a comparison of its FP16 with FP32")
    if precision == "fp16" and not _holds(parity["fp16"]):
        raise ValueError("the report of the comparison of its FP16 with FP32 is none that lets it pass")
    return Sidecar(flavour, version, capabilities, precision, graphs, contract, parity)


def _holds(report: Mapping[str, Any]) -> bool:
    """Tell whether the figures of a report are there, finite, and within the limits that stand in it."""
    try:
        most = {name: float(report["limits"][name]) for name in ("windows", "logit", "auc", "batch")}
        found = {name: float(report[name]) for name in ("windows", "logit", "batch")}
        found["auc"] = abs(float(report["auc_expected"]) - float(report["auc_found"]))
    except (KeyError, TypeError, ValueError):
        return False
    finite = all(map(math.isfinite, (*most.values(), *found.values())))
    within = all(found[name] <= most[name] for name in ("logit", "auc", "batch"))
    return finite and within and found["windows"] >= most["windows"]


def _compiled(raw: dict[str, Any]) -> CompiledGraph:
    file = str(raw["file"])
    if PurePath(file).name != file or "\0" in file:
        raise ValueError(f"it names the file {file!r} outside its folder")
    sizes = [int(raw["profile"][name]) for name in ("least", "best", "most")]
    if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ValueError(f"its batch sizes are {sizes}")
    hashes = [str(raw[name]) for name in ("onnx_sha256", "compiled_sha256")]
    return CompiledGraph(file, str(raw["sha256"]), int(raw["size"]), hashes[0], hashes[1], Profile(*sizes))
