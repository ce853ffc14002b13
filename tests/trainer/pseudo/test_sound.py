"""Recipes that change the sound: vocoders, splices and displacements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy.signal import fftconvolve, welch

from avff.engine.media import Float32
from avff.trainer.data.sample import Donors
from avff.trainer.pseudo.audio import audio_swap, desync, frames_of, local_desync, splice
from avff.trainer.pseudo.source_filter import _pitch, source_filter
from avff.trainer.pseudo.vocoder import VOCODERS, revoice, rms
from tests.support.samples import CONTEXT, FRAME_SAMPLES, make_donors, make_sample

Vocoder = Callable[[Float32, np.random.Generator], Float32]


def envelope(audio: Float32) -> Float32:
    """Return the loudness of ``audio``, smoothed over 25 ms, mean removed."""
    smooth = np.sqrt(np.convolve(audio.astype(np.float64) ** 2, np.hanning(400), mode="same"))
    return np.asarray(smooth - smooth.mean(), np.float32)


def lag(one: Float32, two: Float32, *, circular: bool = False) -> int:
    """Return by how many samples ``two`` is late against ``one``."""
    size = one.size if circular else 1 << (one.size + two.size).bit_length()
    scores = np.fft.irfft(np.fft.rfft(two, size) * np.conj(np.fft.rfft(one, size)), size)
    best = int(scores.argmax())
    return best if best < size // 2 else best - size


@pytest.mark.parametrize("make", VOCODERS, ids=lambda make: make.__name__)
def test_vocoder_keeps_length_timing_and_loudness_curve(make: Vocoder) -> None:
    """Each vocoder stays in step within 5 ms, and changes the waveform all the same."""
    for seed in range(4):
        audio = make_sample(seed).audio
        copy = make(audio, np.random.default_rng(seed))
        assert copy.shape == audio.shape
        assert copy.dtype == np.float32
        assert np.isfinite(copy).all()
        assert abs(lag(envelope(audio), envelope(copy))) <= 80
        assert np.corrcoef(envelope(audio), envelope(copy))[0, 1] > 0.8
        alike = audio * (audio @ copy) / (audio @ audio)
        assert rms(copy - alike) > 0.05 * rms(copy)


@pytest.mark.parametrize("make", VOCODERS, ids=lambda make: make.__name__)
def test_vocoder_survives_silence_and_a_click(make: Vocoder) -> None:
    """Digital silence stays near silence and a single sample makes no NaN."""
    silence = np.zeros(41_312, np.float32)
    assert np.abs(make(silence, np.random.default_rng(0))).max() < 1e-3
    silence[20_000] = 1
    assert np.isfinite(make(silence, np.random.default_rng(0))).all()


def test_there_are_eight_ways_and_no_two_sound_alike() -> None:
    """Each vocoder leaves spectra of its own: no artefact stands for all of them."""
    audio = make_sample(1).audio
    copies = [make(audio, np.random.default_rng(0)) for make in VOCODERS]
    assert len(copies) == 8
    for one, two in combinations(copies, 2):
        alike = one * (one @ two) / (one @ one)
        assert rms(two - alike) > 0.03 * rms(two)


@pytest.mark.parametrize("pitch_hz", [90, 140, 230, 320])
def test_pitch_of_a_buzz_is_found(pitch_hz: int) -> None:
    """A train of pulses is voiced, and its period is right within 2 %."""
    time = np.arange(41_312) / 16_000
    waves = [np.cos(2 * np.pi * k * pitch_hz * time) / k for k in range(1, 12)]
    buzz: Float32 = (0.1 * np.sum(waves, axis=0)).astype(np.float32)
    lag, voiced = _pitch(buzz, 500)
    assert voiced[20:-20].min() > 0.9
    assert np.median(lag) == pytest.approx(16_000 / pitch_hz, rel=0.02)
    noise: Float32 = np.random.default_rng(0).normal(0, 0.1, 41_312).astype(np.float32)
    hoarse, _ = _pitch((buzz + noise / 3).astype(np.float32), 500)
    assert (np.abs(hoarse * pitch_hz / 16_000 - 1) < 0.05).mean() > 0.97  # and never two periods for one
    assert _pitch(noise, 500)[1].mean() < 0.3


def test_source_filter_keeps_the_formants() -> None:
    """The long-term spectrum, smoothed over 300 Hz, stays within 3 dB on average below 4 kHz."""
    audio = make_sample(3).audio
    for seed in range(4):
        copy = source_filter(audio, np.random.default_rng(seed))
        levels = [
            10 * np.log10(np.convolve(welch(x, 16_000, nperseg=512)[1], np.ones(10), "same"))[5:128]
            for x in (audio, copy)
        ]
        off = levels[1] - levels[0]
        assert np.abs(off - off.mean()).mean() < 3


def test_source_filter_draws_its_parameters() -> None:
    """No two draws give the same sound."""
    audio = make_sample(3).audio
    made = {source_filter(audio, np.random.default_rng(seed)).tobytes() for seed in range(5)}
    assert len(made) == 5


def test_revoice_keeps_loudness() -> None:
    """The copy is as loud as the original within half a decibel."""
    audio = make_sample(2).audio
    for seed in range(14):
        copy = revoice(audio, np.random.default_rng(seed))
        assert rms(copy) == pytest.approx(rms(audio), rel=0.06)
    assert not revoice(np.zeros(41_312, np.float32), np.random.default_rng(0)).any()


def test_frames_of_needs_half_a_picture() -> None:
    """A picture counts from half its sound on; the context before picture 0 does not count."""
    first = CONTEXT + 5 * FRAME_SAMPLES
    assert not frames_of(0, CONTEXT, 64).any()
    assert np.flatnonzero(frames_of(first - 320, first + 319, 64)).tolist() == [4]
    assert np.flatnonzero(frames_of(first, first + 2 * FRAME_SAMPLES, 64)).tolist() == [5, 6]


@pytest.mark.parametrize("recipe", [splice, local_desync])
def test_edit_is_confined_to_its_labelled_pictures(recipe: Callable[..., object]) -> None:
    """Sound changes in one run of 0.4…1.2 s, and the labelled pictures are those of the run."""
    for seed in range(12):
        before = make_sample(seed)
        after = before.copy()
        recipe(after, np.random.default_rng(seed), make_donors(before, seed))
        changed = np.flatnonzero(before.audio != after.audio)
        start, stop = int(changed[0]), int(changed[-1]) + 1
        assert 0.39 * 16_000 <= stop - start <= 1.2 * 16_000
        assert start >= CONTEXT
        on, heard = (np.flatnonzero(x) for x in (after.frame_labels[:, 2], frames_of(start, stop, 64)))
        assert max(abs(on[0] - heard[0]), abs(on[-1] - heard[-1])) <= 1
        assert on.size == on[-1] - on[0] + 1
        assert np.array_equal(after.frame_labels[:, 0], after.frame_labels[:, 2])
        assert not after.frame_labels[:, 1].any()


def test_splice_has_no_click_at_its_cuts() -> None:
    """The step at either cut is no larger than steps that speech makes anyway."""
    for seed in range(8):
        before = make_sample(seed)
        after = splice(before.copy(), np.random.default_rng(seed), make_donors(before, seed))
        changed = np.flatnonzero(before.audio != after.audio)
        limit = np.abs(np.diff(before.audio)).max()
        for cut in (changed[0], changed[-1]):
            assert np.abs(np.diff(after.audio[cut - 4 : cut + 5])).max() <= limit


def test_splice_of_other_words_is_out_of_step_and_of_the_own_voice_is_not() -> None:
    """Desync follows from whether the loudness curve inside the edit survived."""
    alike: dict[float, list[float]] = {0.0: [], 1.0: []}
    for seed in range(24):
        before = make_sample(0)
        after = splice(before.copy(), np.random.default_rng(seed), make_donors(before))
        changed = np.flatnonzero(before.audio != after.audio)
        run = slice(changed[0], changed[-1])
        curves = envelope(before.audio)[run], envelope(after.audio)[run]
        alike[float(after.labels[3])].append(float(np.corrcoef(*curves)[0, 1]))
    assert np.mean(alike[0.0]) > 0.8
    assert np.mean(alike[1.0]) < 0.4


def test_audio_swap_takes_a_donor_window_whole() -> None:
    """The sound is bit for bit one donor's, sometimes the same person's, sometimes another's."""
    seen = set()
    for seed in range(10):
        before = make_sample(0)
        donors = make_donors(before)
        after = audio_swap(before, np.random.default_rng(seed), donors)
        givers = {"same": donors.same().audio, "other": donors.other().audio}
        seen |= {name for name, audio in givers.items() if np.array_equal(after.audio, audio)}
    assert seen == {"same", "other"}


