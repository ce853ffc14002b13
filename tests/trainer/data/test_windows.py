"""Windows: the same item is the same window, twins differ by the manipulation, labels fit what is shown."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from avff.engine.spec import SPEC
from avff.trainer.data.manifest import Clip
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.splits import SplitError, group_of
from avff.trainer.data.windows import (
    Batch,
    Shelf,
    TrainingWindows,
    ValidationWindows,
    choose,
    draw,
)
from tests.support.training import fill_cache, make_clip, place_of

NAN = float("nan")
CLIPS = [
    make_clip("a0.mp4", identity="a"),
    make_clip("a1.mp4", identity="a"),
    make_clip("a2.mp4", identity="a"),
    make_clip("b0.mp4", identity="b"),
    make_clip("c0.mp4", identity="c", duration_s=2.0),
    make_clip("f0.mp4", label=1, generator="F", label_video=1, label_audio=0),
    make_clip("g0.mp4", label=1, generator="G", label_video=1),
    make_clip("g1.mp4", label=1, generator="G", label_video=1),
]
PERSON = {0: "a", 1: "a", 2: "a", 3: "b"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return fill_cache(tmp_path_factory.mktemp("cache"), CLIPS)


@pytest.fixture(scope="module")
def shelf(cache: ShardStore) -> Shelf:
    return Shelf(CLIPS, cache)


@pytest.fixture(scope="module")
def short(cache: ShardStore) -> Shelf:
    """Deals short windows: drawing many of them takes little time."""
    return Shelf(CLIPS, cache, frames=SPEC.slice_frames)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def windows(shelf: Shelf, *, seed: int = 0, dropout: float = 0.0, strength: float = 0.0) -> TrainingWindows:
    mix = {"generated": 1.0, "freeze": 1.0}
    return TrainingWindows(shelf, mix, size=24, seed=seed, modality_dropout=dropout, strength=strength)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in zip(one, other, strict=True))


def test_people_are_drawn_equally_often(short: Shelf) -> None:
    """A person with three clips is drawn no oftener than one with a single clip."""
    make = rng()
    drawn = Counter(PERSON[place_of(short.genuine(make)[0])[0]] for _ in range(300))
    assert set(drawn) == {"a", "b"}
    assert abs(drawn["a"] - drawn["b"]) < 80


def test_windows_without_pictures_are_the_same_but_for_them(cache: ShardStore, shelf: Shelf) -> None:
    """Points, pose and sound of the same place; none is decoded, and the other shelf gets its own."""
    bare = Shelf(CLIPS, cache, pictures=False)
    assert bare.people == shelf.people == sorted(set(shelf.people))
    for person in bare.people:
        one, other = (s.window_of_person(person, rng(7)) for s in (bare, shelf))
        assert PERSON[place_of(one)[0]] in person
        assert (one.uid, one.faces.shape, other.faces.shape) == (other.uid, (64, 0, 0, 3), (64, 128, 128, 3))
        for name in ("ok", "landmarks", "motion", "audio", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_generators_are_drawn_equally_often(short: Shelf) -> None:
    """A generator with two clips is drawn no oftener than one with a single clip."""
    make = rng()
    drawn = Counter(short.generated(make).recipe for _ in range(300))
    assert set(drawn) == {"F", "G"} == set(short.generators)
    assert abs(drawn["F"] - drawn["G"]) < 80


def test_clip_shorter_than_a_window_is_left_out(shelf: Shelf) -> None:
    """What cannot fill a window is not padded into one."""
    assert [c.uid for c in shelf.clips] == [c.uid for c in CLIPS if c.duration_s > 2.56]


def test_donors_never_return_the_same_window(short: Shelf) -> None:
    """The same person at another time, at least a second away; a stranger is somebody else."""
    make = rng()
    for _ in range(60):
        sample, donors = short.genuine(make)
        clip, at = place_of(sample)
        other, place = place_of(donors.same())
        if PERSON[other] == PERSON[clip]:
            assert other != clip or abs(place - at) >= SPEC.fps
        assert PERSON[place_of(donors.other())[0]] != PERSON[clip]


def test_person_of_one_short_clip_borrows_from_a_stranger(cache: ShardStore) -> None:
    """Where there is no other time of the same person, ``same`` gives somebody else."""
    clips = [CLIPS[0], CLIPS[3], CLIPS[5]]
    alone = Shelf(clips, cache, frames=2 * SPEC.window_frames)
    for _ in range(10):
        sample, donors = alone.genuine(rng(1), person="b")
        assert PERSON[place_of(sample)[0]] == "b"
        assert PERSON[place_of(donors.same())[0]] == "a"


def test_windows_are_copies(shelf: Shelf) -> None:
    """A recipe may paint on its window without harm to the clip."""
    sample = draw(shelf, "real", rng())
    before = place_of(sample)
    sample.motion[:] = -1
    assert place_of(draw(shelf, "real", rng())) == before


def test_donors_know_where_the_window_lies_in_its_clip(shelf: Shelf) -> None:
    """The clip's sound from the given index on is the window's sound."""
    sample, donors = shelf.genuine(rng(3))
    sound, start = donors.clip_audio
    assert np.array_equal(sound[start : start + len(sample.audio)], sample.audio)


@pytest.mark.parametrize(
    "clips",
    [CLIPS[:3] + CLIPS[5:], CLIPS[:4], [CLIPS[0], CLIPS[4], CLIPS[5]]],
    ids=["one-person", "no-fakes", "short"],
)
def test_shelf_that_cannot_deal_is_refused(cache: ShardStore, clips: list[Clip]) -> None:
    """Pseudo-fakes need a stranger, and validation needs generated clips: said before training starts."""
    with pytest.raises(SplitError, match="two people and one generator are needed"):
        Shelf(clips, cache)


def test_same_item_is_the_same_window(shelf: Shelf) -> None:
    """Item i of an epoch depends on run, epoch and i only, whoever asks and in whatever order."""
    one, other = windows(shelf, dropout=0.3, strength=1.0), windows(shelf, dropout=0.3, strength=1.0)
    backwards = {i: other[i] for i in (3, 2, 1, 0)}
    assert all(same(one[i], backwards[i]) for i in range(4))


def test_epoch_and_seed_change_the_draws(shelf: Shelf) -> None:
    """Another epoch, or another run's seed, gives other windows."""
    later = windows(shelf)
    later.epoch = 1
    first, second, third = windows(shelf)[0], later[0], windows(shelf, seed=1)[0]
    assert not same(first, second)
    assert not same(first, third)


