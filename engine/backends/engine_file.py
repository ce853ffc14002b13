"""Compiled engines from disk, checked in full before a runtime sees a byte of them.

A serialized engine is code: a runtime that is given an altered one may crash, or worse, and its own
check of validity is no check against that.  So hash, flavour, version and GPU are compared here first,
and the bytes that were hashed are the bytes that are handed out.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from avff.engine.backends.sidecar import SIDECAR_FILE, CompiledGraph, Sidecar, parse_sidecar
from avff.engine.errors import EngineFileError

RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""GPUs that TensorRT-RTX 1.7 builds for; others need the flavour ``tensorrt``."""
_LARGEST_SIDECAR = 4_000_000
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)  # not on Windows
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What engines are to be run by.

    Attributes:
        flavour: ``rtx`` or ``tensorrt``.
        version: of the runtime's package.
        compute_capability: of the GPU, such as ``8.6``.
    """

    flavour: str
    version: str
    compute_capability: str


@dataclass(frozen=True, slots=True, eq=False)
class Engines:
    """Engines that passed every check.

    Attributes:
        sidecar: what is known of them.
        content: serialized, by the name of the graph.
    """

    sidecar: Sidecar
    content: Mapping[str, bytes]


def read_engines(directory: Path, runtime: Runtime) -> Engines:
    """Read and verify the engines of a folder; none of them is deserialised.

    Args:
        directory: as ``tools/build_engine.py`` writes it.
        runtime: that is to run them.

    Raises:
        EngineFileError: missing, damaged, or built for another runtime or GPU; the message has what was
            found, what was expected, and the command that builds them anew.
    """

    def read() -> Engines:
        sidecar = _sidecar_in(directory, rebuild_command(directory, runtime))
        rebuild = rebuild_command(directory, runtime, sidecar)
        _check_runtime(directory, sidecar, runtime, rebuild)
        return Engines(
            sidecar, {name: _verified(directory, graph, rebuild) for name, graph in sidecar.graphs.items()}
        )

    return _settled(directory, read)


def check_engines(directory: Path) -> Sidecar:
    """Verify the engines of a folder without a runtime or a GPU: that they are what was built.

    Args:
        directory: as for :func:`read_engines`, which compares them with a runtime too.

    Raises:
        EngineFileError: missing or damaged.
    """

    def check() -> Sidecar:
        sidecar = read_sidecar(directory)
        rebuild = rebuild_command(directory, None, sidecar)
        for graph in sidecar.graphs.values():
            _verified(directory, graph, rebuild)
        return sidecar

    return _settled(directory, check)


def read_sidecar(directory: Path) -> Sidecar:
    """Read what a folder says of its engines, and nothing of them.

    Raises:
        EngineFileError: missing or damaged.
    """
    return _sidecar_in(directory, rebuild_command(directory))


def rebuild_command(directory: Path, runtime: Runtime | None = None, sidecar: Sidecar | None = None) -> str:
    """Return how to build the engines of a folder anew, as the end of a message.

    Args:
        directory: of the engines.
        runtime: to build them for; as they were built, where it is not known.
        sidecar: of the engines that are there, if it can be read.
    """
    options = ["MODEL_DIR"]
    known = runtime or sidecar
    if known is not None:
        builds = runtime is None or runtime.flavour != "rtx" or _rtx_builds_for(runtime, sidecar)
        options += ["--flavour", known.flavour if builds else "tensorrt"]
    if sidecar is not None:
        most = max(graph.profile.most for graph in sidecar.graphs.values())
        options += ["--precision", sidecar.precision, "--max-batch", str(most)]
        if runtime is not None and _must_be_asked_for(runtime, sidecar):
            options += ["--compute-capability", runtime.compute_capability]
    command = shlex.join(["python", "tools/build_engine.py", *options, "-o", str(directory)])
    return f"build it again: {command}"


def _rtx_builds_for(runtime: Runtime, sidecar: Sidecar | None) -> bool:
    found = runtime.compute_capability
    if found == "7.5" and sidecar is not None and sidecar.precision == "fp32":
        return False  # it has no FP32 matrix products there
    return found in RTX_TARGETS


def _must_be_asked_for(runtime: Runtime, sidecar: Sidecar) -> bool:
    found = runtime.compute_capability
    same = runtime.flavour == sidecar.flavour == "rtx"
    return same and _rtx_builds_for(runtime, sidecar) and not sidecar.runs_on(found)


def _settled(directory: Path, read: Callable[[], T]) -> T:
    """Read a folder, and once more if it was written anew meanwhile: a build removes older engines."""
    before = _sidecar_bytes(directory)
    try:
        return read()
    except EngineFileError:
        if _sidecar_bytes(directory) == before:
            raise
        return read()


def _sidecar_bytes(directory: Path) -> bytes | None:
    try:
        return _read(directory / SIDECAR_FILE, _LARGEST_SIDECAR)
    except EngineFileError:
        return None


def _sidecar_in(directory: Path, rebuild: str) -> Sidecar:
    path = directory / SIDECAR_FILE
    try:
        return parse_sidecar(_read(path, _LARGEST_SIDECAR))
    except EngineFileError as error:
        raise EngineFileError(f"{path}: {error}; {rebuild}") from error


def _check_runtime(directory: Path, sidecar: Sidecar, runtime: Runtime, rebuild: str) -> None:
    for what, found, expected in (
        ("flavour", sidecar.flavour, runtime.flavour),
        ("version", sidecar.version, runtime.version),
    ):
        if found != expected:
            raise EngineFileError(
                f"{directory}: the engines have {what} {found}, this runtime has {expected}; {rebuild}"
            )
    if not sidecar.runs_on(runtime.compute_capability):
        raise EngineFileError(
            f"{directory}: the engines are for compute capability {', '.join(sidecar.compute_capabilities)}, "
            f"this GPU has {runtime.compute_capability}; {rebuild}"
        )


def _verified(directory: Path, graph: CompiledGraph, rebuild: str) -> bytes:
    path = directory / graph.file
    try:
        content = _read(path, graph.size)
    except EngineFileError as error:
        raise EngineFileError(f"{path}: {error}; {rebuild}") from error
    if len(content) != graph.size:
        raise EngineFileError(f"{path}: has {len(content)} bytes, the side-car says {graph.size}; {rebuild}")
    found = hashlib.sha256(content).hexdigest()
    if found != graph.sha256:
        raise EngineFileError(
            f"{path}: has SHA-256 {found[:12]}…, the side-car says {graph.sha256[:12]}…; {rebuild}"
        )
    return content


def _read(path: Path, most: int) -> bytes:
    """Return what a file holds, if it is one and has no more bytes than this."""
    try:
        # Without waiting: a pipe that nobody writes to would hold up the start for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NON_BLOCKING)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise EngineFileError("is no regular file")
            if found.st_size > most:
                raise EngineFileError(f"has {found.st_size} bytes, expected {most} at most")
            return file.read(most + 1)
    except OSError as error:
        raise EngineFileError(f"cannot be read ({error.strerror})") from error
