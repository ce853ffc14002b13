from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.contract import Affine
from avff.engine.errors import BackendError, ContractError
from avff.engine.evidence import MIN_EYE_PX
from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.predictor import MAX_BATCH, Predictor, StreamState
from avff.engine.slices import Prediction, Reason, Slice
from avff.engine.spec import SPEC
from tests.support.engine import ScriptedModel, answer, make_face, make_slice, mean_tokens, scripted_model

AS_IS = Affine(1.0, 0.0)
ALL = {"av": AS_IS, "video": AS_IS, "audio": AS_IS}
ENCODERS = ("video", "audio", "landmarks")


def talking(index: int, *, seed: int = 0) -> Slice:
    """A slice with a face and a voice, different for every index and seed."""
    rng = np.random.default_rng((index, seed))
    face = make_face(seed=100 * seed + index)
    return make_slice(index, face=face, level=float(rng.uniform(0.05, 0.3)), captured_ns=1000 + index)


def predict(
    scripted: ScriptedModel, slices: list[Slice], *, hop: int = 1, state: StreamState | None = None
) -> list[Prediction]:
    """One slice a call, as in a live stream."""
    predictor, state = Predictor(scripted.model, hop_slices=hop), state or StreamState()
    return [p for s in slices for _, p in predictor.predict([(state, s)])]


def logits_of(predictions: list[Prediction]) -> list[float]:
    return [p.logit for p in predictions if p.logit is not None]


def test_the_first_score_comes_after_a_window() -> None:
    """Seven slices are too short; from the eighth on every slice gives a score."""
    made = predict(scripted_model(), [talking(k) for k in range(11)])
    assert [p.reason for p in made] == [Reason.TOO_SHORT] * 7 + [None] * 4
    assert [p.logit is None for p in made] == [True] * 7 + [False] * 4
    assert [p.index for p in made] == list(range(11))
    assert len(set(logits_of(made))) == 4


def test_a_prediction_tells_its_window() -> None:
    """A prediction carries its times, what it rests on and when its newest item arrived."""
    made = predict(scripted_model(), [talking(k) for k in range(10)])
    assert [(p.start_ns, p.end_ns) for p in made[:2]] == [(0, SPEC.slice_ns), (0, 2 * SPEC.slice_ns)]
    last = made[-1]
    assert (last.start_ns, last.end_ns) == (2 * SPEC.slice_ns, 10 * SPEC.slice_ns)
    assert (last.modality, last.track, last.captured_ns) == ("av", 0, 1009)
    assert (last.coverage.video, last.coverage.audio, last.coverage.face) == (1, 1, 1)
    assert last.frames is not None
    assert last.frames.shape == (64, 3)
    assert last.sync is not None
    assert last.sync.shape == (31,)


def test_the_odds_of_the_heads_add_up_to_those_of_the_score() -> None:
    """Each head's calibrated odds by its share; none without a score."""
    scripted = scripted_model(
        scored={"av": Affine(0.5, -0.2, video=0.25, audio=0.125, motion=0.125)},
        parts={"video": Affine(2.0, 0.0), "audio": Affine(1.0, 1.0), "motion": Affine(3.0, 0.5)},
        fuse=lambda inputs: answer(np.tile([1.0, 0.25, 3.0, 0.0, -0.5], (len(inputs["video"]), 1))),
    )
    made = predict(scripted, [talking(k) for k in range(8)])
    odds = {head: math.exp(term) for head, term in made[-1].terms.items()}
    expected = {"any": 0.5 * math.exp(0.3), "video": 0.25 * math.exp(0.5)}
    expected |= {"audio": 0.125 * math.exp(4.0), "motion": 0.125 * math.exp(-1.0)}
    assert odds == pytest.approx(expected)
    assert made[-1].logit == pytest.approx(math.log(sum(odds.values())))
    assert made[0].terms == {}


