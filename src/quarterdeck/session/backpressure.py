"""A bounded queue of events between the reader of a pipe and the code of a user."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from quarterdeck.engine.events import Event

HURRY_BYTES = 128 * 1024 * 1024
"""What may wait in memory while a control reply is awaited that lies behind it in the pipe."""


class EventQueue:
    """Batches of events, bounded by their number and by the bytes they came from.

    `put` never waits: who puts asks `full` before, and waits for `room`. For use within one event
    loop. `hurry` opens the door in spite of a full queue (up to HURRY_BYTES): somebody waits for a
    control reply that lies behind the events in the same pipe.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max = (max_events, max_bytes)
        self._batches: deque[tuple[Sequence[Event], int]] = deque()
        self._events = 0
        self._bytes = 0
        self._hurry = 0
        self._closed = False
        self._room = asyncio.Event()
        self._room.set()
        self._ready = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether the producer should wait."""
        if self._hurry:
            return self._bytes >= max(HURRY_BYTES, self._max[1])
        return self._events >= self._max[0] or self._bytes >= self._max[1]

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def put(self, events: Sequence[Event], size: int) -> None:
        """Add a batch that came from `size` bytes; ignored once closed."""
        if self._closed or not events:
            return
        self._batches.append((events, size))
        self._events += len(events)
        self._bytes += size
        self._ready.set()
        self._update()

    async def room(self) -> None:
        """Wait until the queue is not full, or closed."""
        await self._room.wait()

    async def get(self) -> tuple[Sequence[Event], int] | None:
        """The next batch and its bytes; None after `close` and the last. Cancelling loses nothing."""
        while not self._batches:
            if self._closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        events, size = self._batches.popleft()
        self._events -= len(events)
        self._bytes -= size
        self._update()
        return events, size

    def close(self, *, discard: bool = False) -> None:
        """Nothing more will come; `discard` also drops what waits."""
        self._closed = True
        if discard:
            self._batches.clear()
            self._events = self._bytes = 0
        self._ready.set()
        self._room.set()

    def hurry(self, step: int) -> None:
        """Count (+1) or discount (-1) somebody who waits for a control reply."""
        self._hurry += step
        self._update()

    def _update(self) -> None:
        if self._closed or not self.full:
            self._room.set()
        else:
            self._room.clear()


class Subscription:
    """One reader's view of the events from a moment on.

    Until it is claimed by a reader it holds what fits, and lets go of everything when that is
    exceeded (`missed` counts); from then on a slow reader slows the session down, not its memory.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._queue = EventQueue(max_events, max_bytes)
        self._claimed = False
        self.missed = 0

    def claim(self) -> None:
        """A reader is there and will read to the end, or call `close`."""
        self._claimed = True

    async def put(self, events: Sequence[Event], size: int) -> None:
        """Give a batch to the reader; waits for a claimed reader that is behind."""
        if self._queue.closed:
            return
        if self.missed and not self._claimed:
            self.missed += len(events)
            return
        if self._queue.full:
            if self._claimed:
                await self._queue.room()
            else:
                self.missed = self._drop() + len(events)
                return
        self._queue.put(events, size)

    def _drop(self) -> int:
        dropped, self._queue = self._queue, EventQueue(*self._queue._max)
        self._queue.hurry(dropped._hurry)
        return dropped._events

    def hurry(self, step: int) -> None:
        """Count (+1) or discount (-1) somebody who cannot wait for this reader."""
        self._queue.hurry(step)

    async def get(self) -> Sequence[Event] | None:
        """The next batch; None at the end."""
        taken = await self._queue.get()
        return None if taken is None else taken[0]

    def finish(self) -> None:
        """No more events will come; the reader still gets what waits."""
        self._queue.close()

    def close(self) -> None:
        """The reader went away."""
        self._queue.close(discard=True)
