"""The mailbox between a live source's thread and the loop, for pictures and sound together."""

from __future__ import annotations

from avff.daemon.mailbox import Mailbox, Policy
from avff.engine.media import MediaItem, VideoFrame

SOUND_BLOCKS = 150
"""3 s of blocks of 20 ms: small, and a hole in the sound is heard farther than one in the pictures."""


class LiveBuffer(Mailbox[MediaItem]):
    """Drops the oldest of its kind: pictures push out pictures, sound pushes out sound.

    In one queue for both, two seconds of sound would be lost to a few pictures that nobody took.

    Args:
        pictures: most pictures that wait.
        sounds: most blocks of sound that wait.
    """

    def __init__(self, pictures: int, sounds: int = SOUND_BLOCKS) -> None:
        super().__init__(pictures + sounds, Policy.DROP_OLDEST)
        self._limits = {True: pictures, False: sounds}

    def _add(self, item: MediaItem) -> None:
        is_picture = isinstance(item, VideoFrame)
        same = [k for k, waiting in enumerate(self._items) if isinstance(waiting, VideoFrame) == is_picture]
        if len(same) >= self._limits[is_picture]:
            del self._items[same[0]]
            self.dropped += 1
        super()._add(item)
