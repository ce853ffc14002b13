"""Splits: no person, no footage and no held-out generator on both sides."""

from __future__ import annotations

import itertools

import pytest

from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import Split, SplitError, check_split, group_of, person_of, split_clips
from tests.support.training import make_clip


def population() -> list[Clip]:
    """Ten people with two clips each; three generators with five clips each, paired with some of them."""
    genuine = [make_clip(f"real/{p}-{k}.mp4", identity=f"s{p}") for p in range(10) for k in range(2)]
    fakes = [
        make_clip(
            f"{name}/{k}.mp4",
            label=1,
            generator=name,
            # The first two of each generator are made of known footage.
            paired_real=f"real/{start + k}-0.mp4" if k < 2 else "",
        )
        for start, name in enumerate(("A", "B", "C"))
        for k in range(5)
    ]
    return genuine + fakes


@pytest.mark.parametrize("seed", range(8))
def test_no_group_is_on_both_sides(seed: int) -> None:
    """People and paired footage are in training or in validation, never in both."""
    clips = population()
    split = split_clips(clips, share=0.3, held_out=["C"], seed=seed)
    groups = group_of(clips)
    train, validation = ({groups[c.uid] for c in side} for side in (split.train, split.validation))
    assert not train & validation
    people = [{person_of(c) for c in side if c.identity} for side in (split.train, split.validation)]
    assert not people[0] & people[1]
    uids = [{c.uid for c in side} for side in (split.train, split.validation)]
    assert not {c.paired_real for c in split.validation if c.paired_real} & uids[0]
    assert not {c.paired_real for c in split.train if c.paired_real} & uids[1]


@pytest.mark.parametrize("seed", range(4))
def test_held_out_generators_only_validate(seed: int) -> None:
    """Every clip of a held-out generator is in validation, and no clip of any other is."""
    clips = population()
    split = split_clips(clips, share=0.3, held_out=["B", "C"], seed=seed)
    assert {c.generator for c in split.train if c.label} == {"A"}
    assert {c.uid for c in split.validation if c.label} == {c.uid for c in clips if c.generator in ("B", "C")}


def test_validation_gets_its_share_of_people() -> None:
    """Three of ten people are held out, with all their clips."""
    split = split_clips(population(), share=0.3, held_out=["C"], seed=0)
    held = {person_of(c) for c in split.validation if not c.label}
    assert len(held) == 3
    assert sum(not c.label for c in split.validation) == 6


def test_seed_chooses_the_people() -> None:
    """The same seed gives the same split, and other seeds other people."""
    clips = population()
    people = [
        tuple(c.uid for c in split_clips(clips, share=0.3, held_out=["C"], seed=seed).validation)
        for seed in (0, 0, 1, 2, 3)
    ]
    assert people[0] == people[1]
    assert len(set(people)) > 1


@pytest.mark.parametrize(
    ("identity", "person"),
    [("s1", "s1"), ("s1 (by eye)", "s1"), ("Conan O'Brien", "Conan O'Brien"), ("a (b) (c)", "a")],
)
def test_remark_in_brackets_is_no_other_person(identity: str, person: str) -> None:
    """When in doubt it is the same person."""
    assert person_of(make_clip("a.mp4", identity=identity)) == person


def test_unknown_people_are_one_a_clip() -> None:
    """Two clips without an identity are neither the same person nor one group."""
    one, two = make_clip("a.mp4"), make_clip("b.mp4")
    assert person_of(one) != person_of(two)
    assert len(set(group_of([one, two]).values())) == 2


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_groups_are_joined_through_people_and_footage(order: tuple[int, ...]) -> None:
    """A fake ties to its footage, that to its person, that to her other clips, in any order."""
    clips = [
        make_clip("fake.mp4", label=1, generator="A", paired_real="one.mp4"),
        make_clip("one.mp4", identity="s1"),
        make_clip("two.mp4", identity="s1 (by eye)"),
        make_clip("other.mp4", identity="s2"),
    ]
    groups = group_of([clips[k] for k in order])
    assert groups["fake.mp4"] == groups["one.mp4"] == groups["two.mp4"]
    assert groups["other.mp4"] != groups["one.mp4"]


def test_footage_that_is_not_listed_still_ties() -> None:
    """Two fakes of the same footage belong together even when the footage itself is missing."""
    fakes = [make_clip(f"{k}.mp4", label=1, generator=k, paired_real="gone.mp4") for k in "AB"]
    assert len(set(group_of(fakes).values())) == 1


def test_leak_is_refused_with_both_names() -> None:
    """The message names a clip of either side."""
    fakes = [make_clip(f"{k}.mp4", label=1, generator=k) for k in "AB"]
    train = (make_clip("one.mp4", identity="s1"), fakes[0])
    validation = (make_clip("two.mp4", identity="s1 (by eye)"), fakes[1])
    with pytest.raises(SplitError, match=r"two\.mp4 \(validation\) and one\.mp4 \(train\)"):
        check_split(Split(train, validation))


@pytest.mark.parametrize("label", [0, 1], ids=["genuine", "generated"])
@pytest.mark.parametrize("side", ["train", "validation"])
def test_side_of_one_class_is_refused(side: str, label: int) -> None:
    """The message names the side and counts its clips."""
    both = (make_clip("a.mp4"), make_clip("b.mp4", label=1, generator="A"))
    one = (make_clip("c.mp4", label=label, generator="B" * label),)
    split = Split(one, both) if side == "train" else Split(both, one)
    counts = "0 genuine and 1 generated" if label else "1 genuine and 0 generated"
    with pytest.raises(SplitError, match=f"{side} has {counts}"):
        check_split(split)


def test_unknown_generator_cannot_be_held_out() -> None:
    """A misspelt generator would silently leave nothing held out."""
    with pytest.raises(SplitError, match="no clip of generator 'D' to hold out"):
        split_clips(population(), share=0.3, held_out=["C", "D"], seed=0)


@pytest.mark.parametrize(("share", "held_out"), [(0.0, ["C"]), (1.0, ["C"]), (0.3, [])])
def test_split_that_leaves_a_side_short_is_refused(share: float, held_out: list[str]) -> None:
    """No people, all people or no generator in validation: each is said before training starts."""
    with pytest.raises(SplitError, match="it needs both"):
        split_clips(population(), share=share, held_out=held_out, seed=0)
