"""Processes that work through a list: results in order, and no item takes the others down."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from avff.engine.threads import stay_in_caller

Item = TypeVar("Item")
Result = TypeVar("Result")


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next arrays.

    By default glibc gives arrays of a megabyte back to the kernel, which has to clear the pages again for
    the next window: a tenth of a loader's time.  Other C libraries go on as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, 1 << 30)


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int, died: Result
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result, in the order given, a few items ahead of the caller.

    An item that ends its process (a crash in a decoder, too little memory) is tried once more
    alone, and if it does so again it has failed; the items beside it are done as ever.

    Args:
        work: what is done with an item, in a freshly started process.
        items: what is to be done.
        workers: processes.
        died: the result of an item that ends its process.
    """
    waiting, running = deque(items), deque[tuple[Item, Future[Result]]]()
    pool = _pool(workers)
    try:
        while waiting or running:
            # Not all at once: results that wait for their turn are held in memory.
            while waiting and len(running) < 2 * workers:
                item = waiting.popleft()
                running.append((item, _submit(pool, work, item)))
            item, future = running.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                waiting.extendleft(other for other, _ in reversed(running))
                running.clear()
                result = _alone(work, item, died)
                pool = _pool(workers)
            yield item, result
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start)


def _start() -> None:
    """Set up a worker process."""
    stay_in_caller()
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this process when its parent is gone: a killed parent cannot tell it to."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Item], Result], item: Item) -> Future[Result]:
    try:
        return pool.submit(work, item)
    except BrokenProcessPool as error:
        failed = Future[Result]()
        failed.set_exception(error)
        return failed


def _alone(work: Callable[[Item], Result], item: Item, died: Result) -> Result:
    with _pool(1) as pool:
        try:
            return _submit(pool, work, item).result()
        except BrokenProcessPool:
            return died
