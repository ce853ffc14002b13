"""Small networks of every architecture, and windows to ask them about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.data.windows import Batch
from avff.trainer.model.avff import Architecture, AvffConfig, StreamingNet
from avff.trainer.model.registry import build
from avff.trainer.model.vit import AvffB
from tests.support.training import fit_at_random, random_windows

ALL: Sequence[Architecture] = get_args(Architecture)
BASELINES: tuple[Architecture, ...] = ("late-fusion", "audio-only", "video-only")
WINDOW_SAMPLES = SPEC.context_samples + SPEC.window_slices * SPEC.slice_samples


def small_config(architecture: Architecture, *, recompute: bool = False) -> AvffConfig:
    """A network of few parameters; its shapes but for the width are the real ones."""
    return AvffConfig(width=16, heads=2, depth=1, dropout=0.0, architecture=architecture, recompute=recompute)


def small_net(architecture: Architecture) -> StreamingNet | AvffB:
    """An untrained small network in inference mode with no parameter or statistic at its start."""
    torch.manual_seed(0)
    net = build(small_config(architecture))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    if isinstance(net, StreamingNet):
        fit_at_random(net)
    return net.eval()


def small_streaming_net(architecture: Architecture) -> StreamingNet:
    """A small network of the streaming family."""
    net = small_net(architecture)
    assert isinstance(net, StreamingNet)
    return net


def random_batch(count: int, seed: int = 0) -> Batch:
    """Windows of noise with all evidence there and every label genuine."""
    noise = torch.Generator().manual_seed(seed + 100)
    labels = [torch.zeros(count, 4), torch.zeros(count, SPEC.window_frames, 3)]
    sound = 0.1 * torch.randn(count, WINDOW_SAMPLES, generator=noise)
    return Batch._make([*random_windows(count, seed), *labels, torch.zeros(count), sound])


def items(batch: Batch, index: slice) -> Batch:
    """Some windows of a batch."""
    return Batch(*(x[index] for x in batch))


def unlike(x: Tensor) -> Tensor:
    """Noise in the place of an input."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(7)).to(x.dtype)
