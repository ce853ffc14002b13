"""One source on its way through the stages, from its first picture to its summary."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from avff.daemon.alarms import AlarmWatch
from avff.daemon.config import QueueSettings, RollingSettings
from avff.daemon.errors import DaemonError, ExitCode, SourceError, exit_code_of
from avff.daemon.events import AlarmEvent, SummaryEvent, score_event
from avff.daemon.mailbox import Mailbox, MailboxClosed, Policy
from avff.daemon.runner import EngineRunner, FrontendRunner, LoadedEngine, SlicesFromMedia
from avff.daemon.sinks.base import Publisher
from avff.daemon.sources.base import Source
from avff.daemon.summary import Summariser
from avff.daemon.watch import StateWatch
from avff.engine.alarm import Alarm, AlarmRule
from avff.engine.errors import EngineError, MediaError
from avff.engine.media import MediaItem
from avff.engine.rolling import RollingScore
from avff.engine.slices import Slice

log = logging.getLogger(__name__)

SILENCE_CHECK_S = 0.5

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
MakeFrontend: TypeAlias = Callable[[Source], SlicesFromMedia]


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a stream needs to know of the configuration.

    Attributes:
        rolling: time constants of the rolling score.
        queues: sizes of the mailboxes.
        batch: most slices of this stream at the engine at a time.
        alarm: when alarms open and close; None to look for none.
        explain: whether score events say where the score comes from.
    """

    rolling: RollingSettings = field(default_factory=RollingSettings)
    queues: QueueSettings = field(default_factory=QueueSettings)
    batch: int = 8
    alarm: AlarmRule | None = field(default_factory=AlarmRule)
    explain: bool = False


