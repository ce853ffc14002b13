"""Compiled engines behind the same :class:`Model` as graphs on the CPU, in a process of their own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from avff.engine.backend import Backend, Tensors, size_of
from avff.engine.backends.engine_file import check_engines
from avff.engine.contract import GraphSpec
from avff.engine.errors import BackendError, GpuUnavailable
from avff.engine.media import Float32
from avff.engine.model import Model
from avff.engine.process.handle import COMMAND, ChildProcess
from avff.engine.process.supervisor import GRACE_S, Ask, EngineProcess, Limits, Say, refuse
from avff.engine.process.wire import MAX_ITEMS, WireError

LIVE_ANSWER_S = 1.0
"""Of live streams: what comes while a call hangs is dropped, and a batch takes milliseconds."""


def start_engines(
    directory: Path,
    *,
    patient: Ask = lambda: False,
    say: Say = lambda line: None,
    command: Sequence[str] = COMMAND,
    limits: Limits | None = None,
) -> Model:
    """Load the engines of a folder in a process of their own, after a first try in another one.

    The process ends with the thread that calls this, which is the one that uses the model.

    Args:
        directory: as ``tools/build_engine.py`` writes it.
        patient: is asked whether calls wait while the process is started again.
        say: is told, in one line each, of breakdowns and of what does not work as well as it might.
        command: that starts a process.
        limits: how long to wait for it; for an answer ``LIVE_ANSWER_S`` unless calls can wait.

    Raises:
        EngineFileError: missing, damaged, or built for another runtime or GPU.
        ContractError: other engines were put in their place meanwhile.
        GpuUnavailable: there is no GPU, or no package to use it with.
        BackendError: an engine cannot be loaded; a crash is one of the reasons.
    """
    if sys.platform != "linux":
        raise GpuUnavailable("compiled engines are run on Linux only")
    limits = limits or (Limits() if patient() else Limits(answer_s=LIVE_ANSWER_S))
    sidecar = check_engines(directory)
    for note in try_engines(directory, sidecar.seal, limits, command=command):
        say(note)
    process = EngineProcess(directory, sidecar, patient=patient, say=say, command=command, limits=limits)
    process.start()
    backends: Mapping[str, Backend] = {
        name: RemoteBackend(process, name, spec) for name, spec in sidecar.contract.graphs.items()
    }
    return Model(sidecar.contract, backends, release=process.close)


def try_engines(directory: Path, seal: str, limits: Limits, *, command: Sequence[str] = COMMAND) -> list[str]:
    """Load and run the engines of a folder, those with this seal, in a process that is thrown away.

    Returns:
        what does not work as well as it might, a line each.

    Raises:
        EngineFileError, ContractError, GpuUnavailable, BackendError: as for :func:`start_engines`.
    """
    child = ChildProcess("try", directory, seal, command=command)
    message = None
    try:
        message = child.receive(limits.start_s)
    except WireError:
        message = {}
    finally:
        ending = child.close(0.0 if message is None else GRACE_S)
    if message is None:
        raise BackendError(f"{directory}: the engines were not loaded within {limits.start_s:g} s")
    if not message:
        raise BackendError(f"{directory}: loading the engines crashed: the process {ending}")
    refuse(message)
    return [str(note) for note in message.get("notes", [])]


class RemoteBackend:
    """One graph of a process that is shared by all of them.

    Args:
        process: started.
        graph: name of the graph.
        spec: its part of the contract.
    """

    def __init__(self, process: EngineProcess, graph: str, spec: GraphSpec) -> None:
        self._process, self._graph, self._spec = process, graph, spec

    def infer(self, inputs: Tensors) -> Tensors:
        """Run a batch of any size; see :class:`avff.engine.backend.Backend`."""
        count = size_of(self._graph, self._spec.inputs, inputs)
        outputs: dict[str, Float32] = {
            t.name: np.empty((count, *t.shape), np.float32) for t in self._spec.outputs
        }
        for start in range(0, count, MAX_ITEMS):
            part = {name: values[start : start + MAX_ITEMS] for name, values in inputs.items()}
            size = min(MAX_ITEMS, count - start)
            for name, values in self._process.run(self._graph, part, size).items():
                outputs[name][start : start + size] = values
        return outputs

    def close(self) -> None:
        """Nothing: the process ends with the model."""
