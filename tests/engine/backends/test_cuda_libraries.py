"""The packages behind the real driver: what is said without them, and whether they have what is used."""

from __future__ import annotations

import importlib
from collections import deque

import pytest

from avff.engine.backends.cuda_libraries import load_libraries, logger_into
from avff.engine.errors import GpuUnavailable
from tests.support.engines import needs_rtx


@pytest.mark.parametrize(
    ("flavour", "words"),
    [("rtx", "pip install 'avff[rtx]' pycuda"), ("tensorrt", "pip install 'avff[gpu]'")],
)
def test_a_missing_package_is_named_with_the_extra(
    flavour: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ImportError("no\nmodule")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(GpuUnavailable) as caught:
        load_libraries(flavour)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


USED = {
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        "create_execution_context", "create_runtime_config", "get_tensor_dtype", "get_tensor_mode",
        "get_tensor_name", "get_tensor_profile_shape", "get_tensor_shape", "num_io_tensors",
    ),
    "IExecutionContext": (
        "execute_async_v3", "is_stream_capturable", "set_input_shape", "set_optimization_profile_async",
        "set_tensor_address",
    ),
    "IRuntimeConfig": (
        "create_runtime_cache", "cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy",
        "set_runtime_cache",
    ),
    "IRuntimeCache": ("deserialize", "serialize"),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "TensorIOMode": ("INPUT",),
    "ILogger": ("ERROR", "INTERNAL_ERROR"),
}  # fmt: skip


@needs_rtx
def test_tensorrt_has_what_is_asked_of_it() -> None:
    """By name; TensorRT-RTX's package is there on machines without a GPU too."""
    trt = importlib.import_module("tensorrt_rtx")
    absent = [
        f"{kind}.{name}"
        for kind, names in USED.items()
        for name in names
        if not hasattr(getattr(trt, kind), name)
    ]
    assert absent == []
    assert trt.float32 == trt.DataType.FLOAT


@needs_rtx
def test_the_real_logger_keeps_the_reason() -> None:
    """A real runtime refuses what is no engine, with or without a GPU, and prints nothing."""
    trt = importlib.import_module("tensorrt_rtx")
    messages: deque[str] = deque()
    runtime = trt.Runtime(logger_into(trt, messages))
    assert runtime.deserialize_cuda_engine(b"no engine" * 100) is None
    assert "Serialization" in messages[0]
