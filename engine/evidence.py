"""Is there enough evidence in a window to score it, and by which modality?

The gates of the detector: each answers with a reason, and a window that fails them
gets no score at all.  Limits are the ones the model was trained and judged with.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from avff.engine.media import Bool
from avff.engine.quality import badly_exposed, clipped_share, standing, turned
from avff.engine.slices import Coverage, Reason, Slice
from avff.engine.spec import SPEC

MIN_FACE = 0.7
"""Share of a window's pictures that must show the face, and show it well."""
MIN_FPS = 8.0
"""Different pictures a second below which lips cannot be followed: syllables come at 4 Hz and more."""
_MIN_PICTURES = 3
"""Different pictures in a window from which they have a rate at all."""
MIN_AUDIO = 0.8
"""Share of a window's samples that must have arrived."""
MIN_LOUD = 0.25
"""Share of a window's slices that must be louder than ``SILENCE_DBFS``."""
SILENCE_DBFS = -55.0
MAX_CLIPPED = 0.01
"""Share of a window's samples that may be at full scale."""
_NO_LEVEL_DBFS = -120.0
MAX_SYNC_ERROR_NS = 40_000_000
"""One picture: sound that may be further off by its time stamps is no evidence of lips out of step."""
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
        turned: bool ``[8]``, True where the main face is turned too far.
        badly_exposed: bool ``[8]``, True where it, or a picture without a face, is too dark or bright.
        still: bool ``[8]``, True where the picture shows the same as the one before.
        new_pictures: number of pictures that show something else than the one before.
        picture_ok: share of grid pictures that arrived.
        audio_ok: share of samples that arrived.
        level_dbfs: RMS level.
        clipped: share of samples at full scale.
        has_video, has_audio: whether the stream has the track at all.
        captured_ns: monotonic arrival time of the newest item, in ns.
        sync_error_ns: how far picture and sound may be apart, in ns; None if unknown.
        lost: whether there is nothing of it because the engine was down.
    """

    index: int
    track: int | None
    face_ok: Bool
    eye_px: float
    turned: Bool
    badly_exposed: Bool
    still: Bool
    new_pictures: int
    picture_ok: float
    audio_ok: float
    level_dbfs: float
    clipped: float
    has_video: bool
    has_audio: bool
    captured_ns: int
    sync_error_ns: int | None
    lost: bool = False

    @classmethod
    def of(cls, piece: Slice) -> SliceFacts:
        """Read the facts off a slice."""
        face = piece.face
        power = float(np.mean(np.square(piece.audio[SPEC.context_samples :], dtype=np.float64)))
        return cls(
            index=piece.index,
            track=None if face is None else face.track,
            face_ok=_none() if face is None else face.ok,
            eye_px=0.0 if face is None else face.eye_px,
            turned=_none() if face is None else turned(face.motion),
            badly_exposed=badly_exposed(piece.light),
            still=piece.still,
            new_pictures=int((piece.picture_ok & ~piece.still).sum()),
            picture_ok=float(piece.picture_ok.mean()),
            audio_ok=piece.audio_ok,
            level_dbfs=10 * float(np.log10(power + 10 ** (_NO_LEVEL_DBFS / 10))),
            clipped=clipped_share(piece.audio),
            has_video=piece.has_video,
            has_audio=piece.has_audio,
            captured_ns=piece.captured_ns,
            sync_error_ns=piece.sync_error_ns,
        )

    def missing(self, index: int, *, lost: bool = False) -> SliceFacts:
        """Return the facts of a slice of the same stream that never arrived, or that the engine lost."""
        return SliceFacts(
            index=index, track=None, face_ok=_none(), eye_px=0.0, turned=_none(), badly_exposed=_none(),
            still=_none(), new_pictures=0, picture_ok=0.0, audio_ok=0.0, level_dbfs=_NO_LEVEL_DBFS,
            clipped=0.0, has_video=self.has_video, has_audio=self.has_audio, captured_ns=self.captured_ns,
            sync_error_ns=self.sync_error_ns, lost=lost,
        )  # fmt: skip

    def face_mask(self, track: int | None) -> Bool:
        """Return bool ``[8]``: pictures that show face ``track``, large enough."""
        wanted = track is not None and self.track == track and self.eye_px >= MIN_EYE_PX
        return self.face_ok & wanted

    def audio_mask(self) -> Bool:
        """Return bool ``[8]``: all True when most of the slice's sound arrived."""
        return np.full(SPEC.slice_frames, self.audio_ok >= MIN_AUDIO)


def _none() -> Bool:
    return np.zeros(SPEC.slice_frames, np.bool_)


def window_coverage(facts: Sequence[SliceFacts], track: int | None) -> Coverage:
    """Return how much of a window (8 slices when full) is covered by evidence."""
    slots = SPEC.window_slices
    return Coverage(
        video=sum(f.picture_ok for f in facts) / slots,
        audio=sum(f.audio_ok for f in facts) / slots,
        face=sum(float(f.face_mask(track).mean()) for f in facts) / slots,
    )


