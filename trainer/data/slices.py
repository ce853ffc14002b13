"""Single slices for the encoders' stage, cut from short windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from avff.engine.spec import SPEC
from avff.trainer.data.postchain import post_chain
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.data.windows import Batch, Shelf, choose, draw, to_batch
from avff.trainer.pseudo import apply_recipe

SHORT_SLICES = 3
"""Slices in a short window: with fewer a lip swap finds no other mouth to take."""
PICTURE_KINDS = ("generated", "self_blend", "lip_swap", "talking_photo")
SOUND_KIND = "vocoder"
GROUPS = ("real", *PICTURE_KINDS)
_SOUND = SPEC.context_samples + SPEC.slice_samples
_RAMP = 0.5
"""Part of the stage in which the post-chain grows to its full strength: traces that are hard to see
through degradation are learnt without it first."""


class TrainingSlices(Dataset[Batch]):
    """Pairs of single slices: genuine, and the same slice with picture and sound both manipulated.

    Every encoder answers for its own modality, so one twin teaches all of them at once.

    Args:
        shelf: training clips, dealing out windows of ``SHORT_SLICES``.
        mix: shares of the picture kinds.
        size: items in an epoch, even.
        epochs: of the stage, for the growth of the post-chain.
        seed: of the run.
        strength: of the post-chain when grown, 0…1.
    """

    def __init__(
        self, shelf: Shelf, mix: dict[str, float], *, size: int, epochs: int, seed: int, strength: float
    ) -> None:
        self._shelf, self._size, self._epochs, self._seed = shelf, size, epochs, seed
        self._mix = {kind: mix.get(kind, 0.0) for kind in PICTURE_KINDS}
        self._strength = strength
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Batch:
        """Draw an item; its seeds depend on run, epoch and pair only."""
        pair, manipulated = divmod(index, 2)
        seed = [self._seed, self.epoch, pair]
        choice = np.random.default_rng([*seed, 0])
        kind = choose(self._mix, choice)
        grown = min(1.0, self.epoch / max(1.0, _RAMP * self._epochs))
        return _slice(self._shelf, kind if manipulated else "real", seed, self._strength * grown)


class ValidationSlices(Dataset[Batch]):
    """A fixed set: as many slices of every kind, made of the same genuine ones."""

    def __init__(self, shelf: Shelf, *, each: int, seed: int, strength: float) -> None:
        self._shelf, self._each, self._seed, self._strength = shelf, each, seed, strength
        self.groups = list(GROUPS)

    def __len__(self) -> int:
        return self._each * len(self.groups)

    def __getitem__(self, index: int) -> Batch:
        """Return slice ``index``; groups follow one another."""
        group, number = divmod(index, self._each)
        return _slice(self._shelf, self.groups[group], [self._seed, number], self._strength, group=group)


def _slice(shelf: Shelf, kind: str, seed: list[int], strength: float, *, group: int = 0) -> Batch:
    """Make a short window, manipulate both modalities, cut one slice out of it, and degrade that."""
    sample = draw(shelf, kind, np.random.default_rng([*seed, 1]))
    if kind not in ("real", "generated"):
        sample = _with_sound(sample, np.random.default_rng([*seed, 3]))
    at = int(np.random.default_rng([*seed, 4]).integers(SHORT_SLICES))
    # Cut before it is degraded: half the work.
    sample = post_chain(_around(sample, at), np.random.default_rng([*seed, 2]), strength=strength)
    sample.audio = sample.audio[-_SOUND:]
    return to_batch(sample, group=group, drop="")


def _with_sound(sample: Sample, rng: np.random.Generator) -> Sample:
    """Manipulate the sound too, and keep what is known of the picture."""
    picture = sample.frame_labels[:, 1].copy()
    sample = apply_recipe(SOUND_KIND, sample, rng, _no_donors())
    sample.frame_labels[:, 1] = picture
    return sample


def _no_donors() -> Donors:
    def refuse() -> Sample:
        raise AssertionError(f"{SOUND_KIND} takes nothing from other windows")

    return Donors(refuse, refuse, (np.zeros(0, np.float32), 0))


def _around(sample: Sample, at: int) -> Sample:
    """Return slice ``at`` with the sound of the one before it, if any: rooms ring on, codecs run in."""
    pictures = slice(at * SPEC.slice_frames, (at + 1) * SPEC.slice_frames)
    start, stop = max(0, at - 1) * SPEC.slice_samples, at * SPEC.slice_samples + _SOUND
    return replace(
        sample, faces=sample.faces[pictures], ok=sample.ok[pictures], landmarks=sample.landmarks[pictures],
        motion=sample.motion[pictures], audio=sample.audio[start:stop],
        frame_labels=sample.frame_labels[pictures],
    )  # fmt: skip
