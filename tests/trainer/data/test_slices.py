"""Single slices for the encoders' stage: both modalities of a twin are manipulated, and labelled so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avff.engine.spec import SPEC
from avff.trainer.data import slices
from avff.trainer.data.sample import Sample
from avff.trainer.data.slices import GROUPS, SHORT_SLICES, TrainingSlices, ValidationSlices
from avff.trainer.data.windows import Batch, Shelf
from tests.support.training import fill_cache, make_clip

CLIPS = [
    make_clip("a.mp4", identity="a"),
    make_clip("b.mp4", identity="b"),
    make_clip("f.mp4", label=1, generator="F", label_video=1),
]
MIX = {"self_blend": 1.0, "lip_swap": 1.0, "splice": 5.0}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    cache = fill_cache(tmp_path_factory.mktemp("cache"), CLIPS)
    return Shelf(CLIPS, cache, frames=SHORT_SLICES * SPEC.slice_frames)


def training(shelf: Shelf, mix: dict[str, float] = MIX, *, epochs: int = 4) -> TrainingSlices:
    return TrainingSlices(shelf, mix, size=16, epochs=epochs, seed=0, strength=1.0)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in zip(one, other, strict=True))


def test_item_is_one_slice(shelf: Shelf) -> None:
    """Each item is a single slice of picture, sound and landmarks."""
    item = training(shelf)[1]
    assert tuple(item.video.shape) == (1, SPEC.slice_frames, 3, SPEC.input_px, SPEC.input_px)
    assert tuple(item.audio.shape) == (1, 2, SPEC.bands, SPEC.slice_spectra)
    assert tuple(item.landmarks.shape) == (1, SPEC.slice_frames, SPEC.landmark_values)
    assert tuple(item.frame_labels.shape) == (SPEC.slice_frames, 3)


def test_twin_is_manipulated_in_both_modalities(shelf: Shelf) -> None:
    """The odd item is the even one's slice with another picture and a vocoded sound, each labelled."""
    made = training(shelf, {"self_blend": 1.0})  # epoch 0: no post-chain yet
    for pair in range(3):
        genuine, manipulated = made[2 * pair], made[2 * pair + 1]
        differs = (genuine.video != manipulated.video).flatten(2).any(dim=2)[0]
        assert not genuine.frame_labels.any()
        assert not torch.equal(genuine.audio, manipulated.audio)
        assert torch.equal(genuine.landmarks, manipulated.landmarks)
        assert torch.equal(manipulated.frame_labels[:, 1], differs.float())
        assert manipulated.frame_labels[:, 2].all()


def test_generated_clips_keep_their_own_labels(shelf: Shelf) -> None:
    """The sound of a generated clip is left alone, and unknown stays unknown."""
    item = training(shelf, {"generated": 1.0})[1]
    assert item.frame_labels[:, 1].all()
    assert torch.isnan(item.frame_labels[:, 2]).all()


def test_same_item_is_the_same_slice(shelf: Shelf) -> None:
    """An item depends on run, epoch and number only, and another epoch draws others."""
    one, other = training(shelf), training(shelf)
    backwards = {i: other[i] for i in (3, 2, 1, 0)}
    assert all(same(one[i], backwards[i]) for i in range(4))
    other.epoch = 1
    assert not same(one[0], other[0])


def test_post_chain_grows_in_the_first_half(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are learnt without degradation first; from half of the stage on it is at full strength."""
    seen: list[float] = []

    def note(sample: Sample, rng: np.random.Generator, strength: float) -> Sample:
        del rng
        seen.append(strength)
        return sample

    monkeypatch.setattr(slices, "post_chain", note)
    made = training(shelf, epochs=8)
    for epoch in range(8):
        made.epoch = epoch
        made[0]
    assert seen[0] == 0
    assert seen[:4] == sorted(set(seen[:4]))
    assert seen[4:] == [1.0] * 4


def test_validation_groups_share_their_slices(shelf: Shelf) -> None:
    """Every kind is made of the same genuine slices, and asking again gives the same ones."""
    made = ValidationSlices(shelf, each=2, seed=1, strength=0.0)
    assert len(made) == 2 * len(GROUPS)
    items = [made[i] for i in range(len(made))]
    assert [int(item.group) for item in items] == [at for at in range(len(GROUPS)) for _ in range(2)]
    assert all(same(item, made[i]) for i, item in enumerate(items))
    blend = 2 * GROUPS.index("self_blend")
    assert torch.equal(items[0].landmarks, items[blend].landmarks)
    assert not torch.equal(items[0].landmarks, items[1].landmarks)
