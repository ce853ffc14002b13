"""The stages that compute, in threads of their own."""

from __future__ import annotations

from typing import cast

import pytest

from avff.daemon.runner import FrontendRunner
from avff.engine.errors import MediaError
from avff.engine.media import MediaItem
from avff.engine.slices import Slice


class RefusingFrontend:
    """Completes a slice with every item until the third, which it refuses."""

    def __init__(self) -> None:
        self.taken = 0

    def push(self, item: MediaItem) -> list[Slice]:
        self.taken += 1
        if self.taken == 3:
            raise MediaError("time stamps leap")
        return [cast(Slice, f"slice {self.taken}")]

    def flush(self) -> list[Slice]:
        return []


async def test_what_was_complete_before_a_refused_item_is_kept() -> None:
    """The slices of a batch up to the refused item come out; the error comes with the next batch."""
    frontend = RefusingFrontend()
    runner = FrontendRunner("clip", lambda: frontend)
    await runner.start()
    try:
        items = [cast(MediaItem, None)] * 5
        made: list[object] = [*await runner.push(items)]
        assert made == ["slice 1", "slice 2"]
        assert frontend.taken == 3
        with pytest.raises(MediaError, match="leap"):
            await runner.push([])
    finally:
        await runner.close()
