"""The architectures by name: how to build one, how to ask it, and whether it can serve a stream."""

from __future__ import annotations

from torch import nn

from avff.trainer.data.windows import Batch
from avff.trainer.model.avff import Avff, AvffConfig, StreamingNet
from avff.trainer.model.baselines import late_fusion, single_modality
from avff.trainer.model.fusion import FusionOut
from avff.trainer.model.vit import AvffB


def build(config: AvffConfig) -> StreamingNet | AvffB:
    """Return a network with fresh weights, drawn from torch's global generator."""
    match config.architecture:
        case "avff-s":
            return Avff(config)
        case "avff-b":
            return AvffB(config)
        case "late-fusion":
            return late_fusion(config)
        case "audio-only":
            return single_modality(config, "audio")
        case "video-only":
            return single_modality(config, "video")


def answer(net: nn.Module, batch: Batch) -> FusionOut:
    """Run any network on a batch of windows.

    Args:
        net: from :func:`build`.
        batch: windows; to withhold a modality, ``batch._replace(video_ok=…)``.
    """
    masks = batch.video_ok, batch.audio_ok
    out: FusionOut = (
        net(batch.video, batch.sound, *masks)
        if isinstance(net, AvffB)
        else net(batch.video, batch.audio, batch.landmarks, *masks)
    )
    return out


def export_obstacle(config: AvffConfig) -> str | None:
    """Return why an architecture cannot be exported for the streaming daemon; None if it can."""
    if config.architecture != "avff-b":
        return None
    return (
        "avff-b cannot be exported: it attends over a whole window of 224-px tubes, some 450 GFLOP each, "
        "so the daemon could keep no slice's tokens and would not keep up; "
        "export avff-s, late-fusion, audio-only or video-only"
    )
