"""A clock that moves by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class FakeClock:
    """A Clock for tests: time stands still until `advance`.

    For use within one event loop.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._start = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, as far as the test is concerned."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._now - self._start

    async def sleep(self, seconds: float) -> None:
        """Return when the clock was advanced by `seconds`; zero or less yields once."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), wake))
        await wake

    @property
    def sleeping(self) -> int:
        """How many wait at the moment."""
        return sum(not wake.done() for _, _, wake in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move on, waking sleepers in the order of their times; each may run before the next wakes.

        What was started before gets a chance to begin its sleep first.
        """
        await self._settle()
        target = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            self._now, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.set_result(None)
            await self._settle()
        self._now = target

    @staticmethod
    async def _settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