def test_pictures_without_evidence_have_no_logit() -> None:
    """Where the network was told to look away, what it says of the picture is not known."""
    faces = [make_face(seed=k, ok=range(6) if k == 3 else range(8)) for k in range(8)]
    made = predict(scripted_model(), [make_slice(k, face=f, audio_ok=0.0) for k, f in enumerate(faces)])
    frames = made[-1].frames
    assert frames is not None
    assert np.flatnonzero(np.isnan(frames).any(axis=1)).tolist() == [30, 31]
    both = predict(scripted_model(), [make_slice(k, face=f) for k, f in enumerate(faces)])[-1].frames
    assert both is not None
    assert np.isfinite(both).all()


def test_tokens_are_computed_once() -> None:
    """Each slice passes each encoder once, however many windows it belongs to."""
    scripted = scripted_model()
    predict(scripted, [talking(k) for k in range(20)])
    for name in ENCODERS:
        assert scripted.backends[name].batches == [1] * 20
    assert scripted.backends["fusion"].batches == [1] * 13


def test_a_batch_goes_through_each_graph_at_once() -> None:
    """Slices and windows that come together run together."""
    scripted = scripted_model()
    predictor, states = Predictor(scripted.model), [StreamState() for _ in range(3)]
    predictor.predict([(state, talking(k)) for k in range(8) for state in states])
    for name in ENCODERS:
        assert scripted.backends[name].batches == [24]
    assert scripted.backends["fusion"].batches == [3]


def test_large_batches_are_split() -> None:
    """No graph run is larger than the limit, and the scores are those of single runs."""
    slices = [talking(k) for k in range(2 * MAX_BATCH + 9)]
    scripted, state = scripted_model(), StreamState()
    together = [p for _, p in Predictor(scripted.model).predict([(state, s) for s in slices])]
    assert scripted.backends["video"].batches == [MAX_BATCH, MAX_BATCH, 9]
    assert scripted.backends["fusion"].batches == [MAX_BATCH, MAX_BATCH, 2]
    np.testing.assert_allclose(logits_of(together), logits_of(predict(scripted_model(), slices)), rtol=1e-6)


def test_each_window_holds_its_own_eight_slices() -> None:
    """The fusion graph sees the tokens of the last 8 slices, oldest first, each from its own input."""
    seen: list[Tensors] = []

    def fuse(inputs: Tensors) -> Tensors:
        seen.append(inputs)
        return answer(np.zeros((len(inputs["video"]), 4)))

    slices = [talking(k) for k in range(10)]
    predict(scripted_model(fuse=fuse), slices)
    assert len(seen) == 3
    for at, inputs in enumerate(seen):
        window = slices[at : at + 8]
        means = {
            "video": [video_tensor(s.face.faces).mean() for s in window if s.face],
            "audio": [audio_tensor(s.audio).mean() for s in window],
            "landmarks": [landmark_tensor(s.face.landmarks, s.face.motion).mean() for s in window if s.face],
        }
        for name, expected in means.items():
            assert inputs[name].shape == (1, 64, 4)
            np.testing.assert_allclose(inputs[name][0, :, 0], np.repeat(expected, 8), rtol=1e-4, atol=1e-6)
        for name in ("video_ok", "audio_ok"):
            np.testing.assert_array_equal(inputs[name], np.ones((1, 64), np.float32))


@pytest.mark.parametrize(
    ("hop", "indices"), [(1, list(range(7, 18))), (2, [7, 9, 11, 13, 15, 17]), (4, [7, 11, 15])]
)
def test_scores_come_every_hop(hop: int, indices: list[int]) -> None:
    """With a hop of n slices there is a prediction every n slices, equal to those of hop 1."""
    slices = [talking(k) for k in range(18)]
    made = [p for p in predict(scripted_model(), slices, hop=hop) if p.logit is not None]
    assert [p.index for p in made] == indices
    every = {p.index: p.logit for p in predict(scripted_model(), slices)}
    assert [p.logit for p in made] == [every[i] for i in indices]


