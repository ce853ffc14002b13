"""Losses: labels that may be unknown, synchrony, and AVFF's cross-modal prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from avff.trainer.model.fusion import FusionOut

_CLIP_WEIGHTS = (1.0, 0.6, 0.6, 0.3)
"""any, video, audio, desync."""
_TEMPERATURE = 0.1


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; see the functions of the same name."""

    clip: float = 1.0
    frames: float = 0.3
    sync: float = 0.2
    cross: float = 0.1
    label_smoothing: float = 0.05


def total_loss(
    out: FusionOut, labels: Tensor, frame_labels: Tensor, seen: Tensor, heard: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Return every term and their weighted sum under ``loss``.

    Args:
        out: the network's output.
        labels: ``[N, 4]``, NaN unknown.
        frame_labels: ``[N, 64, 3]``, NaN unknown.
        seen, heard: ``[N, 64]``, 1 where there is evidence.
        weights: of the terms.
    """
    genuine = (labels[:, 0] == 0) & (labels[:, 3] == 0) & (seen.mean(1) > 0.9) & (heard.mean(1) > 0.9)
    per_clip = torch.tensor(_CLIP_WEIGHTS, device=labels.device)
    terms = {
        "clip": masked_bce(out.clip, labels, weights.label_smoothing, per_clip),
        "frames": masked_bce(out.frames, frame_labels, weights.label_smoothing),
        "sync": sync_loss(out.sync_video[genuine], out.sync_audio[genuine]),
        "cross": cross_loss(out, genuine),
    }
    terms["loss"] = (
        weights.clip * terms["clip"]
        + weights.frames * terms["frames"]
        + weights.sync * terms["sync"]
        + weights.cross * terms["cross"]
    )
    return terms


def masked_bce(logits: Tensor, labels: Tensor, smoothing: float, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over the known labels; the mean over them, 0 when there is none."""
    known = ~torch.isnan(labels)
    target = torch.nan_to_num(labels) * (1 - smoothing) + smoothing / 2
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    mask = known.float() if weight is None else known.float() * weight
    return (each * mask).sum() / mask.sum().clamp(min=1.0)


def sync_loss(video: Tensor, audio: Tensor) -> Tensor:
    """Frame-level InfoNCE in both directions, negatives from other times of the same window.

    Learnt on genuine windows only, so that it cannot learn what tells real from fake.

    Args:
        video, audio: unit vectors ``[n, 64, 64]`` (windows, pictures, width).
    """
    if not len(video):
        return video.sum() * 0.0
    similarity = video @ audio.transpose(1, 2) / _TEMPERATURE  # [n, T, T]
    target = torch.arange(similarity.shape[1], device=video.device).expand(len(video), -1)
    forward = functional.cross_entropy(similarity.transpose(1, 2), target)
    backward = functional.cross_entropy(similarity, target)
    return (forward + backward) / 2


def cross_loss(out: FusionOut, genuine: Tensor) -> Tensor:
    """1 - cosine between what one modality predicts of the other and what is there, on genuine windows."""
    if not genuine.any():
        return out.clip.sum() * 0.0
    gaps = [
        1 - functional.cosine_similarity(predicted[genuine], target[genuine].detach(), dim=-1).mean()
        for predicted, target in out.predicted
    ]
    return torch.stack(gaps).mean()
