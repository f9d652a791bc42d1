"""A turn in the hands of whoever asked for it: await it, stream it, interrupt it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Sequence,
)
from typing import Any, Literal

from quarterdeck.engine import events as ev
from quarterdeck.errors import UsageError
from quarterdeck.session.backpressure import Subscription
from quarterdeck.session.turns import TurnFold, TurnResult

State = Literal["queued", "running", "done"]


class TurnHandle:
    """What `send` returns. `await handle` gives the TurnResult.

    Awaiting raises EngineDied or EngineWedged (with the partial turn) when the engine went away, and
    SessionClosed when the session was closed before the turn began. Cancelling the await does not
    stop the turn: use `interrupt`.
    """

    def __init__(
        self,
        prompt: str,
        uuid: str,
        line: bytes,
        fold: TurnFold,
        subscription: Subscription,
        interrupt: Callable[[TurnHandle, bool], Awaitable[tuple[str, ...]]],
        would_wait_for_itself: Callable[[], bool],
    ) -> None:
        self.prompt = prompt
        self.uuid = uuid
        self.state: State = "queued"
        self._line = line
        self._fold = fold
        self._subscription = subscription
        self._interrupt = interrupt
        self._would_wait_for_itself = would_wait_for_itself
        self._start_seq = 0
        self._end_seq: int | None = None
        self._timed_out = False
        self._repeatable = False
        self._duplicate: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._future: asyncio.Future[TurnResult] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> bool:
        """Whether the turn is over."""
        return self._future.done()

    async def result(self) -> TurnResult:
        """Wait for the boundary; see the class for what it raises."""
        if not self.done and self._would_wait_for_itself():
            raise UsageError(
                "awaiting a turn inside an event callback would wait for itself",
                remedy="await it in a task of its own",
            )
        return await asyncio.shield(self._future)

    def __await__(self) -> Generator[Any, None, TurnResult]:
        return self.result().__await__()

    async def interrupt(self, *, drain: bool = False) -> tuple[str, ...]:
        """Stop this turn and wait until the session has settled at a boundary.

        A turn that has not begun is dropped. `drain` also drops the prompts that wait behind it; the
        dropped prompts are returned. A session that does not settle within
        `Options.settle_timeout` is ended and EngineWedged raised.
        """
        return await self._interrupt(self, drain)

    async def stream(self) -> AsyncIterator[ev.Event]:
        """The events of this turn as they come, TurnEnded last.

        Call it soon: what comes before is held only as far as the session's queue limits go; beyond
        that the first event is a Notice of kind `missed`. From then on a slow consumer slows the
        engine down. One consumer only.
        """
        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self) -> AsyncGenerator[Sequence[ev.Event], None]:
        """Like `stream`, as many events at once as have come."""
        subscription = self._subscription
        subscription.claim()
        if subscription.missed:
            text = f"{subscription.missed} events came before anybody listened"
            yield [
                ev.Notice(self._fold.session, 0, 0.0, b"", None, None, "missed", "warning", text)
            ]
        try:
            while (batch := await subscription.get()) is not None:
                end = self._end_seq
                over = end is not None and batch[-1].seq >= end
                if over or batch[0].seq <= self._start_seq:
                    last = end if over and end is not None else batch[-1].seq
                    batch = [e for e in batch if self._start_seq < e.seq <= last]
                yield batch
                if over:
                    return
        finally:
            subscription.close()

    # -- for the client only ------------------------------------------------------------------------

    def _begin(self, seq: int) -> None:
        self.state, self._start_seq = "running", seq

    def _finish(self, result: TurnResult, seq: int) -> None:
        self._end_seq = seq
        self._settle()
        if not self._future.done():
            self._future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        self._settle()
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # whoever awaits it gets it; nobody has to

    def _settle(self) -> None:
        self.state = "done"
        for task in (self._timer, self._duplicate):
            if task is not None and task is not asyncio.current_task():
                task.cancel()


def as_text(prompt: object) -> str:
    """A prompt for showing. Raises UsageError when it is neither text nor blocks."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list | tuple):
        return "\n".join(str(b.get("text", f"[{b.get('type')}]")) for b in prompt)
    raise UsageError(f"a prompt is a text or a list of content blocks, not {type(prompt).__name__}")
