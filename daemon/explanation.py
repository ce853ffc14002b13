"""What a score event says of where its score comes from: the ``explain`` of ``docs/events.md``.

Cheap enough for every event: all of it was computed for the score.  Heat maps are another
matter, see :mod:`avff.daemon.explain`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avff.engine.calibration import HYPOTHESES
from avff.engine.media import Float32
from avff.engine.rolling import evidence, probability
from avff.engine.slices import Prediction
from avff.engine.spec import SPEC

_DECIMALS = 3
_LEADERS = ("video", "audio", "motion")
_FRAME_MS = SPEC.frame_ns // 1_000_000


@dataclass(frozen=True, slots=True)
class ScoreExplanation:
    """Where the score of one window comes from.

    Attributes:
        leading: ``video``, ``audio`` or ``motion``: which of them has most of the odds; None when none has.
        shares: parts 0…1 of the score's odds that the heads ``any``, ``video``, ``audio`` and ``motion``
            account for, 1 together; a head that the calibration does not use is not in it.
        frames: suspicion 0…1 of the window's last 8 pictures, uncalibrated, None where not known.
        sync: cosine -1…1 of sound and picture at 31 shifts, or None when the model does not offer synchrony.
    """

    leading: str | None
    shares: Mapping[str, float]
    frames: tuple[float | None, ...]
    sync: tuple[float, ...] | None

    def to_json(self) -> dict[str, Any]:
        """Return the object as it is written."""
        return {
            "leading": self.leading,
            "shares": {head: _rounded(self.shares.get(head)) for head in HYPOTHESES},
            "frames": [_rounded(value) for value in self.frames],
            "sync": None if self.sync is None else _curve(self.sync),
        }


def explanation_of(prediction: Prediction) -> ScoreExplanation | None:
    """Return where a prediction's score comes from; None when it has no score."""
    if evidence(prediction) is None:
        return None
    # A curve of a model whose desync head is at chance says nothing (docs/decisions/0009).
    sync = prediction.sync if "desync" in prediction.parts else None
    return ScoreExplanation(
        leading=_leading(prediction),
        shares=shares_of(prediction),
        frames=_newest(prediction.frames),
        sync=None if sync is None else tuple(map(float, sync)),
    )


def shares_of(prediction: Prediction) -> dict[str, float]:
    """Return which part 0…1 of the score's odds each head accounts for; empty without a score."""
    if evidence(prediction) is None:
        return {}
    highest = max(prediction.terms.values(), default=0.0)
    odds = {head: math.exp(term - highest) for head, term in prediction.terms.items()}
    return {head: each / sum(odds.values()) for head, each in odds.items()}


def _leading(prediction: Prediction) -> str | None:
    odds = {head: prediction.terms[head] for head in _LEADERS if head in prediction.terms}
    ranked = sorted(odds, key=odds.__getitem__, reverse=True)
    if not ranked:  # the head of the whole alone, on what a single modality gives it
        return prediction.modality if prediction.modality != "av" else None
    is_tie = len(ranked) > 1 and odds[ranked[0]] == odds[ranked[1]]
    return None if is_tie else ranked[0]


def _newest(frames: Float32 | None) -> tuple[float | None, ...]:
    """The suspicion of the last slice's pictures: those before were in the events before."""
    if frames is None:
        return (None,) * SPEC.slice_frames
    logits = map(float, frames[-SPEC.slice_frames :, 0])
    return tuple(probability(logit) if math.isfinite(logit) else None for logit in logits)


def _curve(sync: tuple[float, ...]) -> dict[str, Any]:
    reach = len(sync) // 2
    return {
        "offset_ms": [(k - reach) * _FRAME_MS for k in range(len(sync))],
        "cosine": [_rounded(value) for value in sync],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, _DECIMALS)
