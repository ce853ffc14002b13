"""What flows through the engine: slices of media in, predictions out.

``Slice`` is made by :mod:`avff.engine.frontend` (live and offline alike),
``Features`` by :mod:`avff.engine.features`, ``Prediction`` by
:mod:`avff.engine.predictor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from avff.engine.media import Bool, Float32, UInt8


class Reason(StrEnum):
    """Why there is no score.  The values are part of the event interface."""

    TOO_SHORT = "too_short"
    """Less than one window of media so far."""
    NO_MEDIA = "no_media"
    """Neither picture nor sound arrived for most of the window."""
    NO_FACE = "no_face"
    """Pictures arrived, but most show no face."""
    FACE_TOO_SMALL = "face_too_small"
    """A face is there, but too few pixels of it."""
    FACE_CHANGED = "face_changed"
    """The main face is another one than before; its window is not full yet."""
    FACE_TURNED = "face_turned"
    """A face is there, but turned or bent too far from the camera."""
    BAD_EXPOSURE = "bad_exposure"
    """Pictures arrived, but too dark or too bright to show anything."""
    FROZEN = "frozen"
    """Pictures keep arriving, but show the same, down to the noise."""
    LOW_FPS = "low_fps"
    """Too few different pictures a second to follow a mouth."""
    NO_SPEECH = "no_speech"
    """The sound is silence, and sound is all there is."""
    CLIPPING = "clipping"
    """The sound is overdriven: too many samples are at full scale."""
    UNFAMILIAR = "unfamiliar"
    """Picture or sound is unlike anything that the model was trained on."""
    MODEL_NAN = "model_nan"
    """The network returned NaN or infinity."""
    ENGINE_DOWN = "engine_down"
    """The process that runs the network broke down and is being started again."""
    UNSUPPORTED_MODALITY = "unsupported_modality"
    """Only sound, or only picture, is left, and the model is not calibrated for it alone."""


@dataclass(frozen=True, slots=True, eq=False)
class FaceSlice:
    """One tracked face through the 8 grid pictures of a slice.

    Attributes:
        track: number of the face track, unique within the stream.
        faces: uint8 ``[8, 128, 128, 3]`` aligned RGB faces; zeros where ``ok`` is False.
        landmarks: float32 ``[8, 468, 3]`` in pixels of the aligned face; zeros where not ``ok``.
        motion: float32 ``[8, 6]``: roll, yaw, pitch in rad; x, y shift in eye distances and
            change of log scale since the picture before.  Zeros where not ``ok``.
        ok: bool ``[8]``, True where the face was found in that picture.
        eye_px: distance between the eyes in source pixels, mean over the ``ok`` pictures.
        box: x, y, width, height of the face in the source picture, each 0…1, last ``ok`` picture.
    """

    track: int
    faces: UInt8
    landmarks: Float32
    motion: Float32
    ok: Bool
    eye_px: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """320 ms of one stream: its main face and its sound.

    Attributes:
        index: slice number; it covers media time ``index`` … ``index + 1`` slice lengths.
        face: the main face, or None when no picture of the slice shows one.
        other_faces: faces besides the main one, largest first.
        picture_ok: bool ``[8]``, True where a true picture lay near the grid time.
        repeated: bool ``[8]``, True where the grid picture is the same source picture as before.
        still: bool ``[8]``, True where it is that, or another that shows the main face exactly as before.
        light: float32 ``[8, 2]``, mean and standard deviation 0…255 of the luminance of the main face,
            or of the whole picture where no face is; NaN where there is no picture, or only other faces.
        audio: float32 ``[352 + 5120]``: left context, then the slice; zeros where missing.
        audio_ok: share 0…1 of the slice's samples that truly arrived.
        has_video: whether the stream has a picture track at all.
        has_audio: whether the stream has a sound track at all.
        captured_ns: monotonic arrival time of the newest item in the slice, in ns.
        stretch: number of the stretch of media it belongs to; no window reaches into another.
        sync_error_ns: how far picture and sound may be apart by their time stamps, in ns; None if unknown.
    """

    index: int
    face: FaceSlice | None
    other_faces: tuple[FaceSlice, ...]
    picture_ok: Bool
    repeated: Bool
    still: Bool
    light: Float32
    audio: Float32
    audio_ok: float
    has_video: bool
    has_audio: bool
    captured_ns: int
    stretch: int = 0
    sync_error_ns: int | None = 0


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares 0…1 of a window that hold evidence."""

    video: float
    audio: float
    face: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the network says of one window, or why it says nothing.

    Attributes:
        index: number of the window's last slice.
        start_ns, end_ns: media time the window covers, in ns.
        logit: calibrated log-odds that anything in the window is fake; None with ``reason``.
        reason: why ``logit`` is None, else None.
        parts: calibrated probabilities 0…1 by head: ``video``, ``audio``, ``motion``, ``desync``.
        modality: ``av``, ``video`` or ``audio``: what the score rests on.
        frames: float32 ``[64, 3]`` logits (any, video, audio) per picture, NaN where there is neither
            picture nor sound to judge, or None.
        sync: float32 ``[31]`` mean cosine of sound and picture at shifts -15…15 pictures, or None.
        coverage: how much evidence the window holds.
        track: face track the score belongs to, or None.
        captured_ns: monotonic arrival time of the newest item in the window, in ns.
        terms: log-odds that the hypothesis of one head (``any``, ``video``, ``audio``, ``motion``) is the
            one that holds, before the last scaling (:mod:`avff.engine.calibration`).  Empty with ``reason``.
        sync_error_ns: how far picture and sound may be apart by their time stamps, in ns; None if unknown.
    """

    index: int
    start_ns: int
    end_ns: int
    logit: float | None
    reason: Reason | None
    parts: Mapping[str, float]
    modality: str
    frames: Float32 | None
    sync: Float32 | None
    coverage: Coverage
    track: int | None
    captured_ns: int
    terms: Mapping[str, float] = field(default_factory=dict)
    sync_error_ns: int | None = 0
