"""The stream transport: one Claude Code process behind its control protocol.

The reader task never waits for user code: it routes control lines at once and puts events into a
bounded queue. When that is full it stops reading, so that the pipe holds the engine back, except
while somebody waits for a control reply, which lies behind the events in the same pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from quarterdeck.clock import Clock, within
from quarterdeck.engine import events as ev
from quarterdeck.engine.claude.launch import (
    KILL_LADDER,
    STOP_LADDER,
    WEDGED_LADDER,
    Launch,
    Rung,
)
from quarterdeck.engine.claude.protocol import Call, ClaudeProtocol, ControlReply, Received
from quarterdeck.errors import (
    ControlError,
    EngineDied,
    EngineStartError,
    EngineWedged,
    ProtocolError,
    QuarterdeckError,
    SessionBusy,
    SessionClosed,
    SessionNotFound,
)
from quarterdeck.host import Host, Process
from quarterdeck.model import Exit
from quarterdeck.session.asks import Answerer
from quarterdeck.session.backpressure import EventQueue

log = logging.getLogger(__name__)


class ClaudeStream:
    """One process: started, spoken to, ended. `events` is read by exactly one consumer.

    For use within one event loop.
    """

    def __init__(
        self, protocol: ClaudeProtocol, events: EventQueue, *, clock: Clock, control_timeout: float
    ) -> None:
        self.protocol = protocol
        self.events = events
        self.info: dict[str, Any] = {}
        self.exit: Exit | None = None
        self._clock = clock
        self._control_timeout = control_timeout
        self._process: Process | None = None
        self._answerer: Answerer | None = None
        self._reader: asyncio.Task[None] | None = None
        self._replies: dict[str, tuple[str, asyncio.Future[ControlReply]]] = {}
        self._writing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._fatal: QuarterdeckError | None = None
        self._closing = False
        self._died = False
        self._wedged = False

    # -- start --------------------------------------------------------------------------------------

    async def start(
        self,
        host: Host,
        launch: Launch,
        answerer: Answerer,
        *,
        cwd: str,
        env: Mapping[str, str],
        mark: str,
        timeout: float,
        on_stderr: Any = None,
    ) -> None:
        """Start the process and initialize it.

        Raises EngineNotFound, EngineStartError (it ended, or did not answer within `timeout`),
        SessionNotFound (nothing to resume), SessionBusy (the id is taken). On error, and when
        cancelled, nothing is left running.
        """
        self._answerer = answerer
        try:
            process = await host.spawn(launch.argv, cwd=cwd, env=env, mark=mark)
            if self._closing:
                await process.aclose()
                raise self._gone()
            self._process = process
            if on_stderr is not None:
                self._process.on_stderr_line = on_stderr
            self._reader = asyncio.create_task(self._read())
            self.info = await self._initialize(launch, timeout)
            if self._closing:
                raise self._gone()
        except BaseException as error:
            await self.close("start failed", ladder=KILL_LADDER)
            if isinstance(error, EngineDied):
                raise self._start_error() from None
            raise

    async def _initialize(self, launch: Launch, timeout: float) -> dict[str, Any]:
        try:
            return await self.control("initialize", dict(launch.initialize), timeout=timeout)
        except EngineWedged as error:
            raise EngineStartError(
                f"Claude Code did not answer within {timeout:.0f} s of its start",
                stderr_tail=error.stderr_tail,
                remedy="raise Options.start_timeout on a slow machine; see `quarterdeck doctor`",
            ) from None

    def _start_error(self) -> QuarterdeckError:
        stderr = self.stderr_tail
        code = self.exit.code if self.exit else None
        last = stderr.strip().splitlines()[-1:] or [""]
        if "No conversation found" in stderr:
            return SessionNotFound(last[0][:300], remedy="see `quarterdeck list --all`")
        if "already in use" in stderr:
            return SessionBusy("", last[0][:300], remedy="resume it instead, or choose another id")
        return EngineStartError(
            "Claude Code ended before it was ready",
            exit_code=code,
            stderr_tail=stderr,
            remedy="see `quarterdeck doctor`",
        )

    # -- speaking -----------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """The process runs, answers, and nobody is ending it."""
        return self._process is not None and not self._ended.is_set() and not self._closing

    @property
    def stderr_tail(self) -> str:
        """The last of standard error."""
        return self._process.stderr_tail if self._process is not None else ""

    @property
    def pid(self) -> int | None:
        """The engine's process id."""
        return self._process.pid if self._process is not None else None

    async def control(
        self, subtype: str, fields: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """A control call; its response.

        Raises InvalidCommand (nothing was sent), ControlError (the engine refused), EngineDied,
        SessionClosed, and EngineWedged when no answer came in time: the process is then ended, for
        Claude Code does not recover from that. Cancelling forgets the answer.
        """
        if not self.alive:
            raise self._gone()
        request_id, line = self.protocol.control(subtype, fields or {})
        reply: asyncio.Future[ControlReply] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = (subtype, reply)
        self.events.hurry(1)
        limit = self._control_timeout if timeout is None else timeout
        try:
            await within(self._clock, limit, self._exchange(line, reply))
        except TimeoutError:
            raise await self._wedge(subtype, limit) from None
        finally:
            self._replies.pop(request_id, None)
            self.events.hurry(-1)
        answer = reply.result()
        if not answer.ok:
            raise ControlError(subtype, answer.error or "refused without a reason")
        return answer.response

    async def _exchange(self, line: bytes, reply: asyncio.Future[ControlReply]) -> None:
        await self.write(line)
        await asyncio.shield(reply)

    async def _wedge(self, subtype: str, limit: float) -> EngineWedged:
        error = EngineWedged(
            f"Claude Code did not answer {subtype} within {limit:.0f} s; it was ended",
            stderr_tail=self.stderr_tail,
            remedy=self.how_to_resume(),
        )
        await self.fail(error)
        return error

    async def write(self, line: bytes) -> None:
        """Write a whole line. Raises EngineDied or SessionClosed when nobody reads any more."""
        process = self._process
        if process is None or self._ended.is_set():
            raise self._gone()
        # Shielded: a line cut in the middle by a cancelled caller would kill the engine.
        writing = asyncio.ensure_future(self._write_whole(process, line))
        writing.add_done_callback(_look_at)
        await asyncio.shield(writing)

    async def _write_whole(self, process: Process, line: bytes) -> None:
        async with self._writing:
            try:
                await process.write(line)
            except (BrokenPipeError, ConnectionResetError):
                with contextlib.suppress(TimeoutError):
                    await within(self._clock, 2.0, self._ended.wait())
                raise self._gone() from None

    def _gone(self) -> QuarterdeckError:
        if self._fatal is not None:
            return self._fatal
        if not self._died and (self._closing or self._process is None):
            return SessionClosed("the session is closed")
        code = self.exit.code if self.exit else None
        if self.exit is not None and self.exit.signal is not None:
            code = 128 + self.exit.signal
        return EngineDied(
            "Claude Code is no longer running",
            exit_code=code,
            stderr_tail=self.stderr_tail,
            remedy=self.how_to_resume(),
        )

    def how_to_resume(self) -> str:
        """A remedy for an engine that is gone."""
        engine_id = self.protocol.mapper.engine_session_id
        return f"go on with resume_conversation({engine_id!r})" if engine_id else "start it again"

    async def fail(self, error: QuarterdeckError) -> None:
        """Give the engine up: end it, and let everybody who waits raise `error`."""
        self._fatal = self._fatal or error
        self._wedged = True
        await self.close(error.code, ladder=WEDGED_LADDER)

    # -- reading ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            await self._read_to_the_end()
        finally:
            self._over()

    async def _read_to_the_end(self) -> None:
        process, queue = self._process, self.events
        assert process is not None
        reason = ""
        try:
            while True:
                if queue.full:
                    await queue.room()
                data = await process.read()
                if not data:
                    break
                self._take(self.protocol.receive(data, self._clock.now()), len(data))
        except ProtocolError as error:
            self._fatal, reason = error, error.code
        except Exception as error:
            log.exception("reading from the engine failed")
            self._fatal, reason = ProtocolError(f"reading failed: {error}"), "read failed"
        self._take(self.protocol.eof(self._clock.now()), 0)
        await self._finish(process, reason)

    def _take(self, received: Received, size: int) -> None:
        for call in received.calls:
            self._route(call)
        self.events.put(received.events, size)

    def _route(self, call: Call) -> None:
        if isinstance(call, ControlReply):
            waiting = self._replies.get(call.request_id)
            if waiting is not None and not waiting[1].done():
                waiting[1].set_result(call)
        elif self._answerer is not None:
            self._answerer.serve(call)

    def emit(self, kind: type[ev.Event], *fields: Any) -> None:
        """Add an event of ours, in sequence with the engine's."""
        self.events.put([self.protocol.event(kind, self._clock.now(), *fields)], 0)

    async def _finish(self, process: Process, reason: str) -> None:
        """Standard output is at its end: verify that the process is too."""
        try:
            if reason:
                self.exit = await process.kill(reason)
            else:
                self.exit = await within(self._clock, 10.0, process.wait())
        except TimeoutError:
            self.exit = await process.kill("its output ended but it did not")
        if self._answerer is not None:
            await self._answerer.drain("the session ended")
        self._died = not self._closing
        self.emit(ev.SessionEnded, self.exit, self._closing, self.stderr_tail)
        await process.aclose()

    def _over(self) -> None:
        """Nothing more will come, also when the loop is ending and has cancelled the reader."""
        self._ended.set()
        for _, reply in self._replies.values():
            if not reply.done():
                reply.set_exception(self._gone())
                reply.exception()  # its caller may be cancelled already
        self.events.close()

    # -- the end ------------------------------------------------------------------------------------

    async def close(self, reason: str = "closed", *, ladder: Sequence[Rung] = STOP_LADDER) -> Exit:
        """End the process, step by step down the ladder, and return what was verified.

        Idempotent; when cancelled, the process is killed before the cancellation goes on.
        """
        self._closing = True
        process = self._process
        if process is None:
            self.events.close()
            self._ended.set()
            return Exit(killed=reason)
        self.events.hurry(1)
        try:
            for rung in ladder:
                if self._ended.is_set():
                    break
                await self._step(process, rung, reason)
        finally:
            if self.exit is None:
                await asyncio.shield(self._give_up(process, reason))
        if self._reader is not None:
            await asyncio.wait({self._reader})
        assert self.exit is not None
        return self.exit

    async def _step(self, process: Process, rung: Rung, reason: str) -> None:
        match rung.action:
            case "end_session" if not self._wedged:
                _, line = self.protocol.control("end_session", {})
                with contextlib.suppress(QuarterdeckError, TimeoutError):
                    await within(self._clock, rung.wait, self.write(line))
            case "close_stdin":
                await process.close_stdin()
            case "SIGINT" | "SIGTERM":
                log.warning("ending the engine (pid %s) with %s", process.pid, rung.action)
                await process.signal(signal.Signals[rung.action])
            case "kill":
                await self._give_up(process, reason)
                return
        with contextlib.suppress(TimeoutError):
            await within(self._clock, rung.wait, self._ended.wait())

    async def _give_up(self, process: Process, reason: str) -> None:
        log.warning("killing the engine (pid %s): %s", process.pid, reason)
        ended = await process.kill(reason)
        self.exit = self.exit or ended
        with contextlib.suppress(TimeoutError):
            await within(self._clock, 2.0, self._ended.wait())
        if not self._ended.is_set():
            self.events.close()  # nobody reads: let the reader come to the end of the pipe
            await self._ended.wait()


def _look_at(task: asyncio.Future[None]) -> None:
    """Its caller may be cancelled: then nobody else asks how it ended."""
    if not task.cancelled():
        task.exception()
