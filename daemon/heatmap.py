"""One picture of what a window's score rests on: the face, the sound, and the suspicion of each picture.

Orange speaks for a fake, blue against; told apart with any kind of colour vision.  The picture
below the colours is grey, so that every colour in it is the map's.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from avff.daemon.canvas import BLACK, GREY, LIGHT, Canvas
from avff.daemon.explanation import shares_of
from avff.engine.explain import Explanation, OcclusionMap, Window
from avff.engine.features import audio_tensor, band_middles_hz
from avff.engine.media import NS_PER_S, Float32, UInt8
from avff.engine.rolling import probability
from avff.engine.spec import SPEC

WIDTH, HEIGHT = 1280, 640
LEAST_SCALE = 0.1
"""Log-odds at full colour, at least: trifles stay pale."""
_TOP, _SIDE = 124, 384
_FACE_LEFT, _SOUND_LEFT, _SOUND_WIDE = 76, 660, 416
_STRIP, _GAP, _BAR = 16, 6, 14
_LINE_TOP, _LINE_HIGH = 572, 42
_BRIGHTEST = 205
"""Of the spectrogram: colours show on grey, hardly on white."""
_ORANGE, _BLUE = np.array([213, 94, 0], np.float32), np.array([0, 114, 178], np.float32)
_MARKS_HZ = (250, 500, 1000, 2000, 4000)
_HEADS = (("any", "joint"), ("video", "picture"), ("audio", "sound"), ("motion", "motion"))
_NAME_LETTERS = 34
_NAMES = {"av": "picture and sound", "video": "the picture", "audio": "the sound"}


def draw(explanation: Explanation, name: str) -> UInt8:
    """Draw an explanation.

    Args:
        explanation: of one window.
        name: of the clip, for the title.

    Returns:
        uint8 ``[640, 1280, 3]`` RGB.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    _draw_title(canvas, explanation.window, name)
    if explanation.face is None:
        canvas.text("The score does not rest on the picture.", (_FACE_LEFT, _TOP + 40), colour=GREY)
    else:
        _draw_face(canvas, explanation.window, explanation.face)
    if explanation.sound is None or explanation.times is None or explanation.bands is None:
        canvas.text("The score does not rest on the sound.", (_SOUND_LEFT, _TOP + 40), colour=GREY)
    else:
        _draw_sound(canvas, explanation.window, explanation.sound, explanation.times, explanation.bands)
    _draw_heads(canvas, explanation.window)
    _draw_suspicion(canvas, explanation.window)
    return canvas.picture()


def tinted(grey: UInt8, values: Float32, scale: float) -> UInt8:
    """Lay a map over a picture: colour by sign, more of it the larger the value.

    Args:
        grey: uint8 ``[height, width]``.
        values: float32 ``[rows, columns]``, stretched over the picture.
        scale: value at full colour.

    Returns:
        uint8 ``[height, width, 3]`` RGB.
    """
    size = (grey.shape[1], grey.shape[0])
    smooth = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_CUBIC), np.float32)
    share = np.clip(smooth / np.float32(scale), -1, 1)[..., None]
    colour = np.where(share > 0, _ORANGE, _BLUE)
    # The power keeps what is near zero from tinting the whole picture.
    strength = 0.85 * np.abs(share) ** 1.2
    mixed = grey[..., None].astype(np.float32) * (1 - strength) + colour * strength
    return np.asarray(np.rint(mixed), np.uint8)


def middle_face(window: Window) -> UInt8:
    """Return the aligned face nearest to the window's middle, uint8 ``[128, 128, 3]``."""
    shown = [
        (abs(SPEC.slice_frames * k + i + 0.5 - SPEC.window_frames / 2), s.face.faces[i])
        for k, s in enumerate(window.slices)
        if s.face is not None and s.face.track == window.prediction.track
        for i in np.flatnonzero(s.face.ok)
    ]
    return np.asarray(min(shown, key=lambda pair: pair[0])[1], np.uint8)


