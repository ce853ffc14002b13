from __future__ import annotations

import asyncio
import random
import time

import pytest

from avff.daemon.mailbox import Mailbox, MailboxClosed, Policy

pytestmark = pytest.mark.asyncio


async def _settle() -> None:
    """Let every task that can run do so; more rounds than any chain of wake-ups here needs."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_items_come_out_in_order() -> None:
    """First in, first out."""
    box: Mailbox[int] = Mailbox(3)
    for item in (1, 2, 3):
        await box.put(item)
    assert [await box.get() for _ in range(3)] == [1, 2, 3]


async def test_put_waits_while_full() -> None:
    """Under WAIT a full mailbox holds the producer back and drops nothing."""
    box: Mailbox[int] = Mailbox(1)
    await box.put(1)
    waiting = asyncio.create_task(box.put(2))
    await _settle()
    assert not waiting.done()
    assert await box.get() == 1
    await waiting
    assert await box.get() == 2
    assert box.dropped == 0


async def test_drop_oldest_keeps_the_newest_and_counts() -> None:
    """Under DROP_OLDEST the newest items survive and each loss is counted."""
    box: Mailbox[int] = Mailbox(2, Policy.DROP_OLDEST)
    for item in range(5):
        await box.put(item)
    assert await box.get_many(9) == [3, 4]
    assert box.dropped == 3


async def test_put_nowait_needs_drop_oldest() -> None:
    """Without waiting a full WAIT mailbox could only lose the item, so the call is refused."""
    with pytest.raises(ValueError, match="drops its oldest"):
        Mailbox[int](1).put_nowait(1)


async def test_put_nowait_from_a_thread() -> None:
    """A capture thread hands over through the loop."""
    box: Mailbox[int] = Mailbox(4, Policy.DROP_OLDEST)
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: loop.call_soon_threadsafe(box.put_nowait, 7))
    assert await box.get() == 7


async def test_put_nowait_after_close_is_ignored() -> None:
    """One last picture after the end is no error and no loss."""
    box: Mailbox[int] = Mailbox(1, Policy.DROP_OLDEST)
    box.close()
    box.put_nowait(1)
    assert (len(box), box.dropped) == (0, 0)


async def test_get_many_takes_what_waits_up_to_the_limit() -> None:
    """A batch is what is there, never more than asked for."""
    box: Mailbox[int] = Mailbox(5)
    for item in range(5):
        await box.put(item)
    assert await box.get_many(3) == [0, 1, 2]
    assert await box.get_many(3) == [3, 4]


async def test_get_within_takes_all_that_waits() -> None:
    """Or gives up after its time."""
    box: Mailbox[int] = Mailbox(4, Policy.DROP_OLDEST)
    with pytest.raises(TimeoutError):
        await box.get_within(0.01)
    for k in range(3):
        box.put_nowait(k)
    assert await box.get_within(0.01) == [0, 1, 2]
    box.close()
    with pytest.raises(MailboxClosed):
        await box.get_within(0.01)


async def test_what_came_while_the_loop_was_busy_came_in_time() -> None:
    """The timeout and the item are due in the same turn of the loop."""
    box: Mailbox[int] = Mailbox(4, Policy.DROP_OLDEST)
    waiting = asyncio.ensure_future(box.get_within(0.05))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(box.put_nowait, 1)
    time.sleep(0.1)  # noqa: ASYNC251 - the loop is busy, on purpose
    assert await waiting == [1]


async def test_cancel_get_before_first_item_loses_nothing() -> None:
    """A cancelled get leaves the next item to the next get."""
    box: Mailbox[int] = Mailbox(1)
    getting = asyncio.create_task(box.get())
    await _settle()
    getting.cancel()
    await asyncio.wait({getting})
    await box.put(1)
    assert await box.get() == 1


async def test_cancel_get_after_wake_up_loses_nothing() -> None:
    """An item put in the same moment as the cancellation stays in the mailbox."""
    box: Mailbox[int] = Mailbox(1)
    getting = asyncio.create_task(box.get())
    await _settle()
    await box.put(1)  # wakes the getter, which has not run yet
    getting.cancel()
    await asyncio.wait({getting})
    assert getting.cancelled()
    assert await box.get() == 1


async def test_cancelled_put_is_as_if_never_called() -> None:
    """A cancelled put does not put, even if room appeared in the same moment."""
    box: Mailbox[int] = Mailbox(1)
    await box.put(1)
    putting = asyncio.create_task(box.put(2))
    await _settle()
    assert await box.get() == 1  # wakes the putter, which has not run yet
    putting.cancel()
    await asyncio.wait({putting})
    assert len(box) == 0
    await box.put(3)
    assert await box.get() == 3


async def test_cancel_first_of_two_getters_wakes_the_second() -> None:
    """A wake-up that meets a cancelled getter is passed on."""
    box: Mailbox[int] = Mailbox(1)
    first, second = asyncio.create_task(box.get()), asyncio.create_task(box.get())
    await _settle()
    await box.put(1)
    first.cancel()
    assert await second == 1


async def test_putters_take_turns() -> None:
    """Three producers into one slot come in one after the other: none is starved."""
    box: Mailbox[str] = Mailbox(1)

    async def produce(name: str) -> None:
        for _ in range(4):
            await box.put(name)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(produce(name))
        taken = [await box.get() for _ in range(12)]
    # The first producer is one ahead: it found the mailbox empty.
    assert taken[:10] == list("aabcabcabc")


async def test_close_lets_waiting_items_be_taken() -> None:
    """Closing ends the input, not the output."""
    box: Mailbox[int] = Mailbox(2)
    await box.put(1)
    box.close()
    assert [item async for item in box] == [1]
    with pytest.raises(MailboxClosed):
        await box.get()


async def test_close_releases_a_waiting_get() -> None:
    """A consumer that waits for ever is told."""
    box: Mailbox[int] = Mailbox(1)
    getting = asyncio.create_task(box.get())
    await _settle()
    box.close()
    with pytest.raises(MailboxClosed):
        await getting


async def test_close_releases_a_waiting_put() -> None:
    """A producer that waits for room is told, and its item is not in."""
    box: Mailbox[int] = Mailbox(1)
    await box.put(1)
    putting = asyncio.create_task(box.put(2))
    await _settle()
    box.close()
    with pytest.raises(MailboxClosed):
        await putting
    assert [item async for item in box] == [1]


async def test_close_is_idempotent() -> None:
    """Closing twice is closing once."""
    box: Mailbox[int] = Mailbox(1)
    box.close()
    box.close()
    with pytest.raises(MailboxClosed):
        await box.put(1)


async def test_clear_makes_room() -> None:
    """Clearing releases a waiting producer and counts nothing as dropped."""
    box: Mailbox[int] = Mailbox(1)
    await box.put(1)
    putting = asyncio.create_task(box.put(2))
    await _settle()
    box.clear()
    await putting
    assert (await box.get(), box.dropped) == (2, 0)


async def test_capacity_below_one_is_refused() -> None:
    """A mailbox without room could never pass anything on."""
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox[int](0)


@pytest.mark.parametrize("seed", range(5))
async def test_random_cancellations_lose_and_repeat_nothing(seed: int) -> None:
    """Whatever gets are cancelled when: every item comes out exactly once, in order."""
    random_ = random.Random(seed)
    box: Mailbox[int] = Mailbox(3)
    taken: list[int] = []

    async def take() -> None:
        taken.extend(await box.get_many(2))

    async def produce() -> None:
        for item in range(200):
            await box.put(item)
            if random_.random() < 0.3:
                await asyncio.sleep(0)
        box.close()

    producing = asyncio.create_task(produce())
    while len(taken) < 200:
        getting = asyncio.create_task(take())
        for _ in range(random_.randrange(4)):
            await asyncio.sleep(0)
        if random_.random() < 0.5:
            getting.cancel()
        await asyncio.wait({getting})
    await producing
    assert taken == list(range(200))
