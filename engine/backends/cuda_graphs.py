"""CUDA graphs by the driver's own functions: pycuda (2026.1) has streams, but no way to capture one.

Seven functions of ``libcuda``, which pycuda has loaded already, through ctypes.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_ulonglong, c_void_p

from avff.engine.backends.gpu import DriverError

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is no concern of a capture."""
_SIGNATURES = {
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


class CudaGraphs:
    """Captures and launches graphs.  Streams are the addresses of the driver's.

    Raises:
        OSError, AttributeError: there is no CUDA driver, or it is older than 11.4.
    """

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        for name, types in _SIGNATURES.items():
            function = getattr(self._cuda, name)
            function.argtypes, function.restype = types, c_int

    def begin(self, stream: int) -> None:
        """Begin to record a stream."""
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end(self, stream: int) -> int:
        """Return what was recorded, ready to be launched; the stream is itself again, whatever happens."""
        graph, ready = c_void_p(), c_void_p()
        self._call("cuStreamEndCapture", stream, byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", byref(ready), graph, 0)
        finally:
            self._cuda.cuGraphDestroy(graph)
        return int(ready.value or 0)

    def abandon(self, stream: int) -> None:
        """End a recording in which a call failed; what came of it is of no use, nor is the status."""
        graph = c_void_p()
        self._cuda.cuStreamEndCapture(stream, byref(graph))
        if graph:
            self._cuda.cuGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        """Put a graph into a stream."""
        self._call("cuGraphLaunch", graph, stream)

    def free(self, graph: int) -> None:
        """Free what :meth:`end` returned."""
        self._call("cuGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = c_char_p()
            self._cuda.cuGetErrorString(code, byref(text))
            raise DriverError(name, (text.value or b"unknown error").decode() + f" ({code})")
