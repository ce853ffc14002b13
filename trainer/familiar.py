"""What a network is familiar with: the statistics of its tokens, and the limits of its experience."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avff.engine.contract import NOVELTY_OUTPUTS
from avff.engine.spec import SPEC
from avff.trainer.data.windows import Batch
from avff.trainer.model.avff import StreamingNet
from avff.trainer.model.novelty import Novelty

WINDOWS = 768
"""Training windows that the statistics are of."""
MARGIN = 1.5
"""Times the novelty of the least familiar validation window: the limit."""
_BATCH = 32


def fit_novelty(net: StreamingNet, training: Dataset[Batch], *, workers: int) -> None:
    """Fit a network's :class:`Novelty` to training windows, genuine and made, degraded as in training.

    Args:
        net: trained, in inference mode; only its novelty is changed.
        training: windows; the first ``WINDOWS`` are drawn.
        workers: processes that draw them.
    """
    assert isinstance(net.novelty, Novelty), "an ensemble is not trained"
    batches = DataLoader(training, batch_size=_BATCH, num_workers=workers)
    # One batch after another: each is some 400 MB of pictures.
    means = [_means(net, batch) for batch in itertools.islice(batches, WINDOWS // _BATCH)]
    video, audio = zip(*means, strict=True)
    seen, heard = torch.cat(video), torch.cat(audio)
    if len(seen) > 1:  # one window has no spread: the statistics stay unfitted, and set no limit
        net.novelty.fit(seen, heard)


def limits_of(net: StreamingNet, validation: Dataset[Batch], *, workers: int) -> dict[str, float]:
    """Return the novelty by modality above which a window gets no score.

    People and generators of the validation windows took no part in training, so the least familiar of them
    shows how far ordinary strangers are.

    Args:
        net: with a fitted novelty.
        validation: windows, degraded as in training.
        workers: processes that draw them.
    """
    highest = torch.zeros(len(NOVELTY_OUTPUTS))
    for batch in DataLoader(validation, batch_size=_BATCH, num_workers=workers):
        highest = torch.maximum(highest, _novelty(net, batch).amax(dim=0))
    limits = {name: round(MARGIN * float(h), 3) for name, h in zip(NOVELTY_OUTPUTS, highest, strict=True)}
    # A network without tokens of a modality is never surprised by it: 0 is no limit.
    return {name: limit for name, limit in limits.items() if limit}


@torch.no_grad()
def _tokens(net: StreamingNet, batch: Batch) -> Iterable[Tensor]:
    shape = (-1, SPEC.window_frames, net.config.width)
    return (
        net.video(batch.video.flatten(0, 1)).reshape(shape),
        net.audio(batch.audio.flatten(0, 1)).reshape(shape),
    )


def _means(net: StreamingNet, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the mean tokens of those windows of a batch that have both modalities throughout most of it."""
    video, audio = _tokens(net, batch)
    seen, heard = batch.video_ok.unsqueeze(-1), batch.audio_ok.unsqueeze(-1)
    whole = (seen.mean(dim=(1, 2)) > 0.5) & (heard.mean(dim=(1, 2)) > 0.5)
    means = [
        (x * there).sum(dim=1) / there.sum(dim=1).clamp(min=1) for x, there in ((video, seen), (audio, heard))
    ]
    return means[0][whole], means[1][whole]


@torch.no_grad()
def _novelty(net: StreamingNet, batch: Batch) -> Tensor:
    video, audio = _tokens(net, batch)
    out: Tensor = net.novelty(video, audio, batch.video_ok, batch.audio_ok)
    return out
