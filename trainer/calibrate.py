"""From logits to probabilities: fitted on validation windows, and the frozen threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t as student_t
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader

from avff.engine.calibration import joined
from avff.engine.contract import CLIP_OUTPUTS, Affine, Calibration
from avff.engine.media import Bool, Float32
from avff.trainer.data.windows import Batch, ValidationWindows
from avff.trainer.metrics import Interval, auc, bootstrap
from avff.trainer.model.registry import answer

Float64: TypeAlias = npt.NDArray[np.float64]
Index: TypeAlias = npt.NDArray[np.int64]
Names: TypeAlias = npt.NDArray[np.str_]

PICTURE_FAKES = ("generated", "self_blend", "lip_swap", "talking_photo")
SOUND_FAKES = ("vocoder", "splice")
MOTION_FAKES = ("generated", "lip_swap", "talking_photo")
"""Those whose points move otherwise; a blend's do not, and another voice leaves the face as it was."""
MISMATCHES = ("desync", "local_desync", "audio_swap")
BY_MODALITY = {
    "av": (*PICTURE_FAKES, *SOUND_FAKES, "audio_swap", "local_desync"),
    "video": PICTURE_FAKES,
    "audio": SOUND_FAKES,
}
HEADS = {"av": ("video", "audio", "motion"), "video": ("video", "motion"), "audio": ("audio",)}
"""Parts that are joined with the head of the whole to one answer."""
BY_PART = {"video": PICTURE_FAKES, "audio": SOUND_FAKES, "motion": MOTION_FAKES, "desync": MISMATCHES}
_ROUNDS = 200
_MOST = 30.0
"""Nats beyond which a likelihood ratio is as good as certain."""
FOLDS = 5
"""Parts, by group, for the figure of a combination: it is judged on groups it was not fitted to."""


def validation_logits(net: nn.Module, windows: ValidationWindows, *, workers: int) -> dict[str, Float32]:
    """Run the validation windows with both modalities, and with either one withheld.

    Returns:
        float32 ``[n, 5]`` logits by modality (``av``, ``video``, ``audio``), and ``group`` ``[n]``.
    """
    collected: dict[str, list[Float32]] = {m: [] for m in (*BY_MODALITY, "group")}
    with torch.no_grad():
        for batch in DataLoader(windows, batch_size=32, num_workers=workers):
            for modality in BY_MODALITY:
                collected[modality].append(_clip_logits(net, batch, modality))
            collected["group"].append(batch.group.numpy())
    return {name: np.concatenate(parts) for name, parts in collected.items()}


Score: TypeAlias = "Callable[[Rows, Float64], Float64]"
"""Scores logits ``[n, 5]`` by what it fits to rows."""


class Rows(NamedTuple):
    """Windows to fit on: genuine ones, and those of some kinds.

    Attributes:
        logits: float64 ``[n, 5]``.
        labels: int ``[n]``, 1 fake.
        kinds: str ``[n]``, name of each window's group.
        who: str ``[n]``, group of people and footage.
    """

    logits: Float64
    labels: Index
    kinds: Names
    who: Names

    def of(self, chosen: Bool) -> Rows:
        """Return the chosen ones."""
        return Rows(self.logits[chosen], self.labels[chosen], self.kinds[chosen], self.who[chosen])


