"""While the engine is down there is no score, and what it lost is told as its fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.errors import BackendDown
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Reason, Slice
from tests.engine.test_predictor import ENCODERS, logits_of, predict, talking
from tests.support.engine import ScriptedModel, answer, make_face, make_slice, mean_tokens, scripted_model


def _down_during(graph: str, down: Sequence[int]) -> ScriptedModel:
    """A model that is down for calls of one graph, by number."""
    calls = []

    def encode(name: str, inputs: Tensors) -> Tensors:
        return answered(name, lambda: mean_tokens(name, inputs))

    def answered(name: str, give: Callable[[], Tensors]) -> Tensors:
        calls.append(name)
        if name == graph and calls.count(name) - 1 in down:
            raise BackendDown("starting again")
        return give()

    return scripted_model(
        encode=encode,
        fuse=lambda inputs: answered("fusion", lambda: answer(np.ones((len(inputs["video"]), 4)))),
    )


def test_slices_that_could_not_be_encoded_are_missing_and_the_rest_is_scored() -> None:
    """While the engine is down there is that reason; afterwards what was lost is what never arrived."""
    made = predict(_down_during("audio", range(10, 12)), [talking(k) for k in range(22)])
    assert [p.reason for p in made[7:13]] == [None] * 3 + [Reason.ENGINE_DOWN] * 2 + [None]
    assert made[-1].reason is None
    assert [p.index for p in made] == list(range(22))
    assert [p.captured_ns for p in made] == [1000 + k for k in range(22)]
    assert made[10].coverage.face == made[10].coverage.audio == 7 / 8
    assert made[12].coverage.face == 6 / 8
    assert made[-1].coverage.face == 1


@pytest.mark.parametrize("graph", ENCODERS)
def test_an_engine_that_stays_down_gives_no_score_from_what_was_before(graph: str) -> None:
    made = predict(_down_during(graph, range(10, 99)), [talking(k) for k in range(30)])
    assert [p.reason for p in made[7:]] == [None] * 3 + [Reason.ENGINE_DOWN] * 20
    assert logits_of(made[10:]) == []


def test_windows_that_could_not_be_scored_keep_their_slices() -> None:
    """Down in between, after encoding: the next window is whole again.  Other reasons stay what they are."""
    made = predict(_down_during("fusion", range(2, 4)), [talking(k) for k in range(14)])
    assert [p.reason for p in made[7:]] == [None] * 2 + [Reason.ENGINE_DOWN] * 2 + [None] * 3
    assert {p.coverage.face for p in made[7:]} == {1.0}
    predictor, states = Predictor(_down_during("fusion", range(99)).model), [StreamState(), StreamState()]
    batch = [(states[0], talking(k)) for k in range(8)] + [(states[1], talking(0))]
    reasons = [p.reason for _, p in predictor.predict(batch)]
    assert reasons == [Reason.TOO_SHORT] * 7 + [Reason.ENGINE_DOWN, Reason.TOO_SHORT]


def test_what_was_dropped_while_the_engine_was_down_is_the_engines_fault() -> None:
    """A live stream drops what comes while a call hangs; no media missed, until enough is there again."""
    heard = [*range(9), *range(20, 36)]
    made = predict(_down_during("audio", [8, 9]), [talking(k) for k in heard])
    reasons = {p.index: p.reason for p in made}
    assert {reasons[k] for k in (8, *range(20, 26))} == {Reason.ENGINE_DOWN}
    assert {reasons[k] for k in range(26, 36)} == {None}
    assert Reason.NO_MEDIA not in reasons.values()


def test_what_never_arrived_is_not_the_engines_fault() -> None:
    """The same gap, with an engine that runs; and one long after it was down."""
    made = predict(_down_during("audio", range(0)), [talking(k) for k in (*range(9), *range(20, 30))])
    assert [p.reason for p in made if p.index in (20, 21, 24)] == [Reason.NO_MEDIA] * 3
    made = predict(_down_during("audio", [8]), [talking(k) for k in (*range(20), *range(31, 36))])
    assert [p.reason for p in made if p.index >= 31] == [Reason.NO_MEDIA] * 5


@pytest.mark.parametrize("kind", ["sound", "picture"])
def test_one_of_both_is_enough_to_know_whose_fault_it_is(kind: str) -> None:
    """Streams of sound alone, or of pictures alone, that lost three slices of eight."""

    def piece(index: int) -> Slice:
        if kind == "sound":
            return make_slice(index, has_video=False, picture_ok=0.0)
        return make_slice(index, face=make_face(seed=index), has_audio=False, audio_ok=0.0)

    graph = "audio" if kind == "sound" else "video"
    made = predict(_down_during(graph, range(10, 13)), [piece(k) for k in range(24)])
    assert {p.reason for p in made[10:16]} == {Reason.ENGINE_DOWN}
    usual = Reason.UNSUPPORTED_MODALITY if kind == "sound" else None
    assert [made[9].reason, made[-1].reason] == [usual] * 2


def test_other_faults_are_told_while_a_lost_slice_is_not_what_is_missing() -> None:
    """One of eight is lost: the face that is turned away would not be judged with it either."""
    aside = make_face(pose=(0.0, 1.0, 0.0))
    pieces = [make_slice(k, face=aside, has_audio=False, audio_ok=0.0) for k in range(14)]
    made = predict(_down_during("video", [8]), pieces)
    assert [p.reason for p in made[7:]] == [Reason.FACE_TURNED, Reason.ENGINE_DOWN, *[Reason.FACE_TURNED] * 5]


def test_a_hop_counts_on_while_the_engine_is_down() -> None:
    made = predict(_down_during("video", range(8, 10)), [talking(k) for k in range(16)], hop=2)
    assert [p.index for p in made] == list(range(1, 16, 2))
    assert made[4].reason is Reason.ENGINE_DOWN
