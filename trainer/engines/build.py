"""From a model directory to a folder of engines that is whole at every moment."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx import checker, load_from_string, shape_inference

from avff.engine.backend import Backend
from avff.engine.backends.ort import ort_factory
from avff.engine.backends.sidecar import SIDECAR_FILE, CompiledGraph, Profile, Sidecar
from avff.engine.contract import GRAPHS, Contract, GraphSpec
from avff.engine.model import load_model
from avff.trainer.durable import scratch_of, write_durably
from avff.trainer.engines.builder import Builder
from avff.trainer.engines.errors import BuildError
from avff.trainer.engines.mixed import to_mixed
from avff.trainer.engines.parity import check_parity
from avff.trainer.engines.windows import count_windows, read_clips

BEST_BATCH = 4
"""Batch size that engines are tuned for: a few streams that share a batch."""
_HASH_DIGITS = 16
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built.

    Attributes:
        model: directory as ``avff-train`` exports it.
        output: folder for the engines.
        flavour: ``rtx`` or ``tensorrt``.
        precision: ``fp16`` or ``fp32``.
        max_batch: largest batch the engines take.
        capabilities: GPUs to build for; the flavour's own when empty.
        data: root of a ``manifest.csv`` with the clips to judge FP16 by.
        clips: how many of them.
        split: of the manifest; None for all.
    """

    model: Path
    output: Path
    flavour: str
    precision: str
    max_batch: int
    capabilities: tuple[str, ...]
    data: Path
    clips: int
    split: str | None


def build_engines(order: Order, say: Say) -> Sidecar:
    """Build the engines of a model; a folder that held engines before holds those until all is done.

    Args:
        order: what is to be built.
        say: is told of the progress.

    Raises:
        ContractError, FileNotFoundError, BackendError: the model is not there, altered or not to be run.
        BuildError: see :mod:`avff.trainer.engines.errors`.
        ManifestError, AssetError: the clips, or the face models, cannot be had.
        OSError: the engines cannot be written.
    """
    if order.output.exists() and not order.output.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, engines need a folder", str(order.output))
    builder = Builder(order.flavour, order.capabilities)
    contract, graphs = _read_model(order.model)
    say(f"{contract.name}: {order.flavour} {builder.version} for {', '.join(builder.capabilities)}")
    compiled, parity = graphs, None
    if order.precision == "fp16":
        compiled = {name: _mixed(name, content) for name, content in graphs.items()}
        parity = _judge(order, contract, graphs, compiled, say)
    profile = Profile(1, min(BEST_BATCH, order.max_batch), order.max_batch)
    engines: dict[str, bytes] = {}
    for number, name in enumerate(GRAPHS, start=1):
        say(f"building {name} ({number} of {len(GRAPHS)})")
        started = time.monotonic()
        engines[name] = builder.build(name, compiled[name], contract.graphs[name], profile)
        say(f"built {name}: {len(engines[name]) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    made = {
        name: _described(name, content, contract.graphs[name], compiled[name], profile)
        for name, content in engines.items()
    }
    sidecar = Sidecar(
        order.flavour, builder.version, builder.capabilities, order.precision, made, contract, parity
    )
    publish(order.output, sidecar, engines)
    return sidecar


def publish(directory: Path, sidecar: Sidecar, engines: Mapping[str, bytes]) -> None:
    """Write engines and side-car.

    Engines are named after what they hold, so that new ones stand beside old ones until the side-car,
    the last to be written, changes from the old to the new; then the old ones go.

    Args:
        directory: made if need be.
        sidecar: names the engines' files.
        engines: serialized, by graph.

    Raises:
        OSError: something cannot be written; what was there before still is, and nothing else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / graph.file for name, graph in sidecar.graphs.items()}
    fresh = [path for path in paths.values() if not path.exists()]
    whole = sidecar.to_bytes()
    try:
        for name, path in paths.items():
            write_durably(path, _writer(engines[name]))
        write_durably(directory / SIDECAR_FILE, _writer(whole))
    except BaseException:  # an interruption too leaves nothing behind
        _withdraw(directory / SIDECAR_FILE, whole, fresh)
        raise
    for path in (*directory.glob("*.engine"), *directory.glob("*.engine.tmp")):
        if path not in paths.values():
            path.unlink()


def _withdraw(sidecar: Path, whole: bytes, fresh: Sequence[Path]) -> None:
    """Remove what was written for a side-car, unless it is in force already."""
    if sidecar.exists() and sidecar.read_bytes() == whole:
        return
    for path in (*fresh, *map(scratch_of, fresh), scratch_of(sidecar)):
        path.unlink(missing_ok=True)


def _writer(content: bytes) -> Callable[[Any], object]:
    return lambda file: file.write(content)


def _read_model(path: Path) -> tuple[Contract, dict[str, bytes]]:
    """Return the contract and the verified graphs, each of which the reference runtime has loaded."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model; give the directory that avff-train exported")
    read: dict[GraphSpec, bytes] = {}
    load = ort_factory(threads=1)

    def keep(content: bytes, spec: GraphSpec) -> Backend:
        read[spec] = content
        return load(content, spec)

    model = load_model(path, factory=keep)
    model.close()
    return model.contract, {name: read[model.contract.graphs[name]] for name in GRAPHS}


def _mixed(name: str, content: bytes) -> bytes:
    try:
        return bytes(to_mixed(load_from_string(content)).SerializeToString())
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())[:300]
        raise BuildError(f"{name}: cannot be put in mixed precision ({line})") from error


def _judge(
    order: Order, contract: Contract, graphs: Mapping[str, bytes], mixed: Mapping[str, bytes], say: Say
) -> dict[str, Any]:
    """Run the gate, and return its report as JSON."""
    clips = read_clips(order.data, count=order.clips, split=order.split, say=say)
    say(f"comparing FP16 with FP32 on up to {count_windows(clips)} windows of {len(clips)} clips")
    report = check_parity(contract, graphs, mixed, clips)
    say(
        f"FP16 holds on {report.windows} windows: logits differ by {report.logit:.2g} at most, "
        f"AUC by {abs(report.auc_fp16 - report.auc_fp32):.2g}"
    )
    return asdict(report)


def _described(name: str, engine: bytes, spec: GraphSpec, compiled: bytes, profile: Profile) -> CompiledGraph:
    digest = hashlib.sha256(engine).hexdigest()
    return CompiledGraph(
        file=f"{name}-{digest[:_HASH_DIGITS]}.engine",
        sha256=digest,
        size=len(engine),
        onnx_sha256=spec.sha256,
        compiled_sha256=hashlib.sha256(compiled).hexdigest(),
        profile=profile,
    )
