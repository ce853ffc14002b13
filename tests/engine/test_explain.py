from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.contract import Affine
from avff.engine.errors import BackendError, ExplainError
from avff.engine.explain import OcclusionMap, Window, choose_window, explain, face_map, sound_map
from avff.engine.media import NS_PER_S
from avff.engine.predictor import Predictor
from avff.engine.slices import Slice
from avff.engine.spec import SPEC
from tests.support.engine import (
    WIDTH,
    ScriptedModel,
    answer,
    make_face,
    make_slice,
    mean_tokens,
    scripted_model,
    summed_tokens,
)

AS_IS = Affine(1.0, 0.0)
ALL = {"av": AS_IS, "video": AS_IS, "audio": AS_IS}
ROWS, COLUMNS = slice(88, 104), slice(32, 48)
"""A square of the aligned face, 128 px a side."""
REGION = tuple(
    slice(s.start * SPEC.input_px // SPEC.face_px, s.stop * SPEC.input_px // SPEC.face_px)
    for s in (ROWS, COLUMNS)
)
"""The same in the picture that the network gets."""
LOUD_SLICE, LOUD_SPECTRA, LOUD_BANDS = 5, slice(8, 16), slice(40, 48)
"""A syllable: 1.68 to 1.76 s from the window's start, mel bands 40 to 48."""


def _tokens(values: np.ndarray) -> Tensors:
    """One number per slice in all of its tokens, scaled so that a sum over a window is a sum over slices."""
    shape = (len(values), SPEC.slice_frames, WIDTH)
    spread = np.broadcast_to(values[:, None, None] / (SPEC.slice_frames * WIDTH), shape)
    return {"tokens": np.ascontiguousarray(spread, np.float32)}


def _looks_at(region: Callable[[str, np.ndarray], np.ndarray]) -> ScriptedModel:
    """A model whose logits are the sums of what ``region`` finds in the slices of each encoder."""
    return scripted_model(scored=ALL, encode=lambda graph, inputs: _tokens(region(graph, inputs[graph])))


def _mouth(graph: str, values: np.ndarray) -> np.ndarray:
    """Brightness of one region of the face, and of nothing else."""
    if graph != "video":
        return np.zeros(len(values))
    return np.asarray(values[(slice(None), slice(None), slice(None), *REGION)].mean(axis=(1, 2, 3, 4)))


def _syllable(graph: str, values: np.ndarray) -> np.ndarray:
    """Level of the mel bands that the syllable is in, at any time."""
    if graph != "audio":
        return np.zeros(len(values))
    return np.asarray(values[:, 0, LOUD_BANDS].mean(axis=(1, 2)))


def _face_slice(index: int, *, sound: bool = True, bright: int = 255) -> Slice:
    """A grey face with a bright square in the region, under noise, and a voice."""
    face = make_face(seed=index, pose=(0.0, 0.0, 0.0))
    noise = np.random.default_rng(index).integers(90, 110, face.faces.shape, dtype=np.uint8)
    face.faces[:] = noise
    face.faces[:, ROWS, COLUMNS] = bright
    return make_slice(index, face=face, audio_ok=1.0 if sound else 0.0, captured_ns=index)


def _window(predictor: Predictor, slices: list[Slice]) -> Window:
    return choose_window(iter(slices), predictor)


def _tone(index: int) -> Slice:
    """Faint noise; in one slice a burst of 1.7 kHz, which is mel band 43 or so."""
    piece = make_slice(index, level=0.003)
    if index == LOUD_SLICE:
        at = np.arange(SPEC.fft_hop * 8)
        start = SPEC.context_samples + LOUD_SPECTRA.start * SPEC.fft_hop
        piece.audio[start : start + len(at)] += 0.3 * np.sin(2 * np.pi * 1700 * at / SPEC.rate_hz)
    return piece


def test_the_face_map_points_at_the_region_that_counts() -> None:
    """A model that looks at one square only: its middle is the maximum, the rest of the face is nothing."""
    scripted = _looks_at(_mouth)
    predictor = Predictor(scripted.model)
    found = face_map(predictor, _window(predictor, [_face_slice(k) for k in range(8)]))
    assert found.values.shape == (12, 12)
    value, y, x = found.peak
    step = SPEC.face_px / 12
    assert (abs(y - 96), abs(x - 40)) < (step, step)
    far = np.hypot(found.y[:, None] - 96, found.x[None] - 40) > 45
    assert value > 1
    assert np.abs(found.values[far]).max() < 0.01 * value


def test_a_region_that_speaks_against_is_below_zero() -> None:
    """The map has a sign: what covering makes more suspicious speaks against a fake."""
    predictor = Predictor(_looks_at(_mouth).model)
    found = face_map(predictor, _window(predictor, [_face_slice(k, bright=0) for k in range(8)]))
    row, column = np.unravel_index(int(found.values.argmin()), found.values.shape)
    assert found.values.min() < -0.5
    assert abs(found.values.max()) < 0.02
    assert (abs(found.y[row] - 96), abs(found.x[column] - 40)) < (13, 13)


def test_values_are_the_loss_of_calibrated_log_odds() -> None:
    """Twice the scale of the calibration gives twice the map; the offset does not matter."""
    slices = [_face_slice(k) for k in range(8)]
    maps = []
    for affine in (AS_IS, Affine(2.0, -1.0)):
        scripted = scripted_model(scored={"av": affine}, encode=lambda g, i: _tokens(_mouth(g, i[g])))
        predictor = Predictor(scripted.model)
        maps.append(face_map(predictor, _window(predictor, slices), places=4).values)
    np.testing.assert_allclose(maps[1], 2 * maps[0], atol=1e-5)


def test_only_the_covered_encoder_runs_again() -> None:
    """A face map costs pictures, a sound map sound; the points are looked at once."""
    scripted = _looks_at(_mouth)
    predictor = Predictor(scripted.model)
    window = _window(predictor, [_face_slice(k) for k in range(8)])
    ran = {name: len(backend.batches) for name, backend in scripted.backends.items()}
    face_map(predictor, window, places=2)
    again = {name: backend.batches[ran[name] :] for name, backend in scripted.backends.items()}
    assert again == {"video": [8, 32], "audio": [8], "landmarks": [8], "fusion": [1, 4]}
    ran = {name: len(backend.batches) for name, backend in scripted.backends.items()}
    sound_map(predictor, window, times=8, bands=1)
    again = {name: backend.batches[ran[name] :] for name, backend in scripted.backends.items()}
    assert (again["video"], again["landmarks"], again["fusion"]) == ([8], [8], [1, 4, 4])
    assert sum(again["audio"][1:]) <= 3 * 8  # the slice itself, and where it fades into the next


def test_pictures_without_the_face_stay_as_they_are() -> None:
    """A patch is laid over faces only: it must not put something into an empty picture."""
    seen: list[np.ndarray] = []

    def encode(graph: str, inputs: Tensors) -> Tensors:
        if graph == "video":
            seen.append(inputs["video"].copy())
        return mean_tokens(graph, inputs)

    predictor = Predictor(scripted_model(encode=encode).model)
    slices = [make_slice(k, face=make_face(seed=k, ok=range(7), pose=(0, 0, 0))) for k in range(8)]
    window = _window(predictor, slices)
    seen.clear()
    face_map(predictor, window, places=2)
    assert all(not batch[:, 7].any() for batch in seen)
    assert any(batch[:, 6].any() for batch in seen)


def test_the_sound_map_points_at_the_syllable_that_counts() -> None:
    """A model that hears one range of bands only: the maximum is the burst, in time and in pitch."""
    predictor = Predictor(_looks_at(_syllable).model)
    window = _window(predictor, [_tone(k) for k in range(8)])
    assert window.prediction.modality == "audio"
    found = sound_map(predictor, window)
    assert found.values.shape == (10, 16)
    value, band, at_s = found.peak
    assert value > 0.05
    assert band == 44.0
    assert at_s == pytest.approx(1.68)
    elsewhere = np.delete(found.values, int(np.argmax(found.y == 44.0)), axis=0)
    assert np.abs(elsewhere).max() < 0.1 * value
    times, bands = (sound_map(predictor, window, **{axis: 1}) for axis in ("bands", "times"))
    assert (times.values.shape, bands.values.shape) == ((1, 16), (10, 1))
    assert times.peak[2] == pytest.approx(1.68)
    assert bands.peak[1] == 44.0


def _listening() -> tuple[Predictor, list[np.ndarray]]:
    """Return a predictor, and the list that every batch of its sound encoder is put on."""
    heard: list[np.ndarray] = []

    def encode(graph: str, inputs: Tensors) -> Tensors:
        if graph == "audio":
            heard.append(inputs["audio"].copy())
        return mean_tokens(graph, inputs)

    return Predictor(scripted_model(scored=ALL, encode=encode).model), heard


def test_muting_everything_leaves_the_floor() -> None:
    """One place for all times and bands takes the sound down to its floor and nothing below it."""
    predictor, heard = _listening()
    window = _window(predictor, [_tone(k) for k in range(8)])
    heard.clear()
    sound_map(predictor, window, times=1, bands=1)
    before, after = heard
    floor = np.percentile(before.transpose(1, 2, 0, 3).reshape(2, 80, -1), 5, axis=2)
    assert (after <= before + 1e-6).all()
    np.testing.assert_allclose(after.max(axis=(0, 3)), floor, atol=1e-5)


def test_linear_bands_are_muted_with_the_mel_bands_of_their_pitch() -> None:
    """Half the mel scale is some 1.7 kHz: muting the upper half leaves the linear bands below it alone."""
    predictor, heard = _listening()
    window = _window(predictor, [make_slice(k) for k in range(8)])
    heard.clear()
    sound_map(predictor, window, times=1, bands=2)
    before, both = heard
    upper = both[8:]
    np.testing.assert_array_equal(upper[:, 1, :8], before[:, 1, :8])
    np.testing.assert_array_equal(upper[:, 0, :34], before[:, 0, :34])
    assert (upper[:, 1, 30:] < before[:, 1, 30:]).mean() > 0.9


@pytest.mark.parametrize(
    ("slices", "face", "sound"),
    [
        ([_face_slice(k) for k in range(8)], True, True),
        ([_face_slice(k, sound=False) for k in range(8)], True, False),
        ([make_slice(k) for k in range(8)], False, True),
    ],
    ids=["av", "video", "audio"],
)
def test_there_are_maps_of_what_the_score_rests_on(slices: list[Slice], face: bool, sound: bool) -> None:
    """A score without a face has no map of one, and one without sound none of that."""
    predictor = Predictor(scripted_model(scored=ALL).model)
    window = _window(predictor, slices)
    made = explain(predictor, window)
    assert (made.face is not None, made.sound is not None) == (face, sound)
    assert [m is not None for m in (made.times, made.bands)] == [sound] * 2
    if not face:
        with pytest.raises(ExplainError, match="does not rest on its video"):
            face_map(predictor, window)


def _at_time(at_s: float | None, count: int = 20) -> Window:
    """Slice 12 is by far the brightest, the others get darker: the first window that holds it is highest."""
    predictor = Predictor(_looks_at(_mouth).model)
    slices = [_face_slice(k, bright=255 if k == 12 else 150 - k) for k in range(count)]
    return choose_window(iter(slices), predictor, None if at_s is None else round(at_s * NS_PER_S))


@pytest.mark.parametrize(
    ("at_s", "last"), [(None, 12), (0.0, 7), (1.28, 7), (3.0, 12), (3.25, 13), (6.39, 19), (6.4, 19)]
)
def test_the_window_is_the_highest_or_the_one_around_a_moment(at_s: float | None, last: int) -> None:
    """Near the ends of a stream the nearest full window is taken."""
    window = _at_time(at_s)
    assert window.prediction.index == last
    assert [s.index for s in window.slices] == list(range(last - 7, last + 1))


def test_the_maps_start_from_the_score_of_the_stream() -> None:
    """The window's slices alone give the log-odds that the stream gave."""
    predictor, window = Predictor(_looks_at(_mouth).model), _at_time(None)
    (again,) = predictor.score([tuple(predictor.encode(window.slices))])
    assert again.logit == pytest.approx(window.prediction.logit, abs=1e-5)


@pytest.mark.parametrize(
    ("slices", "at_s", "message"),
    [
        ([], None, r"no window has a score that could be explained \(nothing in it\)"),
        ([_face_slice(k) for k in range(5)], None, r"\(too_short 5\)"),
        ([_face_slice(k) for k in range(5)], 0.5, r"\(too_short 5\)"),
        ([make_slice(k, audio_ok=0.0) for k in range(10)], None, r"\(too_short 7, no_face 3\)"),
        ([make_slice(k, audio_ok=0.0) for k in range(10)], 1.5, "the window 0.32-2.88 s .*: no_face"),
        ([_face_slice(k) for k in range(10)], 9.0, "9 s is past the end, 3.2 s"),
    ],
    ids=["nothing", "short", "short-at", "no-face", "no-face-at", "past-the-end"],
)
def test_what_has_no_score_is_not_explained(slices: list[Slice], at_s: float | None, message: str) -> None:
    """The reason is told."""
    at_ns = None if at_s is None else round(at_s * NS_PER_S)
    with pytest.raises(ExplainError, match=message):
        choose_window(iter(slices), Predictor(scripted_model().model), at_ns)


def test_no_more_of_a_stream_is_read_than_needed() -> None:
    """For a moment early in a long file the rest is not decoded."""
    predictor, rest = Predictor(scripted_model().model), iter([_face_slice(k) for k in range(30)])
    choose_window(rest, predictor, NS_PER_S)
    assert next(rest).index < 12


def test_a_covered_window_without_a_number_is_an_error() -> None:
    """A network that breaks down on a patch gives no map with a hole."""
    runs = 0

    def fuse(inputs: Tensors) -> Tensors:
        nonlocal runs
        runs += 1
        return summed_tokens(inputs) if runs < 3 else answer(np.full((len(inputs["video"]), 4), np.nan))

    predictor = Predictor(scripted_model(fuse=fuse).model)
    window = _window(predictor, [_face_slice(k) for k in range(8)])
    with pytest.raises(BackendError, match="no number for a covered window"):
        face_map(predictor, window, places=2)


def test_the_peak_is_the_highest_value_and_its_place() -> None:
    """Not the largest in size: what speaks against a fake is no peak."""
    values = np.array([[0.1, -3.0], [0.5, 0.2]], np.float32)
    found = OcclusionMap(values, np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32))
    assert found.peak == (0.5, 2.0, 3.0)
