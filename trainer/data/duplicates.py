"""Near-duplicates: one recording on both sides of a split under two names.

Re-uploads, other encodings and other sizes of one clip have other bytes and other names, so neither
hashes of files nor groups join them.  What they show and sound like stays.  Pictures are told by
difference hashes (Krawetz, "Kind of like that", 2013) of the aligned face, sound by the signs of energy
differences along time and frequency (Haitsma & Kalker, "A highly robust audio fingerprinting system",
ISMIR 2002), both at fixed shares of the clip's length.

Clips of one person look alike, so pictures alone prove little: where both clips have sound, sound has
to agree as well.  A copy that was cut or dubbed is not found.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from avff.engine.media import Float32, UInt8

UInt64 = npt.NDArray[np.uint64]

LIMIT = 0.25
"""Distance up to which clips are reported: copies measure 0.04 to 0.21, other speech about 0.5."""
_PICTURE_SCALE = 2.0
"""Aligned faces are alike: those of two clips differ in about a quarter of the bits, not in half."""
PICTURES = 8
"""Pictures that are hashed, spread evenly over the clip."""
_CELLS = 16
"""Rows and columns of one picture's hash."""
_TIMES, _BANDS = 48, 17
"""Cells of the sound's hash, before differences are taken."""
_FFT = 1024
_LOWEST, _HIGHEST = 5, 250
"""Bins that the bands span: 80 Hz to 4 kHz at 16 kHz."""
_SILENT = 1e-4
_FLAT = 2.0
"""Standard deviation, of 255 grey levels, of a picture that shows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a clip shows and sounds like.

    Attributes:
        pictures: uint64 ``[32]`` bits; None when most pictures are blank.
        sound: uint64 ``[12]`` bits; None when it is silent or too short.
    """

    pictures: UInt64 | None
    sound: UInt64 | None


def signature(faces: UInt8, audio: Float32) -> Signature:
    """Return the signature of a prepared clip.

    Args:
        faces: uint8 ``[T, 128, 128, 3]``, black where no face was found.
        audio: float32 ``[n]`` at 16 kHz.
    """
    return Signature(_hash_pictures(faces), _hash_sound(audio))


def near_duplicates(
    signatures: Mapping[str, Signature],
    sides: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    limit: float = LIMIT,
) -> list[tuple[str, str, float]]:
    """Return pairs of clips that stand on different sides and are all but the same.

    Args:
        signatures: by uid.
        sides: by uid, the side of the split a clip is on.
        groups: by uid, see :func:`avff.trainer.data.splits.group_of`; a generated clip and its footage
            resemble each other by nature, so pairs of one group are not reported.
        limit: largest distance that counts.  Distance is the share of differing bits, doubled for
            pictures; the larger of both modalities, or that of the only one both clips have.

    Returns:
        both uids and the distance, the closest pair first.
    """
    by_side: dict[str, list[str]] = {}
    for uid in sorted(signatures):
        by_side.setdefault(sides[uid], []).append(uid)
    found = [
        pair
        for one, other in itertools.combinations(sorted(by_side), 2)
        for pair in _between(signatures, by_side[one], by_side[other], limit)
    ]
    return sorted((p for p in found if groups[p[0]] != groups[p[1]]), key=lambda pair: (pair[2], pair))


def _between(
    signatures: Mapping[str, Signature], ones: list[str], others: list[str], limit: float
) -> list[tuple[str, str, float]]:
    pictures, shown = _stack([signatures[uid].pictures for uid in others])
    sounds, audible = _stack([signatures[uid].sound for uid in others])
    found = []
    for one in ones:
        heard = _distances(signatures[one].sound, sounds, audible)
        # Sound, the shorter hash, first: it leaves few pairs whose pictures have to be compared.
        left = np.flatnonzero(~(heard > limit))
        seen = _PICTURE_SCALE * _distances(signatures[one].pictures, pictures[left], shown[left])
        # A modality that either clip lacks (NaN) says nothing; a pair without any common one is no pair.
        distance = np.fmax(seen, heard[left])
        found += [(one, others[left[k]], float(distance[k])) for k in np.flatnonzero(distance <= limit)]
    return found


def _stack(hashes: list[UInt64 | None]) -> tuple[UInt64, npt.NDArray[np.bool_]]:
    """Return the hashes ``[clips, words]`` and which of them are there."""
    words = next((len(h) for h in hashes if h is not None), 0)
    there = np.array([h is not None for h in hashes])
    return np.stack([np.zeros(words, np.uint64) if h is None else h for h in hashes]), there


def _distances(one: UInt64 | None, others: UInt64, there: npt.NDArray[np.bool_]) -> Float32:
    """Return the share of differing bits float32 ``[clips]``, NaN where a hash is missing."""
    if one is None or not there.any():
        return np.full(len(there), np.nan, np.float32)
    share = np.bitwise_count(one ^ others).sum(axis=1, dtype=np.float32) / (64 * len(one))
    return np.where(there, share, np.nan).astype(np.float32)


def _hash_pictures(faces: UInt8) -> UInt64 | None:
    """Return whether each cell is darker than the next in its row, for every picture."""
    chosen = faces[((np.arange(PICTURES) + 0.5) * len(faces) / PICTURES).astype(np.intp)]
    grey = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in chosen]
    if sum(float(g.std()) < _FLAT for g in grey) > PICTURES // 2:
        return None
    small = [cv2.resize(g, (_CELLS + 1, _CELLS), interpolation=cv2.INTER_AREA) for g in grey]
    return _packed(np.stack([s[:, 1:] > s[:, :-1] for s in small]))


def _hash_sound(audio: Float32) -> UInt64 | None:
    """Return the signs of the energy's second differences, along frequency and then along time."""
    if len(audio) < _FFT * 2 or float(np.sqrt(np.mean(np.square(audio)))) < _SILENT:
        return None
    starts = np.arange(0, len(audio) - _FFT + 1, _FFT // 4)
    frames = audio[starts[:, None] + np.arange(_FFT)] * np.hanning(_FFT).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames)))  # [frames, bins]
    edges = np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1).astype(int)
    bands = np.stack([power[:, a : max(b, a + 1)].sum(axis=1) for a, b in itertools.pairwise(edges)], axis=1)
    at = (np.arange(_TIMES + 2) * len(bands) / (_TIMES + 1)).astype(int)
    cells = np.stack([bands[a : max(b, a + 1)].mean(axis=0) for a, b in itertools.pairwise(at)])
    level = np.log(cells + 1e-10)  # [49, 17]
    slope = level[:, 1:] - level[:, :-1]
    return _packed(slope[1:] > slope[:-1])


def _packed(bits: npt.NDArray[np.bool_]) -> UInt64:
    return np.packbits(bits).view(np.uint64)
