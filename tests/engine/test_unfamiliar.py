"""What is unlike anything that the model was trained on gets no score."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.contract import Affine
from avff.engine.explain import choose_window, face_map, sound_map
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Reason, Slice
from avff.engine.spec import SPEC
from tests.support.engine import answer, make_face, make_slice, mean_tokens, scripted_model, summed_tokens

AS_IS = Affine(1.0, 0.0)
ALL = {"av": AS_IS, "video": AS_IS, "audio": AS_IS}
LIMITS = {"video": 2.0, "audio": 3.0}
Make = Callable[[int], Slice]


def talking(k: int) -> Slice:
    return make_slice(k, face=make_face(seed=k))


def mute(k: int) -> Slice:
    return make_slice(k, face=make_face(seed=k), level=0)


def faceless(k: int) -> Slice:
    return make_slice(k)


def predicted(
    make: Make, video: float, audio: float, *, limits: Mapping[str, float] | None = LIMITS, slices: int = 8
) -> list[Prediction]:
    """What a model of this novelty says of a stream."""

    def fuse(inputs: Tensors) -> Tensors:
        return answer(np.full((len(inputs["video"]), 4), 0.5), (video, audio))

    predictor, state = Predictor(scripted_model(scored=ALL, fuse=fuse, limits=limits).model), StreamState()
    return [p for _, p in predictor.predict([(state, make(k)) for k in range(slices)])]


@pytest.mark.parametrize(
    ("make", "modality", "video", "audio", "reason"),
    [
        (talking, "av", 1.0, 1.0, None),
        (talking, "av", 2.5, 1.0, Reason.UNFAMILIAR),
        (talking, "av", 1.0, 3.5, Reason.UNFAMILIAR),
        (talking, "av", 2.5, 3.5, Reason.UNFAMILIAR),
        (mute, "video", 1.0, 3.5, None),
        (mute, "video", 2.5, 1.0, Reason.UNFAMILIAR),
        (faceless, "audio", 2.5, 1.0, None),
        (faceless, "audio", 1.0, 3.5, Reason.UNFAMILIAR),
    ],
)
def test_only_what_a_score_rests_on_must_be_familiar(
    make: Make, modality: str, video: float, audio: float, reason: Reason | None
) -> None:
    """Over its limit a modality stops the scores that use it, and no others."""
    made = predicted(make, video, audio)[-1]
    assert (made.modality, made.reason) == (modality, reason)
    assert made.logit == (0.5 if reason is None else None)


def test_an_unfamiliar_window_tells_nothing_else() -> None:
    """Neither parts nor pictures nor the curve, as with every other reason."""
    made = predicted(talking, 9.0, 9.0)[-1]
    assert str(made.reason) == "unfamiliar"
    assert (made.frames, made.sync, dict(made.parts), dict(made.terms)) == (None, None, {}, {})
    assert made.coverage.face == 1.0


@pytest.mark.parametrize("beyond", [False, True], ids=["at", "beyond"])
def test_the_limit_itself_is_familiar(beyond: bool) -> None:
    """It is the last value that is scored, in the float32 that the graph gives."""
    values = [np.float32(limit) for limit in LIMITS.values()]
    if beyond:
        values[0] = np.nextafter(values[0], np.float32(9))
    made = predicted(talking, *map(float, values))[-1]
    assert made.reason == (Reason.UNFAMILIAR if beyond else None)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(None, None), ({"audio": 3.0}, None), ({"video": 2.0}, Reason.UNFAMILIAR)],
    ids=["none", "of sound", "of picture"],
)
def test_what_has_no_limit_is_scored(limits: Mapping[str, float] | None, reason: Reason | None) -> None:
    """However unlike the training data it is."""
    assert predicted(talking, 1e30, 1.0, limits=limits)[-1].reason == reason


def test_each_window_is_judged_by_itself() -> None:
    """One that is unfamiliar does not spoil those beside it in the batch."""

    def fuse(inputs: Tensors) -> Tensors:
        made = answer(np.full((len(inputs["video"]), 4), 0.5))
        made["novelty"][1, 0] = 2.5
        return made

    predictor, state = Predictor(scripted_model(fuse=fuse, limits=LIMITS).model), StreamState()
    made = [p for _, p in predictor.predict([(state, talking(k)) for k in range(10)])]
    assert [p.reason for p in made[7:]] == [None, Reason.UNFAMILIAR, None]


def test_explanation_asks_about_covered_windows_all_the_same() -> None:
    """A face with a patch on it, or a muted voice, is unlike anything; the maps are of its numbers."""

    def fuse(inputs: Tensors) -> Tensors:
        made = summed_tokens(inputs)
        # Nothing is familiar but the very window that was shown.
        made["novelty"][:] = np.abs(made["clip"][:, :1] - shown[0]) * 1e6 if shown else 1.0
        shown.append(made["clip"][0, 0])
        return made

    shown: list[np.float32] = []
    predictor = Predictor(scripted_model(scored=ALL, fuse=fuse, limits=LIMITS).model)
    window = choose_window(iter([talking(k) for k in range(8)]), predictor)
    assert window.prediction.reason is None
    for made in (face_map(predictor, window, places=2), sound_map(predictor, window, times=2, bands=2)):
        assert np.isfinite(made.values).all()
        assert np.abs(made.values).max() > 1e-3


def test_each_encoder_has_tokens_of_its_own_width() -> None:
    """Also where there is none to encode: a slice without face, one without sound, one that was lost."""
    widths = {"audio": 9, "landmarks": 7}
    shapes: list[dict[str, tuple[int, ...]]] = []

    def encode(graph: str, inputs: Tensors) -> Tensors:
        tokens = mean_tokens(graph, inputs)["tokens"][..., :1]
        return {"tokens": np.repeat(tokens, widths.get(graph, 4), axis=2)}

    def fuse(inputs: Tensors) -> Tensors:
        shapes.append({name: inputs[name].shape for name in ("video", "audio", "landmarks")})
        for name in ("video", "landmarks"):
            assert not inputs[name][0, : SPEC.slice_frames].any()
        assert not inputs["audio"][0, SPEC.slice_frames : 3 * SPEC.slice_frames].any()
        return answer(np.zeros((len(inputs["video"]), 4)))

    silent = make_slice(1, face=make_face(seed=1), audio_ok=0)
    slices = [faceless(0), silent, *(talking(k) for k in range(3, 8))]
    predictor, state = Predictor(scripted_model(encode=encode, fuse=fuse, widths=widths).model), StreamState()
    *_, (_, made) = predictor.predict([(state, piece) for piece in slices])
    assert made.reason is None
    assert shapes == [{"video": (1, 64, 4), "audio": (1, 64, 9), "landmarks": (1, 64, 7)}]