def sync_error_of(facts: Sequence[SliceFacts]) -> int | None:
    """Return how far picture and sound of a window may be apart, in ns; None where any of it is unknown."""
    errors = [f.sync_error_ns for f in facts]
    return None if None in errors else max(e for e in errors if e is not None)


def sync_known(error_ns: int | None) -> bool:
    """Whether picture and sound are surely enough of one time to be compared."""
    return error_ns is not None and error_ns <= MAX_SYNC_ERROR_NS


def modality_of(
    facts: Sequence[SliceFacts], track: int | None, coverage: Coverage, scored: Container[str]
) -> tuple[str, Reason | None]:
    """Choose what a window can be scored by.

    Poor pictures are no evidence, nor is poor sound: what is left may still be scored.

    Args:
        facts: the window's slices so far.
        track: the face the window is about.
        coverage: of the window.
        scored: modalities the model is calibrated for.

    Returns:
        ``av``, ``video`` or ``audio`` (empty when there is nothing), and the reason for no score:
        that the engine lost too much of it, else what is wrong with the picture first, then with the sound,
        then that the model does not know it.
    """
    picture_fault, sound_fault = _picture_fault(facts, track, coverage), _sound_fault(facts, coverage)
    face, sound = coverage.face >= MIN_FACE and picture_fault is None, sound_fault is None
    modality = {(True, True): "av", (True, False): "video", (False, True): "audio"}.get((face, sound), "")
    if len(facts) < SPEC.window_slices:
        return modality, Reason.TOO_SHORT
    if modality in scored:
        return modality, None
    if _lost_too_much(facts, coverage):
        return modality, Reason.ENGINE_DOWN
    if picture_fault is not None:
        return modality, picture_fault
    if sound_fault is Reason.CLIPPING:
        return modality, sound_fault
    return modality, Reason.UNSUPPORTED_MODALITY if modality else sound_fault


def _lost_too_much(facts: Sequence[SliceFacts], coverage: Coverage) -> bool:
    """Whether face or sound would suffice if it were not for slices that the engine lost."""
    lost = sum(f.lost for f in facts) / SPEC.window_slices
    needed = ((coverage.face, MIN_FACE), (coverage.audio, MIN_AUDIO))
    return any(found < least <= found + lost for found, least in needed)


def _picture_fault(facts: Sequence[SliceFacts], track: int | None, coverage: Coverage) -> Reason | None:
    """Return what keeps the pictures from being evidence; None when nothing does, or hardly any came."""
    if coverage.face >= MIN_FACE:
        return _why_not_seen_well(facts, track) or (Reason.LOW_FPS if _too_slow(facts) else None)
    if coverage.video >= MIN_FACE:
        return _why_no_face(facts, track)
    # At 2 pictures a second the grid has more gaps than pictures: few, but still coming.
    return Reason.LOW_FPS if _too_slow(facts) else None


def _sound_fault(facts: Sequence[SliceFacts], coverage: Coverage) -> Reason | None:
    """Return what keeps the sound from being evidence."""
    if coverage.audio < MIN_AUDIO:
        return Reason.NO_MEDIA
    if sum(f.level_dbfs > SILENCE_DBFS for f in facts) / SPEC.window_slices < MIN_LOUD:
        return Reason.NO_SPEECH
    clipped = sum(f.clipped for f in facts) / SPEC.window_slices
    return Reason.CLIPPING if clipped > MAX_CLIPPED else None


def _why_not_seen_well(facts: Sequence[SliceFacts], track: int | None) -> Reason | None:
    """Return what spoils most of the face's pictures; None when enough of them show it well."""
    shown = np.concatenate([f.face_mask(track) for f in facts])
    spoilt = {
        Reason.FROZEN: shown & standing(np.concatenate([f.still for f in facts])),
        Reason.BAD_EXPOSURE: shown & np.concatenate([f.badly_exposed for f in facts]),
        Reason.FACE_TURNED: shown & np.concatenate([f.turned for f in facts]),
    }
    good = shown & ~np.any(list(spoilt.values()), axis=0)
    if good.sum() >= MIN_FACE * SPEC.window_frames:
        return None
    return max(spoilt, key=lambda reason: spoilt[reason].sum())


def _too_slow(facts: Sequence[SliceFacts]) -> bool:
    """Whether different pictures come at less than ``MIN_FPS`` while pictures come at all."""
    new = sum(f.new_pictures for f in facts)
    covered_s = sum(f.picture_ok for f in facts) * SPEC.slice_frames / SPEC.fps
    return new >= _MIN_PICTURES and new < MIN_FPS * covered_s


def _why_no_face(facts: Sequence[SliceFacts], track: int | None) -> Reason:
    seen = [f for f in facts if f.face_ok.any()]
    if any(f.track != track for f in seen):
        return Reason.FACE_CHANGED
    if seen and np.mean([f.eye_px for f in seen]) < MIN_EYE_PX:
        return Reason.FACE_TOO_SMALL
    unlit = sum(float(f.badly_exposed.mean()) for f in facts) / SPEC.window_slices
    return Reason.BAD_EXPOSURE if unlit > 1 - MIN_FACE else Reason.NO_FACE
