from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from avff.engine import features
from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.media import Float32
from avff.engine.spec import SPEC

SLICE = SPEC.context_samples + SPEC.slice_samples


def _tone(hz: float, samples: int = SLICE, level: float = 0.5) -> Float32:
    time_s = np.arange(samples) / SPEC.rate_hz
    return (level * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def _noise(samples: int, level: float = 0.1) -> Float32:
    return (np.random.default_rng(0).standard_normal(samples) * level).astype(np.float32)


def _mel(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return 2595 * np.log10(1 + np.asarray(hz, np.float64) / 700)


def test_video_tensor_has_the_networks_form() -> None:
    """Faces become float32 pictures of the network's size, channels first, 0…1."""
    faces = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    tensor = video_tensor(faces)
    assert tensor.shape == (8, 3, 128, 128)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert 0 <= tensor.min() < tensor.max() <= 1


@pytest.mark.parametrize(("value", "level"), [(0, 0.0), (255, 1.0), (51, 0.2)])
def test_video_tensor_maps_bytes_to_unit_range(value: int, level: float) -> None:
    """Black is 0 and white is 1."""
    tensor = video_tensor(np.full((2, 128, 128, 3), value, np.uint8))
    np.testing.assert_allclose(tensor, level, atol=1e-6)


def test_video_tensor_keeps_places_and_channels() -> None:
    """Red stays channel 0, and the picture is neither turned nor mirrored."""
    faces = np.zeros((2, 128, 128, 3), np.uint8)
    faces[0, :64, 64:, 0] = 255
    faces[1, 64:, :64, 2] = 255
    tensor = video_tensor(faces)
    lit = tensor > 0.5
    half = SPEC.input_px // 2
    assert lit[0, 0, :half, half:].all()
    assert lit[1, 2, half:, :half].all()
    assert lit.sum() == 2 * half * half


def test_video_tensor_keeps_every_value() -> None:
    """At the face's own size nothing is resampled: what a codec or a seam left is all there."""
    faces = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.round(video_tensor(faces) * 255).transpose(0, 2, 3, 1), faces)


def test_video_tensor_of_a_smaller_input_averages_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pixel is the mean of the area it covers, here 4/3 of a stripe: none is skipped."""
    monkeypatch.setattr(features, "SPEC", replace(SPEC, input_px=96))
    faces = np.zeros((1, 128, 128, 3), np.uint8)
    faces[:, :, ::2] = 200
    tensor = video_tensor(faces)
    np.testing.assert_allclose(tensor[0, :, 0, :3] * 255, [[150, 100, 50]] * 3, atol=1)
    np.testing.assert_array_equal(tensor, np.tile(tensor[..., :1, :3], (1, 1, 96, 32)))


def test_audio_tensor_has_the_networks_form() -> None:
    """A slice of sound becomes two float32 banks of 80 bands by 32 spectra."""
    tensor = audio_tensor(_noise(SLICE))
    assert tensor.shape == (2, 80, 32)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous


@pytest.mark.parametrize("level", [0.0, 1e-6, 0.1, 1.0, 100.0])
def test_audio_tensor_stays_in_range(level: float) -> None:
    """Silence and clipping alike give finite values of at most 4."""
    tensor = audio_tensor(_noise(SLICE, level))
    assert np.isfinite(tensor).all()
    assert np.abs(tensor).max() <= 4


def test_speech_level_is_near_zero() -> None:
    """Noise of about the level of speech gives values in the network's middle range."""
    tensor = audio_tensor(_noise(SLICE, 0.05))
    assert abs(float(tensor.mean())) < 1
    assert np.abs(tensor).max() < 2.5


@pytest.mark.parametrize("hz", [150, 440, 1000, 2500, 5000, 7500])
def test_a_tone_lights_its_bands(hz: float) -> None:
    """A tone is strongest in the mel band and in the linear band whose centre is nearest."""
    mel, linear = audio_tensor(_tone(hz)).mean(axis=2)
    step = _mel(8000) / 81
    # A band of a low mel centre is narrower than a bin of 31 Hz: allow for the bin beside it.
    slack = max(1.0, 31.25 / (8000 / 81), float(_mel(hz + 31.25) - _mel(hz)) / float(step))
    assert abs(int(mel.argmax()) - (_mel(hz) / step - 1)) <= slack
    assert abs(int(linear.argmax()) - (hz / (8000 / 81) - 1)) <= 0.6


@pytest.mark.parametrize("gain_db", [-12.0, 6.0])
def test_gain_moves_log_power(gain_db: float) -> None:
    """A change of level moves every loud band by the same change of log power, in units of the scale."""
    pcm = _noise(SLICE, 0.1)
    moved = audio_tensor(pcm * np.float32(10 ** (gain_db / 20))) - audio_tensor(pcm)
    np.testing.assert_allclose(moved, gain_db / 10 * np.log(10) / 5, atol=0.01)


@pytest.mark.parametrize("slices", [1, 5])
def test_slices_with_context_equal_the_whole(slices: int) -> None:
    """Spectra of slices cut with their context are the spectra of the uncut sound."""
    pcm = np.concatenate([np.zeros(SPEC.context_samples, np.float32), _noise(slices * SPEC.slice_samples)])
    step = SPEC.slice_samples
    cut = [audio_tensor(pcm[k * step : k * step + SLICE]) for k in range(slices)]
    np.testing.assert_allclose(np.concatenate(cut, axis=2), audio_tensor(pcm), atol=1e-5)


def test_a_click_shows_in_the_spectra_that_hold_it() -> None:
    """A click early in a slice lights only the first spectra: nothing reaches into the future."""
    pcm = np.zeros(SLICE, np.float32)
    pcm[SPEC.context_samples + 200] = 1
    lit = audio_tensor(pcm)[1].max(axis=0) > audio_tensor(np.zeros(SLICE, np.float32)).max() + 0.1
    hop, ahead = SPEC.fft_hop, (SPEC.fft_size - SPEC.fft_window) // 2
    at = SPEC.context_samples + 200
    holding = [k * hop + ahead <= at < k * hop + ahead + SPEC.fft_window for k in range(32)]
    assert [k for k in range(32) if lit[k]] == [k for k in range(32) if holding[k]]


@pytest.mark.parametrize("bank", [features._mel_bank, features._linear_bank])
def test_every_filter_has_unit_sum(bank: Callable[[], Float32]) -> None:
    """Each of the 80 filters is a weighted mean: its weights are at least 0 and sum to 1."""
    weights = bank()
    assert weights.shape == (257, 80)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize(("bank", "linear"), [(features._mel_bank, False), (features._linear_bank, True)])
def test_filters_lie_at_their_frequencies(bank: Callable[[], Float32], linear: bool) -> None:
    """The middle of each filter is its nominal frequency, to half the distance of two bins."""
    middles = (np.arange(257) * 31.25) @ bank()
    steps = np.arange(1, 81) / 81
    nominal = 8000 * steps if linear else 700 * (10 ** (_mel(8000) * steps / 2595) - 1)
    # Triangles in mel lean to the right, the more the wider they are.
    assert np.abs(middles - nominal).max() <= 31.25 / 2 + (0 if linear else 3)


def test_no_bin_between_the_outer_centres_is_lost() -> None:
    """Every frequency reaches at least one linear filter."""
    heard = features._linear_bank().sum(axis=1) > 0
    assert heard[1:-1].all()


def test_landmark_tensor_has_the_networks_form() -> None:
    """89 points and 6 motion values become 184 numbers a picture."""
    rng = np.random.default_rng(0)
    tensor = landmark_tensor(
        rng.uniform(0, 128, (8, 468, 3)).astype(np.float32), rng.normal(0, 1, (8, 6)).astype(np.float32)
    )
    assert tensor.shape == (8, SPEC.landmark_values)
    assert tensor.dtype == np.float32
    assert np.abs(tensor).max() <= 4


def test_landmarks_are_centred_and_scaled() -> None:
    """The middle of the aligned face is 0, its right and lower edges are 2; depth is left out."""
    points = np.full((1, 468, 3), 64, np.float32)
    still = np.zeros((1, 6), np.float32)
    np.testing.assert_allclose(landmark_tensor(points, still), 0, atol=1e-6)
    points[..., 0], points[..., 1], points[..., 2] = 128, 0, 9999
    tensor = landmark_tensor(points, still)[0, :178].reshape(89, 2)
    np.testing.assert_allclose(tensor, np.tile([2, -2], (89, 1)), atol=1e-6)


def test_motion_follows_the_points() -> None:
    """The last six numbers are roll, yaw, pitch, shift and growth, each at its own scale."""
    motion = np.array([[0.1, -0.2, 0.3, 0.05, -0.05, 0.02]], np.float32)
    tensor = landmark_tensor(np.full((1, 468, 3), 64, np.float32), motion)
    np.testing.assert_allclose(tensor[0, 178:], [0.2, -0.4, 0.6, 0.5, -0.5, 0.4], atol=1e-6)


def test_wild_motion_is_limited() -> None:
    """A jump of the head cannot leave the network's range."""
    motion = np.full((1, 6), 1e6, np.float32)
    assert landmark_tensor(np.full((1, 468, 3), -1e6, np.float32), motion).min() == -4
    assert landmark_tensor(np.full((1, 468, 3), 64, np.float32), motion)[0, 178:].tolist() == [4] * 6
