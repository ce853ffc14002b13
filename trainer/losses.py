"""Losses: labels that may be unknown, synchrony, and AVFF's cross-modal prediction; and the AUC of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from avff.trainer.model.fusion import MAX_SHIFT, FusionOut

_CLIP_WEIGHTS = (1.0, 0.6, 0.6, 0.3)
"""any, video, audio, desync."""
_TEMPERATURE = 0.1


Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term, and how wrong answers are counted.

    Attributes:
        clip, frames: of the labels per window and per picture.
        sync, cross: of :func:`sync_loss` and :func:`cross_loss`.
        label_smoothing: how far labels are drawn towards one half, 0…1.
        focal_gamma: of :func:`masked_focal`, for ``clip`` and ``frames``; 0 is the cross-entropy.
    """

    clip: Weight = 1.0
    frames: Weight = 0.3
    sync: Weight = 0.2
    cross: Weight = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    focal_gamma: Weight = 0.0


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
        "clip": _classification(out.clip, labels, weights, per_clip),
        "frames": _classification(out.frames, frame_labels, weights),
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


def _classification(
    logits: Tensor, labels: Tensor, weights: LossWeights, each: Tensor | None = None
) -> Tensor:
    if weights.focal_gamma == 0:  # the same value, at half the cost
        return masked_bce(logits, labels, weights.label_smoothing, each)
    return masked_focal(logits, labels, weights.label_smoothing, each, gamma=weights.focal_gamma)


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


def masked_focal(
    logits: Tensor, labels: Tensor, smoothing: float, weight: Tensor | None = None, *, gamma: float = 2.0
) -> Tensor:
    """Like :func:`masked_bce`, each answer weighted by how wrong it is to the power ``gamma``.

    What is answered well already counts less (Lin et al., ICCV 2017, arXiv:1708.02002).  A gamma
    of 0 gives the cross-entropy itself.
    """
    known, label = ~torch.isnan(labels), torch.nan_to_num(labels)
    target = label * (1 - smoothing) + smoothing / 2
    # Through the log-sigmoid, which has a slope everywhere; a power of 1 - p has none where p is 1.
    factor = torch.exp(gamma * functional.logsigmoid((1 - 2 * label) * logits))
    each = factor * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    mask = known.float() if weight is None else known.float() * weight
    return (each * mask).sum() / mask.sum().clamp(min=1.0)


def masked_reconstruction(rebuilt: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden tokens only; 0 when none is hidden.

    Args:
        rebuilt, target: ``[N, 64, values]``.
        hidden: ``[N, 64]``, 1 where the token was hidden and its target is known.
    """
    each = (rebuilt - target).square().mean(dim=-1)
    return (each * hidden).sum() / hidden.sum().clamp(min=1.0)


def frame_sync_loss(video: Tensor, audio: Tensor, seen: Tensor, heard: Tensor, late: Tensor) -> Tensor:
    """InfoNCE in both directions between each picture and the sound within ± 15 pictures.

    These are the shifts of the sync curve, of which one, ``late``, is right.  Its neighbours
    (± 1 picture) are left out of the negatives: recordings are off by as much, so they are
    neither right nor wrong.

    Args:
        video, audio: unit vectors ``[N, 64, K]``.
        seen, heard: ``[N, 64]``, 1 where there is evidence; what has none is not compared.
        late: ``[N]`` by how many pictures the sound comes late, -15…15.
    """
    at = torch.arange(video.shape[1], device=video.device)
    lag = at[None, :] - at[:, None]  # sound index minus picture index
    off = lag - late[:, None, None]  # [N, 64, 64]
    there = (seen[:, :, None] * heard[:, None, :]) > 0
    compared = there & (lag.abs() <= MAX_SHIFT) & (off.abs() != 1)
    return _two_way_nce(video @ audio.transpose(1, 2), compared, off == 0)


def slice_contrast_loss(video: Tensor, audio: Tensor, there: Tensor) -> Tensor:
    """InfoNCE in both directions between the slices of picture and sound of the windows of a batch.

    Negatives are the same slice of the other windows, so time within a window is left to
    :func:`frame_sync_loss`.

    Args:
        video, audio: unit vectors ``[N, 8, K]``.
        there: ``[N, 8]``, 1 where picture and sound both have evidence.
    """
    similarity = video.transpose(0, 1) @ audio.permute(1, 2, 0)  # [8, N, N]
    known = there.transpose(0, 1) > 0
    own = torch.eye(len(video), dtype=torch.bool, device=video.device)
    return _two_way_nce(similarity, known[:, :, None] & known[:, None, :], own)


def _two_way_nce(similarity: Tensor, compared: Tensor, right: Tensor) -> Tensor:
    """Mean cross-entropy, along rows and columns, of the pairs that belong together; 0 if there are none.

    Args:
        similarity: cosines ``[B, n, n]``.
        compared: bool ``[B, n, n]``, pairs that take part.
        right: bool, broadcast to the same: at most one pair in a row or column.
    """
    # Finite, or rows without any pair would make the gradient NaN.
    scores = (similarity / _TEMPERATURE).masked_fill(~compared, -1e4)
    asked = compared & right
    both = functional.log_softmax(scores, dim=1) + functional.log_softmax(scores, dim=2)
    return -(both * asked).sum() / (2 * asked.sum().clamp(min=1))


def auc_of(logits: Tensor, fake: Tensor) -> Tensor:
    """Return the area under the ROC curve; NaN unless there are genuine and fake items."""
    if not fake.any() or fake.all():
        return torch.tensor(float("nan"))
    return binary_auroc(logits, fake.int())
