"""The hand-moved clock, and time limits on it."""

from __future__ import annotations

import asyncio

import pytest

from quarterdeck.clock import SYSTEM_CLOCK, Clock, within
from quarterdeck.testing import FakeClock


async def test_sleepers_wake_in_order_and_see_their_time() -> None:
    clock: Clock = FakeClock(100.0)
    fake = clock
    assert isinstance(fake, FakeClock)
    woken: list[tuple[str, float]] = []

    async def nap(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.now()))

    tasks = [asyncio.create_task(nap("b", 2)), asyncio.create_task(nap("a", 1))]
    await asyncio.sleep(0)
    await fake.advance(0.5)
    assert woken == []
    await fake.advance(5)
    await asyncio.gather(*tasks)
    assert woken == [("a", 101.0), ("b", 102.0)]
    assert clock.now() == 105.5
    assert clock.monotonic() == 5.5


async def test_a_time_limit_on_the_fake_clock() -> None:
    clock = FakeClock()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    limited = asyncio.create_task(within(clock, 10, never))
    await asyncio.sleep(0)
    await clock.advance(9)
    assert not limited.done()
    await clock.advance(1)
    with pytest.raises(TimeoutError):
        await limited
    assert never.cancelled()


@pytest.mark.parametrize("clock", [FakeClock(), SYSTEM_CLOCK], ids=["fake", "system"])
async def test_what_is_done_in_time_is_returned(clock: Clock) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await within(clock, 10, work()) == 7
    assert await within(clock, None, work()) == 7


@pytest.mark.parametrize("clock", [FakeClock(), SYSTEM_CLOCK], ids=["fake", "system"])
async def test_errors_come_through(clock: Clock) -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await within(clock, 10, work())