def test_twins_differ_by_the_manipulation_only(shelf: Shelf) -> None:
    """Items 2k and 2k + 1 show the same window, genuine and manipulated, through the same post-chain."""
    made = TrainingWindows(shelf, {"vocoder": 1.0}, size=8, seed=0, modality_dropout=0.0, strength=1.0)
    for pair in range(3):
        genuine, manipulated = made[2 * pair], made[2 * pair + 1]
        assert torch.equal(genuine.video, manipulated.video)
        assert torch.equal(genuine.landmarks, manipulated.landmarks)
        assert not torch.equal(genuine.audio, manipulated.audio)
        assert genuine.labels.tolist() == [0, 0, 0, 0]
        assert manipulated.labels.tolist() == [1, 0, 1, 0]


def test_validation_set_is_fixed_and_grouped(shelf: Shelf) -> None:
    """Groups follow one another: genuine, generated, then the recipes on the same genuine windows."""
    made = [ValidationWindows(shelf, ["desync", "freeze"], each=2, seed=5, strength=0.5) for _ in range(2)]
    assert len(made[0]) == 8
    items = [made[0][i] for i in range(8)]
    assert [int(item.group) for item in items] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [int(item.labels[0]) for item in items] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert all(same(item, made[1][i]) for i, item in enumerate(items))
    for number in range(2):
        assert torch.equal(items[number].video, items[4 + number].video)
        assert torch.equal(items[number].audio, items[6 + number].audio)
        assert not torch.equal(items[number].audio, items[4 + number].audio)


def test_validation_windows_know_their_groups(shelf: Shelf) -> None:
    """A genuine window and its twins are of one; a generated clip of nobody known is on its own."""
    made = ValidationWindows(shelf, ["desync", "freeze"], each=6, seed=5, strength=0.0)
    clusters = made.clusters()
    assert len(clusters) == len(made)
    genuine, generated, *twins = (clusters[k * 6 : (k + 1) * 6] for k in range(4))
    assert len(set(genuine)) == 2
    assert all(twin == genuine for twin in twins)
    assert not set(generated) & set(genuine)


def test_siblings_of_one_footage_are_one_group(cache: ShardStore) -> None:
    """Where nobody names the people, as in DFDC: what was made of a clip belongs to it."""
    clips = [dataclasses.replace(c, identities=()) for c in CLIPS if not c.is_fake]
    clips += [dataclasses.replace(c, identities=(), source_uid=clips[0].uid) for c in CLIPS if c.is_fake]
    made = ValidationWindows(Shelf(clips, cache), ["desync"], each=8, seed=5, strength=0.0)
    genuine, generated = made.clusters()[:8], made.clusters()[8:16]
    groups = group_of(clips)
    assert set(generated) == {groups[clips[0].uid]}
    assert set(genuine) > set(generated), "windows of the footage itself, and others"


def test_mix_is_drawn_by_its_shares() -> None:
    """Shares need not sum to one, and a share of zero is never drawn."""
    make = rng()
    drawn = Counter(choose({"freeze": 3.0, "desync": 1.0, "splice": 0.0}, make) for _ in range(400))
    assert set(drawn) == {"freeze", "desync"}
    assert 240 < drawn["freeze"] < 360


@pytest.mark.parametrize("kind", ["real", "desync"])
def test_same_draws_give_every_kind_the_same_window(shelf: Shelf, kind: str) -> None:
    """Which window is taken does not depend on what is done to it."""
    assert place_of(draw(shelf, kind, rng(7))) == place_of(draw(shelf, "real", rng(7)))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_modality_dropout_withholds_its_share(shelf: Shelf, share: float) -> None:
    """With 0 nothing is withheld; with one half each window lacks its picture or its sound."""
    made = windows(shelf, dropout=share)
    lacking = [(float(made[i].video_ok.sum()) == 0, float(made[i].audio_ok.sum()) == 0) for i in range(24)]
    assert all(any(pair) == (share > 0) and not all(pair) for pair in lacking)
    assert lacking[::2] == lacking[1::2]
    assert share == 0 or len(set(lacking)) == 2
