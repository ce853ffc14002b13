"""The unit that pseudo-fakes and the post-chain work on: one window before preprocessing.

It holds what the engine's front-end yields (aligned faces, landmarks, 16 kHz
sound), so a manipulation made here goes through exactly the feature code that
serves the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from avff.engine.media import Bool, Float32, UInt8
from avff.engine.spec import SPEC


def _no_label() -> Float32:
    return np.zeros((SPEC.window_frames, 3), np.float32)


@dataclass(slots=True, eq=False)
class Sample:
    """One window of a talking face.  Arrays are owned by the sample and may be changed in place.

    Attributes:
        faces: uint8 ``[T, 128, 128, 3]`` aligned RGB faces, T = 64 pictures at 25 fps.
        ok: bool ``[T]``, True where a face was found.
        landmarks: float32 ``[T, 468, 3]`` in pixels of the aligned face.
        motion: float32 ``[T, 6]`` head pose and its change, see ``engine.slices.FaceSlice``.
        audio: float32 ``[352 + T * 640]`` at 16 kHz; the first 352 samples precede picture 0.
        labels: float32 ``[4]``: any, video, audio, desync; 1 fake, 0 genuine, NaN unknown.
        frame_labels: float32 ``[T, 3]``: any, video, audio per picture; NaN unknown.
        recipe: name of the pseudo-fake or generator, ``real`` for genuine footage.
        uid: clip the window was cut from.
    """

    faces: UInt8
    ok: Bool
    landmarks: Float32
    motion: Float32
    audio: Float32
    labels: Float32 = field(default_factory=lambda: np.zeros(4, np.float32))
    frame_labels: Float32 = field(default_factory=_no_label)
    recipe: str = "real"
    uid: str = ""

    def copy(self) -> Sample:
        """Return a sample that shares no array with this one."""
        return Sample(
            self.faces.copy(),
            self.ok.copy(),
            self.landmarks.copy(),
            self.motion.copy(),
            self.audio.copy(),
            self.labels.copy(),
            self.frame_labels.copy(),
            self.recipe,
            self.uid,
        )


@dataclass(frozen=True, slots=True)
class Donors:
    """Where a recipe gets other material from.

    Attributes:
        same: returns a window of the same person at another time (never the same window);
            falls back to ``other`` when the person has only one.
        other: returns a window of another person.
        clip_audio: float32 ``[n]``, the sound of the whole clip the sample was cut from,
            and the index in it of ``sample.audio[0]`` (may be negative: the context of the
            first window reaches before the clip).
    """

    same: Callable[[], Sample]
    other: Callable[[], Sample]
    clip_audio: tuple[Float32, int]


Recipe = Callable[[Sample, np.random.Generator, Donors], Sample]
"""A pseudo-fake: takes a genuine sample it may change in place, returns a labelled fake."""
