"""A picture that is there but cannot be judged: the sound is scored, and does not clear the picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.contract import Affine
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Slice
from tests.support.engine import answer, make_face, make_slice, scripted_model

PARTS = {"video": Affine(1.0, 0.0), "audio": Affine(2.0, -0.5), "motion": Affine(1.0, 0.0)}
BOTH = Affine(0.0, 0.0, video=0.5, audio=0.25, motion=0.25, gain=0.5, shift=0.125)
ALONE = Affine(0.0, 0.0, audio=1.0)


def fixed(*logits: float) -> Callable[[Tensors], Tensors]:
    """A fusion graph with one answer."""
    return lambda inputs: answer(np.tile(np.array(logits, np.float32), (len(inputs["video"]), 1)))


def last(make: Callable[[int], Slice], sound: float, *, both: Affine = BOTH) -> Prediction:
    """What is said of a window of such slices, whose sound's head answers ``sound``."""
    scripted = scripted_model(
        scored={"av": both, "audio": ALONE}, parts=PARTS, fuse=fixed(7.0, 9.0, sound, 0.0, 9.0)
    )
    predictor, state = Predictor(scripted.model), StreamState()
    return predictor.predict([(state, make(k)) for k in range(8)])[-1][1]


def faceless(k: int) -> Slice:
    """Pictures without a face, and a voice."""
    return make_slice(k)


def frozen(k: int) -> Slice:
    """A face that stands still, and a voice."""
    return make_slice(k, face=make_face(), still=range(8))


def sound_only(k: int) -> Slice:
    """A stream without pictures."""
    return make_slice(k, has_video=False, picture_ok=0)


@pytest.mark.parametrize("make", [faceless, frozen])
@pytest.mark.parametrize("sound", [-5.0, 0.0, 5.0])
def test_picture_that_cannot_be_judged_keeps_its_share(make: Callable[[int], Slice], sound: float) -> None:
    """Three quarters of the odds stay even; only the sound's quarter moves."""
    made = last(make, sound)
    assert made.modality == "audio"
    assert made.logit == pytest.approx(0.5 * math.log(0.75 + 0.25 * math.exp(2.0 * sound - 0.5)) + 0.125)
    assert made.terms["video"] == pytest.approx(math.log(0.5))
    assert set(made.parts) == {"audio"}


def test_surely_genuine_voice_does_not_clear_a_face_that_stands_still() -> None:
    """However low the sound's head goes, the score ends where three quarters are even odds."""
    assert last(frozen, -50.0).logit == pytest.approx(0.5 * math.log(0.75) + 0.125)


def test_without_a_picture_in_the_stream_the_sound_speaks_for_itself() -> None:
    """A microphone has no picture that could be made."""
    assert last(sound_only, -5.0).logit == pytest.approx(2.0 * -5.0 - 0.5)


@pytest.mark.parametrize(
    "both", [Affine(1.0, 0.0), Affine(0.0, 0.0, video=1.0), Affine(0.0, 0.0, audio=1.0)],
    ids=["whole alone", "picture alone", "sound alone"],
)  # fmt: skip
def test_without_shares_on_both_sides_the_calibration_of_sound_alone_counts(both: Affine) -> None:
    """There is no share to keep, or none that could move."""
    assert last(faceless, -5.0, both=both).logit == pytest.approx(2.0 * -5.0 - 0.5)
