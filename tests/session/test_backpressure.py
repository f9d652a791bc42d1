"""The bounded queue and the views on it."""

from __future__ import annotations

import asyncio

from quarterdeck.engine.events import Event, Notice
from quarterdeck.session.backpressure import HURRY_BYTES, EventQueue, Subscription


def notices(count: int) -> list[Event]:
    return [Notice("s", i, 0.0, b"", None, None, "k", "info", str(i)) for i in range(count)]


async def test_a_full_queue_has_no_room_until_it_is_read() -> None:
    queue = EventQueue(max_events=3, max_bytes=1000)
    queue.put(notices(3), 10)
    assert queue.full
    waiting = asyncio.create_task(queue.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await queue.get() is not None
    await waiting
    assert not queue.full


async def test_bytes_count_too() -> None:
    queue = EventQueue(max_events=100, max_bytes=1000)
    queue.put(notices(1), 1000)
    assert queue.full


async def test_a_waiting_control_call_opens_the_door_but_not_for_ever() -> None:
    queue = EventQueue(max_events=3, max_bytes=1000)
    queue.put(notices(3), 10)
    queue.hurry(1)
    assert not queue.full
    await asyncio.wait_for(queue.room(), 1)
    queue.put(notices(21), 2000)
    assert not queue.full
    queue.put(notices(1), HURRY_BYTES)
    assert queue.full
    queue.hurry(-1)
    assert queue.full


async def test_closing_lets_the_reader_finish() -> None:
    queue = EventQueue(max_events=3, max_bytes=1000)
    queue.put(notices(2), 10)
    queue.close()
    queue.put(notices(1), 10)
    taken = await queue.get()
    assert taken is not None
    assert (len(taken[0]), taken[1]) == (2, 10)
    assert await queue.get() is None
    await queue.room()


async def test_a_reader_that_is_slow_holds_the_giver() -> None:
    subscription = Subscription(max_events=2, max_bytes=1000)
    subscription.claim()
    await subscription.put(notices(2), 10)
    giving = asyncio.create_task(subscription.put(notices(1), 10))
    await asyncio.sleep(0)
    assert not giving.done()
    assert len(await subscription.get() or ()) == 2
    await giving
    assert subscription.missed == 0


async def test_a_view_that_nobody_claims_costs_nothing() -> None:
    subscription = Subscription(max_events=2, max_bytes=1000)
    for _ in range(100):
        await subscription.put(notices(1), 10)
    assert subscription.missed > 90
    subscription.claim()
    await subscription.put(notices(1), 10)
    assert len(await subscription.get() or ()) == 1


async def test_a_reader_that_leaves_frees_the_giver() -> None:
    subscription = Subscription(max_events=1, max_bytes=1000)
    subscription.claim()
    await subscription.put(notices(1), 10)
    giving = asyncio.create_task(subscription.put(notices(1), 10))
    await asyncio.sleep(0)
    subscription.close()
    await giving
    assert await subscription.get() is None
