"""Windows for the motion head: pairs that differ by the manipulation, people in folds, sound as served."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from avff.engine.faces.landmarks import JAW, LIPS_INNER, LIPS_OUTER, MODEL_POINTS
from avff.engine.features import audio_tensor, landmark_tensor
from avff.engine.media import Float32
from avff.engine.spec import SPEC
from avff.trainer.data.courses import (
    CourseBatch,
    GenuineCourses,
    TrainingCourses,
    ValidationCourses,
    course_of,
    folds_of,
    sound_values,
)
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.windows import Shelf, to_batch
from avff.trainer.model.motion import raw_sound
from avff.trainer.pseudo.courses import COURSES
from tests.support.samples import make_sample
from tests.support.training import fill_cache, make_clip

T = SPEC.window_frames
CLIPS = [
    make_clip("a.mp4", identity="a"),
    make_clip("b.mp4", identity="b"),
    make_clip("c.mp4", identity="c"),
    make_clip("f.mp4", label=1, generator="F", label_video=1, label_audio=0),
]
FOLD = {0.0: 0, 2.0: 1, 4.0: 0}
"""Of the people by twice their clip's number, which prepared clips have for a roll."""


class ScriptedVoice:
    """Stands for the lip predictors: they say that nothing moves; keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Float32, int]] = []

    def __call__(self, sound: Float32, fold: int) -> Float32:
        self.asked.append((sound, fold))
        return np.zeros((T, 114), np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return fill_cache(tmp_path_factory.mktemp("cache"), CLIPS)


@pytest.fixture(scope="module")
def shelf(cache: ShardStore) -> Shelf:
    return Shelf(CLIPS, cache, pictures=False)


def training(
    shelf: Shelf,
    mix: Mapping[str, float],
    *,
    seed: int = 0,
    strength: float = 1.0,
    dropout: float = 0.0,
    voice: ScriptedVoice | None = None,
) -> TrainingCourses:
    voice = voice or ScriptedVoice()
    return TrainingCourses(shelf, mix, voice, size=24, seed=seed, strength=strength, dropout=dropout)


def same(one: CourseBatch, other: CourseBatch) -> bool:
    return all(torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in zip(one, other, strict=True))


def roll(item: CourseBatch) -> float:
    """Twice the number of its clip, whichever way the face is turned."""
    return abs(float(item.landmarks[0, 178]))


@pytest.mark.parametrize("kind", ["genuine", "training"])
def test_item_depends_on_seed_epoch_and_number_alone(shelf: Shelf, kind: str) -> None:
    """Asked again, in another order and by another object, it is the same; another seed or epoch is not."""

    def make(seed: int = 0) -> GenuineCourses | TrainingCourses:
        if kind == "genuine":
            return GenuineCourses(shelf, size=24, seed=seed, strength=1.0)
        return training(shelf, {"generated": 1.0, "foreign_lips": 1.0}, seed=seed, dropout=0.3)

    made, again, other = make(), make(), make(seed=1)
    first = [made[k] for k in range(6)]
    assert all(same(again[k], first[k]) for k in reversed(range(6)))
    assert not any(same(other[k], first[k]) for k in range(6))
    made.epoch = 1
    assert not any(same(made[k], first[k]) for k in range(6))
    made.epoch = 0
    assert same(made[3], first[3])


def test_shapes_are_the_heads(shelf: Shelf) -> None:
    """What the motion head takes, in float32, with numbers for label, fold and group."""
    for item in (
        GenuineCourses(shelf, size=2, seed=0, strength=1.0)[0],
        training(shelf, {"generated": 1})[1],
    ):
        assert [tuple(x.shape) for x in item] == [(T, 184), (T, 320), (T,), (T,), (), (), ()]
        assert {x.dtype for x in item[:5]} == {torch.float32}
        assert item.landmarks.isfinite().all()
        assert item.sound.isfinite().all()


def test_pair_is_degraded_alike(shelf: Shelf) -> None:
    """Sound is equal, and so are the lips that a stiff head leaves alone: only the recipe tells them."""
    made = training(shelf, {"stiff_head": 1.0})
    lips = [2 * MODEL_POINTS.index(p) + axis for p in LIPS_OUTER + LIPS_INNER + JAW for axis in (0, 1)]
    for pair in range(8):
        real, moved = made[2 * pair], made[2 * pair + 1]
        assert torch.equal(real.sound, moved.sound)
        assert torch.equal(real.landmarks[:, lips], moved.landmarks[:, lips])
        assert not torch.equal(real.landmarks, moved.landmarks)
        assert (float(real.label), float(moved.label)) == (0.0, 1.0)


def test_sound_is_muted_by_the_pair(shelf: Shelf) -> None:
    """Never, always, or both of a pair or neither; the picture stays."""
    for dropout, ways in ((0.0, {1.0}), (1.0, {0.0}), (0.5, {0.0, 1.0})):
        made = training(shelf, {"unsteady": 1.0}, strength=0.0, dropout=dropout)
        heard = torch.stack([made[k].audio_ok for k in range(24)])
        assert set(heard.flatten().tolist()) == ways
        assert torch.equal(heard[::2], heard[1::2])
        assert (heard == heard[:, :1]).all()
        assert made[0].video_ok.all()


def test_folds_are_of_people(shelf: Shelf) -> None:
    """Every other person, whatever their clips; items carry it, and the predictor of it answers."""
    assert folds_of(shelf) == dict(zip(shelf.people, (0, 1, 0), strict=True))
    genuine = GenuineCourses(shelf, size=24, seed=0, strength=0.0)
    items = [genuine[k] for k in range(24)]
    voice = ScriptedVoice()
    pairs = training(shelf, {"unsteady": 1.0}, voice=voice)
    items += [pairs[k] for k in range(24)]
    assert {roll(item) for item in items} == set(FOLD)
    assert all(int(item.fold) == FOLD[roll(item)] for item in items)
    assert [fold for _, fold in voice.asked] == [int(pairs[k].fold) for k in range(1, 24, 2)]


def test_lips_are_predicted_from_the_windows_own_clean_sound(shelf: Shelf) -> None:
    """What moves the lips is what was said, not what is left of it."""
    voice = ScriptedVoice()
    undegraded = training(shelf, {"unsteady": 1.0}, strength=0.0, voice=voice)[1]
    training(shelf, {"unsteady": 1.0}, strength=1.0, voice=voice)[1]
    for sound, _ in voice.asked:
        np.testing.assert_array_equal(sound, undegraded.sound.numpy())


def test_generated_windows_have_a_fold_by_lot(shelf: Shelf) -> None:
    """No predictor knows them."""
    made = training(shelf, {"generated": 1.0})
    assert {int(made[k].fold) for k in range(1, 24, 2)} == {0, 1}


@pytest.mark.parametrize(("label_video", "label"), [(1, 1.0), (0, 0.0), (None, float("nan"))])
def test_label_of_generated_windows_is_the_pictures(
    cache: ShardStore, label_video: int | None, label: float
) -> None:
    """A genuine face with a made voice is a genuine face; what is not known is NaN."""
    clips = [*CLIPS[:3], dataclasses.replace(CLIPS[3], label_video=label_video)]
    made = training(Shelf(clips, cache, pictures=False), {"generated": 1.0})
    np.testing.assert_equal([float(made[k].label) for k in range(4)], [0.0, label, 0.0, label])


def test_validation_compares_the_same_windows(shelf: Shelf) -> None:
    """Each group is the genuine one by another recipe, degraded alike, each time; generated stand alone."""
    made = ValidationCourses(shelf, ScriptedVoice(), each=3, seed=5, strength=1.0)
    assert made.groups == ["real", "generated", *sorted(COURSES)]
    assert len(made) == 3 * len(made.groups)
    for k in range(len(made)):
        item, real = made[k], made[k % 3]
        assert (int(item.group), float(item.label)) == (k // 3, float(k >= 3))
        assert same(item, made[k])
        assert item.audio_ok.all()
        assert torch.equal(item.sound, real.sound) == (k // 3 != 1)
        assert torch.equal(item.landmarks, real.landmarks) == (k < 3)


def test_sound_values_are_those_the_network_carries() -> None:
    """The mel bands of the engine's slices, as the network's served tokens hold them."""
    sample = make_sample(3)
    found = sound_values(sample.audio)
    served = raw_sound(to_batch(sample, group=0, drop="").audio)
    np.testing.assert_array_equal(found, served.reshape(T, 320).numpy())
    third = audio_tensor(sample.audio[2 * SPEC.slice_samples :][: SPEC.context_samples + SPEC.slice_samples])
    np.testing.assert_array_equal(found[2 * 8 + 5].reshape(4, 80).T, third[0, :, 20:24])


def test_lost_faces_stand_still() -> None:
    """Where there is none, the nearest picture's points and pose stand in; else they are the engine's."""
    course = course_of(make_sample(1, missing=(0, 1, 30)))
    whole = make_sample(1)
    values = landmark_tensor(whole.landmarks, whole.motion)
    assert (course.points.shape, course.motion.shape) == ((T, 89, 2), (T, 6))
    for at, near in ((0, 2), (1, 2), (30, 29), (31, 31), (63, 63)):
        np.testing.assert_array_equal(course.points[at].reshape(-1), values[near, :178])
        np.testing.assert_array_equal(course.motion[at], values[near, 178:])
