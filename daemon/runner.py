"""The two stages that compute, each in a thread it owns.

``FrontendRunner`` is one stream's: faces are tracked in order, so it cannot be
shared.  ``EngineRunner`` is everybody's: one model, one thread, and as many slices
in one call as the streams have ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from avff.daemon.errors import EngineFailed, ExitCode, exit_code_of
from avff.daemon.mailbox import Mailbox, MailboxClosed
from avff.daemon.worker import CLOSE_TIMEOUT_S, Worker
from avff.engine.errors import EngineError, MediaError
from avff.engine.media import MediaItem
from avff.engine.slices import Prediction, Slice

if TYPE_CHECKING:  # the runtime is loaded by the engine's thread, not by an import
    from avff.engine.predictor import StreamState

LOADING_GRACE_S = 0.2
"""For a thread that loads models when it is no longer wanted: a download takes minutes."""

Batch: TypeAlias = "Sequence[tuple[StreamState, Slice]]"


class SlicesFromMedia(Protocol):
    """What the daemon needs of :class:`avff.engine.frontend.Frontend`."""

    def push(self, item: MediaItem) -> list[Slice]:
        """Take in an item; return the slices it completes."""
        ...

    def flush(self) -> list[Slice]:
        """Return the last, partial slice."""
        ...


class PredictionsFromSlices(Protocol):
    """What the daemon needs of :class:`avff.engine.predictor.Predictor`."""

    def predict(self, batch: Batch) -> list[tuple[StreamState, Prediction]]:
        """Take in slices of any streams, each stream's in order; return the windows they complete."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A model that is ready to run.

    Attributes:
        predictor: runs it; not thread-safe.
        model: its name, for events.
        threshold: clip probability 0…1 from which a clip is called fake.
        new_state: makes the memory of one stream.
        backend: what runs it, for events: ``onnx`` or ``tensorrt``.
        close: frees it, in the engine's thread.
    """

    predictor: PredictionsFromSlices
    model: str
    threshold: float
    new_state: Callable[[], StreamState]
    backend: str
    close: Callable[[], None] = lambda: None


class FrontendRunner:
    """One stream's front-end, made and run in one thread.

    Args:
        name: of the stream.
        make: makes the front-end, in the thread; loads face models, so it may take a second.
    """

    def __init__(self, name: str, make: Callable[[], SlicesFromMedia]) -> None:
        self._worker = Worker(f"faces:{name}")
        self._make = make
        self._frontend: SlicesFromMedia | None = None
        self._refused: MediaError | None = None

    def start(self) -> asyncio.Future[None]:
        """Begin to load; the future ends when the front-end is ready."""
        return self._worker.submit(self._load)

    async def push(self, items: Sequence[MediaItem]) -> list[Slice]:
        """Take in a batch of items and return the slices it completes."""
        return await self._worker.run(self._push, items)

    async def flush(self) -> list[Slice]:
        """Return the last, partial slice."""
        return await self._worker.run(self._ready().flush)

    async def close(self) -> None:
        """End the thread; one that still loads models is left alone, there is nothing in it to save."""
        loading = self._frontend is None
        await self._worker.close(LOADING_GRACE_S if loading else CLOSE_TIMEOUT_S, warn=not loading)

    def _load(self) -> None:
        self._frontend = self._make()

    def _push(self, items: Sequence[MediaItem]) -> list[Slice]:
        frontend = self._ready()
        if self._refused is not None:
            raise self._refused
        made: list[Slice] = []
        try:
            for item in items:
                made += frontend.push(item)
        except MediaError as error:
            # What the earlier items completed is still scored; the error comes with the next batch.
            self._refused = error
        return made

    def _ready(self) -> SlicesFromMedia:
        assert self._frontend is not None, "start() comes first"
        return self._frontend


@dataclass(frozen=True, slots=True)
class _Job:
    state: StreamState
    slice: Slice
    answer: asyncio.Future[Prediction | None]


class EngineRunner:
    """The one model, shared by all streams.

    A stream that waits for its answers cannot flood the others: jobs are taken in
    order of arrival and a full mailbox gives streams their turn one by one.

    Args:
        load: loads model and predictor, in the engine's thread.
        batch: most slices in one call.
    """

    def __init__(self, load: Callable[[], LoadedEngine], *, batch: int) -> None:
        self._load = load
        self._batch = batch
        self._worker = Worker("engine")
        self._jobs: Mailbox[_Job] = Mailbox(2 * batch)
        self._loading = asyncio.Lock()
        self._engine: LoadedEngine | None = None
        self._failure: EngineFailed | None = None
        self._closed = False

    async def start(self) -> LoadedEngine:
        """Load the model, once for all streams.

        Raises:
            EngineFailed: it cannot be loaded.
        """
        async with self._loading:
            if self._failure is not None:
                raise self._failure
            if self._engine is None:
                try:
                    self._engine = await self._worker.run(self._load)
                except EngineError as error:
                    # A model that cannot be loaded is a wrong setting, whoever found it out.
                    code = exit_code_of(error)
                    self._fail(str(error), ExitCode.CONFIG if code == ExitCode.ENGINE else code, error)
                    raise self._failed() from error
            return self._engine

    async def predict(self, state: StreamState, slices: Sequence[Slice]) -> list[Prediction]:
        """Return the predictions of the windows that end in these slices, in order.

        Raises:
            EngineFailed: the model raised, for this or any other stream.
        """
        answers = [await self._submit(state, made) for made in slices]
        predictions = [await answer for answer in answers]
        if self._failure is not None:
            raise self._failure
        return [prediction for prediction in predictions if prediction is not None]

    async def run(self) -> None:
        """Serve jobs until :meth:`stop`."""
        async for jobs in self._jobs.batches(self._batch):
            if self._failure is None:
                await self._serve(jobs)
            if self._failure is not None:
                _answer_nothing(jobs)

    def stop(self) -> None:
        """Take no more jobs; those that wait are still served."""
        self._jobs.close()

    async def close(self) -> None:
        """Free the model, which may be a process, and end the thread."""
        loading = self._engine is None
        if self._engine is not None and not self._closed:
            self._worker.submit(self._engine.close)
        self._closed = True
        await self._worker.close(LOADING_GRACE_S if loading else CLOSE_TIMEOUT_S, warn=not loading)

    async def _submit(self, state: StreamState, made: Slice) -> asyncio.Future[Prediction | None]:
        if self._failure is not None:
            raise self._failure
        answer: asyncio.Future[Prediction | None] = asyncio.get_running_loop().create_future()
        try:
            await self._jobs.put(_Job(state, made, answer))
        except MailboxClosed:
            raise self._failed() from None
        return answer

    async def _serve(self, jobs: Sequence[_Job]) -> None:
        assert self._engine is not None, "start() comes before predict()"
        batch = [(job.state, job.slice) for job in jobs]
        try:
            results = await self._worker.run(self._engine.predictor.predict, batch)
        except Exception as error:  # whatever the runtime raises: no score may come of it
            self._fail(f"the engine failed: {_one_line(error)}", ExitCode.ENGINE, error)
            return
        by_window = {(id(state), prediction.index): prediction for state, prediction in results}
        for job in jobs:
            if not job.answer.done():  # its stream may be gone
                job.answer.set_result(by_window.get((id(job.state), job.slice.index)))

    def _fail(self, message: str, code: int, cause: BaseException) -> None:
        self._failure = EngineFailed(message, code)
        self._failure.__cause__ = cause
        self._jobs.close()

    def _failed(self) -> EngineFailed:
        return self._failure or EngineFailed("the engine was stopped", ExitCode.ENGINE)


def _answer_nothing(jobs: Sequence[_Job]) -> None:
    """Let the streams go on to see the failure."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_result(None)


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
