"""Is there enough evidence in a window to score it, and by which modality?

The gates of the detector: each answers with a reason, and a window that fails them
gets no score at all.  Limits are the ones the model was trained and judged with.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from avff.engine.media import Bool
from avff.engine.slices import Coverage, Reason, Slice
from avff.engine.spec import SPEC

MIN_FACE = 0.7
"""Share of a window's pictures that must show the face."""
MIN_AUDIO = 0.8
"""Share of a window's samples that must have arrived."""
MIN_LOUD = 0.25
"""Share of a window's slices that must be louder than ``SILENCE_DBFS``."""
SILENCE_DBFS = -55.0
_NO_LEVEL_DBFS = -120.0
MIN_EYE_PX = 14.0
"""Distance between the eyes in source pixels below which a face is too small to judge:
at a quarter of the aligned face's 52 px most of the picture would be interpolation."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceFacts:
    """What the gates need to know of one slice.

    Attributes:
        index: slice number.
        track: track of the main face, or None.
        face_ok: bool ``[8]``, True where the main face was found.
        eye_px: distance between its eyes in source pixels.
        picture_ok: share of grid pictures that arrived.
        audio_ok: share of samples that arrived.
        level_dbfs: RMS level.
        has_video, has_audio: whether the stream has the track at all.
        captured_ns: monotonic arrival time of the newest item, in ns.
    """

    index: int
    track: int | None
    face_ok: Bool
    eye_px: float
    picture_ok: float
    audio_ok: float
    level_dbfs: float
    has_video: bool
    has_audio: bool
    captured_ns: int

    @classmethod
    def of(cls, piece: Slice) -> SliceFacts:
        """Read the facts off a slice."""
        face = piece.face
        power = float(np.mean(np.square(piece.audio[SPEC.context_samples :], dtype=np.float64)))
        return cls(
            index=piece.index,
            track=None if face is None else face.track,
            face_ok=np.zeros(SPEC.slice_frames, np.bool_) if face is None else face.ok,
            eye_px=0.0 if face is None else face.eye_px,
            picture_ok=float(piece.picture_ok.mean()),
            audio_ok=piece.audio_ok,
            level_dbfs=10 * float(np.log10(power + 10 ** (_NO_LEVEL_DBFS / 10))),
            has_video=piece.has_video,
            has_audio=piece.has_audio,
            captured_ns=piece.captured_ns,
        )

    def missing(self, index: int) -> SliceFacts:
        """Return the facts of a slice of the same stream that never arrived."""
        return SliceFacts(
            index, None, np.zeros(SPEC.slice_frames, np.bool_), 0.0, 0.0, 0.0, _NO_LEVEL_DBFS,
            self.has_video, self.has_audio, self.captured_ns,
        )  # fmt: skip

    def face_mask(self, track: int | None) -> Bool:
        """Return bool ``[8]``: pictures that show face ``track``, large enough."""
        wanted = track is not None and self.track == track and self.eye_px >= MIN_EYE_PX
        return self.face_ok & wanted

    def audio_mask(self) -> Bool:
        """Return bool ``[8]``: all True when most of the slice's sound arrived."""
        return np.full(SPEC.slice_frames, self.audio_ok >= MIN_AUDIO)


def window_coverage(facts: Sequence[SliceFacts], track: int | None) -> Coverage:
    """Return how much of a window (8 slices when full) is covered by evidence."""
    slots = SPEC.window_slices
    return Coverage(
        video=sum(f.picture_ok for f in facts) / slots,
        audio=sum(f.audio_ok for f in facts) / slots,
        face=sum(float(f.face_mask(track).mean()) for f in facts) / slots,
    )


def modality_of(
    facts: Sequence[SliceFacts], track: int | None, coverage: Coverage, scored: Container[str]
) -> tuple[str, Reason | None]:
    """Choose what a window can be scored by.

    Args:
        facts: the window's slices so far.
        track: the face the window is about.
        coverage: of the window.
        scored: modalities the model is calibrated for.

    Returns:
        ``av``, ``video`` or ``audio`` (empty when there is nothing), and the reason for no score.
    """
    loud = sum(f.level_dbfs > SILENCE_DBFS for f in facts) / SPEC.window_slices
    face, sound = coverage.face >= MIN_FACE, coverage.audio >= MIN_AUDIO and loud >= MIN_LOUD
    modality = {(True, True): "av", (True, False): "video", (False, True): "audio"}.get((face, sound), "")
    if len(facts) < SPEC.window_slices:
        return modality, Reason.TOO_SHORT
    if modality in scored:
        return modality, None
    if not face and coverage.video >= MIN_FACE:
        return modality, _why_no_face(facts, track)
    if modality:
        return modality, Reason.UNSUPPORTED_MODALITY
    return modality, Reason.NO_SPEECH if coverage.audio >= MIN_AUDIO else Reason.NO_MEDIA


def _why_no_face(facts: Sequence[SliceFacts], track: int | None) -> Reason:
    seen = [f for f in facts if f.face_ok.any()]
    if any(f.track != track for f in seen):
        return Reason.FACE_CHANGED
    if seen and np.mean([f.eye_px for f in seen]) < MIN_EYE_PX:
        return Reason.FACE_TOO_SMALL
    return Reason.NO_FACE
