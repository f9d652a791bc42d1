"""Client: one session with one engine process, from connect to a verified end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quarterdeck.clock import within
from quarterdeck.engine import events as ev
from quarterdeck.engine.claude import control
from quarterdeck.engine.claude.launch import KILL_LADDER, compile_launch
from quarterdeck.engine.claude.protocol import ClaudeProtocol
from quarterdeck.errors import (
    EngineDied,
    EngineWedged,
    OptionError,
    PlatformUnsupported,
    QuarterdeckError,
    QueueFull,
    SessionClosed,
    SessionNotFound,
    UsageError,
)
from quarterdeck.host import Host
from quarterdeck.localhost import LocalHost
from quarterdeck.model import Boundary, Exit, RateLimit, new_id
from quarterdeck.session import lock
from quarterdeck.session.asks import Answerer
from quarterdeck.session.backpressure import EventQueue, Subscription
from quarterdeck.session.controls import AccountInfo, Controls, ModelInfo, SlashCommand, typed
from quarterdeck.session.credentials import (
    check_credentials,
    check_settings,
    child_environment,
    config_dir,
)
from quarterdeck.session.engines import Program, claude_program
from quarterdeck.session.handle import TurnHandle, as_text
from quarterdeck.session.handlers import EventHandlers
from quarterdeck.session.hooks import HookRegistry
from quarterdeck.session.mcp import ExternalServer, McpServer
from quarterdeck.session.options import Options, check
from quarterdeck.session.permissions import PermissionQueue, PermissionRequest
from quarterdeck.session.prompts import Prompt, with_attachments
from quarterdeck.session.stream import ClaudeStream, remove_files, write_files
from quarterdeck.session.turns import Totals, TurnFold, TurnResult

CLIENT_APP = "quarterdeck"
DUPLICATE_SECONDS = 1.0  # a turn begins within 0.1 s of its prompt's echo


class Client(Controls):
    """One session. Use it in one event loop, as a context manager or with `connect` and `close`.

    One turn runs at a time; further prompts wait in order. Events go to the handlers, then to
    streams. A callback that is slow slows the engine down, never the reading of control lines.
    """

    def __init__(self, options: Options | None = None, **changes: Any) -> None:
        """`changes` are fields of Options. Raises OptionError; starts nothing."""
        try:
            made = replace(options, **changes) if options is not None else Options(**changes)
        except TypeError as error:
            raise OptionError("options", sorted(changes), str(error)) from None
        check(made)
        self.options = made
        self.session_id = new_id(made.clock.now())
        self.handlers = EventHandlers()
        self.program: Program | None = None
        self.engine_session_id: str | None = None
        self.rate_limit: RateLimit | None = None
        self.totals = Totals()
        self.exit: Exit | None = None
        self._sdk_servers: dict[str, McpServer] = {}
        self._stream: ClaudeStream | None = None
        self._answerer: Answerer | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiting: deque[TurnHandle] = deque()
        self._current: TurnHandle | None = None
        self._stray: TurnFold | None = None
        self._written: set[str] = set()
        self._echoed: set[str] = set()
        self._streams: list[Subscription] = []
        self._finished: list[tuple[TurnHandle, TurnResult, int]] = []
        self._over: list[Subscription] = []
        self._seen = 0
        self._turn = 0
        self._in_turn = False
        self._spoke = False
        self._echoes = made.resume is not None or made.continue_last
        self._turns: list[TurnResult] = []
        self._index = 0
        self._keep_turns = True
        self._lock: lock.SessionLock | None = None
        self._files: Path | None = None
        self._starting = asyncio.Lock()
        self._connected = False
        self._closed = False
        self._ended = False

    # -- life ---------------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Check everything, start the engine and initialize it. Idempotent while open.

        Several tasks may call it at once: one starts the engine, the others wait for that. Raises
        OptionError, CredentialRefused, EngineNotFound, EngineVersionError, EngineStartError,
        SessionNotFound, SessionBusy, SessionError, PlatformUnsupported, and SessionClosed when the
        session was closed meanwhile or another task failed to start it. On error, and when
        cancelled, nothing is left running and nothing locked.
        """
        async with self._starting:
            self._check_open()
            if self._connected:
                return self
            if sys.platform == "win32":
                raise PlatformUnsupported(remedy="use Linux (also under WSL) or macOS")
            try:
                await self._start()
            except BaseException:
                self._closed = True
                self._finish_streams()
                self._release()
                raise
            self._connected = True
            self._dispatcher = asyncio.create_task(self._dispatch())
            self._sender = asyncio.create_task(self._send_waiting())
            return self

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("the session is closed", remedy="make a new Client, with resume")

    async def _start(self) -> None:
        options, inherited = self.options, dict(os.environ)
        cwd = Path(options.cwd or Path.cwd())
        if not cwd.is_dir():
            raise OptionError("cwd", str(cwd), "is not a directory")
        check_credentials(options, inherited)
        self.program = await asyncio.to_thread(claude_program, options.executable, inherited)
        options, engine_id = await asyncio.to_thread(_settle_ids, options, cwd, inherited)
        self._check_open()
        self.engine_session_id = engine_id
        self._lock = lock.acquire("claude-code", engine_id, inherited)
        hooks = HookRegistry(options.hooks, clock=options.clock)
        external: dict[str, Mapping[str, Any]] = {}
        for name, server in options.mcp_servers.items():
            if isinstance(server, ExternalServer):
                external[name] = server.to_wire()
            else:
                self._sdk_servers[name] = server
        self._files = Path(tempfile.mkdtemp(prefix="quarterdeck-"))
        launch = compile_launch(
            options,
            executable=self.program.path,
            files_dir=str(self._files),
            asks=options.asks,
            version=self.program.version,
            hooks=hooks.to_initialize(),
            mcp_servers=external,
            sdk_servers=tuple(self._sdk_servers),
            client_app=CLIENT_APP,
        )
        write_files(self._files, launch.files)
        env = {**child_environment(inherited), **launch.env}
        protocol = ClaudeProtocol(self.session_id, max_line=options.max_line_bytes)
        queue = EventQueue(options.queue_events, options.queue_bytes)
        stream = ClaudeStream(
            protocol, queue, clock=options.clock, control_timeout=options.control_timeout
        )
        answerer = Answerer(
            options, hooks, self._sdk_servers,
            session=self.session_id, send=stream.write, emit=stream.emit,
        )  # fmt: skip
        self._stream, self._answerer = stream, answerer
        await stream.start(
            self.host(), launch, answerer,
            cwd=str(cwd), env=env, mark=self.session_id,
            timeout=options.start_timeout, on_stderr=options.on_stderr,
        )  # fmt: skip

    def host(self) -> Host:
        """Where the engine runs."""
        return self.options.host or LocalHost()

    def _release(self) -> None:
        remove_files(self._files)
        self._files = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def close(self, reason: str = "closed") -> Exit | None:
        """End the session: a running turn is interrupted, waiting prompts are refused, every process
        of the session ends. Idempotent. Returns what was verified; None when it never started.

        When cancelled, the processes are killed before the cancellation goes on.
        """
        first, self._closed = not self._closed, True
        if self._starting.locked() and self._stream is not None:
            await self._stream.close(reason)
        async with self._starting:
            pass  # connect() has undone what it began
        stream, dispatcher = self._stream, self._dispatcher
        if stream is None or dispatcher is None:
            self._finish_streams()
            return None
        try:
            if first:
                self._drop_waiting(SessionClosed("the session was closed before the turn began"))
                await self._settle_current(stream)
            self.exit = await stream.close(reason)
        except asyncio.CancelledError:
            await stream.close(reason, ladder=KILL_LADDER)
            raise
        finally:
            if self._sender is not None:
                self._sender.cancel()
        try:
            if asyncio.current_task() is not dispatcher:
                with self._hurry():
                    done, _ = await asyncio.wait({dispatcher}, timeout=5.0)
                if not done:
                    dispatcher.cancel()
                    await asyncio.wait({dispatcher}, timeout=2.0)
        finally:
            self._release()
        return self.exit

    async def _settle_current(self, stream: ClaudeStream) -> None:
        """Interrupt the turn that runs, so that its record is read before the engine ends."""
        handle = self._current
        if handle is None or not stream.alive:
            return
        limit = min(5.0, self.options.settle_timeout)
        with contextlib.suppress(QuarterdeckError, TimeoutError), self._hurry():
            await within(self.options.clock, limit, stream.control("interrupt"))
            if asyncio.current_task() is not self._dispatcher:
                await within(self.options.clock, limit, asyncio.wait({handle._future}))

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        """Connected, and the engine lives."""
        return self._stream is not None and self._stream.alive and not self._closed

    @property
    def is_closed(self) -> bool:
        """`close` was called, or the engine has ended."""
        return self._closed or (self._stream is not None and not self._stream.alive)

    @property
    def pid(self) -> int | None:
        """The engine's process id."""
        return self._stream.pid if self._stream is not None else None

    @property
    def stderr_tail(self) -> str:
        """The last 64 KiB of the engine's standard error."""
        return self._stream.stderr_tail if self._stream is not None else ""

    # -- prompts ------------------------------------------------------------------------------------

    async def send(
        self,
        prompt: Prompt,
        *,
        attachments: Sequence[str | Path] = (),
        keep: bool = True,
        prompt_id: str | None = None,
    ) -> TurnHandle:
        """Give a prompt and return at once; it runs when the turns before it are over.

        `keep=False` keeps no messages for the result: memory stays flat however much is printed.
        `prompt_id` (a UUID) makes a repeated send harmless, also after a crash and resume: a prompt
        that the engine has had makes no turn, and ends as interrupted, its reason `duplicate`. Raises
        InvalidCommand, OptionError (attachments), QueueFull, SessionClosed, EngineDied.
        """
        await self._live()
        if len(self._waiting) >= self.options.max_queued_prompts:
            raise QueueFull(
                f"{len(self._waiting)} prompts are waiting already",
                remedy="await a turn first, or raise Options.max_queued_prompts",
            )
        content = with_attachments(prompt, attachments)
        uuid_ = prompt_id or str(uuid.uuid4())
        line = control.user_message(content, uuid=uuid_)
        self._index += 1
        options = self.options
        fold = TurnFold(
            prompt=as_text(prompt),
            index=self._index,
            session=self.session_id,
            keep=keep,
            keep_stream=options.keep_stream and keep,
            max_bytes=options.max_result_bytes,
        )
        fold.engine_session_id = self.engine_session_id or ""
        subscription = Subscription(options.queue_events, options.queue_bytes)
        handle = TurnHandle(as_text(prompt), uuid_, line, fold, subscription, self._interrupt)
        handle._repeatable = prompt_id is not None
        self._waiting.append(handle)
        self._wake.set()
        return handle

    async def turn(
        self, prompt: Prompt, *, attachments: Sequence[str | Path] = (), keep: bool = True
    ) -> TurnResult:
        """Give a prompt and wait for its boundary.

        Raises what `send` and awaiting the handle raise; a turn that failed is no error but a result
        with its boundary. When cancelled, the turn is interrupted.
        """
        if asyncio.current_task() is self._dispatcher:
            raise UsageError(
                "turn() inside an event callback would wait for itself", remedy="use send()"
            )
        handle = await self.send(prompt, attachments=attachments, keep=keep)
        try:
            return await handle
        except asyncio.CancelledError:
            if not handle.done:
                await asyncio.shield(self._interrupt_quietly(handle))
            raise

    async def stream(
        self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()
    ) -> AsyncIterator[ev.Event]:
        """Give a prompt and yield the turn's events as they come; keeps nothing.

        Leaving the loop early interrupts the turn. Raises what `turn` raises.
        """
        handle = await self.send(prompt, attachments=attachments, keep=False)
        async with contextlib.aclosing(self.follow(handle)) as events:
            async for event in events:
                yield event

    async def follow(self, handle: TurnHandle) -> AsyncGenerator[ev.Event, None]:
        """The events of a turn to its end; leaving early interrupts it. Raises what `turn` raises."""
        async with contextlib.aclosing(self.batches(handle)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self, handle: TurnHandle) -> AsyncGenerator[Sequence[ev.Event], None]:
        """Like `follow`, as many events at once as have come: for those who handle a great many."""
        try:
            async with contextlib.aclosing(handle.batches()) as batches:
                async for batch in batches:
                    yield batch
            await handle
        finally:
            if not handle.done:
                await asyncio.shield(self._interrupt_quietly(handle))

    async def events(self) -> AsyncIterator[ev.Event]:
        """Every event of the session from now on, SessionEnded last; a slow consumer slows it down.

        None when the session is over, or does not begin.
        """
        if self._ended:
            return
        subscription = Subscription(self.options.queue_events, self.options.queue_bytes)
        subscription.claim()
        self._streams.append(subscription)
        try:
            while (batch := await subscription.get()) is not None:
                for event in batch:
                    yield event
        finally:
            subscription.close()
            if subscription in self._streams:
                self._streams.remove(subscription)

    async def inject(self, prompt: Prompt, *, priority: str = "next") -> str:
        """Give a prompt to the turn that runs; returns its id for `cancel_queued`.

        `next`: the engine takes it in after the running tool, or as a turn of its own when none runs.
        `now`: the running model request is cut short first. Its outcome is part of the running turn,
        or a turn that nobody awaits (see `turns`). Raises what `send` raises.
        """
        stream = await self._live()
        prompt_id = str(uuid.uuid4())
        line = control.user_message(prompt, uuid=prompt_id, priority=priority)
        self._written.add(prompt_id)
        await stream.write(line)
        return prompt_id

    async def interrupt(self, *, drain: bool = False) -> tuple[str, ...]:
        """Stop the running turn, if any, and wait until the session has settled; see TurnHandle."""
        stream = await self._live()
        handle = self._current
        if handle is not None:
            return await self._interrupt(handle, drain)
        dropped = self._drop_waiting(None) if drain else ()
        await stream.control("interrupt")
        return dropped

    async def _live(self) -> ClaudeStream:
        self._check_open()
        if not self._connected:
            await self.connect()
        stream = self._stream
        assert stream is not None
        if not stream.alive:
            raise stream._gone()
        return stream

    # -- interrupting -------------------------------------------------------------------------------

    async def _interrupt(self, handle: TurnHandle, drain: bool) -> tuple[str, ...]:
        dropped = self._drop_waiting(None, after=handle) if drain else ()
        stream = self._stream
        if handle.done or stream is None:
            return dropped
        if handle in self._waiting:
            self._waiting.remove(handle)
            self._drop(handle, None)
            return dropped
        limit: float | None = None
        if not self._read_to_its_end(handle, stream):
            limit = self.options.settle_timeout
            await stream.control("interrupt", timeout=limit)
        if asyncio.current_task() is self._dispatcher:
            return dropped  # a callback: the end of the turn comes after it
        try:
            with self._hurry():
                await within(self.options.clock, limit, asyncio.wait({handle._future}))
        except TimeoutError:
            if self._read_to_its_end(handle, stream):
                await asyncio.wait({handle._future})
                return dropped
            error = EngineWedged(
                f"the turn did not settle within {limit} s of its interrupt; the engine was ended",
                stderr_tail=stream.stderr_tail,
                remedy="resume the session by its id",
            )
            await stream.fail(error)
            await asyncio.wait({handle._future})
            raise error from None
        return dropped

    def _read_to_its_end(self, handle: TurnHandle, stream: ClaudeStream) -> bool:
        """Whether the record of a running turn has come, and only our own callbacks hold it up."""
        mapper = stream.protocol.mapper
        read = not mapper.in_turn and mapper.turn != self._turn
        return read or handle is not self._current

    @contextlib.contextmanager
    def _hurry(self) -> Iterator[None]:
        """Somebody waits for what comes last: no reader that is behind may hold it up."""
        streams = tuple(self._streams)
        for subscription in streams:
            subscription.hurry(1)
        try:
            yield
        finally:
            for subscription in streams:
                subscription.hurry(-1)

    async def _interrupt_quietly(self, handle: TurnHandle) -> None:
        with contextlib.suppress(QuarterdeckError):
            await self._interrupt(handle, False)

    async def _time_out(self, handle: TurnHandle, seconds: float) -> None:
        await self.options.clock.sleep(seconds)
        handle._timed_out = True
        await self._interrupt_quietly(handle)

    def _drop_waiting(
        self, error: QuarterdeckError | None, after: TurnHandle | None = None
    ) -> tuple[str, ...]:
        """Drop the prompts that wait (those behind `after`); returns their texts."""
        waiting = list(self._waiting)
        if after is not None and after in waiting:
            waiting = waiting[waiting.index(after) + 1 :]
        for handle in waiting:
            self._waiting.remove(handle)
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
        stream = self._stream
        assert stream is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            # A turn of the engine's own may be read already, and not dispatched yet.
            busy = self._current is not None or stream.protocol.mapper.turn != self._turn
            if busy or not self._waiting:
                continue
            handle = self._waiting.popleft()
            self._current = handle
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
        stream = self._stream
        assert stream is not None
        queue, marks = stream.events, self._MARKS
        try:
            while (taken := await queue.get()) is not None:
                batch, size = taken
                silent = self.handlers.empty
                for event in batch:
                    kind = type(event)
                    mark = marks.get(kind)
                    if mark is not None:
                        mark(self, event)
                    fold = self._current._fold if self._current is not None else self._stray
                    if fold is not None:
                        folder = fold.folders.get(kind)
                        if folder is not None:
                            folder(fold, event)
                    if not silent:
                        await self.handlers.dispatch(event)
                self._seen = batch[-1].seq
                self._settle_finished()
                for subscription in tuple(self._streams):
                    await subscription.put(batch, size)
                self._retire()
        finally:
            self._end()

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
        stream = self._stream
        assert stream is not None
        self._fail_current(stream._gone())
        self._drop_waiting(stream._gone())
        self._finish_streams()
        if stream.exit is not None:
            self.exit = stream.exit
        self._release()

    def _finish_streams(self) -> None:
        self._ended = True
        for subscription in self._streams:
            subscription.finish()

    def _fail_current(self, error: QuarterdeckError) -> None:
        handle, self._current = self._current, None
        if handle is None:
            return
        boundary = Boundary("interrupted" if self._closed else "errored", code=error.code)
        partial = handle._fold.partial(boundary, self.totals)
        if isinstance(error, EngineDied | EngineWedged):
            error.partial = partial
        self._remember(partial)
        handle._fail(error)

    # -- what some events mean ----------------------------------------------------------------------

    def _on_ready(self, event: ev.SessionReady) -> None:
        if event.engine_session_id and event.engine_session_id != self.engine_session_id:
            self._move_lock(event.engine_session_id)

    def _move_lock(self, engine_id: str) -> None:
        """`/clear` goes on under a new id."""
        old, self.engine_session_id = self._lock, engine_id
        with contextlib.suppress(QuarterdeckError, OSError):
            self._lock = lock.acquire("claude-code", engine_id)
            if old is not None:
                old.release()

    def _on_turn_started(self, event: ev.TurnStarted) -> None:
        self._in_turn, self._spoke = True, False
        self._echoed.clear()
        if self._current is None:
            self._stray = self._stray_fold()

    def _stray_fold(self) -> TurnFold:
        self._index += 1
        fold = TurnFold(
            prompt="",
            index=self._index,
            session=self.session_id,
            max_bytes=self.options.max_result_bytes,
        )
        fold.engine_session_id = self.engine_session_id or ""
        return fold

    def _on_message(self, event: ev.Message) -> None:
        if event.replay:
            self._echoed.add(event.uuid)
            handle = self._current
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
        stream = self._stream
        if (
            handle is not self._current
            or stream is None
            or stream.protocol.mapper.turn != self._turn
        ):
            return
        self._current = None
        self._written.discard(handle.uuid)
        boundary = Boundary("interrupted", reason="duplicate")
        handle._finish(handle._fold.partial(boundary, self.totals), self._seen)
        handle._subscription.finish()
        self._streams.remove(handle._subscription)
        self._wake.set()

    def _on_turn_ended(self, event: ev.TurnEnded) -> None:
        self._in_turn, self._turn, self._seen = False, event.turn, event.seq
        handle = self._current
        if handle is not None and self._belongs(event, handle):
            self._current = None
            boundary = None
            if handle._timed_out and event.boundary.kind != "completed":
                boundary = Boundary("limit", limit="time", reason=event.boundary.reason)
            result = handle._fold.result(event, self.totals, boundary)
            self._written.discard(handle.uuid)
            self._finished.append((handle, result, event.seq))
            self._over.append(handle._subscription)
        else:
            fold = self._stray or self._stray_fold()
            if handle is not None:
                index = fold.index
                fold, handle._fold = handle._fold, handle._fold.fresh()
                fold.prompt, fold.index = "", index
            self._stray = None
            result = fold.result(event, self.totals)
        self._remember(result)

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
        if self._keep_turns:
            self._turns.append(result)

    def _on_rate_limit(self, event: ev.RateLimited) -> None:
        self.rate_limit = event.limit

    _MARKS: Mapping[type[ev.Event], Any] = {
        ev.SessionReady: _on_ready,
        ev.TurnStarted: _on_turn_started,
        ev.Message: _on_message,
        ev.TurnEnded: _on_turn_ended,
        ev.RateLimited: _on_rate_limit,
    }

    # -- control ------------------------------------------------------------------------------------

    async def control(
        self, subtype: str, fields: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """See Controls.control. `initialize` cannot be sent again: its hooks would be ignored.

        Also raises CredentialRefused, for settings that a session cannot be started with either.
        """
        if subtype == "initialize":
            raise UsageError("the session is initialized by connect()")
        if subtype == "apply_flag_settings" and fields is not None:
            check_settings(subtype, fields.get("settings"))
        stream = await self._live()
        return await stream.control(subtype, fields, timeout=timeout)

    # -- what is known ------------------------------------------------------------------------------

    @property
    def turns(self) -> tuple[TurnResult, ...]:
        """The results so far, those of turns that nobody asked for included."""
        return tuple(self._turns)

    @property
    def total_cost_usd(self) -> float:
        """Cost of this engine process so far."""
        return self.totals.cost_usd

    @property
    def permission_queue(self) -> PermissionQueue | None:
        """The queue of Options, if there is one."""
        return self.options.permission_queue

    @property
    def pending_permissions(self) -> tuple[PermissionRequest, ...]:
        """Requests without an answer, also those that a callback thinks about."""
        return self._answerer.waiting if self._answerer is not None else ()

    @property
    def commands(self) -> tuple[SlashCommand, ...]:
        """Slash commands the engine offered at its start."""
        return tuple(typed(SlashCommand, c) for c in self._info("commands"))

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """Models the engine offered at its start."""
        return tuple(typed(ModelInfo, m) for m in self._info("models"))

    @property
    def account(self) -> AccountInfo:
        """Who pays, as the engine says."""
        info = self._stream.info if self._stream is not None else {}
        return typed(AccountInfo, info.get("account"))

    def _info(self, name: str) -> Sequence[Any]:
        value = self._stream.info.get(name) if self._stream is not None else None
        return value if isinstance(value, list) else ()


def _settle_ids(options: Options, cwd: Path, inherited: Mapping[str, str]) -> tuple[Options, str]:
    """Choose the engine's session id, so that it is known before the process exists. Blocking."""
    directory = config_dir(options, inherited)
    if options.continue_last:
        from quarterdeck.session.catalog import Catalog

        newest = Catalog(config_dir=directory).latest(cwd)
        if newest is None:
            raise SessionNotFound(
                f"there is no session of {cwd} to continue",
                remedy="start one without --continue",
            )
        options = replace(options, continue_last=False, resume=newest.engine_session_id)
    if options.resume is not None and not options.fork:
        lock.check_engine_registry(directory, options.resume)
        return options, options.resume
    engine_id = options.session_id or str(uuid.uuid4())
    return replace(options, session_id=engine_id), engine_id
