"""From window predictions to the score that people watch.

Pure: media time comes in with each prediction, there is no clock here.
"""

from __future__ import annotations

import math

from avff.engine.media import NS_PER_S
from avff.engine.slices import Prediction


def probability(logit: float) -> float:
    """Return the probability 0…1 of log-odds, without overflow at either end."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def evidence(prediction: Prediction) -> float | None:
    """Return the prediction's logit, or None when it is no evidence.

    NaN and infinity are abstentions: a network that broke down has not said anything.
    """
    logit = prediction.logit
    return logit if logit is not None and math.isfinite(logit) else None


class RollingScore:
    """Exponential average of the logits over media time.

    The average is a weighted mean whose weights halve with age, so that the first
    windows count fully and a constant input gives exactly that constant.

    It starts anew when the face track changes, when there was no evidence for
    ``reset_after_s``, and when media time jumps back.

    Args:
        time_constant_s: age at which a window's weight has fallen to 1/e, in s of media time.
        reset_after_s: longest gap in evidence that is bridged, in s of media time.
    """

    def __init__(self, *, time_constant_s: float = 5.0, reset_after_s: float = 10.0) -> None:
        if time_constant_s <= 0 or reset_after_s <= 0:
            raise ValueError("the time constant and the reset time are positive numbers of seconds")
        self._time_constant_ns = time_constant_s * NS_PER_S
        self._reset_after_ns = reset_after_s * NS_PER_S
        self._track: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all evidence."""
        self._sum = 0.0
        self._weight = 0.0
        self._last_ns: int | None = None

    def push(self, prediction: Prediction) -> float | None:
        """Take in one prediction and return the rolling probability of fake.

        Returns:
            0…1, or None when this prediction is no evidence: the last score is
            never repeated as current.
        """
        logit = evidence(prediction)
        if logit is None:
            return None
        self._maybe_reset(prediction)
        if self._last_ns is not None:
            decay = math.exp(-(prediction.end_ns - self._last_ns) / self._time_constant_ns)
            self._sum *= decay
            self._weight *= decay
        self._sum += logit
        self._weight += 1.0
        self._last_ns = prediction.end_ns
        return probability(self._sum / self._weight)

    def _maybe_reset(self, prediction: Prediction) -> None:
        # A window that rests on sound alone has no track; it does not end the face's history.
        switched = None not in (self._track, prediction.track) and prediction.track != self._track
        if prediction.track is not None:
            self._track = prediction.track
        gap_ns = 0 if self._last_ns is None else prediction.end_ns - self._last_ns
        if switched or gap_ns < 0 or gap_ns >= self._reset_after_ns:
            self.reset()
