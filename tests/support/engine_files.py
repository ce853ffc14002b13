"""Compiled engines on disk for tests: written as a build writes them, and damaged."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from avff import engine
from avff.engine.backends.engine_file import Runtime, read_engines
from avff.engine.backends.sidecar import SIDECAR_FILE, CompiledGraph, Profile, Sidecar
from avff.engine.contract import GRAPHS, parse_contract
from avff.engine.errors import EngineFileError
from avff.engine.model import CONTRACT_FILE, DEFAULT_MODEL
from avff.trainer.engines.build import publish
from tests.support.engine import scripted_model
from tests.support.scripted_driver import VERSION

PASSED = {
    "windows": 64, "logit": 0.01, "auc_expected": 0.9, "auc_found": 0.9, "batch": 0.001,
    "limits": {"windows": 64, "logit": 0.02, "auc": 0.001, "batch": 0.005},
}  # fmt: skip
"""What is read of the gate's report."""
EMBEDDED = Path(engine.__file__).parent / "weights" / DEFAULT_MODEL


def random_engines(seed: int, size: int = 3000) -> tuple[Sidecar, dict[str, bytes]]:
    """Random bytes as if they were the engines of a scripted model."""
    rng = np.random.default_rng(seed)
    contract = scripted_model().model.contract
    engines = {name: rng.bytes(size) for name in GRAPHS}
    graphs = {}
    for name, content in engines.items():
        digest = hashlib.sha256(content).hexdigest()
        own = contract.graphs[name].sha256
        graphs[name] = CompiledGraph(
            f"{name}-{digest[:16]}.engine", digest, size, own, own, Profile(1, 4, 32)
        )
    parity = {"fp16": copy.deepcopy(PASSED)}
    sidecar = Sidecar("rtx", "1.7.1.116", ("8.0", "8.6", "8.9", "12.0+"), "fp16", graphs, contract, parity)
    return sidecar, engines


def write_engines(directory: Path, *, seed: int = 0) -> Sidecar:
    """Publish :func:`random_engines`."""
    sidecar, engines = random_engines(seed)
    publish(directory, sidecar, engines)
    return sidecar


def write_onnx_engines(
    directory: Path, *, most: int = 32, version: str = VERSION, name: str | None = None
) -> Sidecar:
    """Publish the graphs of the embedded model as the engines of a scripted GPU, which runs ONNX.

    ``name`` is another one for the model.
    """
    contract = parse_contract((EMBEDDED / CONTRACT_FILE).read_text(encoding="utf-8"))
    contract = replace(contract, name=name or contract.name)
    engines = {name: (EMBEDDED / contract.graphs[name].file).read_bytes() for name in GRAPHS}
    graphs = {}
    for name, content in engines.items():
        own = contract.graphs[name].sha256
        graphs[name] = CompiledGraph(
            f"{name}-{own[:16]}.engine", own, len(content), own, own, Profile(1, min(4, most), most)
        )
    sidecar = Sidecar("rtx", version, ("8.0", "8.6"), "fp32", graphs, contract, None)
    publish(directory, sidecar, engines)
    return sidecar


def assert_damage_is_refused(directory: Path, runtime: Runtime, *, flips: int, cuts: int, seed: int) -> None:
    """Flip bytes and cut files short, one at a time, engines and side-car in turns; each is refused."""
    read_engines(directory, runtime)
    accepted, unclear = [], []
    for what in itertools.chain(_flips(directory, flips, seed), _cuts(directory, cuts, seed)):
        try:
            read_engines(directory, runtime)
        except EngineFileError as error:
            if "\n" in str(error) or "build it again: python tools/build_engine.py" not in str(error):
                unclear.append(str(error))
        else:
            accepted.append(what)
    assert (accepted, unclear) == ([], [])
    read_engines(directory, runtime)


def _flips(directory: Path, count: int, seed: int) -> Iterator[str]:
    """Do damage, yield what it is, and undo it."""
    rng = np.random.default_rng(seed)
    files = sorted(directory.iterdir())
    assert directory / SIDECAR_FILE in files
    for number in range(count):
        path = files[number % len(files)]
        at, mask = int(rng.integers(path.stat().st_size)), int(rng.integers(1, 256))
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ mask]))
            file.flush()
            yield f"byte {at} of {path.name} with {mask:#x}"
            file.seek(at)
            file.write(bytes([byte]))


def _cuts(directory: Path, count: int, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    files = sorted(directory.iterdir())
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        # Every file also loses just its last byte, and all of them.
        sizes = (len(content) - 1, 0, int(rng.integers(len(content))))
        size = sizes[min(number // len(files), 2)]
        path.write_bytes(content[:size])
        yield f"{path.name} cut to {size} bytes"
        path.write_bytes(content)
