"""Genuine windows with masks and shifted sound, for the self-supervised stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from avff.engine.evidence import MIN_AUDIO
from avff.engine.features import audio_tensor
from avff.engine.media import Float32
from avff.engine.spec import SPEC
from avff.trainer.data.entry import FRAME_SAMPLES
from avff.trainer.data.manifest import Clip
from avff.trainer.data.postchain import post_chain
from avff.trainer.data.sample import Sample
from avff.trainer.data.shards import Facts, ShardStore
from avff.trainer.data.splits import SplitError
from avff.trainer.data.windows import Batch, cut, to_batch
from avff.trainer.masking import draw_masks
from avff.trainer.model.fusion import MAX_SHIFT
from avff.trainer.sampling import BalancedOrder

_T = SPEC.window_frames
_MIN_FACE = 0.9
"""A window shows the face nearly throughout: what is not there cannot be rebuilt."""


class Masked(NamedTuple):
    """Windows, what is visible of them, and sound that comes early or late.

    Attributes:
        windows: genuine, in step.
        see, hear: ``[N, 64]``, 1 where picture and sound are visible (``masking.py``).
        late_audio: ``[N, 8, 2, 80, 32]``, spectra of the sound of the same clip ``late`` pictures behind.
        late: int64 ``[N]``, -15…15.
    """

    windows: Batch
    see: Tensor
    hear: Tensor
    late_audio: Tensor
    late: Tensor


class GenuineWindows(Dataset[Masked]):
    """Windows of genuine clips, each dataset and person equally often; item ``i`` of an epoch never changes.

    A window is 2.56 s of the clip wherever it lies and however long the clip is.  The post-chain
    degrades it but leaves picture and sound in step.

    Synchrony is to be learnt from sound at a known random shift.  With both in step, a token's place
    in its slice, which the encoders' padding gives away, would answer for it: such a network found
    the peak at shift 0 in every window, and still there when the sound was moved by 320 ms.

    Args:
        clips: prepared clips; only those with label 0 and a whole window are used.
        store: where their entries are.
        size: items in an epoch.
        seed: of the run.
        strength: of the post-chain, 0…1.

    Raises:
        SplitError: no clip is left.
    """

    def __init__(
        self, clips: Sequence[Clip], store: ShardStore, *, size: int, seed: int, strength: float
    ) -> None:
        found = ((clip, whole_starts(store.facts(clip.uid))) for clip in clips if clip.label == 0)
        self._shelf = [(clip, starts) for clip, starts in found if len(starts)]
        if not self._shelf:
            raise SplitError(
                f"none of {len(clips)} clips is genuine and shows a face with sound for "
                f"{SPEC.window_ns / 1e9:.2f} s; pre-training needs such clips"
            )
        self._order = BalancedOrder([clip for clip, _ in self._shelf], size=size, seed=seed)
        self._store, self._size, self._seed, self._strength = store, size, seed, strength
        self._drawn = (-1, np.zeros(0, np.int64))
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Masked:
        """Draw, degrade, mask: seeds depend on run, epoch and item only, so resuming is exact."""
        if self._drawn[0] != self.epoch:
            self._drawn = (self.epoch, self._order.indices(self.epoch))
        clip, starts = self._shelf[self._drawn[1][index]]
        place, degradation, mask = (
            np.random.default_rng([self._seed, self.epoch, index, k]) for k in range(3)
        )
        seen_at = int(place.choice(starts))
        heard_at = int(place.choice(starts[np.abs(starts - seen_at) <= MAX_SHIFT]))
        first, late = min(seen_at, heard_at), seen_at - heard_at
        length = _T + abs(late)
        sample = cut(self._store.cut(clip.uid, first, length), 0, length, clip)
        sample = post_chain(sample, degradation, strength=self._strength)
        windows = to_batch(_part(sample, seen_at - first), group=0, drop="")
        late_audio = _spectra(sample.audio[(heard_at - first) * FRAME_SAMPLES :])
        return Masked(windows, *draw_masks(mask), torch.from_numpy(late_audio), torch.tensor(late))


def _part(sample: Sample, at: int) -> Sample:
    """Return the window of a longer sample that starts with picture ``at``."""
    pictures = slice(at, at + _T)
    sound = slice(at * FRAME_SAMPLES, (at + _T) * FRAME_SAMPLES + SPEC.context_samples)
    return Sample(
        sample.faces[pictures], sample.ok[pictures], sample.landmarks[pictures], sample.motion[pictures],
        sample.audio[sound], sample.labels, sample.frame_labels[pictures], sample.recipe, sample.uid,
    )  # fmt: skip


def _spectra(sound: Float32) -> Float32:
    """Return the spectra of a window, float32 ``[8, 2, 80, 32]``, from sound that starts with its context."""
    length = SPEC.context_samples + SPEC.slice_samples
    starts = range(0, SPEC.window_slices * SPEC.slice_samples, SPEC.slice_samples)
    return np.stack([audio_tensor(sound[start : start + length]) for start in starts])


def whole_starts(facts: Facts) -> npt.NDArray[np.intp]:
    """Return the pictures, int ``[n]``, at which a window with face and sound throughout can start."""
    if facts.length < _T:
        return np.zeros(0, np.intp)
    slices_heard = np.repeat(facts.audio_ok >= MIN_AUDIO, SPEC.slice_frames)
    seen, heard = (np.lib.stride_tricks.sliding_window_view(x, _T) for x in (facts.ok, slices_heard))
    return np.flatnonzero((seen.mean(axis=1) >= _MIN_FACE) & heard.all(axis=1))
