"""From slices to the network's input tensors: the only preprocessing in the project.

The daemon calls it on live slices, the trainer on augmented windows; both get the
same numbers from the same media.  Everything here is local to one slice (plus 352
samples of sound before it), so that the network's tokens can be cached.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from avff.engine.faces.landmarks import MODEL_POINTS
from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC

_LOG_FLOOR = 1e-6
_LOG_MIDDLE, _LOG_SPREAD = -4.0, 5.0
"""Log powers of speech lie around -14…6: this brings them to about -2…2."""
_CLAMP = 4.0
_MOTION_SCALE = np.array([2.0, 2.0, 2.0, 10.0, 10.0, 20.0], np.float32)
"""Brings pose (rad) and its change per picture to a spread of about one."""
_POINTS = np.array(MODEL_POINTS)


def video_tensor(faces: UInt8) -> Float32:
    """Scale aligned faces to the network's size.

    Args:
        faces: uint8 ``[n, 128, 128, 3]`` RGB.

    Returns:
        float32 ``[n, 3, 128, 128]``, 0…1.
    """
    side = (SPEC.input_px, SPEC.input_px)
    small = np.stack([cv2.resize(face, side, interpolation=cv2.INTER_AREA) for face in faces])
    return np.ascontiguousarray(small.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def audio_tensor(pcm: Float32) -> Float32:
    """Compute the spectra of one slice: 80 mel bands, and 80 linear bands up to 8 kHz.

    Mel bands follow the voice; linear ones keep the upper octave, where vocoders
    leave their traces, at full resolution.

    Args:
        pcm: float32 ``[352 + 5120]`` at 16 kHz, the left context first.

    Returns:
        float32 ``[2, 80, 32]``, about -4…4.
    """
    frames = np.lib.stride_tricks.sliding_window_view(pcm, SPEC.fft_size)[:: SPEC.fft_hop]
    power = np.abs(np.fft.rfft(frames * _window(), axis=1)).astype(np.float32) ** 2
    bands = np.stack([power @ _mel_bank(), power @ _linear_bank()])
    scaled = (np.log(bands + _LOG_FLOOR) - _LOG_MIDDLE) / _LOG_SPREAD
    return np.ascontiguousarray(np.clip(scaled, -_CLAMP, _CLAMP).transpose(0, 2, 1), np.float32)


def landmark_tensor(landmarks: Float32, motion: Float32) -> Float32:
    """Arrange the face's points and the head's motion for the network.

    Args:
        landmarks: float32 ``[n, 468, 3]`` in pixels of the aligned face.
        motion: float32 ``[n, 6]``, see ``engine.slices.FaceSlice``.

    Returns:
        float32 ``[n, 184]``: x and y of 89 points, then pose and its change, about -2…2.
    """
    points = (landmarks[:, _POINTS, :2] / np.float32(SPEC.face_px) - np.float32(0.5)) * np.float32(4)
    values = np.concatenate([points.reshape(len(points), -1), motion * _MOTION_SCALE], axis=1)
    return np.asarray(np.clip(values, -_CLAMP, _CLAMP), np.float32)


def band_middles_hz() -> tuple[Float32, Float32]:
    """Return the middles of the mel bands and of the linear bands, float32 ``[80]`` each, in Hz."""
    return _mel_edges_hz()[1:-1].astype(np.float32), _linear_edges_hz()[1:-1].astype(np.float32)


@cache
def _window() -> Float32:
    """A Hann window of 25 ms in the middle of the 512 samples of a spectrum."""
    pad = (SPEC.fft_size - SPEC.fft_window) // 2
    return np.pad(np.hanning(SPEC.fft_window + 1)[:-1], (pad, SPEC.fft_size - SPEC.fft_window - pad)).astype(
        np.float32
    )


@cache
def _mel_bank() -> Float32:
    """Triangles spaced evenly in mel (O'Shaughnessy's formula), each of unit sum; ``[257, 80]``."""
    return _triangles(_mel_edges_hz())


@cache
def _linear_bank() -> Float32:
    """Triangles spaced evenly in Hz, each of unit sum; ``[257, 80]``."""
    return _triangles(_linear_edges_hz())


def _mel_edges_hz() -> np.ndarray:
    top = 2595 * np.log10(1 + SPEC.rate_hz / 2 / 700)
    edges: np.ndarray = 700 * (10 ** (np.linspace(0, top, SPEC.bands + 2) / 2595) - 1)
    return edges


def _linear_edges_hz() -> np.ndarray:
    return np.linspace(0, SPEC.rate_hz / 2, SPEC.bands + 2)


def _triangles(edges: np.ndarray) -> Float32:
    bins = np.arange(SPEC.fft_size // 2 + 1) * SPEC.rate_hz / SPEC.fft_size
    rise = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    weights = np.clip(np.minimum(rise, fall), 0, None)
    return np.asarray(weights / weights.sum(axis=0), np.float32)
