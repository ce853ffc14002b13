"""What each architecture costs: parameters, and operations per hop and per window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from avff.engine.spec import SPEC
from avff.trainer.data.windows import Batch
from avff.trainer.model.avff import Architecture, AvffConfig, StreamingNet
from avff.trainer.model.registry import answer, build, export_obstacle

_S, _F, _T = SPEC.window_slices, SPEC.slice_frames, SPEC.window_frames


@dataclass(frozen=True)
class Size:
    """The cost of a network: of one window, forward only, two operations per multiply-add.

    Attributes:
        parameters: all of them.
        gflop_per_hop: in a stream, where the tokens of seven slices are kept from before.
        gflop_per_window: with nothing kept, as in training.
    """

    parameters: int
    gflop_per_hop: float
    gflop_per_window: float


def describe(net: nn.Module) -> Size:
    """Measure a network from :func:`avff.trainer.model.registry.build`; nothing is computed but shapes."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()  # in training a batch norm would count this window
    try:
        with _shapes_only():
            return _measured(net)
    finally:
        for module, mode in modes:
            module.training = mode


def size_table() -> str:
    """Return a Markdown table of all architectures at their own sizes."""
    lines = [
        "| architecture | parameters | GFLOP per hop | GFLOP per window | in the daemon |",
        "|---|---|---|---|---|",
    ]
    for architecture in get_args(Architecture):
        config = AvffConfig(architecture=architecture)
        with _shapes_only():
            size = _measured(build(config))
        runs = "no" if export_obstacle(config) else "yes"
        lines.append(
            f"| `{architecture}` | {size.parameters / 1e6:.2f} M | {size.gflop_per_hop:.2f} "
            f"| {size.gflop_per_window:.2f} | {runs} |"
        )
    return "\n".join(lines) + "\n"


def gflop(run: Callable[[], object]) -> float:
    """Count what a function computes, in 10⁹ operations, two per multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops()) / 1e9


def _shapes_only() -> FakeTensorMode:
    """Tensors made inside have no numbers: a ViT is built and counted in a moment, in no memory."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _measured(net: nn.Module) -> Size:
    weights = list(net.parameters())
    with weights[0].device:
        window = gflop(lambda: answer(net, _blank_window()))
        hop = window
        if isinstance(net, StreamingNet):
            there, served = torch.ones(1, _T), net.served()["fusion"]
            tokens = [torch.zeros(1, _T, width) for width in net.token_widths().values()]
            fusion = gflop(lambda: served(*tokens, there, there))
            hop = fusion + (window - fusion) / _S
    return Size(sum(p.numel() for p in weights), hop, window)


def _blank_window() -> Batch:
    side = SPEC.input_px
    return Batch(
        video=torch.zeros(1, _S, _F, 3, side, side),
        audio=torch.zeros(1, _S, 2, SPEC.bands, SPEC.slice_spectra),
        landmarks=torch.zeros(1, _S, _F, SPEC.landmark_values),
        video_ok=torch.ones(1, _T),
        audio_ok=torch.ones(1, _T),
        labels=torch.zeros(1, 4),
        frame_labels=torch.zeros(1, _T, 3),
        group=torch.zeros(1, dtype=torch.int64),
        sound=torch.zeros(1, SPEC.context_samples + _S * SPEC.slice_samples),
    )
