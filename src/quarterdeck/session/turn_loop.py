"""The turns of one session: prompts go out one by one, events come in, each turn gets its own."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quarterdeck.clock import within
from quarterdeck.engine import events as ev
from quarterdeck.engine.claude import control
from quarterdeck.errors import EngineDied, EngineWedged, QuarterdeckError, QueueFull
from quarterdeck.model import Boundary, RateLimit
from quarterdeck.session.backpressure import Subscription
from quarterdeck.session.handle import TurnHandle, as_text
from quarterdeck.session.handlers import EventHandlers
from quarterdeck.session.options import Options
from quarterdeck.session.prompts import Prompt
from quarterdeck.session.stream import ClaudeStream
from quarterdeck.session.turns import Totals, TurnFold, TurnResult

DUPLICATE_SECONDS = 1.0  # a turn begins within 0.1 s of its prompt's echo


class TurnLoop:
    """What a Client does while it is connected.

    Two tasks: the sender writes the next prompt when nothing runs, the dispatcher takes the events in
    order (fold, callbacks, results, streams). It exists before the stream does, so that streams of
    events can be asked for; `start` begins. `on_new_id` is told the engine's id when that changes,
    `on_end` that no more events will come. For one event loop.
    """

    def __init__(
        self,
        options: Options,
        session_id: str,
        *,
        on_new_id: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        self.options = options
        self.session_id = session_id
        self.engine_session_id: str | None = None
        self.handlers = EventHandlers()
        self.totals = Totals()
        self.turns: list[TurnResult] = []
        self.rate_limit: RateLimit | None = None
        self.stream: ClaudeStream | None = None
        self.waiting: deque[TurnHandle] = deque()
        self.current: TurnHandle | None = None
        self.dispatcher: asyncio.Task[None] | None = None
        self.closing = False
        self.ended = False
        self._sender: asyncio.Task[None] | None = None
        self._on_new_id = on_new_id
        self._on_end = on_end
        self._wake = asyncio.Event()
        self._streams: list[Subscription] = []
        self._finished: list[tuple[TurnHandle, TurnResult, int]] = []
        self._over: list[Subscription] = []
        self._stray: TurnFold | None = None
        self._index = 0
        # What the dispatcher has seen; the protocol, at the reader's end of the queue, is ahead of it.
        self._seen = 0
        self._turn = 0
        self._in_turn = False
        self._spoke = False
        self._written: set[str] = set()
        self._echoed: set[str] = set()
        self._echoes = options.resume is not None or options.continue_last

    # -- life ---------------------------------------------------------------------------------------

    def start(self, stream: ClaudeStream) -> None:
        """Begin on a stream that is ready."""
        self.stream = stream
        self.dispatcher = asyncio.create_task(self._dispatch())
        self._sender = asyncio.create_task(self._send_waiting())

    async def settle(self) -> None:
        """Interrupt the turn that runs, so that its record is read before the engine ends."""
        handle, stream = self.current, self.stream
        if handle is None or stream is None or not stream.alive:
            return
        limit = min(5.0, self.options.settle_timeout)
        with contextlib.suppress(QuarterdeckError, TimeoutError), self.hurry():
            await within(self.options.clock, limit, stream.control("interrupt"))
            if not self.in_callback():
                await within(self.options.clock, limit, asyncio.wait({handle._future}))

    def stop_sending(self) -> None:
        """Write no more prompts."""
        if self._sender is not None:
            self._sender.cancel()

    async def finish(self) -> None:
        """Wait until the last event is dispatched, but not for ever: callbacks may hang."""
        dispatcher = self.dispatcher
        if dispatcher is None or asyncio.current_task() is dispatcher:
            return
        with self.hurry():
            done, _ = await asyncio.wait({dispatcher}, timeout=5.0)
        if not done:
            dispatcher.cancel()
            await asyncio.wait({dispatcher}, timeout=2.0)

    def in_callback(self) -> bool:
        """Whether the caller runs inside the dispatcher, in an event callback."""
        return asyncio.current_task() is self.dispatcher

    # -- prompts and streams ------------------------------------------------------------------------

    def submit(
        self, prompt: Prompt, content: Prompt, *, keep: bool, prompt_id: str | None
    ) -> TurnHandle:
        """Queue a prompt; `content` is what goes to the engine. Raises QueueFull, InvalidCommand."""
        options = self.options
        if len(self.waiting) >= options.max_queued_prompts:
            raise QueueFull(
                f"{len(self.waiting)} prompts are waiting already",
                remedy="await a turn first, or raise Options.max_queued_prompts",
            )
        uuid_ = prompt_id or str(uuid.uuid4())
        line = control.user_message(content, uuid=uuid_)
        fold = self._fold(as_text(prompt), keep=keep)
        subscription = Subscription(options.queue_events, options.queue_bytes)
        handle = TurnHandle(
            as_text(prompt), uuid_, line, fold, subscription, self.interrupt, self.in_callback
        )
        handle._repeatable = prompt_id is not None
        self.waiting.append(handle)
        self._wake.set()
        return handle

    async def inject(self, stream: ClaudeStream, prompt: Prompt, priority: str) -> str:
        """Write a prompt beside the queue; returns its id."""
        prompt_id = str(uuid.uuid4())
        line = control.user_message(prompt, uuid=prompt_id, priority=priority)
        self._written.add(prompt_id)
        await stream.write(line)
        return prompt_id

    def subscribe(self) -> Subscription:
        """A claimed view of all events from now on."""
        subscription = Subscription(self.options.queue_events, self.options.queue_bytes)
        subscription.claim()
        self._streams.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Its reader went away."""
        subscription.close()
        if subscription in self._streams:
            self._streams.remove(subscription)

    def _fold(self, prompt: str, *, keep: bool = True) -> TurnFold:
        self._index += 1
        fold = TurnFold(
            prompt=prompt,
            index=self._index,
            session=self.session_id,
            keep=keep,
            keep_stream=self.options.keep_stream and keep,
            max_bytes=self.options.max_result_bytes,
        )
        fold.engine_session_id = self.engine_session_id or ""
        return fold

    # -- interrupting -------------------------------------------------------------------------------

    async def interrupt(self, handle: TurnHandle, drain: bool) -> tuple[str, ...]:
        """See TurnHandle.interrupt."""
        dropped = self.drop_waiting(None, after=handle) if drain else ()
        stream = self.stream
        if handle.done or stream is None:
            return dropped
        if handle in self.waiting:
            self.waiting.remove(handle)
            self._drop(handle, None)
            return dropped
        limit: float | None = None
        if not self._read_to_its_end(handle, stream):
            limit = self.options.settle_timeout
            await stream.control("interrupt", timeout=limit)
        if self.in_callback():
            return dropped  # a callback: the end of the turn comes after it
        try:
            with self.hurry():
                await within(self.options.clock, limit, asyncio.wait({handle._future}))
        except TimeoutError:
            if self._read_to_its_end(handle, stream):
                await asyncio.wait({handle._future})
                return dropped
            error = EngineWedged(
                f"the turn did not settle within {limit} s of its interrupt; the engine was ended",
                stderr_tail=stream.stderr_tail,
                remedy=stream.how_to_resume(),
            )
            await stream.fail(error)
            await asyncio.wait({handle._future})
            raise error from None
        return dropped

    def _read_to_its_end(self, handle: TurnHandle, stream: ClaudeStream) -> bool:
        """Whether the record of a running turn has come, and only our own callbacks hold it up."""
        mapper = stream.protocol.mapper
        read = not mapper.in_turn and mapper.turn != self._turn
        return read or handle is not self.current

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Somebody waits for what comes last: no reader that is behind may hold it up."""
        streams = tuple(self._streams)
        for subscription in streams:
            subscription.hurry(1)
        try:
            yield
        finally:
            for subscription in streams:
                subscription.hurry(-1)

    async def interrupt_quietly(self, handle: TurnHandle) -> None:
        """Interrupt; that it went wrong shows in the handle."""
        with contextlib.suppress(QuarterdeckError):
            await self.interrupt(handle, False)

    async def _time_out(self, handle: TurnHandle, seconds: float) -> None:
        await self.options.clock.sleep(seconds)
        handle._timed_out = True
        await self.interrupt_quietly(handle)

    def drop_waiting(
        self, error: QuarterdeckError | None, after: TurnHandle | None = None
    ) -> tuple[str, ...]:
        """Drop the prompts that wait (those behind `after`); returns their texts."""
        waiting = list(self.waiting)
        if after is not None and after in waiting:
            waiting = waiting[waiting.index(after) + 1 :]
        for handle in waiting:
            self.waiting.remove(handle)
            self._drop(handle, error)
        return tuple(h.prompt for h in waiting)

    def _drop(self, handle: TurnHandle, error: QuarterdeckError | None) -> None:
        if error is not None:
            handle._fail(error)
        else:
            boundary = Boundary("interrupted", reason="dropped before it began")
            handle._finish(handle._fold.partial(boundary, self.totals), 0)
        handle._subscription.finish()

    # -- the two tasks ------------------------------------------------------------------------------

    async def _send_waiting(self) -> None:
        """Writes the next prompt when nothing runs: one prompt, one turn."""
        stream = self.stream
        assert stream is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            # A turn of the engine's own may be read already, and not dispatched yet.
            busy = self.current is not None or stream.protocol.mapper.turn != self._turn
            if busy or not self.waiting:
                continue
            handle = self.waiting.popleft()
            self.current = handle
            handle._begin(self._seen)
            self._streams.append(handle._subscription)
            self._written.add(handle.uuid)
            if self.options.turn_timeout is not None:
                timer = self._time_out(handle, self.options.turn_timeout)
                handle._timer = asyncio.create_task(timer)
            try:
                await stream.write(handle._line)
            except QuarterdeckError as error:
                self._fail_current(error)

    async def _dispatch(self) -> None:
        """Takes events in order: fold, callbacks, results, streams."""
        stream = self.stream
        assert stream is not None
        queue, marks = stream.events, self._MARKS
        try:
            while (taken := await queue.get()) is not None:
                batch, size = taken
                silent = self.handlers.empty
                fold = self._fold_now()
                for event in batch:
                    kind = type(event)
                    mark = marks.get(kind)
                    if mark is not None:
                        mark(self, event)
                        fold = self._fold_now()
                    if fold is not None:
                        folder = fold.folders.get(kind)
                        if folder is not None:
                            folder(fold, event)
                    if not silent:
                        await self.handlers.dispatch(event)
                        fold = self._fold_now()
                self._seen = batch[-1].seq
                self._settle_finished()
                for subscription in tuple(self._streams):
                    await subscription.put(batch, size)
                self._retire()
        finally:
            self._end()

    def _fold_now(self) -> TurnFold | None:
        return self.current._fold if self.current is not None else self._stray

    def _settle_finished(self) -> None:
        for handle, result, seq in self._finished:
            handle._finish(result, seq)
        if self._finished:
            self._finished.clear()
        self._wake.set()

    def _retire(self) -> None:
        """Streams of turns that are over get nothing more."""
        kept = []
        for subscription in self._streams:
            if subscription in self._over:
                subscription.finish()
            else:
                kept.append(subscription)
        self._streams = kept
        self._over.clear()

    def _end(self) -> None:
        """No more events will come, ever."""
        self._settle_finished()
        stream = self.stream
        assert stream is not None
        self._fail_current(stream._gone())
        self.drop_waiting(stream._gone())
        self.finish_streams()
        self._on_end()

    def finish_streams(self) -> None:
        """Nobody who listens gets anything more."""
        self.ended = True
        for subscription in self._streams:
            subscription.finish()

    def _fail_current(self, error: QuarterdeckError) -> None:
        handle, self.current = self.current, None
        if handle is None:
            return
        boundary = Boundary("interrupted" if self.closing else "errored", code=error.code)
        partial = handle._fold.partial(boundary, self.totals)
        if isinstance(error, EngineDied | EngineWedged):
            error.partial = partial
        self._remember(partial)
        handle._fail(error)

    # -- what some events mean ----------------------------------------------------------------------

    def _on_ready(self, event: ev.SessionReady) -> None:
        """`/clear` goes on under a new id."""
        if event.engine_session_id and event.engine_session_id != self.engine_session_id:
            self.engine_session_id = event.engine_session_id
            self._on_new_id(event.engine_session_id)

    def _on_turn_started(self, event: ev.TurnStarted) -> None:
        self._in_turn, self._spoke = True, False
        self._echoed.clear()
        if self.current is None:
            self._stray = self._fold("")

    def _on_message(self, event: ev.Message) -> None:
        if event.replay:
            self._echoed.add(event.uuid)
            handle = self.current
            self._echoes = self._echoes or event.uuid in self._written
            if handle is not None and handle.uuid == event.uuid and handle._repeatable:
                if self._in_turn:
                    handle._repeatable = False
                elif handle._duplicate is None:
                    handle._duplicate = asyncio.create_task(self._take_for_duplicate(handle))
        elif event.role == "assistant" and event.parent is None and not event.synthetic:
            self._spoke = True

    async def _take_for_duplicate(self, handle: TurnHandle) -> None:
        """An echo and no turn: the engine has had this prompt, and says no more about it."""
        await self.options.clock.sleep(DUPLICATE_SECONDS)
        stream = self.stream
        if (
            handle is not self.current
            or stream is None
            or stream.protocol.mapper.turn != self._turn
        ):
            return
        self.current = None
        self._written.discard(handle.uuid)
        boundary = Boundary("interrupted", reason="duplicate")
        handle._finish(handle._fold.partial(boundary, self.totals), self._seen)
        handle._subscription.finish()
        self._streams.remove(handle._subscription)
        self._wake.set()

    def _on_turn_ended(self, event: ev.TurnEnded) -> None:
        self._in_turn, self._turn, self._seen = False, event.turn, event.seq
        handle = self.current
        if handle is not None and self._belongs(event, handle):
            self.current = None
            boundary = self._own_verdict(event, handle)
            result = handle._fold.result(event, self.totals, boundary)
            self._written.discard(handle.uuid)
            self._finished.append((handle, result, event.seq))
            self._over.append(handle._subscription)
        else:
            fold = self._stray or self._fold("")
            if handle is not None:
                index = fold.index
                fold, handle._fold = handle._fold, handle._fold.fresh()
                fold.prompt, fold.index = "", index
            self._stray = None
            result = fold.result(event, self.totals)
        self._remember(result)

    def _own_verdict(self, event: ev.TurnEnded, handle: TurnHandle) -> Boundary | None:
        """What we know better than the engine: whose time was up, and what was asked for."""
        if handle._timed_out and event.boundary.kind != "completed":
            return Boundary("limit", limit="time", reason=event.boundary.reason)
        wanted = self.options.output_schema is not None and event.num_turns > 0
        if wanted and event.boundary.kind == "completed" and event.structured_output is None:
            return Boundary("errored", code="structured_output", reason="no structured answer came")
        return None

    def _belongs(self, event: ev.TurnEnded, handle: TurnHandle) -> bool:
        """Whether this record ends the turn of our prompt.

        The engine also makes turns of its own (a background task is done, an interrupted turn is
        taken up again) and of injected prompts. The echo of a prompt tells whose turn it is; it comes
        before the model's first message, but not in turns without the model.
        """
        if handle.uuid in self._echoed:
            return True
        if event.origin or self._echoed & self._written:
            return False
        return not (self._spoke and self._echoes and self.options.echo_prompts)

    def _remember(self, result: TurnResult) -> None:
        self.turns.append(result)

    def _on_rate_limit(self, event: ev.RateLimited) -> None:
        self.rate_limit = event.limit

    _MARKS: Mapping[type[ev.Event], Any] = {
        ev.SessionReady: _on_ready,
        ev.TurnStarted: _on_turn_started,
        ev.Message: _on_message,
        ev.TurnEnded: _on_turn_ended,
        ev.RateLimited: _on_rate_limit,
    }
