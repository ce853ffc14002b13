"""One owned thread that runs blocking calls in order.

``concurrent.futures`` joins its threads when the interpreter ends, so that a
camera driver which never returns would hang the whole program.  A ``Worker`` is
a daemon thread with a deadline at the end: joined, or abandoned with a log line.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

THREAD_PREFIX = "avff:"
CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def run(self) -> None:
        """Run in the worker's thread; the answer settles on the caller's loop."""
        result, error = None, None
        try:
            result = self.function()
        except BaseException as raised:  # handed to the caller, whatever it is
            error = raised
        try:
            self.loop.call_soon_threadsafe(_settle, self.answer, result, error)
        except RuntimeError:
            # The loop is closed: this thread was abandoned and nobody waits any more.
            log.debug("an answer came after the end")


def _settle(answer: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if answer.done():  # the caller was cancelled meanwhile
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


class Worker:
    """A thread of its own for one blocking thing: a decoder, a camera, a network.

    Attributes:
        name: of the thread, for log lines.
    """

    def __init__(self, name: str) -> None:
        self.name = THREAD_PREFIX + name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Queue a call and return its future; the thread starts with the first one.

        Cancelling the future does not interrupt the call, only forgets its answer.
        """
        if self._closed:
            raise RuntimeError(f"thread {self.name} is closed")
        return self._submit(lambda: function(*args, **kwargs))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in the thread and return its result or raise its exception."""
        return await self.submit(function, *args, **kwargs)

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S, *, warn: bool = True) -> bool:
        """Finish the queued calls and end the thread; idempotent.

        Args:
            timeout_s: how long to wait for the thread.
            warn: whether to tell people when it had to be abandoned.

        Returns:
            False when the thread was still busy after ``timeout_s`` and was abandoned.
        """
        if self._closed or self._thread is None:
            self._closed = True
            return True
        self._closed = True
        last = self._submit(lambda: None)
        self._calls.put(None)
        if not await _settled_within(last, timeout_s):
            level = logging.WARNING if warn else logging.DEBUG
            log.log(level, "thread %s did not stop within %.1f s and was abandoned", self.name, timeout_s)
            return False
        self._thread.join()  # has nothing left to do but return
        return True

    def _submit(self, function: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._calls.put(_Call(function, answer, loop))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
            self._thread.start()
        return answer

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            call.run()


async def _settled_within(answer: asyncio.Future[Any], timeout_s: float) -> bool:
    """Wait for an answer; a cancellation meanwhile goes on only afterwards.

    Teardown often runs because of a cancellation, and a second one must not leave
    the thread behind; the timeout bounds the wait.
    """
    waiting = asyncio.ensure_future(asyncio.wait({answer}, timeout=timeout_s))
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await waiting
        raise
    return answer.done()


def abandoned_threads() -> list[str]:
    """Return the names of workers that still run; after a clean end there are none."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]