def _draw_title(canvas: Canvas, window: Window, name: str) -> None:
    said = window.prediction
    logit = said.logit or 0.0
    span = f"{said.start_ns / NS_PER_S:.2f} to {said.end_ns / NS_PER_S:.2f} s"
    score = (
        f"probability of fake {probability(logit):.2f}, log-odds {logit:+.2f}, from {_NAMES[said.modality]}"
    )
    short = name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 3]}..."
    canvas.text(f"{short}, {span}: {score}", (_FACE_LEFT - 46, 38), size=14, bold=True)
    canvas.text(
        "Orange: covering this place lowers the score, so it speaks for a fake. Blue: it speaks against. "
        "This is what the network goes by, no proof.",
        (_FACE_LEFT - 46, 64),
        colour=GREY,
    )


def _draw_face(canvas: Canvas, window: Window, found: OcclusionMap) -> None:
    face = cv2.resize(middle_face(window), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    grey = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.uint8)
    scale = _scale(found)
    canvas.text("Face: a plain patch slid over all pictures", (_FACE_LEFT, _TOP - 16), size=12, bold=True)
    canvas.image(tinted(grey, found.values, scale), _FACE_LEFT, _TOP)
    canvas.box(_FACE_LEFT, _TOP, _FACE_LEFT + _SIDE, _TOP + _SIDE)
    for px in range(0, SPEC.face_px + 1, 32):
        at = px * _SIDE / SPEC.face_px
        _mark_below(canvas, _FACE_LEFT + at, _TOP + _SIDE, str(px))
        _mark_left(canvas, _FACE_LEFT, _TOP + at, str(px))
    canvas.text("aligned face, px", (_FACE_LEFT + _SIDE / 2, _TOP + _SIDE + 38), anchor="middle", colour=GREY)
    canvas.upright("aligned face, px", (_FACE_LEFT - 44, _TOP + _SIDE / 2), colour=GREY)
    _draw_bar(canvas, _FACE_LEFT + _SIDE + 22, scale)


def _draw_sound(
    canvas: Canvas, window: Window, tiles: OcclusionMap, times: OcclusionMap, bands: OcclusionMap
) -> None:
    high = _SIDE - _STRIP - _GAP
    right, bottom = _SOUND_LEFT + _SOUND_WIDE, _TOP + high
    scale = _scale(tiles, times, bands)
    size = (_SOUND_WIDE, high)
    grey = np.asarray(cv2.resize(_spectrogram(window), size, interpolation=cv2.INTER_LINEAR), np.uint8)
    canvas.text(
        "Sound: one time and pitch muted after the other", (_SOUND_LEFT, _TOP - 16), size=12, bold=True
    )
    canvas.image(tinted(grey, np.ascontiguousarray(tiles.values[::-1]), scale), _SOUND_LEFT, _TOP)
    canvas.box(_SOUND_LEFT, _TOP, right, bottom)
    _draw_strip(canvas, bands.values[::-1], (right + _GAP, _TOP), (_STRIP, high), scale)
    _draw_strip(canvas, times.values, (_SOUND_LEFT, bottom + _GAP), (_SOUND_WIDE, _STRIP), scale)
    below = bottom + _GAP + _STRIP + 16
    canvas.text("above: all pitches at once", (_SOUND_LEFT, below), size=10, colour=GREY)
    canvas.text(
        "right: all times at once",
        (right + _GAP + _STRIP, below),
        size=10,
        anchor="right",
        colour=GREY,
    )
    mel, _ = band_middles_hz()
    for hz in _MARKS_HZ:
        at = np.interp(hz, mel, np.arange(SPEC.bands) + 0.5) / SPEC.bands
        _mark_left(canvas, _SOUND_LEFT, bottom - float(at) * high, f"{hz / 1000:g}")
    canvas.upright("pitch on the mel scale, kHz", (_SOUND_LEFT - 48, _TOP + high / 2), colour=GREY)
    _draw_bar(canvas, right + _GAP + _STRIP + 20, scale)


