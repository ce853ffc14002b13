"""The degradation that genuine and manipulated windows share."""

from __future__ import annotations

import numpy as np
import pytest

from avff.trainer.data import postchain
from avff.trainer.data.postchain import picture_round_trip, post_chain, sound_round_trip
from tests.support.samples import make_sample

ARRAYS = ("faces", "ok", "landmarks", "motion", "audio")


def test_post_chain_does_not_look_at_labels() -> None:
    """The same draws give a genuine and a fake label the same pixels and the same sound."""
    for seed in range(12):
        real, forged = make_sample(0), make_sample(0)
        forged.labels[:], forged.frame_labels[:], forged.recipe = (1, 1, 0, np.nan), 1, "lip_swap"
        one = post_chain(real, np.random.default_rng(seed))
        two = post_chain(forged, np.random.default_rng(seed))
        for name in ARRAYS:
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name
        assert not one.labels.any()
        assert two.labels[0] == 1
        assert np.isnan(two.labels[3])
        assert two.frame_labels.all()


def test_post_chain_keeps_shapes_types_and_bounds() -> None:
    """Whatever is drawn, the window stays a window."""
    before = make_sample(0, missing=(3, 4, 50))
    outcomes = set()
    for seed in range(30):
        after = post_chain(before.copy(), np.random.default_rng(seed), strength=2.0)
        for name in ARRAYS:
            assert getattr(after, name).shape == getattr(before, name).shape, name
            assert getattr(after, name).dtype == getattr(before, name).dtype, name
        for name in ("landmarks", "motion", "audio"):
            assert np.isfinite(getattr(after, name)).all(), name
        assert np.abs(after.audio).max() <= 1
        assert not after.faces[~after.ok].any()
        assert not after.landmarks[~after.ok].any()
        assert after.faces[after.ok].any(axis=(1, 2, 3)).all()
        outcomes.add(after.faces.tobytes() + after.audio.tobytes())
    assert len(outcomes) == 30


def test_strength_zero_changes_nothing() -> None:
    """Strength scales every probability, so 0 is the identity."""
    before = make_sample(0)
    after = post_chain(before.copy(), np.random.default_rng(0), strength=0.0)
    for name in ARRAYS:
        assert np.array_equal(getattr(before, name), getattr(after, name)), name


def test_stronger_chain_degrades_more() -> None:
    """Mean distance from the clean window grows with strength."""
    before = make_sample(0)

    def distance(strength: float) -> float:
        after = [post_chain(before.copy(), np.random.default_rng(seed), strength) for seed in range(16)]
        return float(np.mean([np.abs(one.faces.astype(int) - before.faces).mean() for one in after]))

    assert distance(0.2) < distance(1.0)


def test_sound_stays_in_step() -> None:
    """No draw shifts the sound by more than 5 ms."""
    before = make_sample(1)
    for seed in range(40):
        after = post_chain(before.copy(), np.random.default_rng(seed), strength=1.5)
        size = 1 << 17
        product = np.fft.rfft(after.audio, size) * np.conj(np.fft.rfft(before.audio, size))
        best = int(np.fft.irfft(product).argmax())
        assert min(best, size - best) <= 80, seed


def test_landmarks_move_with_the_jittered_face() -> None:
    """After the crop jitter the dark eyes are where the landmarks say."""
    for seed in range(6):
        sample = make_sample(0)
        clean = sample.landmarks.copy()
        postchain._jitter(sample, np.random.default_rng(seed))
        assert np.abs(sample.landmarks - clean)[..., :2].max() > 0.5
        for eye in (33, 263):
            column, row = np.round(sample.landmarks[10, eye, :2]).astype(int)
            assert sample.faces[10, row, column].max() < 75


def test_hold_repeats_a_picture_and_moves_no_sound() -> None:
    """A hitch repeats 1…3 pictures, keeps ``ok`` and displaces nothing by more than 3."""
    for seed in range(10):
        sample = make_sample(0)
        sample.faces[:, 0, 0, 0] = np.arange(64)
        postchain._hold(sample, np.random.default_rng(seed))
        off = np.arange(64) - sample.faces[:, 0, 0, 0]
        assert 1 <= off.max() <= 3
        assert off.min() == 0
        assert sample.ok.all()


@pytest.mark.parametrize("codec", ["libx264", "libvpx", "mpeg4"])
def test_picture_codec_loses_detail_but_no_picture(codec: str) -> None:
    """Decoded pictures are like their originals, in order, and not identical."""
    if codec not in postchain._encoders(("libx264", "libvpx", "mpeg4")):
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    faces = make_sample(0).faces
    decoded = picture_round_trip(faces, codec, 300)
    assert decoded.shape == faces.shape
    assert decoded.dtype == np.uint8
    for t in (0, 20, 40, 63):
        errors = np.abs(faces.astype(int) - decoded[t]).mean(axis=(1, 2, 3))
        assert 0 < errors[t] < 8
        assert errors[t] <= errors.min() + 0.5


@pytest.mark.parametrize("codec", ["libopus", "aac", "libmp3lame"])
def test_sound_codec_delay_is_taken_out(codec: str) -> None:
    """After the round trip each sample is where it was."""
    if codec not in postchain._encoders(("libopus", "aac", "libmp3lame")):
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    audio = make_sample(0).audio
    decoded = sound_round_trip(audio, codec, 32)
    assert decoded.shape == audio.shape
    assert decoded.dtype == np.float32
    assert not np.array_equal(audio, decoded)
    assert np.corrcoef(audio[4000:-4000], decoded[4000:-4000])[0, 1] > 0.9


def test_missing_codecs_leave_the_window_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where FFmpeg has none of the encoders the step is skipped."""
    monkeypatch.setattr(postchain, "_encoders", lambda names: ())
    sample = make_sample(0)
    before = sample.copy()
    postchain._picture_codec(sample, np.random.default_rng(0))
    audio = postchain._sound_codec(sample.audio, np.random.default_rng(0))
    assert np.array_equal(sample.faces, before.faces)
    assert np.array_equal(audio, before.audio)


def test_unknown_encoder_names_are_dropped() -> None:
    """Only encoders that open are offered."""
    assert postchain._encoders(("mpeg4", "no_such_codec")) == ("mpeg4",)
    assert set(postchain._encoders(("h264", "mpeg4"))) <= {"h264", "mpeg4"}


def test_sound_survives_silence() -> None:
    """Digital silence passes every step without NaN."""
    for _, step in postchain._SOUND_STEPS:
        made = step(np.zeros(41_312, np.float32), np.random.default_rng(0))
        assert np.isfinite(made).all(), step.__name__
        assert not made.any()
