"""A daemon around live sources, in the test's own loop: real sources and front-end, a scripted network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from avff.daemon.app import Daemon
from avff.daemon.events import StateEvent
from avff.daemon.runner import EngineRunner
from avff.daemon.sources.base import Source
from avff.engine.frontend import Frontend
from tests.support.scripted import RecordingSink, ScriptedPredictor, loaded

PATIENCE_S = 20.0
"""For anything that is to happen: tests ask whether it does, not how fast this machine is."""


class Running:
    """Runs sources until the block is left, then stops and drains.

    Attributes:
        sink: has every event so far.
        predictor: has the numbers of the slices that were scored.
        code: exit code, after the block.
    """

    def __init__(self, *sources: Source) -> None:
        self.sink = RecordingSink()
        self.predictor = ScriptedPredictor()
        self.code = -1
        engine = EngineRunner(lambda: loaded(self.predictor), batch=8)
        self.daemon = Daemon(list(sources), _make_frontend, engine, [self.sink])
        self._task: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.daemon.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if not self._task.done():
            self.daemon.stop()
        self.code = await self._task

    @property
    def states(self) -> list[tuple[str, str | None]]:
        """State and reason of each change so far."""
        return [_told(event) for event in self.sink.states]

    async def until(self, met: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> float:
        """Wait until a condition is met; return the seconds that it took."""
        began_s = time.monotonic()
        while not met():
            assert time.monotonic() - began_s < within_s, f"{what} did not come; states: {self.states}"
            await asyncio.sleep(0.01)
        return time.monotonic() - began_s

    async def until_state(
        self, state: str, reason: str | None = None, within_s: float = PATIENCE_S, after: int = 0
    ) -> StateEvent:
        """Wait for a state, past the first ``after`` changes; return its event."""

        def found() -> list[StateEvent]:
            return [
                event
                for event in self.sink.states[after:]
                if event.change.status.state == state and reason in (None, event.change.status.reason)
            ]

        await self.until(lambda: bool(found()), f"{state}: {reason}", within_s)
        return found()[0]


def _told(event: StateEvent) -> tuple[str, str | None]:
    status = event.change.status
    return str(status.state), None if status.reason is None else str(status.reason)


def _make_frontend(source: Source) -> Frontend:
    assert source.max_skew_ns is not None, "live sources have a limit of their own"
    return Frontend(
        None, has_video=source.has_video, has_audio=source.has_audio, max_skew_ns=source.max_skew_ns
    )