def _draw_heads(canvas: Canvas, window: Window) -> None:
    """Which heads the score's odds come from, below the face."""
    shares = shares_of(window.prediction)
    told = ", ".join(f"{words} {shares[head]:.0%}" for head, words in _HEADS if head in shares)
    canvas.text("the odds of a fake come from these heads", (_FACE_LEFT, _LINE_TOP + 10), colour=GREY)
    canvas.text(told, (_FACE_LEFT, _LINE_TOP + 32), colour=GREY)


def _draw_suspicion(canvas: Canvas, window: Window) -> None:
    """A line per picture, below the sound and on its axis of time."""
    said = window.prediction
    right, bottom = _SOUND_LEFT + _SOUND_WIDE, _LINE_TOP + _LINE_HIGH
    canvas.text("suspicion of each picture, 0 to 1, uncalibrated", (_SOUND_LEFT, _LINE_TOP - 10), colour=GREY)
    for value in (0.0, 0.5, 1.0):
        y = bottom - value * _LINE_HIGH
        canvas.line([(_SOUND_LEFT, y), (right, y)], LIGHT)
        _mark_left(canvas, _SOUND_LEFT, y, f"{value:g}")
    for time_s in range(math.ceil(said.start_ns / NS_PER_S), math.floor(said.end_ns / NS_PER_S) + 1):
        at = (time_s * NS_PER_S - said.start_ns) / (said.end_ns - said.start_ns)
        _mark_below(canvas, _SOUND_LEFT + at * _SOUND_WIDE, bottom, f"{time_s} s")
    logits = [] if said.frames is None else said.frames[:, 0].tolist()
    step = _SOUND_WIDE / SPEC.window_frames
    for k, logit in enumerate(logits):
        if math.isfinite(logit):
            canvas.dot((_SOUND_LEFT + (k + 0.5) * step, bottom - probability(logit) * _LINE_HIGH), 2.4, BLACK)


def _draw_strip(
    canvas: Canvas, values: Float32, corner: tuple[int, int], size: tuple[int, int], scale: float
) -> None:
    left, top = corner
    white = np.full((size[1], size[0]), 245, np.uint8)
    canvas.image(tinted(white, np.ascontiguousarray(values), scale), left, top)
    canvas.box(left, top, left + size[0], top + size[1])


def _draw_bar(canvas: Canvas, left: int, scale: float) -> None:
    """The colours with their values, along the height of the panels."""
    ramp = np.linspace(scale, -scale, _SIDE, dtype=np.float32)[:, None]
    _draw_strip(canvas, ramp, (left, _TOP), (_BAR, _SIDE), scale)
    for value in (scale, scale / 2, 0.0, -scale / 2, -scale):
        y = _TOP + _SIDE * (scale - value) / (2 * scale)
        canvas.line([(left + _BAR, y), (left + _BAR + 4, y)], GREY)
        canvas.text(f"{value:+.2f}" if value else "0", (left + _BAR + 8, y + 5), size=10)
    canvas.upright("adds to the log-odds", (left + _BAR + 66, _TOP + _SIDE / 2), colour=GREY)


def _mark_below(canvas: Canvas, x: float, y: float, words: str) -> None:
    canvas.line([(x, y), (x, y + 4)], GREY)
    canvas.text(words, (x, y + 18), size=10, anchor="middle")


def _mark_left(canvas: Canvas, x: float, y: float, words: str) -> None:
    canvas.line([(x - 4, y), (x, y)], GREY)
    canvas.text(words, (x - 8, y + 5), size=10, anchor="right")


def _spectrogram(window: Window) -> UInt8:
    """The mel bands as the network gets them, uint8 ``[80, 256]``, highest first, quiet dark."""
    bands = np.concatenate([audio_tensor(s.audio)[0] for s in window.slices], axis=1)[::-1]
    low, high = np.percentile(bands, [2, 99.5])
    return np.asarray(np.clip((bands - low) / max(1e-3, high - low), 0, 1) * _BRIGHTEST, np.uint8)


def _scale(*maps: OcclusionMap) -> float:
    return max(LEAST_SCALE, *(float(np.abs(found.values).max()) for found in maps))