class Stream:
    """Joins one source to the shared engine and the sinks.

    Args:
        source: opened and closed here.
        make_frontend: makes the front-end, in the stream's own thread.
        engine: shared with all other streams.
        publisher: takes the events.
        settings: of the stages.
    """

    def __init__(
        self,
        source: Source,
        make_frontend: MakeFrontend,
        engine: EngineRunner,
        publisher: Publisher,
        settings: StreamSettings,
    ) -> None:
        self.source = source
        self._frontend = FrontendRunner(source.name, lambda: make_frontend(source))
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        self._watch = StateWatch(source, publisher)
        queues = settings.queues
        self._slices: Mailbox[Slice] = (
            Mailbox(queues.live_slices, Policy.DROP_OLDEST) if source.live else Mailbox(queues.file_slices)
        )
        self._task: asyncio.Task[Any] | None = None
        self._running = False
        self._stopped = False
        self._broken: DaemonError | None = None

    @property
    def dropped(self) -> int:
        """Items and slices lost so far because a later stage was too slow."""
        return self.source.dropped + self._slices.dropped

    def stop(self) -> None:
        """End after what has arrived; while the stream still opens, at once."""
        self._stopped = True
        if self._running:
            self.source.stop()
        elif self._task is not None:
            self._task.cancel()

    async def run(self, spawn: Spawn) -> None:
        """Open, score to the end, publish the summary.

        Args:
            spawn: starts a sibling task in the daemon's task group.

        Raises:
            SourceError: the source could not be opened, or broke for good; in the second case
                everything before is scored and the summary is out.
            EngineFailed: the model failed; there is no summary then.
        """
        self._task = asyncio.current_task()
        if self._stopped:
            return
        self._watch.begin()
        spawn(self._watch.run())
        try:
            async with self.source:
                engine = await self._load()
                self._running = True
                if self._stopped:
                    self.source.stop()
                await self._score_all(engine, spawn)
        except DaemonError as error:
            await self._watch.over("engine_failed", error)
            raise
        finally:
            self._running = False
            self._task = None
            await self._watch.over(self._how_ended())
            self._watch.close()
            await self._frontend.close()
        if self._broken is not None:
            raise self._broken

    async def _load(self) -> LoadedEngine:
        """Load face models and network at the same time, each in its own thread."""
        frontend = self._frontend.start()
        try:
            engine = await self._engine.start()
            await frontend
        except EngineError as error:
            raise SourceError(str(error), exit_code_of(error)) from error
        finally:
            frontend.cancel()
        return engine

    async def _score_all(self, engine: LoadedEngine, spawn: Spawn) -> None:
        summary, alarms = Summariser(engine.threshold), AlarmWatch(self._settings.alarm)
        self._watch.scoring_begins()
        reading = spawn(self._read())
        lapsing = spawn(self._close_alarms_in_silence(engine, alarms))
        try:
            await self._score(engine, summary, alarms)
        finally:
            lapsing.cancel()
            self.source.stop()
            self._slices.close()
            await reading
        result = summary.result()
        await self._watch.over(self._how_ended(), self._broken)
        if self._broken is not None and self._broken.exit_code and not result.end_ns:
            return  # nothing was there to sum up; the error says why
        await self._publish_alarms(alarms.finish(), result.end_ns, engine)
        await self._publisher.publish(
            SummaryEvent(
                stream=self.source.name,
                summary=result,
                threshold=engine.threshold,
                ended=self._how_ended(),
                dropped=self.dropped,
                model=engine.model,
                backend=engine.backend,
                alarms=alarms.summary(),
            )
        )

    async def _close_alarms_in_silence(self, engine: LoadedEngine, alarms: AlarmWatch) -> None:
        """An alarm must not seem to go on while nothing comes: no window comes either, to close it."""
        while self.source.live:
            await asyncio.sleep(SILENCE_CHECK_S)
            if self._watch.silent_s >= self._settings.rolling.reset_after_s:
                for alarm in alarms.lapse():
                    await self._publish_alarms([alarm], alarm.closed_ns or 0, engine)

    def _how_ended(self) -> str:
        return "lost" if self._broken else "stopped" if self._stopped else "end"

    async def _publish_alarms(self, changed: list[Alarm], end_ns: int, engine: LoadedEngine) -> None:
        for alarm in changed:
            await self._publisher.publish(AlarmEvent(self.source.name, end_ns, alarm, engine.model))

    async def _read(self) -> None:
        """Media to slices, until the source ends, breaks or is stopped."""
        try:
            try:
                async for items in self.source:
                    self._watch.media(items)
                    await self._hand_on(await self._slices_of(items))
                await self._frontend.push([])  # an item of the last batch may have been refused
            except SourceError as error:
                self._broken = error
            except MediaError as error:
                # Items the front-end refuses (time stamps that leap) end the stream like a torn file.
                self._broken = SourceError(f"{self.source.name}: {error}; scored to that point", ExitCode.OK)
            await self._hand_on(await self._frontend.flush())
        except MailboxClosed:
            log.debug("%s: nobody takes slices any more", self.source.name)
        finally:
            self._slices.close()

    async def _slices_of(self, items: list[MediaItem]) -> list[Slice]:
        return await (self._frontend.push(items) if items else self._frontend.flush())

    async def _hand_on(self, slices: list[Slice]) -> None:
        for made in slices:
            await self._slices.put(made)

    async def _score(self, engine: LoadedEngine, summary: Summariser, alarms: AlarmWatch) -> None:
        """Slices to events, in order."""
        settings = self._settings.rolling
        rolling = RollingScore(time_constant_s=settings.time_constant_s, reset_after_s=settings.reset_after_s)
        state = engine.new_state()
        async for slices in self._slices.batches(self._settings.batch):
            for prediction in await self._engine.predict(state, slices):
                summary.push(prediction)
                rolled = rolling.push(prediction)
                event = score_event(
                    prediction,
                    rolled,
                    stream=self.source.name,
                    model=engine.model,
                    backend=engine.backend,
                    dropped=self.dropped,
                    now_ns=time.monotonic_ns(),
                    explain=self._settings.explain,
                )
                await self._publisher.publish(event)
                await self._publish_alarms(alarms.push(prediction, rolled), prediction.end_ns, engine)
                await self._watch.judged(prediction, event.reason, self.dropped)
