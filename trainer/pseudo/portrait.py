"""Talking photo: one still picture is moved by the landmarks of a talking face.

Portrait animators (SadTalker, AniPortrait, LivePortrait and their kin) draw every picture from
one photograph: skin, hair and light are those of the still, only their places change.  Here a
warp stands for the generator.  With the window's own landmarks the lips are in perfect step
with the sound, so that only the frozen texture tells; with another window's they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avff.engine.faces.landmarks import LIPS_INNER, LIPS_OUTER
from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo.driving import (
    LOWER_INNER,
    MIDDLE,
    UPPER_INNER,
    Course,
    borrowed,
    driven,
    motion_of,
    opening,
    own,
)
from avff.trainer.pseudo.selfblend import FACE_OVAL, blend
from avff.trainer.pseudo.warp import field_between, warp_still

_SIDE = SPEC.face_px
_FULL = np.array([255], np.uint8)
_STILL_PX = 0.6
"""Mouth openings whose courses differ by less are no evidence of a mismatch."""
_FILL_PX = 3.0
"""From this much more opening than the still has, the inside of the mouth is all fill; a still whose
mouth is open this far shows an inside of its own, which is stretched instead."""


@dataclass(frozen=True, slots=True, eq=False)
class _Mouth:
    """What a generator paints where the still shows nothing.

    Attributes:
        dark: uint8 ``[3]``, colour inside.
        teeth: uint8 ``[3]``, colour of the upper teeth.
        bite_px: how far they reach down, 0 for none.
        soft: odd size of the blur in pixels.
    """

    dark: UInt8
    teeth: UInt8
    bite_px: float
    soft: int


def _mouth(face: UInt8, marks: Float32, rng: np.random.Generator) -> _Mouth:
    """Draw colours that go with the face uint8 ``[128, 128, 3]``; half of all mouths show teeth."""
    column, row = np.clip(np.round(marks[list(LIPS_OUTER), :2].T).astype(int), 0, _SIDE - 1)
    dark = face[row, column].mean(axis=0) * rng.uniform(0.15, 0.45)
    light = np.quantile(face[::4, ::4], 0.95, axis=(0, 1))
    teeth = (light + light.mean()) / 2 * rng.uniform(0.5, 0.85)
    bite_px = rng.uniform(2, 4.5) * (rng.random() < 0.5)
    return _Mouth(dark.astype(np.uint8), teeth.astype(np.uint8), bite_px, int(rng.integers(1, 4)) * 2 + 1)


def _coarse(face: UInt8, rng: np.random.Generator) -> UInt8:
    """Return the still at the resolution of its generator: 64…127 px, sometimes sharpened."""
    small, amount = int(rng.integers(64, _SIDE)), rng.uniform(0.2, 0.6) * (rng.random() < 0.4)
    still = cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA)
    if amount > 0:
        still = cv2.addWeighted(still, 1 + amount, cv2.GaussianBlur(still, (5, 5), 0), -amount, 0)
    return np.asarray(still, np.uint8)


def _outlined(points: Float32) -> Float32:
    """Return points float32 ``[…, 468, 2]`` with 3 more between neighbours on the outline of the face.

    They lie up to 12 px apart there, and the background between them would dent the cheek.
    """
    outline = points[..., list(FACE_OVAL), :]
    onward = np.roll(outline, -1, axis=-2)
    between = [outline + (onward - outline) * np.float32(share) for share in (0.25, 0.5, 0.75)]
    return np.concatenate([points, *between], axis=-2)


def _enlarged(faces: UInt8) -> UInt8:
    """Return faces uint8 ``[T, side, side, 3]`` at ``[T, 128, 128, 3]``."""
    big = [cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC) for face in faces]
    return np.stack([np.asarray(face, np.uint8) for face in big])


def _polygon(picture: UInt8, points: Float32, colour: UInt8) -> None:
    """Fill a polygon float32 ``[n, 2]`` in pixels; four fraction bits keep it from jumping."""
    corners = np.round(points * 16).astype(np.int32)
    cv2.fillPoly(picture, [corners], colour.tolist(), cv2.LINE_AA, shift=4)


def _fill(faces: UInt8, marks: Float32, share: Float32, mouth: _Mouth) -> None:
    """Paint the inside of mouths that are open wider than the still's.

    Args:
        faces: uint8 ``[T, 128, 128, 3]``, changed in place.
        marks: float32 ``[T, 468, 3]``.
        share: float32 ``[T]``, how much of the paint covers what is there, up to 1; none below 0.
        mouth: what to paint.
    """
    wider = np.flatnonzero(share > 0)
    if wider.size == 0:
        return
    lips = marks[wider][:, list(LIPS_INNER), 1]
    top, bottom = np.clip([lips.min() - mouth.soft, lips.max() + mouth.soft + 1], 0, _SIDE).astype(int)
    if bottom <= top:
        return
    masks = np.zeros((wider.size, _SIDE, _SIDE), np.float32)
    inside = np.broadcast_to(mouth.dark, (wider.size, _SIDE, _SIDE, 3)).copy()
    for mask, colour, index in zip(masks, inside, wider, strict=True):
        flat = marks[index, :, :2]
        shape = np.zeros((_SIDE, _SIDE), np.uint8)
        _polygon(shape, flat[list(LIPS_INNER)], _FULL)
        cover = np.float32(min(float(share[index]), 1.0) / 255)
        mask[top:bottom] = cv2.GaussianBlur(shape[top:bottom], (mouth.soft, mouth.soft), 0) * cover
        if mouth.bite_px:
            above, below = flat[UPPER_INNER], flat[LOWER_INNER]
            reach = min(0.6, mouth.bite_px / (float(below[MIDDLE, 1] - above[MIDDLE, 1]) + 1e-9))
            edge = above + (below - above) * np.float32(reach)
            _polygon(colour, np.concatenate([above, edge[::-1]]), mouth.teeth)
            part = colour[top:bottom]
            part[:] = cv2.GaussianBlur(part, (mouth.soft, mouth.soft), 0)
    faces[wider, top:bottom] = blend(faces[wider, top:bottom], inside[:, top:bottom], masks[:, top:bottom])


def _grain(faces: UInt8, rng: np.random.Generator) -> None:
    """Add one and the same noise of sigma 0.5…2.5 to all pictures: texture that sticks to the screen."""
    tile = np.round(rng.standard_normal((_SIDE, _SIDE, 1)) * rng.uniform(0.5, 2.5)).astype(np.int16)
    tile = np.repeat(tile, 3, axis=2)
    for face in faces:
        face[:] = cv2.add(face, tile, dtype=cv2.CV_8U)


def _still(sample: Sample, rng: np.random.Generator) -> int:
    """Return which picture to take: the one with the widest mouth, or any, half and half."""
    found = np.flatnonzero(sample.ok)
    widest = found[int(np.argmax(opening(sample.landmarks[found])))]
    return int(widest if rng.random() < 0.5 else rng.choice(found))


def _driver(sample: Sample, still: int, rng: np.random.Generator, donors: Donors) -> tuple[Course, bool]:
    """Return what moves the still, and whether it is the window's own face (p 0.5)."""
    kind = rng.choice(["own", "same", "other"], p=[0.5, 0.25, 0.25])
    if kind != "own":
        donor = (donors.same if kind == "same" else donors.other)()
        course = borrowed(donor, sample.landmarks[still])
        if course is not None:
            return course, False
    return own(sample, still), True


