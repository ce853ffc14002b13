"""Natural windows: every clip takes its turn, and the same item is always the same window."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from avff.trainer.data.natural import NaturalWindows
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.windows import Batch, Shelf
from tests.support.training import fill_cache, make_clip

CLIPS = [
    make_clip("a.mp4", identity="a"),
    make_clip("b.mp4", identity="b"),
    make_clip("short.mp4", identity="b", duration_s=2.0),
    *(make_clip(f"f{k}.mp4", label=1, generator="F", label_video=1) for k in range(5)),
]
LONG = [number for number, clip in enumerate(CLIPS) if clip.duration_s > 2.56]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return fill_cache(tmp_path_factory.mktemp("cache"), CLIPS)


def windows(store: ShardStore, *, size: int = 5, seed: int = 0, dropout: float = 0.0) -> NaturalWindows:
    shelf = Shelf(CLIPS, store)
    return NaturalWindows(shelf, size=size, seed=seed, modality_dropout=dropout, strength=0.5)


def recorded(made: NaturalWindows, epochs: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which clips some epochs draw, one after the other, as numbers in ``CLIPS``."""
    uids: list[str] = []
    original = Shelf.window_of

    def noting(self: Shelf, number: int, rng: object) -> object:
        uids.append(self.clips[number].uid)
        return original(self, number, rng)  # type: ignore[arg-type]

    monkeypatch.setattr(Shelf, "window_of", noting)
    for epoch in range(epochs):
        made.epoch = epoch
        for index in range(len(made)):
            made[index]
    return [next(n for n, clip in enumerate(CLIPS) if clip.uid == uid) for uid in uids]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in zip(one, other, strict=True))


def test_every_clip_is_drawn_before_any_is_drawn_again(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over epochs that are no whole number of rounds; clips shorter than a window are left out."""
    drawn = recorded(windows(store), 3, monkeypatch)
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == LONG
    assert drawn[:7] != drawn[7:14]


def test_classes_have_their_share_of_the_clips(store: ShardStore) -> None:
    """Five of seven clips are generated, and so are five of seven windows."""
    made = windows(store, size=7)
    assert Counter(float(made[k].labels[0]) for k in range(7)) == {1.0: 5, 0.0: 2}


def test_item_depends_on_seed_epoch_and_number_alone(store: ShardStore) -> None:
    """Whoever asks, in whatever order; another epoch or seed draws otherwise."""
    one, other = windows(store, dropout=0.3), windows(store, dropout=0.3)
    backwards = {k: other[k] for k in reversed(range(5))}
    assert all(same(one[k], backwards[k]) for k in range(5))
    later, reseeded = windows(store), windows(store, seed=1)
    later.epoch = 1
    assert not any(same(windows(store)[k], later[k]) for k in range(5))
    assert not all(same(windows(store)[k], reseeded[k]) for k in range(5))


def test_modality_dropout_withholds_one_modality(store: ShardStore) -> None:
    """With one half each, every window lacks its picture or its sound."""
    made = windows(store, size=12, dropout=0.5)
    lacking = [(float(made[k].video_ok.sum()) == 0, float(made[k].audio_ok.sum()) == 0) for k in range(12)]
    assert set(lacking) == {(True, False), (False, True)}
