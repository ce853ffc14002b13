"""What a network does: pictures and packets that never come, and sound that comes early or late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from avff.engine.media import NS_PER_S, AudioBlock, Float32, MediaItem, VideoFrame

_PACKET_NS = 20_000_000
_FADE = 0.5
"""Each further packet that is lost in a row sounds half as loud."""


def frame_rate(items: Iterable[MediaItem], fps: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Leave out pictures so that at most ``fps`` a second are left; the others keep their times."""
    del rng
    shown = -1
    for item in items:
        if isinstance(item, VideoFrame):
            # The nearest slot, not the last: containers round stamps to a millisecond either way.
            slot = round(item.pts_ns * fps / NS_PER_S)
            if slot <= shown:
                continue
            shown = slot
        yield item


def av_offset(items: Iterable[MediaItem], offset_ms: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Move the sound ``offset_ms`` later against the pictures, or earlier when negative."""
    del rng
    offset_ns = round(offset_ms * 1_000_000)
    for item in items:
        yield replace(item, pts_ns=item.pts_ns + offset_ns) if isinstance(item, AudioBlock) else item


def loss(items: Iterable[MediaItem], percent: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Lose ``percent`` of the packets: pictures freeze, sound repeats its last packet and fades."""
    return _lossy(items, percent / 100, rng, fade=_FADE)


def loss_silence(items: Iterable[MediaItem], percent: float, rng: np.random.Generator) -> Iterator[MediaItem]:
    """Lose ``percent`` of the packets: pictures freeze, sound is silent for as long."""
    return _lossy(items, percent / 100, rng, fade=0)


def _lossy(
    items: Iterable[MediaItem], share: float, rng: np.random.Generator, *, fade: float
) -> Iterator[MediaItem]:
    """Lose packets independently; one picture, or 20 ms of sound, travels in each."""
    # Apart, so that what happens to the sound does not depend on how the file interleaves the two.
    for_pictures, for_sound = rng.spawn(2)
    sound = _SoundLoss(share, fade, for_sound)
    shown: VideoFrame | None = None
    for item in items:
        if isinstance(item, AudioBlock):
            yield sound.push(item)
            continue
        lost = for_pictures.random() < share
        if shown is None or not lost:
            shown = item
        yield replace(item, rgb=shown.rgb)


class _SoundLoss:
    """Loses 20 ms packets of one stream, cut by media time whatever the blocks."""

    def __init__(self, share: float, fade: float, rng: np.random.Generator) -> None:
        self._share, self._fade, self._rng = share, fade, rng
        self._packet: int | None = None
        self._lost_in_a_row = 0
        self._heard: Float32 = np.zeros(0, np.float32)

    def push(self, block: AudioBlock) -> AudioBlock:
        if not len(block.pcm):
            return block
        length = block.rate_hz * _PACKET_NS // NS_PER_S
        packets = (round(block.pts_ns * block.rate_hz / NS_PER_S) + np.arange(len(block.pcm))) // length
        borders = np.flatnonzero(np.diff(packets)) + 1
        pieces = zip(packets[[0, *borders]], np.split(block.pcm, borders), strict=True)
        return replace(block, pcm=np.concatenate([self._piece(int(n), pcm, length) for n, pcm in pieces]))

    def _piece(self, number: int, pcm: Float32, length: int) -> Float32:
        if number != self._packet:
            self._packet = number
            self._lost_in_a_row = self._lost_in_a_row + 1 if self._rng.random() < self._share else 0
        if not self._lost_in_a_row:
            self._heard = np.concatenate([self._heard, pcm])[-length:]
            return pcm
        if not len(self._heard):
            return np.zeros_like(pcm)
        return np.resize(self._heard, len(pcm)) * np.float32(self._fade**self._lost_in_a_row)
