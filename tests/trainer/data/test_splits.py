"""Splits: no person, no footage and no held-out generator on both sides."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import (
    Split,
    SplitError,
    check_split,
    describe,
    folds,
    group_of,
    overlap,
    split_clips,
    split_groups,
    split_official,
)
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
    people = [{c.person for c in side if c.identities} for side in (split.train, split.validation)]
    assert not people[0] & people[1]
    uids = [{c.uid for c in side} for side in (split.train, split.validation)]
    assert not {c.source_uid for c in split.validation if c.source_uid} & uids[0]
    assert not {c.source_uid for c in split.train if c.source_uid} & uids[1]


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
    held = {c.person for c in split.validation if not c.label}
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


def test_unknown_people_are_one_a_clip() -> None:
    """Two clips without an identity are neither the same person nor one group."""
    one, two = make_clip("a.mp4"), make_clip("b.mp4")
    assert one.person != two.person
    assert len(set(group_of([one, two]).values())) == 2


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_groups_are_joined_through_people_and_footage(order: tuple[int, ...]) -> None:
    """A fake ties to its footage, that to its person, that to her other clips, in any order."""
    clips = [
        make_clip("fake.mp4", label=1, generator="A", paired_real="one.mp4"),
        make_clip("one.mp4", identity="s1"),
        make_clip("two.mp4", identity="s1"),
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
    validation = (make_clip("two.mp4", identity="s1"), fakes[1])
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


def report_case() -> list[Clip]:
    """400 clips as in DFDC's sample: 77 genuine, 323 generated, many of footage that is not listed."""
    rng = np.random.default_rng(0)
    genuine = [make_clip(f"real/{k}.mp4") for k in range(77)]
    names = ("A", "B", "C")
    fakes = [
        make_clip(
            f"fake/{k}.mp4",
            label=1,
            generator=names[k % 3],
            paired_real=f"real/{rng.integers(260)}.mp4",
        )
        for k in range(323)
    ]
    return genuine + fakes


def counts_of(clips: tuple[Clip, ...]) -> Counter[str]:
    """Clips of each generator, genuine ones under an empty name."""
    return Counter(c.generator for c in clips)


@pytest.mark.parametrize("seed", range(3))
def test_stratified_split_has_the_share_of_clips_and_classes(seed: int) -> None:
    """80 of 400, with a fifth of the genuine clips and of each generator, and no group parted."""
    clips = report_case()
    split = split_groups(clips, share=0.2, seed=seed)
    assert abs(len(split.validation) - 80) <= 1
    assert len(split.train) + len(split.validation) == 400
    whole, part = counts_of(tuple(clips)), counts_of(split.validation)
    assert all(abs(part[name] - 0.2 * whole[name]) <= 2 for name in whole)
    assert overlap(split) == 0


def test_stratified_split_follows_its_seed() -> None:
    """The same seed gives the same split, another another."""
    clips = report_case()
    sides = [{c.uid for c in split_groups(clips, share=0.2, seed=s).validation} for s in (1, 1, 2)]
    assert sides[0] == sides[1] != sides[2]


def test_group_too_large_for_validation_trains() -> None:
    """One person with most of the clips cannot be parted; the others fill validation."""
    crowd = [make_clip(f"one/{k}.mp4", identity="one") for k in range(60)]
    crowd += [make_clip(f"one/f{k}.mp4", label=1, generator="A", identity="one") for k in range(60)]
    rest = [make_clip(f"{k}.mp4", label=k % 2, generator="A" * (k % 2)) for k in range(40)]
    split = split_groups(crowd + rest, share=0.2, seed=0)
    assert {c.person for c in split.train} >= {"one"}
    assert len(split.validation) == 32


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_share_without_two_sides_is_refused(share: float) -> None:
    """Nothing or everything in validation is no split."""
    with pytest.raises(SplitError, match="not between 0 and 1"):
        split_groups(report_case(), share=share, seed=0)


def test_folds_part_all_clips_evenly() -> None:
    """Every clip validates once, no group is parted, and all folds are alike."""
    clips = report_case()
    splits = folds(clips, 5, seed=0)
    validated = Counter(c.uid for split in splits for c in split.validation)
    assert validated == Counter(c.uid for c in clips)
    assert [overlap(split) for split in splits] == [0] * 5
    assert all(abs(len(split.validation) - 80) <= 1 for split in splits)
    for name in ("", "A", "B", "C"):
        made = [counts_of(split.validation)[name] for split in splits]
        assert max(made) - min(made) <= 3


