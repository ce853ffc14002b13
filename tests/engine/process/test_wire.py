"""Tensors and messages between two processes."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
import pytest

from avff.engine.contract import GRAPHS
from avff.engine.predictor import MAX_BATCH
from avff.engine.process.wire import (
    MAX_ITEMS,
    WireError,
    memory_size,
    receive,
    send,
    shared_memory,
    tensors_at,
)
from tests.support.engine import scripted_model

CONTRACT = scripted_model().model.contract


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    one, other = Pipe()
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("count", [1, 7, MAX_ITEMS])
@pytest.mark.parametrize("graph", GRAPHS)
def test_tensors_lie_apart_and_both_sides_see_them(graph: str, count: int) -> None:
    """Every one as the contract has it, none over another, all within the memory."""
    number = shared_memory(CONTRACT)
    one, other = mmap.mmap(number, 0), mmap.mmap(number, 0)
    os.close(number)
    spec = CONTRACT.graphs[graph]
    written = tensors_at(one, spec, count)
    for side, tensors in zip(written, (spec.inputs, spec.outputs), strict=True):
        assert {name: values.shape for name, values in side.items()} == {
            t.name: (count, *t.shape) for t in tensors
        }
    everything = [values for side in written for values in side.values()]
    for number, values in enumerate(everything):
        values[:] = number
    read = [values for side in tensors_at(other, spec, count) for values in side.values()]
    for number, values in enumerate(read):
        np.testing.assert_array_equal(values, np.float32(number))


@pytest.mark.parametrize("count", [0, -1, MAX_ITEMS + 1])
def test_a_batch_that_does_not_fit_is_refused(count: int) -> None:
    with mmap.mmap(-1, memory_size(CONTRACT)) as memory, pytest.raises(ValueError, match="in memory for 32"):
        tensors_at(memory, CONTRACT.graphs["fusion"], count)


def test_the_predictors_batches_fit() -> None:
    assert MAX_BATCH <= MAX_ITEMS


def test_messages_arrive_as_they_were(ends: tuple[Connection, Connection]) -> None:
    send(ends[0], {"graph": "fusion", "count": 3})
    assert receive(ends[1]) == {"graph": "fusion", "count": 3}
    assert receive(ends[1], 0.0) is None


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"\xff", b"{", b"[" * 60_000, b" " * 70_000])
def test_what_is_no_message_is_an_error(content: bytes, ends: tuple[Connection, Connection]) -> None:
    """One that is too long too: it is not read."""
    ends[0].send_bytes(content)
    with pytest.raises(WireError):
        receive(ends[1], 1.0)


def test_an_end_is_an_error(ends: tuple[Connection, Connection]) -> None:
    ends[0].close()
    with pytest.raises(WireError):
        receive(ends[1], 1.0)
    with pytest.raises(WireError):
        send(ends[1], {})


def test_memory_is_there_before_it_is_written() -> None:
    """Not only promised: a write that finds no room would end the daemon."""
    number = shared_memory(CONTRACT)
    found = os.fstat(number)
    os.close(number)
    assert found.st_size == memory_size(CONTRACT)
    assert found.st_blocks * 512 >= found.st_size


def test_memory_that_cannot_be_had_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space left"):
        shared_memory(CONTRACT)
    assert os.listdir("/proc/self/fd") == before
