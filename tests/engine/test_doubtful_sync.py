"""Time stamps that may be wrong: lips out of step are then no evidence, and the score is never raised."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avff.engine.contract import Affine
from avff.engine.evidence import MAX_SYNC_ERROR_NS
from avff.engine.frontend import Frontend
from avff.engine.media import NS_PER_S, AudioBlock
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction
from avff.engine.spec import SPEC
from tests.support.engine import answer, make_face, make_slice, run, scripted_model

PARTS = {
    "video": Affine(1.0, 0.0),
    "audio": Affine(1.0, 0.0),
    "motion": Affine(1.0, 0.0),
    "desync": Affine(1.0, 0.0),
}
BY = Affine(1.0, 0.0, video=0.25, audio=0.25, motion=0.25)


def _last(error_ns: int | None, *, motion: float, any_logit: float = 0.0, voice: bool = True) -> Prediction:
    """What is said of a window whose picture and sound may be apart by so much."""
    logits = np.array([any_logit, -1.0, -1.0, 6.0, motion], np.float32)
    scripted = scripted_model(
        scored={"av": BY, "video": BY},
        parts=PARTS,
        fuse=lambda inputs: answer(np.tile(logits, (len(inputs["video"]), 1))),
    )
    predictor, state = Predictor(scripted.model), StreamState()
    slices = [make_slice(k, face=make_face(), audio_ok=1.0 if voice else 0.0) for k in range(8)]
    pieces = [dataclasses.replace(piece, sync_error_ns=error_ns) for piece in slices]
    return predictor.predict([(state, piece) for piece in pieces])[-1][1]


@pytest.mark.parametrize("error_ns", [None, MAX_SYNC_ERROR_NS + 1])
@pytest.mark.parametrize(("motion", "any_logit"), [(5.0, 0.0), (0.0, 5.0), (-5.0, -5.0), (5.0, 5.0)])
def test_unknown_sync_never_raises_the_score(error_ns: int | None, motion: float, any_logit: float) -> None:
    """What compares picture with sound may clear, but not accuse; the rest says what it said."""
    known = _last(0, motion=motion, any_logit=any_logit)
    doubtful = _last(error_ns, motion=motion, any_logit=any_logit)
    assert known.logit is not None
    assert doubtful.logit is not None
    assert doubtful.logit <= known.logit + 1e-9
    assert (doubtful.logit < known.logit) == (max(motion, any_logit) > 0)
    assert doubtful.terms["motion"] <= np.log(0.25) + 1e-9
    assert doubtful.terms["video"] == known.terms["video"]


def test_unknown_sync_hides_desync() -> None:
    """There is no number for lips out of step, and no curve to explain it."""
    known, doubtful = _last(0, motion=0.0), _last(None, motion=0.0)
    assert "desync" in known.parts
    assert known.sync is not None
    assert "desync" not in doubtful.parts
    assert doubtful.sync is None
    assert (known.sync_error_ns, doubtful.sync_error_ns) == (0, None)


def test_error_within_a_picture_is_good_enough() -> None:
    """Up to one picture everything is as with exact stamps."""
    exact, nearly = _last(0, motion=3.0), _last(MAX_SYNC_ERROR_NS, motion=3.0)
    assert exact.logit == nearly.logit
    assert exact.parts == nearly.parts


def test_pictures_alone_are_not_in_doubt() -> None:
    """Without sound nothing is compared."""
    known, doubtful = (_last(e, motion=5.0, voice=False) for e in (0, None))
    assert known.modality == "video"
    assert known.logit == doubtful.logit


def test_a_window_is_as_sure_as_its_least_sure_slice() -> None:
    """Sound whose time was not known yet stays so until it has left the window."""
    scripted = scripted_model(scored={"av": BY}, parts=PARTS)
    predictor, state = Predictor(scripted.model), StreamState()
    errors = [None] * 3 + [30_000_000] + [1_000_000] * 12
    pieces = [
        dataclasses.replace(make_slice(k, face=make_face()), sync_error_ns=error)
        for k, error in enumerate(errors)
    ]
    told = [p.sync_error_ns for _, p in predictor.predict([(state, piece) for piece in pieces])]
    assert told[7:] == [None] * 3 + [30_000_000] + [1_000_000] * 5


def test_the_source_says_how_sure_it_is() -> None:
    """From the block of sound to the slice; a file's stamps are believed."""
    second = np.zeros(SPEC.rate_hz, np.float32)
    blocks = [
        AudioBlock(k * NS_PER_S, second, SPEC.rate_hz, 0, error_ns=error)
        for k, error in enumerate([None, 5_000_000])
    ]
    made = run(Frontend(None, has_video=False, has_audio=True), blocks)
    assert (made[0].sync_error_ns, made[-1].sync_error_ns) == (None, 5_000_000)
    assert AudioBlock(0, second, SPEC.rate_hz, 0).error_ns == 0
