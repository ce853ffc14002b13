"""A folder of compiled engines as a model, in the process and the thread that runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from avff.engine.backend import Backend
from avff.engine.backends.engine_file import Runtime, read_engines, read_sidecar
from avff.engine.backends.gpu import Driver, DriverError, MakeDriver
from avff.engine.backends.kernel_cache import KernelCache
from avff.engine.backends.tensorrt import Kernels, TensorRtBackend
from avff.engine.errors import BackendError, ContractError
from avff.engine.model import Model

T = TypeVar("T")


def load_engines(
    directory: Path,
    make_driver: MakeDriver,
    *,
    seal: str | None = None,
    kernels: Kernels | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Model:
    """Load the engines of a folder; contract and calibration are those in its side-car.

    Nothing is deserialised before the files are found to be what was built, for this runtime and GPU.

    Args:
        directory: as ``tools/build_engine.py`` writes it.
        make_driver: makes the driver of the engines' flavour.
        seal: of the only engines that may be loaded; any unless given.
        kernels: where compiled kernels are kept; the user's cache directory unless given.
        say: is told what does not work as well as it might.

    Returns:
        a model that the calling thread runs and closes.

    Raises:
        EngineFileError: missing, damaged, or built for another runtime or GPU.
        ContractError: other engines than the seal's.
        GpuUnavailable: there is no GPU, or no package to use it with.
        BackendError: an engine cannot be loaded.
    """
    flavour = read_sidecar(directory).flavour
    driver = make_driver(flavour)
    opened = ExitStack()
    try:
        return _load(directory, flavour, seal, driver, opened, kernels or KernelCache(), say)
    except BaseException:  # an interruption too leaves nothing behind
        with suppress(BackendError):  # the first error counts; a GPU that is lost gives nothing back
            opened.close()
        raise


def _load(
    directory: Path,
    flavour: str,
    seal: str | None,
    driver: Driver,
    opened: ExitStack,
    kernels: Kernels,
    say: Callable[[str], None],
) -> Model:
    opened.callback(_called, driver.close)
    compute_capability = _called(driver.open)
    engines = read_engines(directory, Runtime(flavour, driver.version, compute_capability))
    if seal is not None and engines.sidecar.seal != seal:
        raise ContractError(f"{directory}: the engines were replaced by others meanwhile; start again")
    stream = _called(driver.create_stream)
    opened.callback(_called, lambda: driver.free_stream(stream))
    contract, compiled = engines.sidecar.contract, engines.sidecar.graphs
    backends: dict[str, Backend] = {}
    for name, content in engines.content.items():
        backend = TensorRtBackend(
            driver, stream, content, compiled[name], contract.graphs[name], kernels=kernels, say=say
        )
        backends[name] = backend
        opened.callback(backend.close)
    return Model(contract, backends, release=opened.close)


def _called(call: Callable[[], T]) -> T:
    try:
        return call()
    except DriverError as error:
        raise BackendError(f"TensorRT: {error}") from error
