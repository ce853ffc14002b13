"""The two kinds of media item that flow from a source into the engine.

Both carry ``pts_ns``: integer nanoseconds of *media time*, with one zero shared
by picture and sound, so that lip-sync evidence survives.  ``captured_ns`` is the
monotonic clock at arrival and serves latency figures only; the two clocks are
never mixed.

A live stream may break and come back, or its sender may start its clock anew: then
a new *stretch* begins.  Media time goes on over all stretches of a stream, with the
gap that there was, but nothing is joined across the border of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NS_PER_S = 1_000_000_000

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class AudioBlock:
    """A run of mono samples without a gap inside.

    Attributes:
        pts_ns: media time of the first sample, in ns.
        pcm: float32 ``[n]``, nominally -1…1.
        rate_hz: sampling rate of ``pcm``.
        captured_ns: monotonic arrival time, in ns.
        stretch: number of the stretch it belongs to; never falls within a stream.
        gap: whether sound is missing before it, so that it must not be joined to the block before.
        error_ns: how far its time may be off against the pictures', in ns; None where nobody knows.
    """

    pts_ns: int
    pcm: Float32
    rate_hz: int
    captured_ns: int
    stretch: int = 0
    gap: bool = False
    error_ns: int | None = 0


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One upright picture.

    Attributes:
        pts_ns: media time at which the picture appears, in ns.
        rgb: uint8 ``[height, width, 3]``, RGB, square pixels, already rotated upright.
        captured_ns: monotonic arrival time, in ns.
        stretch: number of the stretch it belongs to; never falls within a stream.
    """

    pts_ns: int
    rgb: UInt8
    captured_ns: int
    stretch: int = 0


MediaItem = AudioBlock | VideoFrame
