"""The stages that compute, in threads of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from avff.daemon.runner import FrontendRunner
from avff.engine.errors import MediaError
from avff.engine.media import MediaItem
from avff.engine.slices import Slice
from tests.support.scripted import ScriptedFrontend, ScriptedUncut, make_slice, pictures


class RefusingFrontend:
    """Completes a slice with every item until the third, which it refuses."""

    def __init__(self) -> None:
        self.taken = 0

    def follow(self, item: MediaItem) -> list[ScriptedUncut]:
        self.taken += 1
        if self.taken == 3:
            raise MediaError("time stamps leap")
        return [ScriptedUncut(make_slice(self.taken))]

    def follow_rest(self) -> list[ScriptedUncut]:
        return []


async def test_what_was_complete_before_a_refused_item_is_kept() -> None:
    """The slices of a batch up to the refused item come out; the error comes with the next batch."""
    frontend = RefusingFrontend()
    runner = FrontendRunner("clip", lambda: frontend)
    await runner.start()
    try:
        items = [cast(MediaItem, None)] * 5
        made = await runner.cut(await runner.follow(items))
        assert [piece.index for piece in made] == [1, 2]
        assert frontend.taken == 3
        with pytest.raises(MediaError, match="leap"):
            await runner.follow([])
    finally:
        await runner.close()


async def test_faces_are_cut_while_the_next_are_followed() -> None:
    """Cutting has a thread of its own: a long cut does not hold up the following."""
    runner = FrontendRunner("clip", ScriptedFrontend)
    await runner.start()
    held = HeldUncut()
    try:
        cutting = asyncio.ensure_future(runner.cut([held]))
        followed = await runner.follow([cast(MediaItem, picture) for picture in pictures(8)])
        assert len(followed) == 1
        assert not cutting.done()
        held.let_go.set()
        assert [piece.index for piece in await cutting] == [7]
    finally:
        held.let_go.set()
        await runner.close()


class HeldUncut:
    """Is not cut before it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def cut(self) -> Slice:
        assert self.let_go.wait(10)
        return make_slice(7)
