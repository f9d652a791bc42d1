"""Client: one session with one engine process, from connect to a verified end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quarterdeck.engine import events as ev
from quarterdeck.engine.claude.launch import KILL_LADDER, compile_launch
from quarterdeck.engine.claude.protocol import ClaudeProtocol
from quarterdeck.errors import (
    OptionError,
    PlatformUnsupported,
    QuarterdeckError,
    SessionClosed,
    SessionNotFound,
    UsageError,
)
from quarterdeck.host import Host
from quarterdeck.localhost import LocalHost
from quarterdeck.model import Exit, RateLimit, new_id
from quarterdeck.session import lock, private_files
from quarterdeck.session.asks import Answerer
from quarterdeck.session.backpressure import EventQueue
from quarterdeck.session.controls import AccountInfo, Controls, ModelInfo, SlashCommand, typed
from quarterdeck.session.credentials import (
    check_credentials,
    check_settings,
    child_environment,
    config_dir,
)
from quarterdeck.session.engines import Program, claude_program
from quarterdeck.session.handle import TurnHandle
from quarterdeck.session.handlers import EventHandlers
from quarterdeck.session.hooks import HookRegistry
from quarterdeck.session.mcp import ExternalServer, McpServer
from quarterdeck.session.options import Options, check
from quarterdeck.session.permissions import PermissionQueue, PermissionRequest
from quarterdeck.session.prompts import Prompt, with_attachments
from quarterdeck.session.stream import ClaudeStream
from quarterdeck.session.turn_loop import TurnLoop
from quarterdeck.session.turns import Totals, TurnResult

CLIENT_APP = "quarterdeck"


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
        self.program: Program | None = None
        self.exit: Exit | None = None
        self._loop = TurnLoop(made, self.session_id, on_new_id=self._move_lock, on_end=self._on_end)
        self._sdk_servers: dict[str, McpServer] = {}
        self._stream: ClaudeStream | None = None
        self._answerer: Answerer | None = None
        self._lock: lock.SessionLock | None = None
        self._files: Path | None = None
        self._starting = asyncio.Lock()
        self._connected = False
        self._closed = False

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
                self._loop.finish_streams()
                self._release()
                raise
            self._connected = True
            assert self._stream is not None
            self._loop.start(self._stream)
            return self

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("the session is closed", remedy="make a new Client, with resume")

    async def _start(self) -> None:
        options, inherited = self.options, dict(os.environ)
        cwd = Path(options.cwd or Path.cwd())
        if not cwd.is_dir():
            raise OptionError("cwd", str(cwd), "is not a directory")
        _check_paths(options, cwd)
        check_credentials(options, inherited)
        self.program = await asyncio.to_thread(claude_program, options.executable, inherited)
        options, engine_id = await asyncio.to_thread(_settle_ids, options, cwd, inherited)
        self._check_open()
        self._loop.engine_session_id = engine_id
        self._lock = lock.acquire("claude-code", engine_id, inherited)
        hooks = HookRegistry(options.hooks, clock=options.clock)
        external: dict[str, Mapping[str, Any]] = {}
        for name, server in options.mcp_servers.items():
            if isinstance(server, ExternalServer):
                external[name] = server.to_wire()
            else:
                self._sdk_servers[name] = server
        self._files = private_files.make_directory(inherited)
        launch = compile_launch(
            options,
            executable=self.program.path,
            files_dir=str(self._files),
            asks=options.asks,
            hooks=hooks.to_initialize(),
            mcp_servers=external,
            sdk_servers=tuple(self._sdk_servers),
            client_app=CLIENT_APP,
        )
        private_files.write(self._files, launch.files)
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
        await self._check_agent(stream)

    async def _check_agent(self, stream: ClaudeStream) -> None:
        """The engine ignores a name that it does not know, without a word."""
        agent = self.options.agent
        known = [a.get("name") for a in self._info("agents") if isinstance(a, dict)]
        if agent is not None and known and agent not in known:
            await stream.close("unknown agent", ladder=KILL_LADDER)
            raise OptionError(
                "agent", agent, "no such agent", remedy="use " + ", ".join(str(k) for k in known)
            )

    def host(self) -> Host:
        """Where the engine runs."""
        return self.options.host or LocalHost()

    def _move_lock(self, engine_id: str) -> None:
        """The engine goes on under a new id."""
        old = self._lock
        with contextlib.suppress(QuarterdeckError, OSError):
            self._lock = lock.acquire("claude-code", engine_id)
            if old is not None:
                old.release()

    def _on_end(self) -> None:
        if self._stream is not None and self._stream.exit is not None:
            self.exit = self._stream.exit
        self._release()

    def _release(self) -> None:
        private_files.remove(self._files)
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
        stream, loop = self._stream, self._loop
        loop.closing = True
        if self._starting.locked() and stream is not None:
            await stream.close(reason)
        async with self._starting:
            pass  # connect() has undone what it began
        stream = self._stream
        if stream is None or loop.dispatcher is None:
            loop.finish_streams()
            return None
        try:
            if first:
                loop.drop_waiting(SessionClosed("the session was closed before the turn began"))
                await loop.settle()
            self.exit = await stream.close(reason)
        except asyncio.CancelledError:
            await stream.close(reason, ladder=KILL_LADDER)
            raise
        finally:
            loop.stop_sending()
        try:
            await loop.finish()
        finally:
            self._release()
        return self.exit

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
        content = with_attachments(prompt, attachments)
        return self._loop.submit(prompt, content, keep=keep, prompt_id=prompt_id)

    async def turn(
        self, prompt: Prompt, *, attachments: Sequence[str | Path] = (), keep: bool = True
    ) -> TurnResult:
        """Give a prompt and wait for its boundary.

        Raises what `send` and awaiting the handle raise; a turn that failed is no error but a result
        with its boundary. When cancelled, the turn is interrupted.
        """
        if self._loop.in_callback():
            raise UsageError(
                "turn() inside an event callback would wait for itself", remedy="use send()"
            )
        handle = await self.send(prompt, attachments=attachments, keep=keep)
        try:
            return await handle
        except asyncio.CancelledError:
            if not handle.done:
                await asyncio.shield(self._loop.interrupt_quietly(handle))
            raise

    async def stream(
        self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()
    ) -> AsyncIterator[ev.Event]:
        """Give a prompt and yield the turn's events as they come; keeps nothing.

        Leaving the loop early interrupts the turn. Raises what `turn` raises.
        """
        handle = await self.send(prompt, attachments=attachments, keep=False)
        # Not through `follow`: each generator between costs a tenth of the throughput.
        async with contextlib.aclosing(self.batches(handle)) as batches:
            async for batch in batches:
                for event in batch:
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
                await asyncio.shield(self._loop.interrupt_quietly(handle))

    async def events(self) -> AsyncIterator[ev.Event]:
        """Every event of the session from now on, SessionEnded last; a slow consumer slows it down.

        None when the session is over, or does not begin.
        """
        if self._loop.ended:
            return
        subscription = self._loop.subscribe()
        try:
            while (batch := await subscription.get()) is not None:
                for event in batch:
                    yield event
        finally:
            self._loop.unsubscribe(subscription)

    async def inject(self, prompt: Prompt, *, priority: str = "next") -> str:
        """Give a prompt to the turn that runs; returns its id for `cancel_queued`.

        `next`: the engine takes it in after the running tool, or as a turn of its own when none runs.
        `now`: the running model request is cut short first. Its outcome is part of the running turn,
        or a turn that nobody awaits (see `turns`). Raises what `send` raises.
        """
        return await self._loop.inject(await self._live(), prompt, priority)

    async def interrupt(self, *, drain: bool = False) -> tuple[str, ...]:
        """Stop the running turn, if any, and wait until the session has settled; see TurnHandle."""
        stream = await self._live()
        loop = self._loop
        if loop.current is not None:
            return await loop.interrupt(loop.current, drain)
        dropped = loop.drop_waiting(None) if drain else ()
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
    def handlers(self) -> EventHandlers:
        """The registry of callbacks."""
        return self._loop.handlers

    @handlers.setter
    def handlers(self, handlers: EventHandlers) -> None:
        self._loop.handlers = handlers

    @property
    def engine_session_id(self) -> str | None:
        """The engine's id of the session, to resume by; None before `connect`."""
        return self._loop.engine_session_id

    def is_saved(self) -> bool:
        """Whether the session's transcript is on disk, so that it can be resumed. Looks there.

        The engine writes it some 0.1 s after the first message, and says nothing when it cannot.
        """
        engine_id = self.engine_session_id
        directory = config_dir(self.options)
        return engine_id is not None and _transcript(directory, engine_id) is not None

    @property
    def totals(self) -> Totals:
        """What this engine process has used so far."""
        return self._loop.totals

    @property
    def rate_limit(self) -> RateLimit | None:
        """The provider's rate-limit state, if it was told."""
        return self._loop.rate_limit

    @property
    def turns(self) -> tuple[TurnResult, ...]:
        """The results so far, those of turns that nobody asked for included."""
        return tuple(self._loop.turns)

    @property
    def total_cost_usd(self) -> float:
        """Cost of this engine process so far."""
        return self._loop.totals.cost_usd

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
    if options.resume is not None and _transcript(directory, options.resume) is None:
        raise SessionNotFound(
            f"there is no session {options.resume}", remedy="see `quarterdeck list --all`"
        )
    if options.fork and options.title is None and options.resume is not None:
        options = _with_title_of_its_own(options, directory, options.resume)
    if options.resume is not None and not options.fork:
        lock.check_engine_registry(directory, options.resume)
        return options, options.resume
    engine_id = options.session_id or str(uuid.uuid4())
    return replace(options, session_id=engine_id), engine_id


def _transcript(directory: Path, engine_id: str) -> Path | None:
    """The file of a session, in whatever project it is."""
    found = (directory / "projects").glob(f"*/{engine_id}.jsonl")
    return next((p for p in found if p.stat().st_size > 0), None)


def _with_title_of_its_own(options: Options, directory: Path, origin: str) -> Options:
    """A fork under its origin's title would make that title useless as a name."""
    from quarterdeck.session.catalog import Catalog

    with contextlib.suppress(QuarterdeckError):
        title = Catalog(config_dir=directory).get(f"claude:{origin}").custom_title
        if title:
            return replace(options, title=f"{title[:190]} (fork)")
    return options


def _check_paths(options: Options, cwd: Path) -> None:
    """The engine ignores missing directories silently, and makes those of a debug file."""
    for name in ("add_dirs", "plugin_dirs"):
        for path in getattr(options, name):
            if not (cwd / path).is_dir():
                raise OptionError(name, path, "is not a directory")
    if options.debug_file is not None and not (cwd / options.debug_file).parent.is_dir():
        raise OptionError("debug_file", options.debug_file, "its directory does not exist")
