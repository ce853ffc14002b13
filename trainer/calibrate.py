"""From logits to probabilities: Platt scaling on validation windows, and the frozen threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader

from avff.engine.contract import CLIP_OUTPUTS, Affine, Calibration
from avff.engine.media import Float32
from avff.trainer.data.windows import Batch, ValidationWindows
from avff.trainer.metrics import Interval, auc, bootstrap
from avff.trainer.model.registry import answer

PICTURE_FAKES = ("generated", "self_blend", "lip_swap")
SOUND_FAKES = ("vocoder", "splice")
MISMATCHES = ("desync", "local_desync", "audio_swap")
BY_MODALITY = {
    "av": (*PICTURE_FAKES, *SOUND_FAKES, "audio_swap", "local_desync"),
    "video": PICTURE_FAKES,
    "audio": SOUND_FAKES,
}
HEADS = {"av": ("any", "video", "audio"), "video": ("any", "video"), "audio": ("any", "audio")}
"""Heads whose logits are joined to one answer."""
BY_PART = {"video": PICTURE_FAKES, "audio": SOUND_FAKES, "desync": MISMATCHES}
FOLDS = 5
"""Parts, by group, for the figure of a combination: it is judged on groups it was not fitted to."""


def validation_logits(net: nn.Module, windows: ValidationWindows, *, workers: int) -> dict[str, Float32]:
    """Run the validation windows with both modalities, and with either one withheld.

    Returns:
        float32 ``[n, 4]`` logits by modality (``av``, ``video``, ``audio``), and ``group`` ``[n]``.
    """
    collected: dict[str, list[Float32]] = {m: [] for m in (*BY_MODALITY, "group")}
    with torch.no_grad():
        for batch in DataLoader(windows, batch_size=32, num_workers=workers):
            for modality in BY_MODALITY:
                collected[modality].append(_clip_logits(net, batch, modality))
            collected["group"].append(batch.group.numpy())
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def calibrate(
    logits: dict[str, Float32], names: Sequence[str], clusters: Sequence[str]
) -> tuple[dict[str, Affine], dict[str, Affine], dict[str, Interval]]:
    """Fit the scaling of every modality and part.

    Args:
        logits: from :func:`validation_logits`.
        names: of the groups; 0 is genuine footage.
        clusters: which group of people and footage each window is of; the intervals resample groups, for
            windows of one person or footage, and above all a window and its manipulated twin, are
            not independent.

    Returns:
        scalings of ``any`` by modality and of the parts, and each one's validation AUC.
        What is not surely above chance gets no scaling: no score rests on it, and none is shown.
    """
    figures: dict[str, Interval] = {}

    def fit(name: str, values: Float32, fakes: Sequence[str], heads: Sequence[str]) -> Affine | None:
        chosen, labels = _select(logits["group"], names, fakes)
        if not 0 < labels.sum() < len(labels):
            return None  # no such fakes in this run: nothing says how good the head is
        who = [clusters[int(i)] for i in np.flatnonzero(chosen)]
        evidence = values[chosen][:, [CLIP_OUTPUTS.index(h) for h in heads]].astype(np.float64)
        unseen = _unseen(evidence, labels, who)
        judged = np.isfinite(unseen)
        figures[name] = bootstrap(auc, labels[judged], unseen[judged], list(np.array(who)[judged]))
        weights, offset = _logistic(evidence, labels)
        # Not "<=": where nothing could be judged, the bound is NaN, and nothing is offered.
        if not figures[name].low > 0.5 or not weights.any():
            return None
        rounded = {h: round(float(w), 6) for h, w in zip(heads, weights, strict=True)}
        own = "any" if "any" in rounded else heads[0]
        parts = {h: w for h, w in rounded.items() if h != own}
        return Affine(rounded[own], round(offset, 6), **parts)

    by_modality = {m: fit(f"any, {m}", logits[m], fakes, HEADS[m]) for m, fakes in BY_MODALITY.items()}
    by_part = {p: fit(p, logits["av"], fakes, [p]) for p, fakes in BY_PART.items()}
    return _offered(by_modality), _offered(by_part), figures


DEFAULT_THRESHOLD = 0.5
"""Even odds: what a clip is called by where there is nothing to freeze a threshold on."""


def freeze_threshold(genuine: Sequence[float]) -> float | None:
    """Return the probability from which a clip is called fake.

    Args:
        genuine: probabilities of the genuine validation clips that got one.

    Returns:
        their 95th percentile, 0.5…0.99; None when there are none to freeze it on.
    """
    return float(np.clip(np.quantile(genuine, 0.95), 0.5, 0.99)) if len(genuine) else None


def with_threshold(calibration: Calibration, threshold: float) -> Calibration:
    """Return the calibration with another threshold."""
    return Calibration(calibration.any, calibration.parts, threshold)


def _clip_logits(net: nn.Module, batch: Batch, modality: str) -> Float32:
    seen = batch.video_ok * (modality != "audio")
    heard = batch.audio_ok * (modality != "video")
    logits: Float32 = answer(net, batch._replace(video_ok=seen, audio_ok=heard)).clip.numpy()
    return logits


def _select(group: Float32, names: Sequence[str], fakes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return which windows take part, genuine ones and those of some kinds, and their labels."""
    chosen = np.isin(group, [0, *(i for i, n in enumerate(names) if n in fakes)])
    return chosen, (group[chosen] > 0).astype(np.int64)


def _offered(fits: Mapping[str, Affine | None]) -> dict[str, Affine]:
    return {name: fit for name, fit in fits.items() if fit is not None}


def _unseen(evidence: np.ndarray, labels: np.ndarray, who: Sequence[str]) -> np.ndarray:
    """Return log-odds for each window by a fit on other groups: what the combination is worth.

    NaN where the other groups are none, or all of one class: no fit, so no figure either.
    """
    made = np.full(len(labels), np.nan)
    groups = np.array(who)
    for fold in np.array_split(np.random.default_rng(0).permutation(np.unique(groups)), FOLDS):
        out = np.isin(groups, fold)
        if out.any() and 0 < labels[~out].sum() < (~out).sum():
            weights, offset = _logistic(evidence[~out], labels[~out])
            made[out] = evidence[out] @ weights + offset
    return made


def _logistic(evidence: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit log-odds to one or several logits, with weights of zero or more.

    A head that would count against its own meaning is left out: that is noise, and would turn
    a warning into its opposite.  Classes are balanced: the probability is for even odds.
    """
    weights = np.zeros(evidence.shape[1])
    kept = list(range(evidence.shape[1]))
    while kept:
        fit = LogisticRegression(class_weight="balanced", C=1.0).fit(evidence[:, kept], labels)
        if (fit.coef_[0] > 0).all():
            weights[kept] = fit.coef_[0]
            return weights, float(fit.intercept_[0])
        kept.pop(int(np.argmin(fit.coef_[0])))
    return weights, 0.0
