from __future__ import annotations

import itertools
import random

import pytest

from avff.daemon.summary import MAX_SPANS, TIMELINE_BINS, Summariser, Timeline, Verdict
from avff.engine.rolling import probability
from avff.engine.slices import Reason
from avff.engine.spec import SPEC
from tests.support.scripted import make_prediction

SEEDS = range(20)


def _summarise(logits: list[float | None], threshold: float = 0.5) -> Summariser:
    summary = Summariser(threshold)
    for k, logit in enumerate(logits):
        summary.push(make_prediction(k, logit))
    return summary


def test_score_is_the_mean_of_the_logits() -> None:
    """The declared pooling."""
    result = _summarise([1.0, None, -2.0, 4.0]).result()
    assert result.score == pytest.approx(probability(1.0))
    assert result.peak == pytest.approx(probability(4.0))
    assert result.share == pytest.approx(2 / 3)
    assert (result.scored, result.abstained) == (3, {"too_short": 1})


@pytest.mark.parametrize(
    ("logits", "verdict"),
    [
        ([], Verdict.ABSTAIN),
        ([None, None], Verdict.ABSTAIN),
        ([float("nan")], Verdict.ABSTAIN),
        ([3.0], Verdict.FAKE),
        ([0.0], Verdict.FAKE),
        ([-0.1], Verdict.NO_EVIDENCE),
    ],
)
def test_verdict(logits: list[float | None], verdict: Verdict) -> None:
    """At the threshold it is fake; without a score there is no verdict."""
    assert _summarise(logits).result().verdict is verdict


def test_nobody_is_ever_called_real() -> None:
    """The words on the wire are these three."""
    assert {str(verdict) for verdict in Verdict} == {"fake", "no_evidence_of_fake", "abstain"}


def test_nan_counts_as_model_nan() -> None:
    """A broken network is a reason of its own."""
    assert _summarise([float("nan")]).result().abstained == {Reason.MODEL_NAN: 1}


@pytest.mark.parametrize("seed", SEEDS)
def test_spans_cover_exactly_the_suspicious_windows(seed: int) -> None:
    """Spans are disjoint, sorted, and their union is the union of the windows at the threshold."""
    random_ = random.Random(seed)
    logits = [random_.choice([None, -3.0, -3.0, -3.0, 3.0]) for _ in range(60)]
    spans = _summarise(logits).result().spans
    assert all(a.end_ns < b.start_ns for a, b in itertools.pairwise(spans))
    slices = {
        k for span in spans for k in range(span.start_ns // SPEC.slice_ns, span.end_ns // SPEC.slice_ns)
    }
    expected = {s for k, v in enumerate(logits) if v == 3.0 for s in range(max(0, k - 7), k + 1)}
    assert slices == expected


def test_spans_are_bounded_and_keep_the_highest_peaks() -> None:
    """A daemon that runs for weeks keeps the worst stretches, not all."""
    summary = Summariser(0.5)
    for k in range(3 * MAX_SPANS):
        summary.push(make_prediction(k * 20, 0.1 + k / 100))
    spans = summary.result().spans
    assert len(spans) == MAX_SPANS
    assert min(span.peak for span in spans) >= probability(0.1 + (2 * MAX_SPANS - 2) / 100)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 1000, 5000])
def test_timeline_is_bounded_and_keeps_maxima(count: int) -> None:
    """However long the stream, the timeline has at most its bins and the highest value survives."""
    timeline = Timeline()
    for k in range(count):
        timeline.add((k + 1) * SPEC.slice_ns, 1.0 if k == count // 3 else 0.25)
    assert len(timeline.values) <= TIMELINE_BINS
    assert max(v for v in timeline.values if v is not None) == 1.0
    assert (
        (len(timeline.values) - 1) * timeline.step_ns
        < count * SPEC.slice_ns
        <= len(timeline.values) * timeline.step_ns
    )


def test_timeline_leaves_gaps_empty() -> None:
    """Time without a score is None, not zero."""
    timeline = Timeline()
    timeline.add(SPEC.slice_ns, 0.5)
    timeline.add(4 * SPEC.slice_ns, None)
    timeline.add(5 * SPEC.slice_ns, 0.0)
    assert timeline.values == [0.5, None, None, None, 0.0]
