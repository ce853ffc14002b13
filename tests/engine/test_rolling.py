from __future__ import annotations

import math
import random

import pytest

from avff.engine.media import NS_PER_S
from avff.engine.rolling import RollingScore, evidence, probability
from avff.engine.slices import Reason
from tests.support.scripted import make_prediction

SEEDS = range(20)


def test_probability_is_safe_at_both_ends() -> None:
    """No overflow, and symmetric around 0.5."""
    assert probability(0) == 0.5
    assert probability(1e4) == 1.0
    assert probability(-1e4) == 0.0
    assert probability(3) + probability(-3) == pytest.approx(1)


@pytest.mark.parametrize("logit", [None, math.nan, math.inf, -math.inf])
def test_no_finite_logit_is_no_evidence(logit: float | None) -> None:
    """NaN and infinity abstain like None, and the rolling score is None there."""
    prediction = make_prediction(0, logit)
    assert evidence(prediction) is None
    rolling = RollingScore()
    rolling.push(make_prediction(0, 3.0))
    assert rolling.push(make_prediction(1, logit)) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_constant_input_gives_that_constant(seed: int) -> None:
    """Whatever the spacing, the average of equal values is that value from the first window on."""
    random_ = random.Random(seed)
    logit, time_ns, rolling = random_.uniform(-8, 8), 0, RollingScore()
    for k in range(50):
        time_ns += random_.randrange(1, NS_PER_S)
        value = rolling.push(make_prediction(k, logit, end_ns=time_ns))
        assert value == pytest.approx(probability(logit), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_rolling_stays_within_the_inputs(seed: int) -> None:
    """An average is never outside the values it averages."""
    random_ = random.Random(seed)
    rolling, seen = RollingScore(), []
    for k in range(100):
        logit = random_.uniform(-10, 10) if random_.random() < 0.8 else None
        value = rolling.push(make_prediction(k, logit))
        assert (value is None) == (logit is None)
        if logit is not None and value is not None:
            seen.append(probability(logit))
            assert min(seen) - 1e-12 <= value <= max(seen) + 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_monotonic_in_each_input(seed: int) -> None:
    """Raising one window's logit never lowers the score."""
    random_ = random.Random(seed)
    logits = [random_.uniform(-3, 3) for _ in range(12)]
    raised = list(logits)
    raised[random_.randrange(12)] += 1.0
    low, high = RollingScore(), RollingScore()
    for k in range(12):
        below, above = low.push(make_prediction(k, logits[k])), high.push(make_prediction(k, raised[k]))
        assert below is not None
        assert above is not None
        assert above >= below - 1e-12


def test_step_follows_the_time_constant() -> None:
    """After long quiet, a step is 1 - 1/e of the way up after one time constant."""
    rolling = RollingScore(time_constant_s=5.0)
    step_ns = NS_PER_S // 10
    values = [rolling.push(make_prediction(k, 0.0, end_ns=k * step_ns)) for k in range(1000)]
    values = [rolling.push(make_prediction(k, 1.0, end_ns=k * step_ns)) for k in range(1000, 1050)]
    assert values[-1] is not None
    assert math.log(values[-1] / (1 - values[-1])) == pytest.approx(1 - math.exp(-1), abs=0.01)


def test_null_window_does_not_repeat_the_last_score() -> None:
    """Without evidence there is no current score, and a short gap is bridged afterwards."""
    rolling = RollingScore()
    before = rolling.push(make_prediction(0, 4.0))
    assert rolling.push(make_prediction(1, None, reason=Reason.NO_FACE)) is None
    after = rolling.push(make_prediction(2, -4.0))
    assert before is not None
    assert after is not None
    assert probability(-4.0) < after < before


def test_track_change_starts_anew() -> None:
    """Another face does not inherit the score of the one before."""
    rolling = RollingScore()
    rolling.push(make_prediction(0, 6.0, track=1))
    assert rolling.push(make_prediction(1, -2.0, track=2)) == pytest.approx(probability(-2.0))


def test_window_without_a_track_keeps_the_history() -> None:
    """A window of sound alone belongs to whoever was on the picture."""
    rolling = RollingScore()
    rolling.push(make_prediction(0, 6.0, track=1))
    bridged = rolling.push(make_prediction(1, -2.0, track=None))
    assert bridged is not None
    assert bridged > probability(-2.0) + 0.1
    rolling.push(make_prediction(2, -2.0, track=1))
    assert rolling.push(make_prediction(3, -2.0, track=7)) == pytest.approx(probability(-2.0))


@pytest.mark.parametrize(("gap_s", "anew"), [(9.9, False), (10.0, True), (60.0, True)])
def test_long_gap_starts_anew(gap_s: float, anew: bool) -> None:
    """After ``reset_after_s`` without evidence the past does not count."""
    rolling = RollingScore(reset_after_s=10.0)
    rolling.push(make_prediction(0, 6.0, end_ns=0))
    value = rolling.push(make_prediction(1, -2.0, end_ns=round(gap_s * NS_PER_S)))
    assert (value == pytest.approx(probability(-2.0))) == anew


def test_backward_jump_starts_anew() -> None:
    """Media time that runs back is another recording."""
    rolling = RollingScore()
    rolling.push(make_prediction(5, 6.0))
    assert rolling.push(make_prediction(0, -2.0)) == pytest.approx(probability(-2.0))


def test_settings_must_be_positive() -> None:
    """A time constant of zero would divide by zero."""
    with pytest.raises(ValueError, match="positive"):
        RollingScore(time_constant_s=0)
