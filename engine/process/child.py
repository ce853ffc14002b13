"""The process that runs compiled engines: ``python -P -m avff.engine.process.child``.

It runs those whose seal it is told and no others: scores must not change with a process that is started anew.

It is started by :mod:`avff.engine.process.supervisor`, in one of two ways.  ``try`` loads the engines of a
folder, runs them once, frees them and ends: whatever that does, it does to nobody else.  ``serve`` loads them
and answers requests until the connection ends, or until the first error: a GPU that failed once is not to
be trusted in the same process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from avff.engine.backends.engine_loader import load_engines
from avff.engine.backends.gpu import Driver, MakeDriver
from avff.engine.errors import BackendError, ContractError, EngineError, EngineFileError, GpuUnavailable
from avff.engine.model import Model
from avff.engine.process.wire import WireError, receive, send, tensors_at

REFUSALS: dict[str, type[EngineError]] = {
    "file": EngineFileError,
    "contract": ContractError,
    "gpu": GpuUnavailable,
    "backend": BackendError,
}
"""Why engines were not loaded, in messages and as exceptions; a subclass comes before its base."""
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def main(arguments: Sequence[str], make_driver: MakeDriver | None = None) -> int:
    """Run the process.

    Args:
        arguments: ``try`` or ``serve``, the folder, the seal of the engines in it, the process that started
            this one, and the descriptors of the connection and, to serve, of the memory.
        make_driver: makes the driver of a flavour; CUDA's unless given.
    """
    mode, directory, seal, parent, *descriptors = arguments
    if not _belong_to(int(parent)):
        return 1
    connection = Connection(int(descriptors[0]))
    try:
        if mode == "try":
            _try(Path(directory), seal, connection, make_driver or _cuda)
        else:
            _serve(Path(directory), seal, connection, int(descriptors[1]), make_driver or _cuda)
    except WireError:
        return 1  # nobody is there to be told
    return 0


def _try(directory: Path, seal: str, connection: Connection, make_driver: MakeDriver) -> None:
    notes: list[str] = []
    try:
        model = load_engines(directory, make_driver, seal=seal, say=notes.append)
        model.close()
    except EngineError as error:
        send(connection, _refusal(error))
        return
    send(connection, {"ready": True, "notes": notes})


def _serve(directory: Path, seal: str, connection: Connection, memory: int, make_driver: MakeDriver) -> None:
    try:
        model = load_engines(directory, make_driver, seal=seal)
    except EngineError as error:
        send(connection, _refusal(error))
        return
    send(connection, {"ready": True})
    shared = mmap.mmap(memory, 0)
    while _answer(model, shared, connection):
        pass
    # Nothing is freed call by call: the process ends, and a GPU that failed may hang in each of them.


def _answer(model: Model, shared: mmap.mmap, connection: Connection) -> bool:
    """Serve one request; return whether there may be another."""
    try:
        request = receive(connection)
    except WireError:
        return False  # the daemon has ended, one way or another
    assert request is not None, "there was no time limit"
    graph = str(request["graph"])
    inputs, outputs = tensors_at(shared, model.contract.graphs[graph], int(request["count"]))
    try:
        answers = model.infer(graph, inputs)
    except EngineError as error:
        send(connection, {"failed": str(error)})
        return False
    for name, values in answers.items():
        outputs[name][:] = values
    send(connection, {"done": request["number"]})
    return True


def _refusal(error: EngineError) -> dict[str, str]:
    kind = next((name for name, kind in REFUSALS.items() if isinstance(error, kind)), "backend")
    return {"refused": kind, "error": str(error)}


def _belong_to(parent: int) -> bool:
    """End when the daemon does, and not before: a signal to both is the daemon's to handle.

    Returns:
        whether it is still there.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Even where a call to the GPU never returns, so that the end of the connection is not seen.
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    return os.getppid() == parent  # one that ended before that call sends no signal any more


def _cuda(flavour: str) -> Driver:
    from avff.engine.backends.cuda_driver import CudaDriver

    return CudaDriver(flavour)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # destructors of libraries could only crash now; the system frees what there is
