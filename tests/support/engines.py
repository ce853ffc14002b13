"""What the tests of engine builds share: small models, altered graphs, windows of the demo clip."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, NodeProto, numpy_helper

from avff.engine.contract import GRAPHS, Contract, parse_contract
from avff.engine.frontend import Frontend
from avff.engine.model import CONTRACT_FILE
from avff.engine.slices import Slice
from avff.trainer.engines import build, parity
from avff.trainer.engines.agreement import Limits
from avff.trainer.engines.windows import LabelledSlices
from avff.trainer.export import export_model
from tests.support.engine import demo_items, face_models, run
from tests.support.training import CALIBRATION, WITH_MOTION, seeded_net

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install '.[rtx]'"
)
Change = Callable[[ModelProto], None]


@functools.cache
def small_model(directory: Path) -> Path:
    """Export a small network with a motion head, once a session for each directory."""
    # What noise looks like to an untrained encoder is far from anything.
    calibration = replace(CALIBRATION, limits={})
    export_model(
        seeded_net(config=WITH_MOTION), directory, name="small", calibration=calibration, provenance={}
    )
    return directory


def contract_of(directory: Path) -> Contract:
    """The contract of a model directory."""
    return parse_contract((directory / CONTRACT_FILE).read_text(encoding="utf-8"))


def graphs_in(directory: Path) -> dict[str, bytes]:
    """The ONNX files of a model directory, by graph."""
    return {name: (directory / f"{name}.onnx").read_bytes() for name in GRAPHS}


def altered(content: bytes, change: Change) -> bytes:
    """A graph after a change."""
    model = onnx.load_from_string(content)
    change(model)
    return bytes(model.SerializeToString())


def with_graph(source: Path, target: Path, name: str, content: bytes) -> Path:
    """A copy of a model directory with another graph, and a contract that says so."""
    shutil.copytree(source, target)
    contract = contract_of(source)
    (target / f"{name}.onnx").write_bytes(content)
    spec = replace(contract.graphs[name], sha256=hashlib.sha256(content).hexdigest())
    whole = replace(contract, graphs={**contract.graphs, name: spec})
    (target / CONTRACT_FILE).write_text(whole.to_json(), encoding="utf-8")
    return target


def convolutions(model: ModelProto) -> list[NodeProto]:
    """A graph's convolutions in order."""
    return [node for node in model.graph.node if node.op_type == "Conv"]


def weights(model: ModelProto, name: str) -> npt.NDArray[np.float32]:
    """A constant of a graph."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def scale(model: ModelProto, name: str, factor: float) -> None:
    """Multiply a constant of a graph."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(weights(model, name) * np.float32(factor), name))


def rescale(model: ModelProto, largest: float) -> None:
    """Scale the second convolution so that its largest weight is this, and the third one back.

    Between them is a ReLU, which scaling passes through: in exact numbers the graph gives what it gave.
    The first one of all may read the graph's input, and is FP32 then.
    """
    first, second = convolutions(model)[1:3]
    factor = largest / float(np.abs(weights(model, first.input[1])).max())
    for name in first.input[1:]:
        scale(model, name, factor)
    scale(model, second.input[1], 1 / factor)


@functools.cache
def demo_slices() -> tuple[Slice, ...]:
    """The slices of 13 seconds of the demo clip."""
    return tuple(run(Frontend(face_models(), has_video=True, has_audio=True), demo_items(13.0)))


def demo_clips(count: int = 3, slices: int = 10) -> list[LabelledSlices]:
    """Stretches of the demo clip, labelled in turns: two windows each."""
    made = demo_slices()
    starts = np.linspace(0, len(made) - slices, count).astype(int)
    return [
        LabelledSlices(f"stretch {k}", k % 2, made[start : start + slices]) for k, start in enumerate(starts)
    ]


def judge_by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a build judge by six windows of the demo clip, where the windows are not what is tested."""
    monkeypatch.setattr(build, "read_clips", lambda *_, **__: demo_clips())
    monkeypatch.setattr(parity, "Limits", functools.partial(Limits, windows=6))
