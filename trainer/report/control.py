"""Controls of a report: what a classifier makes of a clip's container, without seeing or hearing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from avff.trainer.data.manifest import Clip
from avff.trainer.metrics import Float64, Interval, Labels, auc, bootstrap

FOLDS = 5
"""Parts, by group: facts are judged on people and footage that the forest was not fitted to."""
TREES = 300
Facts = Callable[[Clip], list[float]]


def container_facts(clip: Clip) -> list[float]:
    """Return what the manifest says of a clip's container."""
    return [clip.duration_s, clip.width, clip.height, clip.fps, clip.audio_rate]


def metadata_control(
    train: Sequence[Clip],
    judges: Sequence[Clip],
    groups: Mapping[str, str],
    facts: Facts = container_facts,
) -> Interval:
    """Return the judge AUC of a random forest on such facts: what the clips' origin gives away."""
    known = np.array([facts(c) for c in train], np.float64)
    scores = _forest(known, _labels(train), np.array([facts(c) for c in judges], np.float64))
    return bootstrap(auc, _labels(judges), scores, [groups[c.uid] for c in judges])


def file_facts(clip: Clip, root: Path) -> list[float]:
    """Return the container facts, the file's size in bytes and its bit rate in bit/s.

    NaN stands for a rate where the manifest has no length.
    """
    size = float((root / clip.path).stat().st_size)
    return [*container_facts(clip), size, 8 * size / clip.duration_s if clip.duration_s else math.nan]


def facts_across(clips: Sequence[Clip], groups: Mapping[str, str], facts: Facts) -> Interval:
    """Return the AUC of a forest on such facts of the judged clips themselves, fitted to other groups.

    Only groups are kept apart, not collections: what gives a collection away counts.
    """
    values, labels = np.array([facts(c) for c in clips], np.float64), _labels(clips)
    who = [groups[c.uid] for c in clips]
    scores = _by_others(values, labels, who)
    judged = np.isfinite(scores)
    return bootstrap(auc, labels[judged], scores[judged], list(np.array(who)[judged]))


def facts_within_pairs(
    pairs: Sequence[tuple[Clip, Clip]], groups: Mapping[str, str], facts: Facts
) -> Interval:
    """Return how often such facts tell the generated clip of a pair from the genuine clip of its footage.

    The forest sees the difference of both clips' facts, either way round, so it has nothing to learn
    from where the footage came from; it is fitted to other groups.

    Args:
        pairs: generated clip and genuine clip.
        groups: by uid.
        facts: of a clip.

    Returns:
        share of pairs in the right order, ties one half; NaN with pairs of fewer than two groups.
    """
    fakes, originals = (np.array([facts(p[k]) for p in pairs], np.float64) for k in (0, 1))
    # Row by row a pair and the same turned round, whose label is the opposite.
    values = np.concatenate([fakes - originals, originals - fakes])
    labels = np.repeat(np.array([1, 0], np.int64), len(pairs))
    who = [groups[fake.uid] for fake, _ in pairs] * 2
    scores = _by_others(values, labels, who)
    margin = scores[: len(pairs)] - scores[len(pairs) :]
    judged = np.isfinite(margin)
    return in_order(margin[judged], list(np.array(who[: len(pairs)])[judged]))


def in_order(margins: Float64, groups: Sequence[str]) -> Interval:
    """Return the share of margins above 0, ties one half, with an interval that resamples groups."""
    # Each pair has both labels, so that no resample lacks one.
    labels = np.repeat(np.array([1, 0], np.int64), len(margins))
    return bootstrap(_share_above, labels, np.tile(margins, 2), [*groups, *groups])


def _share_above(labels: Labels, margins: Float64) -> float:
    del labels
    return float(np.mean(np.sign(margins) + 1) / 2)


def _by_others(values: Float64, labels: Labels, who: Sequence[str]) -> Float64:
    """Return for each row the forest's answer after fitting to other groups; NaN where there are none."""
    made, groups = np.full(len(labels), np.nan), np.array(who)
    for fold in np.array_split(np.random.default_rng(0).permutation(np.unique(groups)), FOLDS):
        out = np.isin(groups, fold)
        if out.any() and len(np.unique(labels[~out])) == 2:
            made[out] = _forest(values[~out], labels[~out], values[out])
    return made


def _forest(values: Float64, labels: Labels, judged: Float64) -> Float64:
    """Fit a random forest, and return its probability of fake for other rows."""
    forest = RandomForestClassifier(TREES, class_weight="balanced", min_samples_leaf=2, random_state=0)
    return np.asarray(forest.fit(values, labels).predict_proba(judged)[:, 1], np.float64)


def _labels(clips: Sequence[Clip]) -> Labels:
    return np.array([c.label for c in clips], np.int64)