def test_too_few_or_too_many_folds_are_refused() -> None:
    """One fold has nothing to train on; with more folds than groups some have one class only."""
    with pytest.raises(SplitError, match="1 folds; there must be at least 2"):
        folds(report_case(), 1, seed=0)
    with pytest.raises(SplitError, match="it needs both"):
        folds(report_case(), 200, seed=0)


def official(split: str, uid: str, **values: Any) -> Clip:
    """A clip of an official split."""
    return make_clip(f"{split}/{uid}", split=split, **values)


def both(split: str) -> list[Clip]:
    """A genuine and a generated clip of an official split."""
    return [official(split, "r.mp4"), official(split, "f.mp4", label=1, generator="A")]


def test_official_split_is_taken_by_name() -> None:
    """Several names may make a side; clips of other splits take no part."""
    clips = [c for name in ("train", "extra", "dev", "test") for c in both(name)]
    split = split_official(clips, train=["train", "extra"], validation=["dev"])
    assert {c.split for c in split.train} == {"train", "extra"}
    assert {c.split for c in split.validation} == {"dev"}


def test_official_split_that_leaks_is_refused() -> None:
    """Some published lists do; both clips of the leak are named."""
    leaky = [official("train", "a.mp4", identity="s1"), official("dev", "b.mp4", identity="s1")]
    clips = [*both("train"), *both("dev"), *leaky]
    with pytest.raises(
        SplitError, match=r"dev/b\.mp4 \(validation\) and train/a\.mp4 \(train\) share a person"
    ):
        split_official(clips, train=["train"], validation=["dev"])


def test_unknown_official_split_is_refused_with_those_there_are() -> None:
    """A misspelt name would leave a side empty."""
    with pytest.raises(SplitError, match="no clip of split 'valid'; there are 'dev', 'train'"):
        split_official([*both("train"), *both("dev")], train=["train"], validation=["valid"])


def test_leaked_sibling_is_named_with_the_clip_it_shares_footage_with() -> None:
    """Not with any clip of the group: the pair shows what went wrong."""
    source = "real/0.mp4"
    train = (
        make_clip("far.mp4", identity="p"),
        make_clip("tie.mp4", identity="p", label=1, generator="A", paired_real=source),
    )
    validation = (
        make_clip("sibling.mp4", label=1, generator="A", paired_real=source),
        make_clip("other.mp4"),
    )
    split = Split(train, validation)
    assert overlap(split) == 1
    with pytest.raises(SplitError, match=r"sibling\.mp4 \(validation\) and tie\.mp4 \(train\) share footage"):
        check_split(split)


def test_clips_without_a_label_are_in_no_split() -> None:
    """Unknown is not genuine."""
    clips = [*population(), dataclasses.replace(make_clip("unknown.mp4", split="train"), label=None)]
    made = [
        split_clips(clips, share=0.3, held_out=["C"], seed=0),
        split_groups(clips, share=0.3, seed=0),
        *folds(clips, 3, seed=0),
    ]
    assert all(c.label is not None for split in made for c in split.train + split.validation)


def test_description_counts_classes_generators_and_overlap() -> None:
    """One line for each side, one for the groups on both."""
    train = (make_clip("a.mp4"), *(make_clip(f"{n}.mp4", label=1, generator=n) for n in "CB"))
    validation = (make_clip("c.mp4"), make_clip("d.mp4"))
    assert describe(Split(train, validation)) == [
        "train: 3 clips, 1 genuine, 2 generated (B 1, C 1)",
        "validation: 2 clips, 2 genuine, 0 generated",
        "overlap: 0 groups on both sides",
    ]


def test_large_datasets_take_seconds() -> None:
    """Half of the clips are one person's: joining them takes time that grows with their number only."""
    clips = [
        Clip(f"{k}", f"{k}", "test", k % 2, identities=("one" if k < 40_000 else f"p{k // 40}",),
             generators=("A",) * (k % 2))
        for k in range(80_000)
    ]  # fmt: skip
    start_s = time.process_time()
    split = split_groups(clips, share=0.25, seed=0)
    assert time.process_time() - start_s < 20
    assert len(split.validation) == 20_000
