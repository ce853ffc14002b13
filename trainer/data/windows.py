"""Windows of prepared clips: how a training sample is drawn, manipulated and turned into tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from avff.trainer.data.entry import FRAME_SAMPLES, Prepared
from avff.trainer.data.manifest import Clip
from avff.trainer.data.postchain import post_chain
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.data.shards import Facts, ShardStore
from avff.trainer.data.splits import SplitError, group_of
from avff.trainer.pseudo import apply_recipe

_T = SPEC.window_frames
_MIN_FACE = 0.9
"""A training window shows the face nearly throughout, and all its sound: gaps are for the gates."""


class Batch(NamedTuple):
    """Tensors of one batch (or, without the first axis, of one window).

    ``group`` is the index of the window's recipe or generator, for per-kind figures.
    ``sound`` is the waveform that ``audio`` was computed from, float32 ``[N, 352 + 40960]`` for
    windows, for networks with a front-end of their own; empty where no such network is asked.
    """

    video: Tensor
    audio: Tensor
    landmarks: Tensor
    video_ok: Tensor
    audio_ok: Tensor
    labels: Tensor
    frame_labels: Tensor
    group: Tensor
    sound: Tensor = torch.zeros(0)


class Shelf:
    """Prepared clips by person; a window is read from the disk when it is drawn.

    Args:
        clips: prepared clips; those shorter than a window are left out.
        store: where their entries are.
        frames: pictures in the windows it deals out, a multiple of 8.
        pictures: False leaves the faces undecoded, for what looks at points and sound only.

    Raises:
        SplitError: fewer than two people, or no generated clip, are left to draw from.
    """

    def __init__(
        self, clips: Sequence[Clip], store: ShardStore, *, frames: int = _T, pictures: bool = True
    ) -> None:
        self._store, self._frames, self._pictures = store, frames, pictures
        self.clips = [c for c in clips if _windows(c) > 0]
        # Of all clips: one that is too short may tie two others.
        self._group = group_of(clips)
        self._by_person: dict[str, list[Clip]] = {}
        for clip in self.clips:
            if not clip.is_fake:
                self._by_person.setdefault(clip.person, []).append(clip)
        self._people = sorted(self._by_person)
        self._fakes: dict[str, list[Clip]] = {}
        for clip in self.clips:
            if clip.is_fake:
                self._fakes.setdefault(clip.generator, []).append(clip)
        self._generators = sorted(self._fakes)
        if len(self._people) < 2 or not self._generators:
            raise SplitError(
                f"of {len(clips)} clips {len(self.clips)} are as long as a window: {len(self._people)} "
                f"people and {len(self._generators)} generators; two people and one generator are needed"
            )

    @property
    def people(self) -> list[str]:
        """Genuine people on the shelf, sorted."""
        return list(self._people)

    @property
    def generators(self) -> list[str]:
        """Generators on the shelf."""
        return list(self._generators)

    def group(self, sample: Sample) -> str:
        """Return the group of people and footage that a window of this shelf is of."""
        return self._group[sample.uid]

    def genuine(self, rng: np.random.Generator, *, person: str | None = None) -> tuple[Sample, Donors]:
        """Draw a genuine window: a person first, so that no one with many clips dominates."""
        name = person or self._people[rng.integers(len(self._people))]
        clip = _pick(self._by_person[name], rng)
        at = self._place(clip, rng)
        donors = Donors(
            same=lambda: self._other_window(name, clip, at, rng),
            other=lambda: self._stranger(name, rng),
            clip_audio=(self._store.sound(clip.uid), at * FRAME_SAMPLES),
        )
        return self._cut(clip, at), donors

    def window_of_person(self, person: str, rng: np.random.Generator) -> Sample:
        """Draw a genuine window of a person, without what recipes need besides."""
        clip = _pick(self._by_person[person], rng)
        return self._cut(clip, self._place(clip, rng))

    def generated(self, rng: np.random.Generator) -> Sample:
        """Draw a window of a generated clip, each generator equally often."""
        clip = _pick(self._fakes[self._generators[rng.integers(len(self._generators))]], rng)
        return self._cut(clip, self._place(clip, rng))

    def window_of(self, number: int, rng: np.random.Generator) -> Sample:
        """Draw a window of the clip with this place in ``clips``."""
        clip = self.clips[number]
        return self._cut(clip, self._place(clip, rng))

    def _cut(self, clip: Clip, at: int) -> Sample:
        prepared = self._store.cut(clip.uid, at, self._frames, pictures=self._pictures)
        return cut(prepared, 0, self._frames, clip)

    def _place(self, clip: Clip, rng: np.random.Generator) -> int:
        facts = self._store.facts(clip.uid)
        last = facts.length - self._frames
        for _ in range(8):
            at = int(rng.integers(last + 1)) if last > 0 else 0
            if _is_whole(facts, at, self._frames):
                break
        return at

    def _other_window(self, person: str, clip: Clip, at: int, rng: np.random.Generator) -> Sample:
        for _ in range(8):
            other = _pick(self._by_person[person], rng)
            place = self._place(other, rng)
            if other != clip or abs(place - at) >= SPEC.fps:
                return self._cut(other, place)
        return self._stranger(person, rng)

    def _stranger(self, person: str, rng: np.random.Generator) -> Sample:
        people = [p for p in self._people if p != person] or self._people
        clip = _pick(self._by_person[people[rng.integers(len(people))]], rng)
        return self._cut(clip, self._place(clip, rng))


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
        drop = dropped(choice, self._modality_dropout)
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

    def clusters(self) -> list[str]:
        """Return, for each item, the group of people and footage that its window is of.

        A genuine window and its twins are of one, and so is a generated clip of the same footage.
        """
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
        return self._shelf.group(draw(self._shelf, kind, np.random.default_rng([self._seed, number, 1])))

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
    start = at * FRAME_SAMPLES
    return Sample(
        faces=_take(prepared.faces, at, frames),
        ok=_take(prepared.ok, at, frames),
        landmarks=_take(prepared.landmarks, at, frames),
        motion=_take(prepared.motion, at, frames),
        audio=_take(prepared.audio, start, SPEC.context_samples + frames * FRAME_SAMPLES),
        labels=clip_labels(clip),
        frame_labels=np.tile(clip_labels(clip)[:3], (frames, 1)),
        recipe=clip.generator or "real",
        uid=clip.uid,
    )


def clip_labels(clip: Clip) -> Float32:
    """Return float32 ``[4]``: any, video, audio, desync; NaN where the manifest does not say."""
    parts = [np.nan if v is None else float(v) for v in (clip.label_video, clip.label_audio)]
    # Whether a generated clip is in sync is not annotated; a genuine one is taken to be.
    return np.array([clip.is_fake, *parts, np.nan if clip.is_fake else 0.0], np.float32)


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
    return Batch._make([*tensors, torch.tensor(group), torch.tensor(sample.audio)])


def without(sample: Sample, drop: str) -> tuple[Float32, Float32]:
    """Return the labels that hold when a modality is withheld: what cannot be seen is not asked for."""
    labels, frames = sample.labels.copy(), sample.frame_labels.copy()
    if drop:
        gone, left = (1, 2) if drop == "video" else (2, 1)
        # What is left decides; if its label is unknown, so is the answer.
        labels[0], frames[:, 0] = labels[left], frames[:, left]
        labels[gone], frames[:, gone], labels[3] = np.nan, np.nan, np.nan
    return labels, frames


def _is_whole(facts: Facts, at: int, frames: int) -> bool:
    heard = facts.audio_ok[at // SPEC.slice_frames : -(-(at + frames) // SPEC.slice_frames)]
    return bool(facts.ok[at : at + frames].mean() >= _MIN_FACE and heard.min() >= MIN_AUDIO)


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


def dropped(rng: np.random.Generator, probability: float) -> str:
    """Draw the modality that is withheld: ``video`` or ``audio``, each by the probability, else empty."""
    draw_ = rng.random()
    return "video" if draw_ < probability else "audio" if draw_ < 2 * probability else ""
