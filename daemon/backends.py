"""Which runtime the model is run by, and why: TensorRT on a GPU or ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from avff.daemon.config import DaemonConfig
from avff.engine.backends.engine_file import read_sidecar
from avff.engine.contract import Contract
from avff.engine.errors import ContractError, EngineError, EngineFileError, GpuUnavailable
from avff.engine.model import Model, load_model, read_contract

ONNX, TENSORRT = "onnx", "tensorrt"
_CPU = "engine: ONNX Runtime on the CPU"
log = logging.getLogger(__name__)


def load_by_choice(config: DaemonConfig, *, patient: bool) -> tuple[Model, str]:
    """Load the configured model, and say what runs it where that was not laid down.

    Args:
        config: see ``engine`` there; ``tensorrt`` comes with a folder of engines.
        patient: whether calls wait while a process that broke down is started again; they fail with
            ``BackendDown`` otherwise.

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


def _on_gpu(config: DaemonConfig, directory: Path, *, patient: bool) -> Model:
    if config.model is not None:
        _check_same(directory, read_sidecar(directory).contract, read_contract(config.model))
    from avff.engine.process.start import start_engines

    model = start_engines(directory, patient=patient, say=log.warning)
    if config.engine.backend == "auto":
        log.info("engine: TensorRT, as the engines in %s fit this machine", directory)
    return model


def _instead(config: DaemonConfig, directory: Path, error: EngineError) -> Model:
    """Load the same model for the CPU: falling back must not change what a score means."""
    # A side-car that cannot be read says nothing of its model, which is why the log names ours.
    with contextlib.suppress(EngineFileError):
        _check_same(directory, read_sidecar(directory).contract, read_contract(config.model))
    model = _on_cpu(config)
    log.warning("%s with %s, as TensorRT cannot be used: %s", _CPU, model.name, error)
    return model


def _check_same(directory: Path, engines: Contract, model: Contract) -> None:
    if engines != model:
        raise ContractError(
            f"{directory}: the engines are of another model than the one that is configured; "
            f"give --model the directory that they were built from"
        )
