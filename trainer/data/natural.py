"""Windows of clips as they come: every clip as often as any other, classes at their share of the data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from avff.trainer.data.postchain import post_chain
from avff.trainer.data.windows import Batch, Shelf, dropped, to_batch
from avff.trainer.sampling import NaturalOrder


class NaturalWindows(Dataset[Batch]):
    """An endless supply of windows of real clips; item ``i`` of an epoch is always the same.

    All clips take turns: each is drawn once, in random order, before any is drawn again, whatever
    the number of items in an epoch.  A network trained so learns how common fakes are among the
    training clips, besides what they look like.

    Args:
        shelf: training clips.
        size: items in an epoch.
        seed: of the run.
        modality_dropout: probability that a window's picture is withheld, and the same for its sound.
        strength: of the post-chain, 0…1.
    """

    def __init__(
        self, shelf: Shelf, *, size: int, seed: int, modality_dropout: float, strength: float
    ) -> None:
        self._shelf, self._size, self._seed = shelf, size, seed
        self._modality_dropout, self._strength = modality_dropout, strength
        self._order = NaturalOrder(len(shelf.clips), seed=seed)
        self._turn: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Batch:
        """Draw and degrade: seeds depend on run, epoch and item only, so resuming is exact."""
        drop, place, degradation = (
            np.random.default_rng([self._seed, self.epoch, index, k]) for k in range(3)
        )
        sample = self._shelf.window_of(self._clip_number(index), place)
        sample = post_chain(sample, degradation, strength=self._strength)
        return to_batch(sample, group=0, drop=dropped(drop, self._modality_dropout))

    def _clip_number(self, index: int) -> int:
        turn, place = divmod(self.epoch * self._size + index, len(self._shelf.clips))
        if self._turn[0] != turn:
            self._turn = (turn, self._order.indices(turn))
        return int(self._turn[1][place])