def calibrate(
    logits: dict[str, Float32], names: Sequence[str], clusters: Sequence[str]
) -> tuple[dict[str, Affine], dict[str, Affine], dict[str, Interval]]:
    """Fit the scaling of every head, and how often its hypothesis is the one that holds.

    Args:
        logits: from :func:`validation_logits`.
        names: of the groups; 0 is genuine footage.
        clusters: which group of people and footage each window is of; the intervals resample groups, for
            windows of one person or footage, and above all a window and its manipulated twin, are
            not independent.

    Returns:
        calibrations of ``any`` by modality (see :mod:`avff.engine.calibration`) and of the parts, and
        each one's validation AUC.  What is not surely above chance gets none: no score rests on it,
        and it is not shown.
    """
    kinds = np.array(names)[logits["group"].astype(int)]

    def rows(modality: str, fakes: Sequence[str]) -> Rows:
        values = logits[modality].astype(np.float64)
        every = Rows(values, (kinds != names[0]).astype(np.int64), kinds, np.array(clusters))
        return every.of(np.isin(kinds, [names[0], *fakes]))

    figures: dict[str, Interval] = {}
    parts: dict[str, Affine] = {}
    for part, fakes in BY_PART.items():
        asked = rows("av", fakes)
        fit = _head(asked, part)
        if _is_sure(part, asked, partial(_score_part, part=part), figures) and fit is not None:
            parts[part] = fit
    by_modality: dict[str, Affine] = {}
    for modality, fakes in BY_MODALITY.items():
        asked = rows(modality, fakes)
        joins = _best_joins(asked, [p for p in HEADS[modality] if p in parts])
        joint = _joint(asked, joins)
        if _is_sure(f"any, {modality}", asked, partial(_score_joint, joins=joins), figures) and joint:
            by_modality[modality] = joint[0]
    return by_modality, parts, figures


FALSE_ALARMS = 0.01
"""Share of genuine clips that the threshold may call fake."""
_FEWEST = 3
"""Genuine clips below which their spread is not known."""
DEFAULT_THRESHOLD = 0.5
"""Even odds: what a clip is called by where there is nothing to freeze a threshold on."""


def freeze_threshold(genuine: Sequence[float]) -> float | None:
    """Return the probability from which a clip is called fake.

    At most one genuine clip in a hundred is to lie above it.  Where there are fewer than a hundred to tell
    by, their log-odds are taken for normal, and the threshold is the upper prediction bound for one
    more clip (Student's t): the fewer clips, the more careful.

    Args:
        genuine: probabilities of the genuine validation clips that got one.

    Returns:
        a probability, 0.5…0.99; None when there are too few to freeze it on.
    """
    count = len(genuine)
    if count < _FEWEST:
        return None
    if count >= 1 / FALSE_ALARMS:
        return float(np.clip(np.quantile(genuine, 1 - FALSE_ALARMS), 0.5, 0.99))
    bounded = np.clip(genuine, 1e-6, 1 - 1e-6)
    log_odds = np.log(bounded / (1 - bounded))
    reach = student_t.ppf(1 - FALSE_ALARMS, count - 1) * np.sqrt(1 + 1 / count)
    bound = float(log_odds.mean() + reach * log_odds.std(ddof=1))
    return float(np.clip(1 / (1 + np.exp(-bound)), 0.5, 0.99))


def with_threshold(calibration: Calibration, threshold: float) -> Calibration:
    """Return the calibration with another threshold."""
    return replace(calibration, threshold=threshold)


def _clip_logits(net: nn.Module, batch: Batch, modality: str) -> Float32:
    seen = batch.video_ok * (modality != "audio")
    heard = batch.audio_ok * (modality != "video")
    logits: Float32 = answer(net, batch._replace(video_ok=seen, audio_ok=heard)).all_heads().numpy()
    return logits


def _is_sure(name: str, rows: Rows, score: Score, figures: dict[str, Interval]) -> bool:
    """Note under ``name`` what a fit is worth on groups it was not fitted to; tell if it is above chance."""
    if not _has_both(rows):
        return False  # no such fakes in this run: nothing says how good it is
    unseen = _unseen(rows, score)
    judged = np.isfinite(unseen)
    figures[name] = bootstrap(auc, rows.labels[judged], unseen[judged], list(rows.who[judged]))
    # Not "<=": where nothing could be judged, the bound is NaN, and nothing is offered.
    return bool(figures[name].low > 0.5)


def _best_joins(rows: Rows, parts: Sequence[str]) -> Sequence[str]:
    """Return the heads to join: the parts, and the head of the whole where it helps on unseen groups."""
    every = ("any", *parts)
    if not parts or not _has_both(rows):
        return every
    worth = []
    for joins in (every, parts):
        unseen = _unseen(rows, partial(_score_joint, joins=joins))
        judged = np.isfinite(unseen)
        worth.append(auc(rows.labels[judged], unseen[judged]) if _has_both(rows.of(judged)) else np.nan)
    return parts if worth[1] > worth[0] else every


