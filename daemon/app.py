"""The only place where stages meet: one task group, the mailboxes between stages, signals, the end.

    sources ─► front-end threads ─► engine thread ─► rolling scores ─► sinks

The first SIGINT or SIGTERM stops the sources; what has arrived is scored and
written, then the daemon ends with 0.  A second signal, or ``drain_s`` without
getting there, ends it at once with 128 + the signal's number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from avff.daemon.config import QueueSettings
from avff.daemon.errors import FORCED, DaemonError, DrainExpired, ExitCode
from avff.daemon.mailbox import Policy
from avff.daemon.runner import EngineRunner
from avff.daemon.sinks.base import Outlet, Publisher, Sink, SinkError
from avff.daemon.sources.base import Source
from avff.daemon.stream import MakeFrontend, Stream, StreamSettings

log = logging.getLogger(__name__)

DRAIN_S = 8.0
"""From the first signal to the forced end; service managers kill after 10 s and more."""


class Daemon:
    """Any number of sources, one engine, any number of sinks.

    Args:
        sources: one stream each; a source that fails ends alone.
        make_frontend: makes the front-end for a source, in that stream's thread.
        engine: the shared engine; loaded when the first source is open.
        sinks: each gets every event, behind its own mailbox.
        settings: for each stream.
        drain_s: longest time from the first signal to the end.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        make_frontend: MakeFrontend,
        engine: EngineRunner,
        sinks: Sequence[Sink],
        *,
        settings: StreamSettings | None = None,
        drain_s: float = DRAIN_S,
    ) -> None:
        settings = settings or StreamSettings()
        any_live = any(source.live for source in sources)
        self._publisher = Publisher([self._outlet(sink, any_live, settings.queues) for sink in sinks])
        self._engine = engine
        self._streams = [Stream(s, make_frontend, engine, self._publisher, settings) for s in sources]
        self._drain_s = drain_s
        self._group: asyncio.TaskGroup | None = None
        self._deadline: asyncio.Task[None] | None = None
        self._signal: signal.Signals | None = None
        self._reported: set[DaemonError] = set()
        self.exit_code: int = ExitCode.OK

    @property
    def stopping(self) -> bool:
        """Whether what has arrived is the last; any thread may ask."""
        return self._deadline is not None

    async def run(self) -> int:
        """Run to the end of all sources, or to a signal, and return the exit code."""
        try:
            with self._signals():
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    writing = [group.create_task(outlet.run()) for outlet in self._publisher.outlets]
                    group.create_task(self._engine.run())
                    scoring = [group.create_task(self._run_stream(stream)) for stream in self._streams]
                    group.create_task(self._end_after(scoring, writing))
        except* DrainExpired as expired:
            self._report(_first(expired))
        finally:
            await self._engine.close()
        return self.exit_code

    def stop(self, expiry_code: int = ExitCode.ENGINE) -> None:
        """Stop all sources and drain; idempotent.

        Args:
            expiry_code: exit code in case the stages do not empty in time.
        """
        if self._group is None or self._deadline is not None:
            return
        self._deadline = self._group.create_task(self._expire(expiry_code))
        for stream in self._streams:
            stream.stop()

    async def _run_stream(self, stream: Stream) -> None:
        assert self._group is not None, "run() made the group"
        try:
            await stream.run(self._group.create_task)
        except DaemonError as error:
            self._report(error)

    async def _end_after(
        self, scoring: Sequence[asyncio.Task[None]], writing: Sequence[asyncio.Task[None]]
    ) -> None:
        """End stage by stage: engine when the streams have, sinks when nothing more can come."""
        await asyncio.gather(*map(_finished, scoring))
        self._engine.stop()
        self._publisher.close()
        await asyncio.gather(*map(_finished, writing))
        if self._deadline is not None:
            self._deadline.cancel()

    async def _expire(self, exit_code: int) -> None:
        await asyncio.sleep(self._drain_s)
        raise DrainExpired(f"not everything could be written within {self._drain_s:g} s; gave up", exit_code)

    def _report(self, error: DaemonError) -> None:
        """Log an error once, however many streams it ends, and keep the first exit code."""
        if error in self._reported:
            return
        self._reported.add(error)
        log.log(logging.ERROR if error.exit_code else logging.WARNING, "%s", error, exc_info=_debug(error))
        self.exit_code = self.exit_code or error.exit_code

    def _outlet(self, sink: Sink, any_live: bool, queues: QueueSettings) -> Outlet:
        # A live stream must not wait for a reader; a file must not lose a line.
        policy = Policy.WAIT if sink.lossless and not any_live else Policy.DROP_OLDEST
        return Outlet(sink, policy, queues.events, self._on_sink_gone)

    def _on_sink_gone(self, outlet: Outlet, error: SinkError) -> None:
        if str(error):  # a reader that hung up has none
            self._report(DaemonError(f"{outlet.sink.name}: {error}", ExitCode.OUTPUT))
        if self._publisher.useless:
            self.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        caught = (signal.SIGINT, signal.SIGTERM)
        try:
            for number in caught:
                loop.add_signal_handler(number, self._on_signal, number)
        except (NotImplementedError, RuntimeError, ValueError):
            log.debug("no signals here: not the main thread, or Windows")
            yield
            return
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._signal is not None:
            sys.stderr.write("\navffd: ended by a second signal\n")
            sys.stderr.flush()
            os._exit(FORCED + number)
        self._signal = number
        self.stop(FORCED + number)


async def _finished(task: asyncio.Task[None]) -> None:
    """Wait for a task whose outcome is the task group's business."""
    await asyncio.wait({task})


def _first(group: BaseExceptionGroup[DrainExpired]) -> DrainExpired:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DrainExpired), "except* selected it"
    return error


def _debug(error: BaseException) -> BaseException | None:
    return error if os.environ.get("AVFF_DEBUG") == "1" else None
