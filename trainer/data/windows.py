"""Windows of prepared clips: how a training sample is drawn, manipulated and turned into tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from avff.engine.evidence import MIN_AUDIO
from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.media import Float32
from avff.engine.spec import SPEC
from avff.trainer.data.manifest import Clip
from avff.trainer.data.postchain import post_chain
from avff.trainer.data.prepare import Prepared, load_prepared
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.data.splits import SplitError, person_of
from avff.trainer.pseudo import apply_recipe

_T = SPEC.window_frames
_FRAME_SAMPLES = SPEC.slice_samples // SPEC.slice_frames
_MIN_FACE = 0.9
"""A training window shows the face nearly throughout, and all its sound: gaps are for the gates."""


class Batch(NamedTuple):
    """Tensors of one batch (or, without the first axis, of one window).

    ``group`` is the index of the window's recipe or generator, for per-kind figures.
    """

    video: Tensor
    audio: Tensor
    landmarks: Tensor
    video_ok: Tensor
    audio_ok: Tensor
    labels: Tensor
    frame_labels: Tensor
    group: Tensor


class Shelf:
    """Prepared clips by person, all in memory (about 2.5 MB a second of footage).

    They are read here, before any worker process is forked, so that workers share one copy.

    Args:
        clips: prepared clips; those shorter than a window are left out.
        cache: where their entries are.
        frames: pictures in the windows it deals out, a multiple of 8.

    Raises:
        SplitError: fewer than two people, or no generated clip, are left to draw from.
    """

    def __init__(self, clips: Sequence[Clip], cache: Path, *, frames: int = _T) -> None:
        self._frames = frames
        self.clips = [c for c in clips if _windows(c) > 0]
        self._prepared = {clip.uid: load_prepared(cache, clip) for clip in self.clips}
        self._person = {clip.uid: person_of(clip) for clip in self.clips}
        self._by_person: dict[str, list[Clip]] = {}
        for clip in self.clips:
            if not clip.label:
                self._by_person.setdefault(person_of(clip), []).append(clip)
        self._people = sorted(self._by_person)
        self._fakes: dict[str, list[Clip]] = {}
        for clip in self.clips:
            if clip.label:
                self._fakes.setdefault(clip.generator, []).append(clip)
        self._generators = sorted(self._fakes)
        if len(self._people) < 2 or not self._generators:
            raise SplitError(
                f"of {len(clips)} clips {len(self.clips)} are as long as a window: {len(self._people)} "
                f"people and {len(self._generators)} generators; two people and one generator are needed"
            )

    @property
    def generators(self) -> list[str]:
        """Generators on the shelf."""
        return list(self._generators)

    def person(self, sample: Sample) -> str:
        """Return the person a window of this shelf shows."""
        return self._person[sample.uid]

    def genuine(self, rng: np.random.Generator, *, person: str | None = None) -> tuple[Sample, Donors]:
        """Draw a genuine window: a person first, so that no one with many clips dominates."""
        name = person or self._people[rng.integers(len(self._people))]
        clip = _pick(self._by_person[name], rng)
        prepared, at = self._place(clip, rng)
        donors = Donors(
            same=lambda: self._other_window(name, clip, at, rng),
            other=lambda: self._stranger(name, rng),
            clip_audio=(prepared.audio, at * _FRAME_SAMPLES),
        )
        return cut(prepared, at, self._frames, clip), donors

    def generated(self, rng: np.random.Generator) -> Sample:
        """Draw a window of a generated clip, each generator equally often."""
        clip = _pick(self._fakes[self._generators[rng.integers(len(self._generators))]], rng)
        prepared, at = self._place(clip, rng)
        return cut(prepared, at, self._frames, clip)

    def _place(self, clip: Clip, rng: np.random.Generator) -> tuple[Prepared, int]:
        prepared = self._prepared[clip.uid]
        last = len(prepared.ok) - self._frames
        for _ in range(8):
            at = int(rng.integers(last + 1)) if last > 0 else 0
            if _is_whole(prepared, at, self._frames):
                break
        return prepared, at

    def _other_window(self, person: str, clip: Clip, at: int, rng: np.random.Generator) -> Sample:
        for _ in range(8):
            other = _pick(self._by_person[person], rng)
            prepared, place = self._place(other, rng)
            if other != clip or abs(place - at) >= SPEC.fps:
                return cut(prepared, place, self._frames, other)
        return self._stranger(person, rng)

    def _stranger(self, person: str, rng: np.random.Generator) -> Sample:
        people = [p for p in self._people if p != person] or self._people
        clip = _pick(self._by_person[people[rng.integers(len(people))]], rng)
        prepared, at = self._place(clip, rng)
        return cut(prepared, at, self._frames, clip)


class TrainingWindows(Dataset[Batch]):
    """An endless supply of training windows in pairs; item ``i`` of an epoch is always the same.

    Even items are genuine; the odd item after each is the same window manipulated, with
    the same post-chain, so that nothing but the manipulation tells them apart (as in
    Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376).  A generated clip has no such
    twin and stands beside some genuine window.

    Args:
        shelf: training clips.
        mix: shares of the odd items by recipe name, plus ``generated``.
        size: items in an epoch, even.
        seed: of the run.
        modality_dropout: probability that a pair's picture, or its sound, is withheld.
        strength: of the post-chain, 0…1.
    """

    def __init__(
        self,
        shelf: Shelf,
        mix: Mapping[str, float],
        *,
        size: int,
        seed: int,
        modality_dropout: float,
        strength: float,
    ) -> None:
        self._shelf, self._size, self._seed = shelf, size, seed
        self._mix = mix
        self._modality_dropout, self._strength = modality_dropout, strength
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Batch:
        """Draw, manipulate, degrade: seeds depend on run, epoch and pair only, so resuming is exact."""
        pair, manipulated = divmod(index, 2)
        seed = [self._seed, self.epoch, pair]
        choice = np.random.default_rng([*seed, 0])
        kind = choose(self._mix, choice)
        drop = _dropped(choice, self._modality_dropout)
        sample = draw(self._shelf, kind if manipulated else "real", np.random.default_rng([*seed, 1]))
        degraded = post_chain(sample, np.random.default_rng([*seed, 2]), strength=self._strength)
        return to_batch(degraded, group=0, drop=drop)


class ValidationWindows(Dataset[Batch]):
    """A fixed set: the same genuine windows plain and by every recipe, and as many generated ones.

    Args:
        shelf: validation clips.
        recipes: pseudo-fakes, one group each.
        each: windows in a group.
        seed: of the run.
        strength: of the post-chain, 0…1.
    """

    def __init__(
        self, shelf: Shelf, recipes: Sequence[str], *, each: int, seed: int, strength: float
    ) -> None:
        self._shelf, self._seed, self._each, self._strength = shelf, seed, each, strength
        self.groups = ["real", "generated", *recipes]

    def people(self) -> list[str]:
        """Return, for each item, whose window it is: a genuine one and its twins are one person's."""
        owners = {
            kind: [self._owner(kind, number) for number in range(self._each)]
            for kind in ("real", "generated")
        }
        return [
            owners["generated" if name == "generated" else "real"][number]
            for name in self.groups
            for number in range(self._each)
        ]

    def _owner(self, kind: str, number: int) -> str:
        return self._shelf.person(draw(self._shelf, kind, np.random.default_rng([self._seed, number, 1])))

    def __len__(self) -> int:
        return self._each * len(self.groups)

    def __getitem__(self, index: int) -> Batch:
        """Return the window ``index``; groups follow one another, the post-chain is the same in each."""
        group, number = divmod(index, self._each)
        sample = draw(self._shelf, self.groups[group], np.random.default_rng([self._seed, number, 1]))
        degraded = post_chain(sample, np.random.default_rng([self._seed, number, 2]), strength=self._strength)
        return to_batch(degraded, group=group, drop="")


