"""A bounded mailbox between two stages, with its overflow policy as a parameter.

The policy is fixed where stages meet (``app.py``), so that no stage asks whether
its source is live: under ``WAIT`` a full mailbox holds the producer back, under
``DROP_OLDEST`` it discards its oldest item and counts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Policy(StrEnum):
    """What a full mailbox does with one more item."""

    WAIT = "wait"
    DROP_OLDEST = "drop_oldest"


class MailboxClosed(Exception):
    """Nothing more can be put, or nothing is left to get."""


class Mailbox(Generic[T]):
    """First in, first out; used on one event loop.

    Cancelling a ``put`` leaves the mailbox as if it had never been called, and
    cancelling a ``get`` loses no item: between taking an item and returning it
    there is no point at which a task can be interrupted.  (``asyncio.wait_for``
    adds such a point on Python 3.11; use ``asyncio.timeout``.)

    Attributes:
        capacity: most items held at a time.
        policy: what happens when it is full.
        dropped: items discarded so far under ``DROP_OLDEST``.
    """

    def __init__(self, capacity: int, policy: Policy = Policy.WAIT) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox holds at least 1 item, not {capacity}")
        self.capacity = capacity
        self.policy = policy
        self.dropped = 0
        self._items: deque[T] = deque()
        self._closed = False
        # Locks are first come, first served: many streams that feed one engine take turns.
        self._put_turn = asyncio.Lock()
        self._get_turn = asyncio.Lock()
        self._may_put = asyncio.Event()
        self._may_get = asyncio.Event()
        self._may_put.set()

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called; items may still wait."""
        return self._closed

    async def put(self, item: T) -> None:
        """Add an item, waiting for room under ``WAIT``.

        Raises:
            MailboxClosed: it is closed, or was closed while this call waited.
        """
        async with self._put_turn:
            if self.policy is Policy.WAIT:
                await self._may_put.wait()
            if self._closed:
                raise MailboxClosed
            self._add(item)

    def put_nowait(self, item: T) -> None:
        """Add an item at once; for ``loop.call_soon_threadsafe`` under ``DROP_OLDEST``.

        A capture thread may hand over one last item after the end: on a closed
        mailbox this does nothing.

        Raises:
            ValueError: the policy is ``WAIT``, where a full mailbox could only lose the item.
        """
        if self.policy is not Policy.DROP_OLDEST:
            raise ValueError("put_nowait needs a mailbox that drops its oldest item")
        if not self._closed:
            self._add(item)

    async def get(self) -> T:
        """Return the oldest item, waiting for one.

        Raises:
            MailboxClosed: it is closed and empty.
        """
        return (await self.get_many(1))[0]

    async def get_many(self, max_items: int) -> list[T]:
        """Return what waits, oldest first: at least one item, at most ``max_items``.

        Raises:
            MailboxClosed: it is closed and empty.
        """
        async with self._get_turn:
            await self._may_get.wait()
            if not self._items:
                raise MailboxClosed
            count = min(max_items, len(self._items))
            taken = [self._items.popleft() for _ in range(count)]
            self._signal()
            return taken

    async def get_within(self, timeout_s: float) -> list[T]:
        """Return all that waits, oldest first: at least one item.

        What came while the event loop was busy with something else has come in time.

        Raises:
            MailboxClosed: it is closed and empty.
            TimeoutError: nothing came for so long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self.get_many(self.capacity)
        except TimeoutError:
            if not self._items:
                raise
            return await self.get_many(self.capacity)

    def clear(self) -> None:
        """Discard what waits, without counting it as dropped."""
        self._items.clear()
        self._signal()

    def close(self) -> None:
        """Accept nothing more; what waits can still be taken.  Idempotent."""
        self._closed = True
        self._signal()

    async def batches(self, max_items: int) -> AsyncIterator[list[T]]:
        """Yield :meth:`get_many` until the mailbox is closed and empty."""
        while True:
            try:
                taken = await self.get_many(max_items)
            except MailboxClosed:
                return
            yield taken

    def __aiter__(self) -> Self:
        """Iterate over items until the mailbox is closed and empty."""
        return self

    async def __anext__(self) -> T:
        """Return the next item."""
        try:
            return await self.get()
        except MailboxClosed:
            raise StopAsyncIteration from None

    def _add(self, item: T) -> None:
        if len(self._items) >= self.capacity:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._signal()

    def _signal(self) -> None:
        """Set both events to what is true now; they are levels, so no wake-up can be lost."""
        _set(self._may_get, bool(self._items) or self._closed)
        _set(self._may_put, len(self._items) < self.capacity or self._closed)


def _set(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()
