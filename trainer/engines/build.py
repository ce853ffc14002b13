"""From a model directory to a folder of engines that is whole at every moment."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx import checker, load_from_string, shape_inference

from avff.engine.backends.sidecar import SIDECAR_FILE, CompiledGraph, Profile, Sidecar
from avff.engine.contract import GRAPHS, GraphSpec
from avff.trainer.durable import scratch_of, write_durably
from avff.trainer.engines.agreement import Agreement
from avff.trainer.engines.builder import Builder
from avff.trainer.engines.errors import BuildError
from avff.trainer.engines.mixed import to_mixed
from avff.trainer.engines.parity import check_export, check_parity
from avff.trainer.engines.source import Source, read_source
from avff.trainer.engines.windows import count_windows, read_clips

BEST_BATCH = 4
"""Batch size that engines are tuned for: a few streams that share a batch."""
_HASH_DIGITS = 16
_OWN = re.compile(rf"({'|'.join(GRAPHS)})-[0-9a-f]{{{_HASH_DIGITS}}}\.engine(\.tmp)?")
"""Names of files that a build may remove; others in the folder are somebody's."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built.

    Attributes:
        model: directory as ``avff-train`` exports it, a run's folder or checkpoint; None for the embedded
            model.
        output: folder for the engines.
        flavour: ``rtx`` or ``tensorrt``.
        precision: ``fp16`` or ``fp32``.
        max_batch: largest batch the engines take.
        capabilities: GPUs to build for; the flavour's own when empty.
        data: root of a ``manifest.csv`` with the clips to judge by.
        clips: how many of them.
        split: of the manifest; None for all.
    """

    model: Path | None
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
        CheckpointError, EnsembleError: the checkpoint is damaged, or cannot be exported.
        BuildError: see :mod:`avff.trainer.engines.errors`.
        ManifestError, AssetError: the clips, or the face models, cannot be had.
        OSError: the engines cannot be written.
    """
    if order.output.exists() and not order.output.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, engines need a folder", str(order.output))
    builder = Builder(order.flavour, order.capabilities)
    source = read_source(order.model)
    contract = source.contract
    say(f"{contract.name}: {order.flavour} {builder.version} for {', '.join(builder.capabilities)}")
    halved = order.precision == "fp16"
    compiled = {name: _mixed(name, content) if halved else content for name, content in source.graphs.items()}
    parity = _judge(order, source, compiled, say)
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
    with _locked(directory):
        _publish(directory, sidecar, engines)


def _publish(directory: Path, sidecar: Sidecar, engines: Mapping[str, bytes]) -> None:
    paths = {name: directory / graph.file for name, graph in sidecar.graphs.items()}
    fresh = [path for path in paths.values() if not path.exists()]
    scratch = [scratch_of(path) for path in (*paths.values(), directory / SIDECAR_FILE)]
    whole = sidecar.to_bytes()
    try:
        for name, path in paths.items():
            write_durably(path, _writer(engines[name]))
        write_durably(directory / SIDECAR_FILE, _writer(whole))
    except BaseException:  # an interruption too leaves nothing behind
        _remove(scratch)
        if not _in_force(directory / SIDECAR_FILE, whole):
            _remove(fresh)
        raise
    for path in directory.iterdir():
        if _OWN.fullmatch(path.name) and path not in paths.values():
            path.unlink(missing_ok=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other process writes engines into the folder, and keep others waiting."""
    folder = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _in_force(sidecar: Path, whole: bytes) -> bool:
    return sidecar.exists() and sidecar.read_bytes() == whole


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _writer(content: bytes) -> Callable[[Any], object]:
    return lambda file: file.write(content)


def _mixed(name: str, content: bytes) -> bytes:
    try:
        return bytes(to_mixed(load_from_string(content)).SerializeToString())
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())[:300]
        raise BuildError(f"{name}: cannot be put in mixed precision ({line})") from error


def _judge(order: Order, source: Source, compiled: Mapping[str, bytes], say: Say) -> dict[str, Any] | None:
    """Run the gate's links and return their reports as JSON; None where there is nothing to compare."""
    halved = order.precision == "fp16"
    if not halved and source.network is None:
        return None
    clips = read_clips(order.data, count=order.clips, split=order.split, say=say)
    say(f"comparing on up to {count_windows(clips)} windows of {len(clips)} clips")
    reports: dict[str, Agreement] = {}
    if source.network is not None:
        reports["export"] = check_export(source.contract, source.network, source.graphs, clips)
        say(f"the ONNX graphs are the trained network's: {_in_words(reports['export'])}")
    if halved:
        reports["fp16"] = check_parity(source.contract, source.graphs, compiled, clips)
        say(f"FP16 holds: {_in_words(reports['fp16'])}")
    return {name: asdict(report) for name, report in reports.items()}


def _in_words(report: Agreement) -> str:
    return (
        f"on {report.windows} windows logits differ by {report.logit:.2g} at most, AUC by {report.drift:.2g}"
    )


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