def test_two_streams_in_one_batch_equal_each_alone() -> None:
    """Streams that share batches do not touch each other."""
    streams = [[talking(k, seed=seed) for k in range(12)] for seed in (1, 2)]
    alone = [predict(scripted_model(), slices) for slices in streams]
    predictor, states = Predictor(scripted_model().model), [StreamState(), StreamState()]
    together: list[list[Prediction]] = [[], []]
    for pair in zip(*streams, strict=True):
        for state, prediction in predictor.predict(list(zip(states, pair, strict=True))):
            together[states.index(state)].append(prediction)
    for one, other in zip(alone, together, strict=True):
        assert [p.reason for p in one] == [p.reason for p in other]
        np.testing.assert_allclose(logits_of(one), logits_of(other), rtol=1e-6)
    assert not np.allclose(logits_of(alone[0]), logits_of(alone[1]))


def test_a_lost_slice_counts_as_missing() -> None:
    """A slice that was dropped leaves a blank in the windows it belongs to, and no longer."""
    slices = [talking(k) for k in range(20)]
    made = {p.index: p for p in predict(scripted_model(), slices[:10] + slices[11:])}
    assert 10 not in made
    for index in range(11, 18):
        assert (made[index].coverage.audio, made[index].coverage.face) == (7 / 8, 7 / 8)
        assert made[index].reason is None
    whole = {p.index: p for p in predict(scripted_model(), slices)}
    assert made[18].coverage.face == 1
    for index in (9, 18, 19):
        assert made[index].logit == whole[index].logit
    assert made[17].logit != whole[17].logit


@pytest.mark.parametrize("lost", [5, 8, 100])
def test_after_many_lost_slices_there_is_no_score(lost: int) -> None:
    """A window of which most was dropped has no score, until enough has arrived again."""
    slices = [*[talking(k) for k in range(8)], *[talking(8 + lost + k) for k in range(8)]]
    made = predict(scripted_model(scored=ALL), slices)
    assert made[7].reason is None
    assert made[8].reason is Reason.NO_MEDIA
    assert made[-1].reason is None
    assert made[-1].coverage.face == 1


def _faceless(k: int) -> Slice:
    return make_slice(k)


def _other_face(k: int) -> Slice:
    return make_slice(k, face=make_face(track=0 if k < 4 else 1))


def _small_face(k: int) -> Slice:
    return make_slice(k, face=make_face(eye_px=MIN_EYE_PX / 2))


def _silent_file(k: int) -> Slice:
    return make_slice(k, has_video=False, picture_ok=0, level=0)


def _nothing(k: int) -> Slice:
    return make_slice(k, picture_ok=0, audio_ok=0, level=0)


def _sound_file(k: int) -> Slice:
    return make_slice(k, has_video=False, picture_ok=0)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_faceless, Reason.NO_FACE),
        (_other_face, Reason.FACE_CHANGED),
        (_small_face, Reason.FACE_TOO_SMALL),
        (_silent_file, Reason.NO_SPEECH),
        (_nothing, Reason.NO_MEDIA),
        (_sound_file, Reason.UNSUPPORTED_MODALITY),
    ],
)
def test_a_window_without_evidence_abstains(make: Callable[[int], Slice], reason: Reason) -> None:
    """What cannot be judged gets a reason instead of a score, and the fusion graph never runs."""
    scripted = scripted_model()
    made = predict(scripted, [make(k) for k in range(8)])
    assert made[-1].reason is reason
    assert (made[-1].logit, made[-1].frames, made[-1].sync, dict(made[-1].parts)) == (None, None, None, {})
    assert scripted.backends["fusion"].batches == []


def test_what_is_not_there_is_not_encoded() -> None:
    """Slices without a face or without sound do not pass that encoder."""
    scripted = scripted_model()
    slices = [_faceless(0), talking(1), _nothing(2), make_slice(3, face=make_face(), audio_ok=0)]
    Predictor(scripted.model).predict([(StreamState(), s) for s in slices])
    assert [scripted.backends[name].batches for name in ENCODERS] == [[2], [2], [2]]


