"""Twins of a clip for the controls: without its leading silence, and encoded anew like every other clip.

A twin takes away what may tell genuine and generated clips apart and is no forgery.  It acts, as a
perturbation does, on the items of a decoded file, before the front-end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from avff.engine.grid import FrameGrid, GridFrame
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, UInt8, VideoFrame
from avff.engine.resample import AudioNormaliser
from avff.engine.spec import SPEC
from avff.trainer.perturb.codecs import h264_crf, opus

TWIN_PX = (640, 360)
"""Width and height of every re-encoded picture."""
TWIN_KBPS = 24
"""Opus bit rate of all re-encoded sound, in kbit/s."""
_WAIT_NS = 4 * NS_PER_S
"""Pictures without any sound are held so long at most; then the clip has none to trim by."""


def trim_silence(
    items: Iterable[MediaItem], threshold: float, rng: np.random.Generator
) -> Iterator[MediaItem]:
    """Cut off the leading silence, picture and sound alike.

    The rule is that of AVH-Align (Smeu et al., CVPR 2025): the first sample at 16 kHz whose magnitude
    is above ``threshold``, at s seconds, sets the cut; ``int(s * 25) + 1`` grid pictures and as much sound
    go, so at least one.  What is left starts at 0.  Of a clip that is silent throughout nothing is
    left; one without any sound stays as it is.
    """
    del rng
    search = _Onset(threshold)
    cut_ns: int | None = None
    held: list[MediaItem] = []
    for item in items:
        if cut_ns is not None:
            yield from _after(item, cut_ns)
            continue
        held.append(item)
        cut_ns = search.push(item)
        if cut_ns is not None:
            yield from (left for one in held for left in _after(one, cut_ns))
            held = []
        else:
            # What ends in the silence that was heard so far goes whatever follows: it need not wait.
            held = [one for one in held if _end_ns(one) >= search.silent_to_ns]
    cut_ns = search.end() if cut_ns is None else cut_ns
    yield from (left for one in held for left in _after(one, cut_ns))


class _Onset:
    """Looks for the first loud sample of a stream.

    Attributes:
        silent_to_ns: media time up to which nothing was loud.
    """

    def __init__(self, threshold: float) -> None:
        self.silent_to_ns = 0
        self._threshold = threshold
        self._normaliser = AudioNormaliser()
        self._heard = False

    def push(self, item: MediaItem) -> int | None:
        """Return where to cut, in ns of media time, or None as long as nobody knows."""
        if isinstance(item, AudioBlock):
            self._heard = True
            placed = self._normaliser.push(item)
            return next((cut for p in placed if (cut := self._look(p.start, p.pcm)) is not None), None)
        return 0 if not self._heard and item.pts_ns > _WAIT_NS else None

    def end(self) -> int:
        """Return where to cut once everything was heard: at the very end when all of it was silent."""
        for placed in self._normaliser.flush():
            if (cut_ns := self._look(placed.start, placed.pcm)) is not None:
                return cut_ns
        return _NEVER_NS if self._heard else 0

    def _look(self, start: int, pcm: np.ndarray) -> int | None:
        loud = np.flatnonzero(np.abs(pcm) > self._threshold)
        if len(loud):
            at = max(0, start + int(loud[0]))
            return (at * SPEC.fps // SPEC.rate_hz + 1) * SPEC.frame_ns
        self.silent_to_ns = (start + len(pcm)) * NS_PER_S // SPEC.rate_hz
        return None


_NEVER_NS = 1 << 62


def _end_ns(item: MediaItem) -> int:
    if isinstance(item, VideoFrame):
        return item.pts_ns
    return item.pts_ns + len(item.pcm) * NS_PER_S // item.rate_hz


def _after(item: MediaItem, cut_ns: int) -> Iterator[MediaItem]:
    """Yield what of an item comes after the cut, counted from there."""
    if not cut_ns:
        yield item
    elif isinstance(item, AudioBlock):
        gone = max(0, round((cut_ns - item.pts_ns) * item.rate_hz / NS_PER_S))
        if gone < len(item.pcm):
            start_ns = item.pts_ns + gone * NS_PER_S // item.rate_hz
            yield replace(item, pts_ns=max(0, start_ns - cut_ns), pcm=item.pcm[gone:])
    elif item.pts_ns >= cut_ns:
        yield replace(item, pts_ns=item.pts_ns - cut_ns)


def reencode(items: Iterable[MediaItem], crf: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Give every clip one container's worth of facts.

    Pictures go to 25 a second and to ``TWIN_PX``, enlarged or shrunk with black bars, through H.264 at
    the constant rate factor ``crf``; sound goes to mono at 48 kHz, through Opus at ``TWIN_KBPS``.
    """
    return opus(h264_crf(_alike(items), crf, rng), TWIN_KBPS, rng)


def _alike(items: Iterable[MediaItem]) -> Iterator[MediaItem]:
    """Put pictures on the 25 fps grid, all of one size; sound passes."""
    grid = FrameGrid()
    for item in items:
        if isinstance(item, AudioBlock):
            yield item
        else:
            yield from _shown(grid.push(item))
    yield from _shown(grid.advance(grid.end_slot))


def _shown(slots: Iterable[GridFrame]) -> Iterator[VideoFrame]:
    for slot in slots:
        if slot.frame is not None:
            yield replace(slot.frame, pts_ns=slot.slot * SPEC.frame_ns, rgb=letterboxed(slot.frame.rgb))


def letterboxed(rgb: UInt8) -> UInt8:
    """Fit a picture uint8 ``[height, width, 3]`` into ``TWIN_PX``, its shape kept, black where it ends."""
    width, height = TWIN_PX
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    framed = np.zeros((height, width, 3), np.uint8)
    framed[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size, interpolation=how)
    return framed
