"""Which runtime the model is run by, and why: TensorRT on a GPU or ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from avff.daemon.config import DaemonConfig
from avff.engine.backends.engine_file import read_sidecar
from avff.engine.errors import ContractError, EngineError, EngineFileError, GpuUnavailable
from avff.engine.model import Model, load_model, read_contract

ONNX, TENSORRT = "onnx", "tensorrt"
_CPU = "engine: ONNX Runtime on the CPU"
log = logging.getLogger(__name__)


def load_by_choice(config: DaemonConfig, *, patient: Callable[[], bool]) -> tuple[Model, str]:
    """Load the configured model, and say what runs it where that was not laid down.

    Args:
        config: see ``engine`` there; ``tensorrt`` comes with a folder of engines.
        patient: is asked, by the thread that loads, whether calls wait while a process that broke down is
            started again; they fail with ``BackendDown`` otherwise.

    Returns:
        the model, and what runs it: ``onnx`` or ``tensorrt``.

    Raises:
        ContractError, BackendError: the model or its engines do not fit this program, this machine or each
            other, or the runtime refuses them.
    """
    settings = config.engine
    if settings.backend == ONNX:
        return _on_cpu(config), ONNX
    if settings.directory is None:
        model = _on_cpu(config)
        log.info("%s, as no folder of TensorRT engines is given (engine.directory)", _CPU)
        return model, ONNX
    try:
        return _on_gpu(config, settings.directory, patient=patient), TENSORRT
    except EngineError as error:
        absent = isinstance(error, GpuUnavailable) and settings.backend == "auto"
        if not (absent or settings.allow_fallback):
            raise
        return _instead(config, settings.directory, error), ONNX


def _on_cpu(config: DaemonConfig) -> Model:
    return load_model(config.model, threads=config.engine.threads)


def _on_gpu(config: DaemonConfig, directory: Path, *, patient: Callable[[], bool]) -> Model:
    if config.model is not None and (mismatch := _mismatch(directory, config.model)):
        raise ContractError(mismatch)
    from avff.engine.process.start import start_engines

    model = start_engines(directory, patient=patient, say=log.warning)
    if config.engine.backend == "auto":
        log.info("engine: TensorRT, as the engines in %s fit this machine", directory)
    return model


def _instead(config: DaemonConfig, directory: Path, error: EngineError) -> Model:
    """Load the same model for the CPU: falling back must not change what a score means."""
    # A side-car that cannot be read says nothing of its model, which is why the log names ours.
    with contextlib.suppress(EngineFileError):
        if mismatch := _mismatch(directory, config.model):
            raise ContractError(
                f"TensorRT cannot be used: {error}; nor can ONNX Runtime in its place: {mismatch}"
            ) from error
    model = _on_cpu(config)
    log.warning("%s with %s, as TensorRT cannot be used: %s", _CPU, model.name, error)
    return model


def _mismatch(directory: Path, model: Path | None) -> str:
    """Return what is wrong if engines are not of this model, or of the embedded one; else nothing.

    Raises:
        ContractError: one of them cannot be read.
    """
    if read_sidecar(directory).contract == read_contract(model):
        return ""
    return (
        f"{directory}: the engines are of another model than the one that is configured; "
        f"give --model the directory that they were built from"
    )