def choose(mix: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draw a kind by its share."""
    kinds, shares = list(mix), np.array(list(mix.values()))
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def draw(shelf: Shelf, kind: str, rng: np.random.Generator) -> Sample:
    """Draw a window of a kind: ``real``, ``generated`` or a pseudo-fake recipe.

    The same generator state gives the same genuine window for ``real`` and every recipe.
    """
    if kind == "generated":
        return shelf.generated(rng)
    sample, donors = shelf.genuine(rng)
    return sample if kind == "real" else apply_recipe(kind, sample, rng, donors)


def cut(prepared: Prepared, at: int, frames: int, clip: Clip) -> Sample:
    """Cut ``frames`` pictures from ``at`` on; arrays are copies, padded if the clip ends early."""
    start = at * _FRAME_SAMPLES
    return Sample(
        faces=_take(prepared.faces, at, frames),
        ok=_take(prepared.ok, at, frames),
        landmarks=_take(prepared.landmarks, at, frames),
        motion=_take(prepared.motion, at, frames),
        audio=_take(prepared.audio, start, SPEC.context_samples + frames * _FRAME_SAMPLES),
        labels=clip_labels(clip),
        frame_labels=np.tile(clip_labels(clip)[:3], (frames, 1)),
        recipe=clip.generator or "real",
        uid=clip.uid,
    )


def clip_labels(clip: Clip) -> Float32:
    """Return float32 ``[4]``: any, video, audio, desync; NaN where the manifest does not say."""
    parts = [np.nan if v is None else float(v) for v in (clip.label_video, clip.label_audio)]
    # Whether a generated clip is in sync is not annotated; a genuine one is taken to be.
    return np.array([clip.label, *parts, np.nan if clip.label else 0.0], np.float32)


def to_batch(sample: Sample, *, group: int, drop: str) -> Batch:
    """Turn a window into tensors with the engine's own feature code.

    Args:
        sample: the window.
        group: index of its kind.
        drop: ``video`` or ``audio`` withholds that modality, empty withholds none.
    """
    length = SPEC.context_samples + SPEC.slice_samples
    slices = len(sample.faces) // SPEC.slice_frames
    sound = [sample.audio[s * SPEC.slice_samples :][:length] for s in range(slices)]
    side = SPEC.input_px
    pictures = video_tensor(sample.faces).reshape(slices, SPEC.slice_frames, 3, side, side)
    points = landmark_tensor(sample.landmarks, sample.motion).reshape(slices, SPEC.slice_frames, -1)
    seen = sample.ok.astype(np.float32) * (drop != "video")
    labels, frame_labels = without(sample, drop)
    arrays = (
        pictures, np.stack([audio_tensor(s) for s in sound]), points, seen,
        np.full(len(seen), drop != "audio", np.float32), labels, frame_labels,
    )  # fmt: skip
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    return Batch._make([*tensors, torch.tensor(group)])


def without(sample: Sample, drop: str) -> tuple[Float32, Float32]:
    """Return the labels that hold when a modality is withheld: what cannot be seen is not asked for."""
    labels, frames = sample.labels.copy(), sample.frame_labels.copy()
    if drop:
        gone, left = (1, 2) if drop == "video" else (2, 1)
        # What is left decides; if its label is unknown, so is the answer.
        labels[0], frames[:, 0] = labels[left], frames[:, left]
        labels[gone], frames[:, gone], labels[3] = np.nan, np.nan, np.nan
    return labels, frames


def _is_whole(prepared: Prepared, at: int, frames: int) -> bool:
    heard = prepared.audio_ok[at // SPEC.slice_frames : -(-(at + frames) // SPEC.slice_frames)]
    return bool(prepared.ok[at : at + frames].mean() >= _MIN_FACE and heard.min() >= MIN_AUDIO)


def _windows(clip: Clip) -> int:
    return max(0, int(clip.duration_s * SPEC.fps) - _T + 1)


def _pick(clips: Sequence[Clip], rng: np.random.Generator) -> Clip:
    return clips[int(rng.integers(len(clips)))]


def _take(array: npt.NDArray[Any], start: int, length: int) -> npt.NDArray[Any]:
    part = array[start : start + length].copy()
    if len(part) < length:
        pad = [(0, length - len(part))] + [(0, 0)] * (part.ndim - 1)
        part = np.pad(part, pad)
    return part


def _dropped(rng: np.random.Generator, probability: float) -> str:
    draw_ = rng.random()
    return "video" if draw_ < probability else "audio" if draw_ < 2 * probability else ""
