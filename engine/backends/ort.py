"""ONNX Runtime on the CPU: runs everywhere, and the reference for other backends."""

from __future__ import annotations

import numpy as np
import onnxruntime

from avff.engine.backend import Backend, BackendFactory, Tensors, size_of
from avff.engine.backends.onnx_guard import refuse_external_data
from avff.engine.contract import GraphSpec
from avff.engine.errors import BackendError


def ort_factory(*, threads: int) -> BackendFactory:
    """Return a factory of ONNX Runtime backends.

    Args:
        threads: threads that one graph run may use.
    """

    def load(content: bytes, spec: GraphSpec) -> Backend:
        return OrtBackend(content, spec, threads=threads)

    return load


class OrtBackend:
    """One ONNX graph in an ONNX Runtime session.

    Args:
        content: the ONNX file; external data is refused.
        spec: the graph's part of the contract.
        threads: intra-operator threads.

    Raises:
        BackendError: the graph cannot be loaded, or is not the one the contract describes.
    """

    def __init__(self, content: bytes, spec: GraphSpec, *, threads: int) -> None:
        refuse_external_data(content, spec.file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads sleep instead of spinning: decoding and face tracking need the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise BackendError(f"{spec.file}: ONNX Runtime cannot load it ({_first_line(error)})") from error
        self._spec = spec
        self._outputs = [t.name for t in spec.outputs]
        self._check_names()

    def infer(self, inputs: Tensors) -> Tensors:
        """Run a batch; see :class:`avff.engine.backend.Backend`."""
        size_of(self._spec.file, self._spec.inputs, inputs)
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # see above: an engine failure must never become a score
            raise BackendError(f"{self._spec.file}: ONNX Runtime failed ({_first_line(error)})") from error
        return {name: np.asarray(v) for name, v in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Drop the session."""
        del self._session

    def _check_names(self) -> None:
        for side, found, specs in (
            ("inputs", self._session.get_inputs(), self._spec.inputs),
            ("outputs", self._session.get_outputs(), self._spec.outputs),
        ):
            names, expected = {t.name for t in found}, {t.name for t in specs}
            if names != expected:
                raise BackendError(
                    f"{self._spec.file}: has {side} {sorted(names)}, contract says {sorted(expected)}"
                )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
