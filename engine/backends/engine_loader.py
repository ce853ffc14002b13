"""A folder of compiled engines as a model, in the process and the thread that runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from avff.engine.backend import Backend
from avff.engine.backends.engine_file import Runtime, check_engines, read_engines
from avff.engine.backends.gpu import Driver, DriverError, MakeDriver
from avff.engine.backends.kernel_cache import KernelCache
from avff.engine.backends.tensorrt import Kernels, TensorRtBackend
from avff.engine.errors import BackendError, GpuUnavailable
from avff.engine.model import Model

T = TypeVar("T")


def load_engines(
    directory: Path,
    make_driver: MakeDriver,
    *,
    kernels: Kernels | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Model:
    """Load the engines of a folder; contract and calibration are those in its side-car.

    Nothing is deserialised, and no driver called, before the files are found to be what was built; then
    they are compared with the runtime and the GPU.

    Args:
        directory: as ``tools/build_engine.py`` writes it.
        make_driver: makes the driver of the engines' flavour.
        kernels: where compiled kernels are kept; the user's cache directory unless given.
        say: is told what does not work as well as it might.

    Returns:
        a model that the calling thread runs and closes.

    Raises:
        EngineFileError: missing, damaged, or built for another runtime or GPU.
        GpuUnavailable: there is no GPU, or no package to use it with.
        BackendError: an engine cannot be loaded.
    """
    flavour = check_engines(directory).flavour
    driver = make_driver(flavour)
    opened = ExitStack()
    try:
        return _load(directory, flavour, driver, opened, kernels or KernelCache(), say)
    except BaseException:  # an interruption too leaves nothing behind
        with suppress(BackendError):  # the first error counts; a GPU that is lost gives nothing back
            opened.close()
        raise


def _load(
    directory: Path,
    flavour: str,
    driver: Driver,
    opened: ExitStack,
    kernels: Kernels,
    say: Callable[[str], None],
) -> Model:
    opened.callback(_called, driver.close)
    try:
        device = driver.open()
    except DriverError as error:
        raise GpuUnavailable(f"no GPU can be used ({error})") from error
    engines = read_engines(directory, Runtime(flavour, driver.version, device.compute_capability))
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
