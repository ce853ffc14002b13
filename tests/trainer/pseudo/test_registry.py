"""What every pseudo-fake must keep to."""

from __future__ import annotations

import numpy as np
import pytest

from avff.trainer.data.sample import Sample
from avff.trainer.pseudo import RECIPES, apply_recipe
from tests.support.samples import make_donors, make_sample

NAN = float("nan")
LABELS: dict[str, tuple[list[float], ...]] = {
    "self_blend": ([1, 1, 0, 0],),
    "lip_swap": ([1, 1, 0, 0], [1, 1, 0, 1]),
    "talking_photo": ([1, 1, 0, 0], [1, 1, 0, 1]),
    "vocoder": ([1, 0, 1, 0],),
    "splice": ([1, 0, 1, 0], [1, 0, 1, 1]),
    "audio_swap": ([1, NAN, NAN, 1],),
    "desync": ([0, 0, 0, 1],),
    "local_desync": ([1, 0, 1, 1],),
    "freeze": ([0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, NAN]),
}
KEEPS_PICTURE = ("vocoder", "splice", "audio_swap", "desync", "local_desync")
KEEPS_SOUND = ("self_blend", "lip_swap", "talking_photo", "freeze")
FIELDS = ("faces", "ok", "landmarks", "motion", "audio", "labels", "frame_labels")


def made(name: str, seed: int, *, missing: tuple[int, ...] = ()) -> Sample:
    """Return the pseudo-fake ``name`` of window 0."""
    sample = make_sample(0, missing=missing)
    return apply_recipe(name, sample, np.random.default_rng(seed), make_donors(sample))


def equal(one: Sample, two: Sample, fields: tuple[str, ...] = FIELDS) -> bool:
    """Return whether all named arrays are bit for bit the same."""
    return all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in fields)


def test_registry_has_the_agreed_names() -> None:
    """The names are part of the training configuration."""
    assert set(RECIPES) == set(LABELS)


def test_unknown_recipe_is_refused_by_name() -> None:
    """A misspelt recipe stops at once and is named."""
    sample = make_sample(0)
    with pytest.raises(ValueError, match="lipswop"):
        apply_recipe("lipswop", sample, np.random.default_rng(0), make_donors(sample))


@pytest.mark.parametrize("name", list(LABELS))
def test_labels_shapes_and_values(name: str) -> None:
    """Each recipe gives one of its allowed labels, keeps shapes and types, and makes no NaN."""
    before = make_sample(0)
    seen = set()
    for seed in range(10):
        after = made(name, seed)
        match = [i for i, row in enumerate(LABELS[name]) if np.array_equal(after.labels, row, equal_nan=True)]
        assert match, after.labels
        seen.add(match[0])
        assert after.recipe == name
        assert after.uid == before.uid
        for field in FIELDS:
            assert getattr(after, field).shape == getattr(before, field).shape, field
            assert getattr(after, field).dtype == getattr(before, field).dtype, field
        for field in ("landmarks", "motion", "audio"):
            assert np.isfinite(getattr(after, field)).all(), field
        assert np.abs(after.audio).max() <= 1
    assert name not in ("lip_swap", "talking_photo", "splice") or seen == {0, 1}


@pytest.mark.parametrize("name", list(LABELS))
def test_frame_labels_agree_with_the_window(name: str) -> None:
    """A head is on for a window exactly when it is on for one of its pictures."""
    for seed in range(10):
        after = made(name, seed)
        assert np.array_equal(after.frame_labels.max(axis=0), after.labels[:3], equal_nan=True)
        known = after.frame_labels[~np.isnan(after.frame_labels)]
        assert set(known.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", list(LABELS))
def test_same_draws_give_the_same_window_and_others_another(name: str) -> None:
    """A recipe depends on its generator and on nothing else."""
    outcomes = [made(name, seed) for seed in range(6)]
    assert all(equal(outcome, made(name, seed)) for seed, outcome in enumerate(outcomes))
    distinct = {outcome.faces.tobytes() + outcome.audio.tobytes() for outcome in outcomes}
    assert len(distinct) >= (2 if name == "audio_swap" else 5)


@pytest.mark.parametrize("name", list(LABELS))
def test_only_the_intended_modality_changes(name: str) -> None:
    """Sound recipes leave every picture array alone, picture recipes every sample."""
    before = make_sample(0)
    picture, sound = ("faces", "ok", "landmarks", "motion"), ("audio",)
    kept, changed = (picture, sound) if name in KEEPS_PICTURE else (sound, ("faces",))
    for seed in range(8):
        after = made(name, seed)
        assert equal(before, after, kept)
        assert not equal(before, after, changed)


@pytest.mark.parametrize("name", ["self_blend", "lip_swap", "talking_photo"])
def test_missing_faces_stay_empty_and_unlabelled(name: str) -> None:
    """A picture without a face is neither painted on nor called fake."""
    missing = (0, 1, 20, 21, 40, 63)
    for seed in range(8):
        after = made(name, seed, missing=missing)
        assert not after.faces[list(missing)].any()
        assert not after.landmarks[list(missing)].any()
        assert not after.frame_labels[list(missing)].any()
        assert after.labels[1] == 1


@pytest.mark.parametrize("name", ["self_blend", "lip_swap", "talking_photo"])
def test_window_without_any_face_is_not_called_fake(name: str) -> None:
    """With nothing to manipulate the window stays genuine."""
    for seed in range(4):
        after = made(name, seed, missing=tuple(range(64)))
        assert not after.faces.any()
        assert not after.labels.any()
        assert not after.frame_labels.any()
