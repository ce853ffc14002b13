"""TensorRT and TensorRT-RTX behind one call: an ONNX graph in, a serialized engine out.

Their Python packages are alike.  ``tensorrt_rtx`` builds with no GPU at hand, for a range of GPUs;
``tensorrt`` builds on the GPU of the machine, and for it.  Networks are strongly typed in both: the
precision is the one of the graph's tensors, no flag of the builder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avff.engine.backends.sidecar import Profile, capability
from avff.engine.contract import GraphSpec, TensorSpec
from avff.trainer.engines.errors import BuildError, OperatorError, PackageError, VersionError

RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""GPUs to build for when none is asked for; TensorRT-RTX 1.7 has 7.5 too, in FP16 only.

They are always told: what a version would take unasked is not known of the next one.
"""


@dataclass(frozen=True, slots=True)
class Flavour:
    """One of the two packages.

    Attributes:
        name: on the command line and in side-cars.
        module: that is imported.
        extra: of this project that installs it.
        least: version from which it is known to work, or to be safe.
    """

    name: str
    module: str
    extra: str
    least: tuple[int, ...]


FLAVOURS = {
    "rtx": Flavour("rtx", "tensorrt_rtx", "rtx", (1, 7)),
    # Below 10.16.1: CVE-2026-24188.
    "tensorrt": Flavour("tensorrt", "tensorrt", "gpu", (10, 16, 1)),
}


class Builder:
    """A builder of one flavour.

    Args:
        flavour: a key of ``FLAVOURS``.
        capabilities: GPUs to build for, such as ``8.6``; the flavour's own unless given.  Only for ``rtx``.

    Raises:
        PackageError, VersionError: the package is missing or too old.
        BuildError: it cannot build for these GPUs, or has no GPU to build on.

    Attributes:
        version: of the package.
        capabilities: GPUs that engines run on, as they stand in the side-car.
    """

    def __init__(self, flavour: str, capabilities: Sequence[str] = ()) -> None:
        self._flavour = FLAVOURS[flavour]
        self._trt: Any = _import(self._flavour)
        self.version = str(self._trt.__version__)
        own = RTX_DEFAULT if flavour == "rtx" else (_capability_here(),)
        self.capabilities = tuple(capabilities) or own
        self._targets = [self._target(text) for text in self.capabilities] if flavour == "rtx" else []
        self._log = _log(self._trt)

    def build(self, name: str, content: bytes, spec: GraphSpec, profile: Profile) -> bytes:
        """Compile a graph.

        Args:
            name: of the graph, for messages.
            content: the ONNX file, without external data.
            spec: its tensors, FP32 at the borders.
            profile: batch sizes of all inputs.

        Returns:
            the serialized engine.

        Raises:
            OperatorError: an operator cannot be compiled; the message names it and the layer.
            BuildError: anything else that the builder refuses.
        """
        self._log.messages.clear()
        try:
            builder = self._trt.Builder(self._log)
            network = builder.create_network(1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            self._parse(name, content, network)
            self._check(name, network, spec)
            plan = builder.build_serialized_network(network, self._config(builder, spec, profile))
        except (RuntimeError, TypeError) as error:  # what the bindings raise when their library refuses
            raise BuildError(self._line(name, str(error))) from error
        if plan is None:
            raise BuildError(self._line(name, "the builder gave nothing"))
        return bytes(plan)

    def _parse(self, name: str, content: bytes, network: Any) -> None:
        parser = self._trt.OnnxParser(network, self._log)
        if not parser.parse(content):
            error = parser.get_error(0)
            if not error.node_operator():
                raise BuildError(self._line(name, error.desc()))
            raise OperatorError(
                f"{name}: {self._flavour.module} {self.version} cannot compile the operator "
                f"{error.node_operator()} of the layer {error.node_name()!r} ({_short(error.desc())})"
            )

    def _check(self, name: str, network: Any, spec: GraphSpec) -> None:
        """Check that the network has the contract's tensors, or the runtime would be fed by guesswork."""
        found = [network.get_input(i) for i in range(network.num_inputs)]
        given = [network.get_output(i) for i in range(network.num_outputs)]
        for side, tensors, expected in (("inputs", found, spec.inputs), ("outputs", given, spec.outputs)):
            ours = {self._describe(tensor) for tensor in tensors}
            theirs = {(one.name, one.dtype, one.shape) for one in expected}
            if ours != theirs:
                raise BuildError(f"{name}: the {side} are {sorted(ours)}, the contract says {sorted(theirs)}")

    def _describe(self, tensor: Any) -> tuple[str, str, tuple[int, ...]]:
        dtype = "float32" if tensor.dtype == self._trt.float32 else str(tensor.dtype)
        return str(tensor.name), dtype, tuple(int(size) for size in tensor.shape)[1:]

    def _config(self, builder: Any, spec: GraphSpec, profile: Profile) -> Any:
        config = builder.create_builder_config()
        # TF32 is on by default and would leave the FP32 islands 10 bits, as many as FP16 has.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        shapes = builder.create_optimization_profile()
        for tensor in spec.inputs:
            shapes.set_shape(tensor.name, *_shapes(tensor, profile))
        config.add_optimization_profile(shapes)
        if self._targets:
            config.num_compute_capabilities = len(self._targets)
            for place, target in enumerate(self._targets):
                config.set_compute_capability(target, place)
        return config

    def _target(self, text: str) -> Any:
        major, minor = capability(text)
        known = self._trt.ComputeCapability.__members__
        target = known.get(f"SM{major}{minor}")
        if target is None:
            numbers = sorted(int(name[2:]) for name in known if name.startswith("SM"))
            offered = ", ".join(f"{number // 10}.{number % 10}" for number in numbers)
            raise BuildError(
                f"{self._flavour.module} {self.version} cannot build for compute capability {text}; "
                f"it offers {offered}"
            )
        return target

    def _line(self, name: str, error: str) -> str:
        said = self._log.messages[0] if self._log.messages else error
        return f"{name}: {self._flavour.module} {self.version} cannot build it ({_short(said)})"


def _import(flavour: Flavour) -> Any:
    try:
        module = importlib.import_module(flavour.module)
    except ImportError as error:
        raise PackageError(
            f"{flavour.module} is not installed or not whole ({_short(str(error))}); "
            f"pip install 'avff[train,{flavour.extra}]'"
        ) from error
    found = tuple(int(digits) for digits in re.findall(r"\d+", str(module.__version__)))
    if found < flavour.least:
        least = ".".join(map(str, flavour.least))
        raise VersionError(
            f"{flavour.module} has version {module.__version__}, at least {least} is needed; "
            f"pip install --upgrade 'avff[train,{flavour.extra}]'"
        )
    return module


def _capability_here() -> str:
    """Return the compute capability of the machine's first GPU, which ``tensorrt`` builds for."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise PackageError("pycuda is not installed; pip install 'avff[train,gpu]'") from error
    try:
        driver.init()
        major, minor = driver.Device(0).compute_capability()
    except driver.Error as error:
        raise BuildError(
            f"tensorrt builds on a GPU, and there is none here ({_short(str(error))}); use --flavour rtx"
        ) from error
    return f"{major}.{minor}"


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base is known only once the package is imported
        """Keeps errors for the message instead of printing them.

        Attributes:
            messages: so far.
        """

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.messages.append(text)

    return Log()


def _shapes(tensor: TensorSpec, profile: Profile) -> list[tuple[int, ...]]:
    return [(size, *tensor.shape) for size in (profile.least, profile.best, profile.most)]


def _short(text: str) -> str:
    """Return a builder's message as one line of bearable length."""
    return " ".join(text.split())[:300]