def test_a_new_face_is_scored_after_its_own_window() -> None:
    """When the main face changes, its predecessor's pictures are masked until enough are its own."""
    made = predict(scripted_model(), [make_slice(k, face=make_face(track=int(k >= 8))) for k in range(16)])
    assert [p.reason for p in made[7:]] == [None, *[Reason.FACE_CHANGED] * 5, None, None, None]
    assert [p.track for p in made[7:]] == [0, *[None] * 5, 1, 1, 1]
    assert made[13].coverage.face == 0.75


@pytest.mark.parametrize(
    ("make", "modality", "video_ok", "audio_ok", "parts"),
    [
        (talking, "av", 1, 1, {"video", "audio", "motion", "desync"}),
        (lambda k: make_slice(k, face=make_face(), level=0), "video", 1, 0, {"video", "motion"}),
        (_faceless, "audio", 0, 1, {"audio"}),
    ],
)
def test_a_score_rests_on_its_modality_alone(
    make: Callable[[int], Slice], modality: str, video_ok: int, audio_ok: int, parts: set[str]
) -> None:
    """The masks hide the modality that a window is not scored by, and only its own parts are told."""
    seen: list[Tensors] = []

    def fuse(inputs: Tensors) -> Tensors:
        seen.append(inputs)
        return answer(np.zeros((1, 4)))

    every = dict.fromkeys(("video", "audio", "motion", "desync"), AS_IS)
    made = predict(scripted_model(scored=ALL, parts=every, fuse=fuse), [make(k) for k in range(8)])[-1]
    assert (made.modality, made.reason, set(made.parts)) == (modality, None, parts)
    assert (made.sync is None) == (modality != "av")
    assert (made.track is None) == (modality == "audio")
    assert (seen[0]["video_ok"] == video_ok).all()
    assert (seen[0]["audio_ok"] == audio_ok).all()


def test_masks_follow_the_pictures_with_the_face() -> None:
    """A picture in which the face was not found is hidden from the network, and only that one."""
    seen: list[Tensors] = []

    def fuse(inputs: Tensors) -> Tensors:
        seen.append(inputs)
        return answer(np.zeros((1, 4)))

    face = make_face(ok=[0, 1, 2, 3, 4, 6, 7])
    predict(scripted_model(fuse=fuse), [make_slice(k, face=face) for k in range(8)])
    assert seen[0]["video_ok"].reshape(8, 8).tolist() == [[1, 1, 1, 1, 1, 0, 1, 1]] * 8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("output", ["clip", "frames", "sync", "novelty"])
def test_no_number_is_no_score(output: str, bad: float) -> None:
    """NaN or infinity anywhere in the network's answer is an abstention, for that window alone."""
    state, other = StreamState(), StreamState()

    def fuse(inputs: Tensors) -> Tensors:
        outputs = {
            name: np.array(values) for name, values in answer(np.ones((len(inputs["video"]), 4))).items()
        }
        outputs[output][0].flat[-1] = bad
        return outputs

    predictor = Predictor(scripted_model(fuse=fuse).model)
    made = predictor.predict([(s, talking(k)) for k in range(8) for s in (state, other)])[-2:]
    assert [(p.reason, p.logit) for _, p in made] == [(Reason.MODEL_NAN, None), (None, 1.0)]
    assert made[0][1].parts == {}


def test_nan_in_the_tokens_reaches_the_gate() -> None:
    """NaN that an encoder makes is an abstention as long as its slice is in the window, and no longer."""
    calls = []

    def encode(graph: str, inputs: Tensors) -> Tensors:
        calls.append(graph)
        value = math.nan if graph == "audio" and calls.count("audio") == 9 else 1.0
        return {"tokens": np.full((len(inputs[graph]), 8, 4), value, np.float32)}

    made = predict(scripted_model(encode=encode), [talking(k) for k in range(18)])
    assert [p.reason for p in made[7:]] == [None, *[Reason.MODEL_NAN] * 8, None, None]


