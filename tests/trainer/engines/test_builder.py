"""TensorRT-RTX compiles our graphs with no GPU; what it refuses is one line of ours."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from avff.engine.backends.sidecar import Profile
from avff.engine.contract import GRAPHS, Contract
from avff.trainer.engines.builder import RTX_DEFAULT, Builder
from avff.trainer.engines.errors import BuildError, OperatorError, PackageError, VersionError
from avff.trainer.engines.mixed import to_mixed
from tests.support.engines import altered, contract_of, graphs_in, needs_rtx, small_model

PROFILE = Profile(1, 4, 8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(scope="module")
def contract(directory: Path) -> Contract:
    return contract_of(directory)


def _half(content: bytes) -> bytes:
    return bytes(to_mixed(onnx.load_from_string(content)).SerializeToString())


def _with_operator(content: bytes, operator: str) -> bytes:
    """A graph whose first GELU is another operator."""

    def change(model: ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "Gelu")
        node.op_type = operator
        del node.attribute[:]

    return altered(content, change)


@needs_rtx
@pytest.mark.parametrize("graph", GRAPHS)
def test_mixed_graphs_compile(graph: str, directory: Path, contract: Contract) -> None:
    """Each of the four, to another engine than in FP32: a smaller one where weights make the size."""
    builder = Builder("rtx")
    assert builder.capabilities == RTX_DEFAULT
    plain = graphs_in(directory)[graph]
    half, full = (
        builder.build(graph, content, contract.graphs[graph], PROFILE) for content in (_half(plain), plain)
    )
    assert min(len(half), len(full)) > 10_000
    assert half != full
    if graph == "fusion":
        assert len(half) < len(full)


@needs_rtx
def test_gpus_can_be_chosen(directory: Path, contract: Contract) -> None:
    """An engine for other GPUs is another one, and says so."""
    turing, ada = Builder("rtx", ["7.5"]), Builder("rtx", ["8.6", "8.9"])
    assert (turing.capabilities, ada.capabilities) == (("7.5",), ("8.6", "8.9"))
    half = _half(graphs_in(directory)["audio"])
    made = {b.build("audio", half, contract.graphs["audio"], PROFILE) for b in (turing, ada)}
    assert len(made) == 2
    with pytest.raises(BuildError, match=r"cannot build for compute capability 9\.0; it offers 7\.5, 8\.0"):
        Builder("rtx", ["9.0"])


@needs_rtx
@pytest.mark.parametrize("asked", [(), ("8.6", "8.9")])
def test_the_builder_is_always_told_the_gpus(
    asked: tuple[str, ...], directory: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are recorded, and no others: none is left to what a version takes unasked."""
    configs: list[Any] = []
    make = Builder._config

    def seen(*arguments: Any) -> Any:
        configs.append(make(*arguments))
        return configs[-1]

    monkeypatch.setattr(Builder, "_config", seen)
    builder = Builder("rtx", asked)
    builder.build("audio", graphs_in(directory)["audio"], contract.graphs["audio"], PROFILE)
    (config,) = configs
    told = [config.get_compute_capability(place).name for place in range(config.num_compute_capabilities)]
    assert told == ["SM" + text.replace(".", "") for text in builder.capabilities]
    assert builder.capabilities == (asked or RTX_DEFAULT)


@needs_rtx
@pytest.mark.parametrize("operator", ["Conjure", "Det"])
def test_an_operator_it_cannot_compile_is_named(operator: str, directory: Path, contract: Contract) -> None:
    """One that does not exist, and one that ONNX has and TensorRT has not."""
    content = _with_operator(graphs_in(directory)["landmarks"], operator)
    with pytest.raises(
        OperatorError, match=f"cannot compile the operator {operator} of the layer "
    ) as caught:
        Builder("rtx").build("landmarks", content, contract.graphs["landmarks"], PROFILE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("landmarks: tensorrt_rtx ")


@needs_rtx
def test_what_is_no_graph_is_refused(directory: Path, contract: Contract) -> None:
    """Garbage, a graph cut short, one with other tensors than the contract's, and a batch of nothing."""
    builder, graphs = Builder("rtx"), graphs_in(directory)
    spec = contract.graphs["landmarks"]
    for content in (b"", b"no graph", graphs["landmarks"][:5000]):
        with pytest.raises(BuildError):
            builder.build("landmarks", content, spec, PROFILE)
    with pytest.raises(BuildError, match=r"the inputs are \[\('audio'.*the contract says \[\('landmarks'"):
        builder.build("landmarks", graphs["audio"], spec, PROFILE)
    with pytest.raises(BuildError, match="cannot build it") as caught:
        builder.build("landmarks", graphs["landmarks"], spec, Profile(4, 2, 1))
    assert "\n" not in str(caught.value)
    assert builder.build("landmarks", graphs["landmarks"], spec, PROFILE)


@pytest.mark.parametrize(("flavour", "module"), [("rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")])
def test_a_missing_package_is_named(flavour: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PackageError, match=rf"{module} is not installed.*pip install 'avff\[train,"):
        Builder(flavour)


@pytest.mark.parametrize(
    ("flavour", "version", "least"),
    [("rtx", "1.6.9", "1.7"), ("tensorrt", "10.16.0.9", "10.16.1"), ("tensorrt", "8.6.1", "10.16.1")],
)
def test_an_old_package_is_told_what_is_needed(
    flavour: str, version: str, least: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is asked to do anything."""
    name = "tensorrt_rtx" if flavour == "rtx" else "tensorrt"
    module = types.ModuleType(name)
    module.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(VersionError, match=f"has version {version}, at least {least} is needed"):
        Builder(flavour)


class ScriptedDriver(types.ModuleType):
    """``pycuda.driver`` of a machine with one GPU, or with none."""

    class Error(Exception):
        """What the driver raises."""

    def __init__(self, capability: tuple[int, int] | None) -> None:
        super().__init__("pycuda.driver")
        self._capability = capability

    def init(self) -> None:
        """Start the driver."""
        if self._capability is None:
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def Device(self, number: int) -> types.SimpleNamespace:
        """Return a GPU."""
        assert number == 0
        return types.SimpleNamespace(compute_capability=lambda: self._capability)


def _as_tensorrt(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None) -> None:
    """Let TensorRT-RTX, whose interface is the same, stand in for TensorRT, which needs a GPU."""
    module = types.ModuleType("tensorrt")
    module.__dict__.update(vars(importlib.import_module("tensorrt_rtx")), __version__="10.16.1.11")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", ScriptedDriver(capability))


@needs_rtx
def test_tensorrt_builds_for_the_gpu_at_hand(
    directory: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the side-car gets its compute capability."""
    _as_tensorrt(monkeypatch, (8, 9))
    builder = Builder("tensorrt")
    assert (builder.version, builder.capabilities) == ("10.16.1.11", ("8.9",))
    assert builder.build("audio", graphs_in(directory)["audio"], contract.graphs["audio"], PROFILE)


@needs_rtx
def test_tensorrt_without_a_gpu_is_told_of_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the way out."""
    _as_tensorrt(monkeypatch, None)
    with pytest.raises(BuildError, match=r"there is none here .*; use --flavour rtx"):
        Builder("tensorrt")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(PackageError, match="pycuda is not installed"):
        Builder("tensorrt")
