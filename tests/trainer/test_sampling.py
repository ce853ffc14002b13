"""The order of clips: nothing lost or doubled over processes, and no group that dominates."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from avff.trainer.data.manifest import Clip
from avff.trainer.sampling import BalancedOrder, NaturalOrder, balanced_weights
from tests.support.training import make_clip

Key = Callable[[Clip], tuple[object, ...]]
LEVELS: dict[str, Key] = {
    "class": lambda c: (c.label,),
    "dataset": lambda c: (c.label, c.dataset),
    "generator": lambda c: (c.label, c.dataset, c.generator),
    "person": lambda c: (c.label, c.dataset, c.generator, c.identities),
}


def make(dataset: str, name: str, count: int, *, generator: str = "", identity: str = "") -> list[Clip]:
    """Some clips of one person, or of nobody known."""
    clips = [
        make_clip(f"{dataset}/{name}/{k}", label=int(bool(generator)), generator=generator, identity=identity)
        for k in range(count)
    ]
    return [dataclasses.replace(c, dataset=dataset) for c in clips]


CLIPS = [
    *make("A", "p0", 70, identity="p0"),
    *make("A", "p1", 1, identity="p1"),
    *make("A", "p2", 9, identity="p2"),
    *make("B", "q0", 3, identity="q0"),
    *make("A", "x0", 40, generator="X", identity="p0"),
    *make("A", "x1", 2, generator="X", identity="p1"),
    *make("A", "y", 5, generator="Y", identity="p2"),
    *make("B", "z", 12, generator="Z", identity="q0"),
]


def parts(order: NaturalOrder | BalancedOrder, epoch: int, world: int) -> list[list[int]]:
    return [order.indices(epoch, rank, world).tolist() for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 12, 101])
def test_every_clip_is_drawn_once_an_epoch(count: int, world: int) -> None:
    """In natural order all processes together draw each clip exactly once, as evenly as can be."""
    for epoch in range(3):
        dealt = parts(NaturalOrder(count, seed=5), epoch, world)
        assert sorted(index for part in dealt for index in part) == list(range(count))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("order", [NaturalOrder(48, seed=1), BalancedOrder(CLIPS, size=48, seed=1)])
def test_processes_share_the_batches_of_one(order: NaturalOrder | BalancedOrder) -> None:
    """Batches of 4 on three processes hold what one process has in its batches of 12."""
    alone = order.indices(2).reshape(-1, 12)
    shared = [order.indices(2, rank, 3).reshape(-1, 4) for rank in range(3)]
    for number, batch in enumerate(alone):
        assert sorted(np.concatenate([part[number] for part in shared])) == sorted(batch)


def test_orders_depend_on_seed_and_epoch_alone() -> None:
    """Asked again, an epoch is the same; another epoch, or another seed, is another order."""
    for make_order in (
        lambda seed: NaturalOrder(50, seed=seed),
        lambda seed: BalancedOrder(CLIPS, size=50, seed=seed),
    ):
        first = make_order(3).indices(4).tolist()
        assert make_order(3).indices(4).tolist() == first
        assert make_order(3).indices(5).tolist() != first
        assert make_order(4).indices(4).tolist() != first


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [37, 600])
def test_groups_get_their_share_to_within_one_draw(level: str, size: int) -> None:
    """Each class, dataset, generator and person is drawn as often as its siblings, in every epoch."""
    key = LEVELS[level]
    expected: dict[tuple[object, ...], float] = defaultdict(float)
    for clip, share in zip(CLIPS, shares(), strict=True):
        expected[key(clip)] += size * share
    for epoch in range(10):
        drawn = Counter(key(CLIPS[k]) for k in BalancedOrder(CLIPS, size=size, seed=0).indices(epoch))
        assert drawn.total() == size
        for group, wanted in expected.items():
            assert abs(drawn[group] - wanted) < 1 + 1e-6, (group, epoch)


def shares() -> list[float]:
    """Shares of the clips, worked out by hand: A has three people who are genuine, B one."""
    return [
        *[1 / 2 / 2 / 3 / 70] * 70, 1 / 2 / 2 / 3, *[1 / 2 / 2 / 3 / 9] * 9, *[1 / 2 / 2 / 3] * 3,
        *[1 / 2 / 2 / 2 / 2 / 40] * 40, *[1 / 2 / 2 / 2 / 2 / 2] * 2, *[1 / 2 / 2 / 2 / 5] * 5,
        *[1 / 2 / 2 / 12] * 12,
    ]  # fmt: skip


def test_weights_halve_at_every_level() -> None:
    """A clip's weight is its share of its person's, that of its generator's, and so on up to the class."""
    assert balanced_weights(CLIPS) == pytest.approx(shares())
    assert balanced_weights(CLIPS).sum() == pytest.approx(1.0)


def test_clips_of_a_large_group_take_turns() -> None:
    """Over many epochs every clip is drawn as often as its weight says, and none is left out."""
    epochs, size = 400, 60
    order = BalancedOrder(CLIPS, size=size, seed=2)
    drawn = np.bincount(np.concatenate([order.indices(e) for e in range(epochs)]), minlength=len(CLIPS))
    expected = np.array(shares()) * size * epochs
    assert (abs(drawn - expected) < 5 * np.sqrt(expected)).all()
    assert drawn.min() > 0


def test_one_class_alone_gets_every_draw() -> None:
    """Genuine clips alone are balanced among themselves."""
    genuine = [c for c in CLIPS if c.label == 0]
    assert balanced_weights(genuine) == pytest.approx([2 * s for s in shares()[: len(genuine)]])


def test_clips_without_a_name_are_known_by_their_footage() -> None:
    """Many fakes of one genuine clip count as one person when nobody says who it is."""
    fakes = [
        make_clip(f"f{k}", label=1, generator="G", paired_real="one" if k < 9 else "other") for k in range(10)
    ]
    assert balanced_weights(fakes) == pytest.approx([1 / 18] * 9 + [1 / 2])


def test_unknown_labels_are_of_no_class() -> None:
    """A clip without a label is refused by name, not taken for genuine."""
    unknown = dataclasses.replace(make_clip("who.mp4"), label=None, label_video=None, label_audio=None)
    with pytest.raises(ValueError, match=r"who\.mp4 has no label"):
        balanced_weights([*CLIPS, unknown])


def test_nothing_to_draw_from_is_refused() -> None:
    """An empty list has no shares."""
    with pytest.raises(ValueError, match="no clips"):
        BalancedOrder([], size=4, seed=0)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_out_of_range_is_refused(rank: int, world: int) -> None:
    """A wrong rank would silently draw another process's clips, or none."""
    with pytest.raises(ValueError, match="is not one of"):
        NaturalOrder(10, seed=0).indices(0, rank, world)
