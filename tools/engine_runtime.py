"""Where the engine's GPU runtime is joined to the tools: one function."""

from __future__ import annotations

from pathlib import Path

from avff.engine.backends.cuda_driver import CudaDriver
from avff.engine.backends.engine_loader import load_engines as load_by
from avff.engine.model import Model


def load_engines(directory: Path) -> Model:
    """Load the engines of a folder on this machine's GPU, in the thread that will run them.

    Args:
        directory: as ``tools/build_engine.py`` writes it.

    Raises:
        EngineError: the engines are damaged or for another GPU, there is no GPU, or it failed.
    """
    return load_by(directory, CudaDriver)
