"""Evidence of several heads becomes one: any may raise the alarm, none may vouch for another."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from avff.engine.calibration import joined, shares_of, terms
from avff.engine.contract import Affine

BY = Affine(2.0, -0.25, video=0.25, audio=0.25, motion=0.25)
PARTS = {"video": Affine(1.5, 0.5), "audio": Affine(0.5, -1.0), "motion": Affine(0.75, -0.5)}


def score(any_logit: float, video: float, audio: float, motion: float, *, desync: float = 0.0) -> float:
    return float(joined(BY, PARTS, np.array([any_logit, video, audio, desync, motion])))


def test_hypothesis_without_evidence_keeps_its_share() -> None:
    """Whatever the picture's head says of nothing, its LLR is 0; the others' stand."""
    logits = np.array([0.5, 40.0, -3.0, 0.0, 9.0])
    told = terms(BY, PARTS, logits, blind={"video", "motion"})
    assert told["video"] == told["motion"] == pytest.approx(np.log(0.25))
    assert told["audio"] == pytest.approx(np.log(0.25) + 0.5 * -3.0 - 1.0)
    assert told["any"] == terms(BY, PARTS, logits)["any"]


def test_doubted_hypothesis_may_clear_but_not_accuse() -> None:
    """Its LLR is at most 0."""
    for logits in (np.array([3.0, 1.0, 1.0, 0.0, 4.0]), np.array([-3.0, 1.0, 1.0, 0.0, -4.0])):
        plain, told = terms(BY, PARTS, logits), terms(BY, PARTS, logits, doubted={"any", "motion"})
        for head in ("any", "motion"):
            assert told[head] == pytest.approx(min(float(plain[head]), float(np.log(0.25))))
        assert (told["video"], told["audio"]) == (plain["video"], plain["audio"])


def test_it_is_the_mean_of_likelihood_ratios() -> None:
    """By hand, of shares that differ: each head's ratio by its own share."""
    by = replace(BY, video=0.5, audio=0.125, motion=0.0625)
    expected = math.log(
        0.3125 * math.exp(2.0 * 0.3 - 0.25)
        + 0.5 * math.exp(1.5 * -1 + 0.5)
        + 0.125 * math.exp(0.5 * 2 - 1)
        + 0.0625 * math.exp(0.75 * 4 - 0.5)
    )
    made = float(joined(by, PARTS, np.array([0.3, -1.0, 2.0, 0.0, 4.0])))
    assert made == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_each_head_can_raise_it_alone(which: int) -> None:
    """Sure evidence of one hypothesis outweighs that against the others, less its share's logarithm."""
    logits = [-8.0, -8.0, -8.0, -8.0]
    low = score(*logits)
    logits[which] = 20.0
    assert low < -3
    assert score(*logits) > 7


def test_a_genuine_voice_does_not_vouch_for_a_face() -> None:
    """However sure the sound is of being genuine, it takes away no more than its own share."""
    neutral, sure = score(0.0, 4.0, 0.0, 0.0), score(0.0, 4.0, -1000.0, -1000.0)
    assert sure > neutral - 0.05


def test_more_evidence_never_lowers_it() -> None:
    """It grows with every head's logit, and lips out of step leave it alone."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = rng.normal(0, 4, 4)
        more = logits + rng.uniform(0, 2, 4)
        assert score(*more) >= score(*logits)
        assert score(*logits, desync=50.0) == score(*logits)


def test_a_head_on_its_own_is_its_platt_scaling() -> None:
    """Without shares nothing is joined, and parts are not asked for."""
    alone = Affine(2.0, -0.25)
    assert shares_of(alone) == {"any": 1.0}
    assert float(joined(alone, {}, np.array([1.5, 9.0, 9.0, 9.0, 9.0]))) == 2.0 * 1.5 - 0.25


def test_shares_make_up_the_whole() -> None:
    """What picture, sound and motion leave over is the whole's own."""
    assert shares_of(BY) == {"any": 0.25, "video": 0.25, "audio": 0.25, "motion": 0.25}
    assert shares_of(Affine(0.0, 0.0, video=0.5, motion=0.5)) == {"video": 0.5, "motion": 0.5}


def test_a_hypothesis_without_a_share_is_left_out() -> None:
    """Its logarithm would be none."""
    assert set(terms(Affine(0.0, 0.0, video=1.0), PARTS, np.zeros(5))) == {"video"}
    assert set(terms(Affine(0.0, 0.0, motion=1.0), PARTS, np.zeros(5))) == {"motion"}


def test_the_last_scaling_is_of_the_whole() -> None:
    """Gain and shift act on what the hypotheses make together."""
    scaled = replace(BY, gain=0.5, shift=-1.0)
    logits = np.array([0.3, -1.0, 2.0, 0.0, 4.0])
    assert float(joined(scaled, PARTS, logits)) == pytest.approx(0.5 * score(0.3, -1.0, 2.0, 4.0) - 1.0)


def test_windows_are_joined_row_by_row() -> None:
    """``[n, 5]`` in, ``[n]`` out, and far logits stay finite."""
    logits = np.array([[0.3, -1.0, 2.0, 0.0, 4.0], [900.0, 0.0, 0.0, 0.0, 0.0], [-900.0] * 5])
    made = joined(BY, PARTS, logits)
    assert made.shape == (3,)
    assert np.isfinite(made).all()
    assert made[0] == pytest.approx(score(0.3, -1.0, 2.0, 4.0))