@pytest.mark.parametrize("around", [32_000, 0])
def test_desync_shift_is_whole_pictures_and_6_to_30(around: int) -> None:
    """Cross-correlation finds the shift in the clip, or in a circle where the clip is too short."""
    signs = set()
    for seed in range(12):
        before = make_sample(seed)
        after = desync(before.copy(), np.random.default_rng(seed), make_donors(before, seed, around=around))
        found = lag(before.audio, after.audio, circular=around == 0)
        assert found % FRAME_SAMPLES == 0
        assert 6 <= abs(found) // FRAME_SAMPLES <= 30
        signs.add(np.sign(found))
        assert after.labels.tolist() == [0, 0, 0, 1]
    assert signs == {-1, 1}


def test_desync_turns_round_at_the_start_of_a_clip() -> None:
    """Where only later sound exists the shift goes there, and brings sound of the clip, not a circle."""
    before = make_sample(0)
    clip, origin = make_donors(before).clip_audio
    donors = Donors(make_sample, make_sample, (clip[origin:], 0))
    for seed in range(8):
        after = desync(before.copy(), np.random.default_rng(seed), donors)
        shift = -lag(before.audio, after.audio)
        assert shift >= 6 * FRAME_SAMPLES
        assert np.array_equal(after.audio, clip[origin + shift :][: after.audio.size])


def test_local_desync_brings_sound_from_elsewhere_in_the_clip() -> None:
    """The piece is found in the clip, 6 pictures or more away from where it was put."""
    for seed in range(8):
        before = make_sample(0)
        donors = make_donors(before)
        clip, origin = donors.clip_audio
        after = local_desync(before.copy(), np.random.default_rng(seed), donors)
        changed = np.flatnonzero(before.audio != after.audio)
        start, stop = int(changed[0]) + 400, int(changed[-1]) - 400  # without the cross-fades
        piece = after.audio[start:stop]
        power = fftconvolve(clip.astype(np.float64) ** 2, np.ones(piece.size), mode="valid")
        dots = fftconvolve(clip, piece[::-1], mode="valid")
        match = dots / np.sqrt(power * (piece @ piece))
        best = int(match.argmax())
        assert match[best] > 0.999
        assert abs(best - (origin + start)) >= 6 * FRAME_SAMPLES
