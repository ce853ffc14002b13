"""The packages behind the real driver, loaded when they are asked for: other machines do without."""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

from avff.engine.errors import GpuUnavailable

_MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_INSTALL = {"rtx": "pip install 'avff[rtx]' pycuda", "tensorrt": "pip install 'avff[gpu]'"}


def load_libraries(flavour: str) -> tuple[Any, Any]:
    """Return the modules of a flavour's TensorRT and of pycuda's driver.

    Raises:
        GpuUnavailable: a package or the GPU's driver is not installed.
    """
    return _import(_MODULES[flavour], flavour), _import("pycuda.driver", flavour)


def _import(module: str, flavour: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        line = " ".join(str(error).split())[:200]
        raise GpuUnavailable(
            f"{module.partition('.')[0]} cannot be loaded ({line}); {_INSTALL[flavour]}"
        ) from error


def logger_into(trt: Any, messages: deque[str]) -> Any:
    """Return a logger for a TensorRT that keeps what it says of errors, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the base is known only once the package is loaded
        """Keeps errors for the message instead of printing them."""

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(text)

    return Log()
