"""What the tests on a GPU share: which runtime fits this machine, and engines for it."""

from __future__ import annotations

import functools
import hashlib
import importlib
from pathlib import Path

import onnx
import pytest

from avff.engine.backends.cuda_driver import CudaDriver
from avff.engine.backends.gpu import DriverError
from avff.engine.backends.sidecar import CompiledGraph, Profile, Sidecar
from avff.engine.contract import GRAPHS, parse_contract
from avff.engine.errors import GpuUnavailable
from avff.engine.model import CONTRACT_FILE
from avff.trainer.engines.build import publish
from avff.trainer.engines.builder import Builder
from avff.trainer.engines.mixed import to_mixed
from tests.support.engine_files import EMBEDDED, PASSED

PROFILE = Profile(1, 4, 32)


@functools.cache
def flavour_here() -> tuple[str | None, str]:
    """The flavour that runs on this machine's GPU, and its compute capability; or None and why not."""
    reasons = []
    for flavour in ("tensorrt", "rtx"):
        try:
            driver = CudaDriver(flavour)
            try:
                capability = driver.open()
            finally:
                driver.close()
        except (GpuUnavailable, DriverError) as error:
            reasons.append(str(error))
            continue
        if flavour == "rtx" and not _rtx_builds_for(capability):
            reasons.append(f"TensorRT-RTX does not build for compute capability {capability}")
            continue
        return flavour, capability
    return None, "; ".join(reasons)


def _rtx_builds_for(capability: str) -> bool:
    targets = importlib.import_module("tensorrt_rtx").ComputeCapability.__members__
    return f"SM{capability.replace('.', '')}" in targets


def need_gpu() -> str:
    """Return the flavour that runs here; skip the test if there is none, with the reason."""
    flavour, reason = flavour_here()
    if flavour is None:
        pytest.skip(f"needs a GPU: {reason}")
    return flavour


def build_embedded(directory: Path, flavour: str, precision: str) -> Sidecar:
    """Build engines of the embedded model for this machine's GPU; the gate has its own tests."""
    contract = parse_contract((EMBEDDED / CONTRACT_FILE).read_text(encoding="utf-8"))
    builder = Builder(flavour, (flavour_here()[1],) if flavour == "rtx" else ())
    engines, graphs = {}, {}
    for name in GRAPHS:
        spec = contract.graphs[name]
        content = (EMBEDDED / spec.file).read_bytes()
        if precision == "fp16":
            content = bytes(to_mixed(onnx.load_from_string(content)).SerializeToString())
        engines[name] = builder.build(name, content, spec, PROFILE)
        digest = hashlib.sha256(engines[name]).hexdigest()
        graphs[name] = CompiledGraph(
            f"{name}-{digest[:16]}.engine",
            digest,
            len(engines[name]),
            spec.sha256,
            hashlib.sha256(content).hexdigest(),
            PROFILE,
        )
    parity = {"fp16": {**PASSED, "note": "not compared"}} if precision == "fp16" else None
    sidecar = Sidecar(flavour, builder.version, builder.capabilities, precision, graphs, contract, parity)
    publish(directory, sidecar, engines)
    return sidecar
