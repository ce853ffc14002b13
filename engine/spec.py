"""The numbers that fix what one slice and one window are.

One **slice** is 8 pictures at 25 fps = 320 ms = 5 120 samples at 16 kHz; one
**window** is the last 8 slices = 2.56 s.  The trainer and the daemon read these
numbers from here and nowhere else; a model carries a copy in its contract and is
refused when the copies differ, because a network fed by another preprocessing
gives confident nonsense.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from avff.engine.media import NS_PER_S


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Geometry of the network's input; units are in the names.

    Attributes:
        revision: raised by hand when preprocessing code changes what the numbers cannot show.
        fps: rate of the uniform picture grid.
        rate_hz: rate of the audio.
        slice_frames: pictures in a slice.
        window_slices: slices in a window.
        face_px: side of the aligned face picture.
        input_px: side of the picture the network sees (area-reduced from ``face_px``).
        fft_size, fft_window, fft_hop: short-time Fourier transform, in samples.
        bands: mel bands, and linear bands, per audio frame.
        landmark_values: width of the landmark vector of one picture.
    """

    revision: int = 1
    fps: int = 25
    rate_hz: int = 16_000
    slice_frames: int = 8
    window_slices: int = 8
    face_px: int = 128
    input_px: int = 128
    fft_size: int = 512
    fft_window: int = 400
    fft_hop: int = 160
    bands: int = 80
    landmark_values: int = 184

    @property
    def frame_ns(self) -> int:
        """Distance of two grid pictures, in ns."""
        return NS_PER_S // self.fps

    @property
    def slice_ns(self) -> int:
        """Length of a slice, in ns."""
        return self.frame_ns * self.slice_frames

    @property
    def window_ns(self) -> int:
        """Length of a window, in ns."""
        return self.slice_ns * self.window_slices

    @property
    def slice_samples(self) -> int:
        """Audio samples in a slice."""
        return self.rate_hz * self.slice_frames // self.fps

    @property
    def context_samples(self) -> int:
        """Audio samples before the slice that its first spectrum needs."""
        return self.fft_size - self.fft_hop

    @property
    def slice_spectra(self) -> int:
        """Spectra in a slice."""
        return self.slice_samples // self.fft_hop

    @property
    def window_frames(self) -> int:
        """Pictures in a window."""
        return self.slice_frames * self.window_slices

    def fingerprint(self) -> str:
        """Return the SHA-256 of all numbers, as 64 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


SPEC = ClipSpec()
