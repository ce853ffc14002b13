"""From a trained network to four ONNX graphs and their contract."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from avff.engine.contract import (
    CLIP_OUTPUTS,
    ENCODERS,
    FUSION,
    NOVELTY_OUTPUTS,
    Calibration,
    Contract,
    GraphSpec,
    TensorSpec,
)
from avff.engine.model import CONTRACT_FILE
from avff.engine.spec import SPEC
from avff.trainer.model.avff import StreamingNet
from avff.trainer.model.fusion import MAX_SHIFT
from avff.trainer.model.registry import export_obstacle
from avff.trainer.model.size import gflop
from avff.trainer.model.vit import AvffB

OPSET = 20
"""LayerNormalization is one operator from 17 on, which FP16 needs, and GELU from 20 on: eight otherwise."""
_F, _T = SPEC.slice_frames, SPEC.window_frames


class ExportError(Exception):
    """A network cannot be exported; the message says why and what can."""


class _Outputs(nn.Module):
    """A served fusion graph without the outputs that only training needs."""

    def __init__(self, fusion: nn.Module, novelty: nn.Module) -> None:
        super().__init__()
        self.fusion, self.novelty = fusion, novelty

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out = self.fusion(video, audio, landmarks, video_ok, audio_ok)
        return out.all_heads(), out.frames, out.sync, self.novelty(video, audio, video_ok, audio_ok)


def export_model(
    net: StreamingNet | AvffB,
    directory: Path,
    *,
    name: str,
    calibration: Calibration,
    provenance: Mapping[str, str],
) -> Contract:
    """Write the graphs and ``contract.json``.

    Args:
        net: trained network; put into inference mode.
        directory: where the files go.
        name: architecture name in events.
        calibration: from logits to probabilities.
        provenance: facts about the training run.

    Returns:
        the contract as written.

    Raises:
        ExportError: the architecture cannot serve a stream; nothing is written.
    """
    if not isinstance(net, StreamingNet):
        raise ExportError(export_obstacle(net.config))
    net.eval()
    directory.mkdir(parents=True, exist_ok=True)
    widths = net.token_widths()
    # What serving wraps around the network's modules is new, and in training mode until told otherwise.
    served = {graph: module.eval() for graph, module in graphs_of(net).items()}
    graphs = {graph: _export(module, directory, graph, widths) for graph, module in served.items()}
    contract = Contract(name, graphs, SPEC, calibration, dict(provenance))
    (directory / CONTRACT_FILE).write_text(contract.to_json(), encoding="utf-8")
    return contract


def graphs_of(net: StreamingNet) -> dict[str, nn.Module]:
    """Return the modules that become graphs, by graph name."""
    served = net.served()
    graphs = {**served, FUSION: _Outputs(served[FUSION], net.novelty)}
    # What wraps trained modules begins in training mode, whatever they are in.
    return {name: module.eval() for name, module in graphs.items()}


def tensor_specs(
    graph: str, widths: Mapping[str, int]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return a graph's inputs and outputs; shapes leave out the batch.

    Args:
        graph: its name.
        widths: of the tokens, by encoder.
    """
    inputs_of: dict[str, dict[str, tuple[int, ...]]] = {
        "video": {"video": (_F, 3, SPEC.input_px, SPEC.input_px)},
        "audio": {"audio": (2, SPEC.bands, SPEC.slice_spectra)},
        "landmarks": {"landmarks": (_F, SPEC.landmark_values)},
        "fusion": {
            **{encoder: (_T, widths[encoder]) for encoder in ENCODERS}, "video_ok": (_T,), "audio_ok": (_T,),
        },
    }  # fmt: skip
    outputs: dict[str, tuple[int, ...]] = (
        {
            "clip": (len(CLIP_OUTPUTS),),
            "frames": (_T, 3),
            "sync": (2 * MAX_SHIFT + 1,),
            "novelty": (len(NOVELTY_OUTPUTS),),
        }
        if graph == FUSION
        else {"tokens": (_F, widths[graph])}
    )
    return _specs(inputs_of[graph]), _specs(outputs)


def random_inputs(graph: str, widths: Mapping[str, int], batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs of the right shapes, 0…1, for tracing and parity checks."""
    rng = np.random.default_rng(seed)
    inputs, _ = tensor_specs(graph, widths)
    return {s.name: rng.random((batch, *s.shape), np.float32) for s in inputs}


def _specs(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())


def _export(module: nn.Module, directory: Path, graph: str, widths: Mapping[str, int]) -> GraphSpec:
    inputs, outputs = tensor_specs(graph, widths)
    # Two items: a batch of one would let the exporter take the axis for a constant.
    example = tuple(torch.from_numpy(a) for a in random_inputs(graph, widths, 2).values())
    batch = torch.export.Dim("batch", min=1, max=1024)
    with warnings.catch_warnings():
        # All inputs share the batch axis, as they should.
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used")
        program = torch.onnx.export(
            module, example, dynamo=True, opset_version=OPSET, verbose=False,
            input_names=[s.name for s in inputs], output_names=[s.name for s in outputs],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )  # fmt: skip
    assert program is not None, "the dynamo exporter returns a program"
    program.optimize()
    data = _bare(program.model_proto).SerializeToString()
    file = f"{graph}.onnx"
    (directory / file).write_bytes(data)
    cost = round(gflop(lambda: module(*example)) / len(example[0]), 4)
    return GraphSpec(file, hashlib.sha256(data).hexdigest(), inputs, outputs, cost)


def _bare(model: ModelProto) -> ModelProto:
    """Drop the exporter's notes: they hold paths of this machine, so equal weights would hash differently."""
    graph = model.graph
    parts = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    for noted in (model, graph, *(item for part in parts for item in part)):
        del noted.metadata_props[:]
    return model