def talking_photo(sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Replace all faces by one still of the window, moved by landmarks.

    They are the window's own (p 0.5) or those of another window of the same person or another
    (0.25 each), smoothed over time by sigma 1…3 pictures (p 0.5); the head's motion is damped by
    0.2…1.  Landmarks and motion become those of the moved still; sound stays.

    Args:
        sample: genuine window, ``faces`` uint8 ``[T, 128, 128, 3]``; changed in place.
        rng: source of every draw.
        donors: asked for a window half of the time.

    Returns:
        The window with labels any 1, video 1, audio 0, and desync 1 where the lips are another
        window's and move otherwise than the own ones; a window without a face comes back as it was.
    """
    ok = sample.ok
    if not ok.any():
        return sample
    at = _still(sample, rng)
    face, shape = sample.faces[at], sample.landmarks[at].copy()
    course, in_step = _driver(sample, at, rng, donors)
    if rng.random() < 0.5:
        course = course.smoothed(rng.uniform(1, 3))
    marks, damping = driven(shape, course, rng.uniform(0.2, 1))
    moved = opening(marks[ok]) - opening(sample.landmarks[ok])
    field = field_between(_outlined(shape[:, :2]), _outlined(marks[ok][..., :2]))
    made = _enlarged(warp_still(_coarse(face, rng), field))
    gap = float(opening(shape[None])[0])
    share = (opening(marks[ok]) - gap) / _FILL_PX
    _fill(made, marks[ok], np.minimum(share, 1 - gap / _FILL_PX), _mouth(face, shape, rng))
    if rng.random() < 0.5:
        _grain(made, rng)
    sample.faces[ok] = made
    sample.landmarks[ok] = marks[ok]
    sample.motion = motion_of(marks, course, float(sample.motion[at, 0]), damping, ok)
    sample.labels[:] = (1, 1, 0, float(not in_step and float(moved.std()) > _STILL_PX))
    sample.frame_labels[:] = 0
    sample.frame_labels[ok, :2] = 1
    return sample
