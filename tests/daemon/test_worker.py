from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from avff.daemon.worker import Worker, abandoned_threads

pytestmark = pytest.mark.asyncio


async def test_calls_run_in_order_in_one_thread() -> None:
    """All calls share the worker's own thread."""
    worker = Worker("test")
    names = [await worker.run(lambda: threading.current_thread().name) for _ in range(3)]
    assert names == ["avff:test"] * 3
    assert await worker.close()
    assert abandoned_threads() == []


async def test_exceptions_reach_the_caller() -> None:
    """What the call raises is raised where it is awaited; the thread lives on."""
    worker = Worker("test")
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: 1) == 1
    await worker.close()


async def test_cancelled_caller_leaves_the_thread_usable() -> None:
    """A call nobody waits for ends by itself, its answer is forgotten."""
    worker = Worker("test")
    gate = threading.Event()
    waiting = asyncio.create_task(worker.run(gate.wait, 5))
    await asyncio.sleep(0.01)
    waiting.cancel()
    gate.set()
    assert await worker.run(lambda: "next") == "next"
    await worker.close()


async def test_close_finishes_queued_calls() -> None:
    """What was submitted before the end is done before the end."""
    worker = Worker("test")
    done: list[int] = []
    for k in range(3):
        worker.submit(done.append, k)
    await worker.close()
    assert done == [0, 1, 2]


async def test_close_is_idempotent_and_needs_no_thread() -> None:
    """Closing an unused or a closed worker does nothing."""
    worker = Worker("test")
    assert await worker.close()
    assert await worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(lambda: None)


async def test_stuck_thread_is_abandoned_with_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """A driver that never returns costs the timeout, not the program."""
    worker = Worker("stuck")
    gate = threading.Event()
    worker.submit(gate.wait, 10)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert not await worker.close(0.05)
    assert time.monotonic() - began < 1
    assert "avff:stuck" in caplog.text
    assert abandoned_threads() == ["avff:stuck"]
    gate.set()
    while abandoned_threads():  # noqa: ASYNC110 - a thread has no event to wait for
        await asyncio.sleep(0.001)