@pytest.mark.parametrize("graph", [*ENCODERS, "fusion"])
def test_a_failing_runtime_is_never_a_score(graph: str) -> None:
    """When the runtime fails the error comes through, and no prediction with it."""

    def fail(inputs: Tensors) -> Tensors:
        raise BackendError(f"{graph}.onnx: out of memory")

    def encode(name: str, inputs: Tensors) -> Tensors:
        return fail(inputs) if name == graph else mean_tokens(name, inputs)

    scripted = scripted_model(encode=encode, fuse=fail if graph == "fusion" else None)
    predictor, state = Predictor(scripted.model), StreamState()
    with pytest.raises(BackendError, match="out of memory"):
        predictor.predict([(state, talking(k)) for k in range(8)])


def test_an_answer_that_does_not_fit_is_never_a_score() -> None:
    """Outputs that are not those of the contract are an error."""
    scripted = scripted_model(fuse=lambda inputs: {"clip": np.zeros((1, 4), np.float32)})
    with pytest.raises(ContractError, match="fusion: got tensors"):
        predict(scripted, [talking(k) for k in range(8)])


def _fixed(clip: list[float]) -> Callable[[Tensors], Tensors]:
    return lambda inputs: answer(np.tile(clip, (len(inputs["video"]), 1)))


@pytest.mark.parametrize(
    ("make", "logit"),
    [
        (talking, 2.0 * 1.5 - 0.25),
        (lambda k: make_slice(k, face=make_face(), level=0), 3.0 * 1.5 + 1.0),
        (_faceless, -1.0 * 1.5),
    ],
    ids=["av", "video", "audio"],
)
def test_calibration_is_by_modality(make: Callable[[int], Slice], logit: float) -> None:
    """The score is scale * logit + offset, with the numbers of the modality it rests on."""
    scored = {"av": Affine(2.0, -0.25), "video": Affine(3.0, 1.0), "audio": Affine(-1.0, 0.0)}
    scripted = scripted_model(scored=scored, fuse=_fixed([1.5, 0, 0, 0]))
    assert predict(scripted, [make(k) for k in range(8)])[-1].logit == logit


def test_the_parts_join_the_score() -> None:
    """The heads of picture, sound and motion count by their shares, the whole by its last scaling."""
    by = Affine(2.0, -0.25, video=0.25, audio=0.125, motion=0.25, gain=0.5, shift=1.0)
    parts = {"video": Affine(1.0, 0.5), "audio": Affine(0.25, -1.0), "motion": Affine(0.5, 0.25)}
    scripted = scripted_model(scored={"av": by}, parts=parts, fuse=_fixed([1.5, -3.0, 8.0, 99.0, 3.5]))
    made = predict(scripted, [talking(k) for k in range(8)])[-1]
    odds = 0.375 * math.exp(2.0 * 1.5 - 0.25) + 0.25 * math.exp(-2.5) + 0.125 * math.exp(1.0)
    odds += 0.25 * math.exp(2.0)
    assert made.logit == pytest.approx(0.5 * math.log(odds) + 1.0)


def test_parts_are_calibrated_probabilities() -> None:
    """Each part is the logistic function of its own calibrated logit; an uncalibrated part is left out."""
    parts = {"video": Affine(2.0, 0.5), "desync": Affine(1.0, 0.0)}
    scripted = scripted_model(parts=parts, fuse=_fixed([0, -1.0, 5.0, 0.25]))
    made = predict(scripted, [talking(k) for k in range(8)])[-1]
    assert made.parts == pytest.approx(
        {"video": 1 / (1 + math.exp(1.5)), "desync": 1 / (1 + math.exp(-0.25))}, rel=1e-6
    )


@pytest.mark.parametrize("extreme", [1e30, -1e30])
def test_extreme_logits_stay_probabilities(extreme: float) -> None:
    """A very sure network does not overflow."""
    made = predict(scripted_model(fuse=_fixed([extreme] * 4)), [talking(k) for k in range(8)])[-1]
    assert made.logit == pytest.approx(extreme)
    assert list(made.parts.values()) == pytest.approx([float(extreme > 0)] * 3, abs=1e-20)


def test_an_empty_batch_is_nothing() -> None:
    """Without slices no graph runs."""
    scripted = scripted_model()
    assert Predictor(scripted.model).predict([]) == []
    assert all(backend.batches == [] for backend in scripted.backends.values())
