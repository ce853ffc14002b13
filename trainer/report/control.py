"""The control of the report: what a classifier makes of container facts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from avff.trainer.data.manifest import Clip
from avff.trainer.metrics import Interval, auc, bootstrap


def container_facts(clip: Clip) -> list[float]:
    """Return what the manifest says of a clip's container."""
    return [clip.duration_s, clip.width, clip.height, clip.fps, clip.audio_rate]


def metadata_control(
    train: Sequence[Clip],
    judges: Sequence[Clip],
    groups: Mapping[str, str],
    facts: Callable[[Clip], list[float]] = container_facts,
) -> Interval:
    """Return the judge AUC of a random forest on such facts: what the clips' origin gives away."""
    forest = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=2, random_state=0)
    forest.fit([facts(c) for c in train], [c.label for c in train])
    scores = forest.predict_proba([facts(c) for c in judges])[:, 1]
    labels = np.array([c.label for c in judges], np.int64)
    return bootstrap(auc, labels, scores, [groups[c.uid] for c in judges])