def _unseen(rows: Rows, score: Score) -> Float64:
    """Return a score for each window by a fit on other groups.

    NaN where the other groups are none, or all of one class: no fit, so no figure either.
    """
    made = np.full(len(rows.labels), np.nan)
    for fold in np.array_split(np.random.default_rng(0).permutation(np.unique(rows.who)), FOLDS):
        out = np.isin(rows.who, fold)
        if out.any() and _has_both(rows.of(~out)):
            made[out] = score(rows.of(~out), rows.logits[out])
    return made


def _score_part(fitted: Rows, logits: Float64, *, part: str) -> Float64:
    head = _head(fitted, part) or Affine(0.0, 0.0)
    return np.asarray(head.scale * logits[:, CLIP_OUTPUTS.index(part)] + head.offset)


def _score_joint(fitted: Rows, logits: Float64, *, joins: Sequence[str]) -> Float64:
    joint = _joint(fitted, joins)
    return np.zeros(len(logits)) if joint is None else np.asarray(joined(*joint, logits))


def _has_both(rows: Rows) -> bool:
    return bool(0 < rows.labels.sum() < len(rows.labels))


def _head(rows: Rows, head: str) -> Affine | None:
    """Fit one head's log-odds on its own kinds of fakes; None where its logit counts for nothing.

    A head that would count against its own meaning is left out: that is noise, and would turn
    a warning into its opposite.  Classes are balanced: the probability is for even odds.
    """
    mine = rows.of((rows.labels == 0) | np.isin(rows.kinds, BY_PART.get(head, rows.kinds)))
    if not _has_both(mine):
        return None
    return _platt(mine.logits[:, CLIP_OUTPUTS.index(head)], mine.labels)


def _platt(scores: Float64, labels: Index) -> Affine | None:
    fit = LogisticRegression(class_weight="balanced", C=1.0).fit(scores[:, None], labels)
    scale, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    return Affine(round(scale, 6), round(offset, 6)) if scale > 0 else None


def _joint(rows: Rows, joins: Sequence[str]) -> tuple[Affine, dict[str, Affine]] | None:
    """Fit the heads to join, and the shares of their hypotheses; return the whole's and the parts'."""
    heads = {head: fit for head in joins if (fit := _head(rows, head)) is not None}
    if not heads:
        return None
    own = heads.get("any")
    parts = {head: fit for head, fit in heads.items() if head != "any"}
    fakes = rows.logits[rows.labels == 1]
    ratios = [fit.scale * fakes[:, CLIP_OUTPUTS.index(head)] + fit.offset for head, fit in heads.items()]
    shares = dict(zip(heads, _shares(np.exp(np.clip(ratios, -_MOST, _MOST))), strict=True))
    base = own or Affine(0.0, 0.0)
    rounded = {part: round(float(shares[part]), 6) for part in parts}
    if own is None:  # what rounding leaves must not become a share of a head that is none
        rounded[max(rounded, key=rounded.__getitem__)] += 1 - sum(rounded.values())
    joint = replace(base, **rounded)
    last = _platt(np.asarray(joined(joint, parts, rows.logits), np.float64), rows.labels)
    return None if last is None else (replace(joint, gain=last.scale, shift=last.offset), parts)


def _shares(ratios: Float64) -> Float64:
    """Return how often each hypothesis holds among the fakes, by expectation-maximisation.

    Args:
        ratios: ``[hypotheses, fakes]`` likelihood ratios.

    Returns:
        ``[hypotheses]``, summing to 1.  Each begins with one fake more than it has: none is lost for ever
        because validation held no fake of its kind.
    """
    shares = np.full(len(ratios), 1 / len(ratios))
    for _ in range(_ROUNDS):
        belief = shares[:, None] * ratios
        belief /= belief.sum(axis=0)
        shares = (belief.sum(axis=1) + 1) / (ratios.shape[1] + len(ratios))
    return shares
