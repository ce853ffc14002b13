"""What a whole stream comes to: verdict, pooled score, where it is suspicious.

Pure, and bounded in memory however long the stream runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from avff.engine.media import NS_PER_S
from avff.engine.rolling import evidence, probability
from avff.engine.slices import Prediction, Reason

POOLING = "mean_logit"
"""How windows are pooled; the model's threshold was frozen on this pooling."""
TIMELINE_BINS = 64
FIRST_BIN_NS = 320_000_000
"""One slice: at the default hop, a bin holds one window until the timeline is full."""
MAX_SPANS = 50


class Verdict(StrEnum):
    """The decision over a stream.  That somebody is real is never said."""

    FAKE = "fake"
    NO_EVIDENCE = "no_evidence_of_fake"
    ABSTAIN = "abstain"


@dataclass(slots=True)
class Span:
    """A stretch of media time covered by windows at or above the threshold.

    Attributes:
        start_ns, end_ns: media time, in ns.
        peak: highest window probability in it.
    """

    start_ns: int
    end_ns: int
    peak: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a stream.

    Attributes:
        end_ns: media time of the last window's end, in ns.
        verdict: the decision.
        score: pooled probability of fake 0…1, or None without a scored window.
        peak: highest window probability, or None.
        share: part 0…1 of the scored windows at or above the threshold, or None.
        scored: windows with a score.
        abstained: windows without one, by reason.
        spans: suspicious stretches in order of time; the ``MAX_SPANS`` with the highest peaks.
        step_ns: length of one timeline bin, in ns.
        timeline: highest window probability by bin of the window's end, None where there is none.
    """

    end_ns: int
    verdict: Verdict
    score: float | None
    peak: float | None
    share: float | None
    scored: int
    abstained: dict[str, int]
    spans: tuple[Span, ...]
    step_ns: int
    timeline: tuple[float | None, ...]


class Timeline:
    """The highest value by time bin; when it is full, pairs of bins are merged."""

    def __init__(self, bins: int = TIMELINE_BINS, step_ns: int = FIRST_BIN_NS) -> None:
        self._bins = bins
        self.step_ns = step_ns
        self.values: list[float | None] = []

    def add(self, end_ns: int, value: float | None) -> None:
        """Enter a window by its end: the bin (start, end] that holds ``end_ns``."""
        while max(0, end_ns - 1) // self.step_ns >= self._bins:
            self._merge()
        index = max(0, end_ns - 1) // self.step_ns
        self.values.extend([None] * (index + 1 - len(self.values)))
        self.values[index] = _highest(self.values[index], value)

    def _merge(self) -> None:
        padded = [*self.values, None]
        self.values = [_highest(padded[i], padded[i + 1]) for i in range(0, len(self.values), 2)]
        self.step_ns *= 2


def _highest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


@dataclass(slots=True)
class Summariser:
    """Takes in every prediction of a stream.

    Attributes:
        threshold: probability 0…1 from the model's calibration at which a clip is called fake;
            windows are compared with it too.
    """

    threshold: float
    _sum: float = 0.0
    _scored: int = 0
    _above: int = 0
    _peak: float | None = None
    _end_ns: int = 0
    _abstained: Counter[str] = field(default_factory=Counter)
    _spans: list[Span] = field(default_factory=list)
    _timeline: Timeline = field(default_factory=Timeline)

    def push(self, prediction: Prediction) -> None:
        """Take in one prediction."""
        self._end_ns = max(self._end_ns, prediction.end_ns)
        logit = evidence(prediction)
        value = None if logit is None else probability(logit)
        self._timeline.add(prediction.end_ns, value)
        if logit is None or value is None:
            self._abstained[prediction.reason or Reason.MODEL_NAN] += 1
            return
        self._sum += logit
        self._scored += 1
        self._peak = _highest(self._peak, value)
        if value >= self.threshold:
            self._above += 1
            self._mark(prediction.start_ns, prediction.end_ns, value)

    def result(self) -> Summary:
        """Return the summary so far."""
        score = probability(self._sum / self._scored) if self._scored else None
        return Summary(
            end_ns=self._end_ns,
            verdict=self._verdict(score),
            score=score,
            peak=self._peak,
            share=self._above / self._scored if self._scored else None,
            scored=self._scored,
            abstained={str(reason): count for reason, count in self._abstained.most_common()},
            spans=tuple(Span(s.start_ns, s.end_ns, s.peak) for s in self._spans),
            step_ns=self._timeline.step_ns,
            timeline=tuple(self._timeline.values),
        )

    def _verdict(self, score: float | None) -> Verdict:
        if score is None:
            return Verdict.ABSTAIN
        return Verdict.FAKE if score >= self.threshold else Verdict.NO_EVIDENCE

    def _mark(self, start_ns: int, end_ns: int, value: float) -> None:
        last = self._spans[-1] if self._spans else None
        if last is not None and start_ns <= last.end_ns:
            last.end_ns = max(last.end_ns, end_ns)
            last.peak = max(last.peak, value)
            return
        self._spans.append(Span(max(0, start_ns), end_ns, value))
        if len(self._spans) > MAX_SPANS:
            # The newest span is still growing, so it stays whatever its peak.
            self._spans.remove(min(self._spans[:-1], key=lambda span: span.peak))


def seconds(time_ns: int) -> float:
    """Return media time in s, rounded to the millisecond for output."""
    return round(time_ns / NS_PER_S, 3)
