"""What goes between the two processes: tensors in memory that both see, small messages in JSON.

Nothing is pickled.  Shapes and types are the contract's on both sides; a message says only which graph and
how many items, or what went wrong.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from avff.engine.contract import Contract, GraphSpec, TensorSpec
from avff.engine.media import Float32

Message: TypeAlias = dict[str, Any]
Views: TypeAlias = dict[str, Float32]
MAX_ITEMS = 32
"""Of a request; the predictor's batches are no larger."""
_LONGEST_MESSAGE = 65_536
_ALIGNMENT = 64
"""Of tensors, in bytes: a cache line."""


class WireError(Exception):
    """The other process is gone, or sent something else than it should."""


def shared_memory(contract: Contract) -> int:
    """Return a file descriptor of anonymous memory that holds one request to any graph.

    It has no name and no place in a file system: it ends with the last process that has it.

    Raises:
        OSError: there is no room for it, now: a write to memory that was only promised may kill later.
    """
    number = os.memfd_create("avff-engine")
    try:
        os.posix_fallocate(number, 0, memory_size(contract))
    except OSError:
        os.close(number)
        raise
    return number


def memory_size(contract: Contract) -> int:
    """Return how many bytes the largest batch of the largest graph takes, in and out."""
    return max(
        sum(_padded(tensor, MAX_ITEMS) for tensor in (*graph.inputs, *graph.outputs))
        for graph in contract.graphs.values()
    )


def tensors_at(memory: mmap.mmap, graph: GraphSpec, count: int) -> tuple[Views, Views]:
    """Return a request's inputs and outputs, where they lie in the memory.

    Args:
        memory: of :func:`memory_size`.
        graph: its tensors.
        count: items of the batch, 1 to ``MAX_ITEMS``.

    Raises:
        ValueError: so many do not fit.
    """
    if not 1 <= count <= MAX_ITEMS:
        raise ValueError(f"a batch of {count} in memory for {MAX_ITEMS}")
    sides: list[Views] = []
    at = 0
    for tensors in (graph.inputs, graph.outputs):
        views: Views = {}
        for tensor in tensors:
            size = count * math.prod(tensor.shape)
            flat = np.frombuffer(memory, np.dtype(tensor.dtype), size, offset=at)
            views[tensor.name] = flat.reshape(count, *tensor.shape)
            at += _padded(tensor, count)
        sides.append(views)
    return sides[0], sides[1]


def send(connection: Connection, message: Message) -> None:
    """Send a message.

    Raises:
        WireError: nobody is there.
    """
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError as error:
        raise WireError(str(error)) from error


def receive(connection: Connection, timeout_s: float | None = None) -> Message | None:
    """Return the next message, or None if there is none within the time.

    Args:
        connection: to the other process.
        timeout_s: how long to wait; None for as long as it takes.

    Raises:
        WireError: nobody is there, or it is no message.
    """
    try:
        if not connection.poll(timeout_s):
            return None
        message = json.loads(connection.recv_bytes(_LONGEST_MESSAGE))
    except (EOFError, OSError, ValueError, RecursionError) as error:
        raise WireError(str(error) or type(error).__name__) from error
    if not isinstance(message, dict):
        raise WireError("not a message")
    return message


def _padded(tensor: TensorSpec, count: int) -> int:
    size = count * math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT
