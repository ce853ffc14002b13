"""Where the engine's GPU runtime is joined to the tools: one function."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from avff.engine.model import Model


def load_engines(directory: Path) -> Model:
    """Load the engines of a folder on this machine's GPU, in the thread that will run them.

    Args:
        directory: as ``tools/build_engine.py`` writes it.

    Raises:
        ImportError: this version of the engine, or this environment, has no runtime for engines.
        EngineError: the engines are damaged or for another GPU, there is no GPU, or it failed.
    """
    loader: Any = importlib.import_module("avff.engine.backends.engine_loader")
    driver: Any = importlib.import_module("avff.engine.backends.cuda_driver")
    model = loader.load_engines(directory, driver.CudaDriver)
    assert isinstance(model, Model), "what the daemon scores with"
    return model
