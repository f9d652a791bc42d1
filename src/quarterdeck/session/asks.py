"""Answering the engine: permission requests, hooks, in-process MCP servers, elicitations, dialogs.

Every request gets exactly one answer, each in a task of its own, so that a slow one holds up
nothing. A request that nobody answers is denied; a hook that fails denies too, because Claude Code
would take an error as consent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from quarterdeck.clock import within
from quarterdeck.engine import events as ev
from quarterdeck.engine.claude import control
from quarterdeck.engine.claude.protocol import (
    Call,
    Cancelled,
    ControlReply,
    DialogAsked,
    HookCalled,
    McpCalled,
    UnknownRequest,
)
from quarterdeck.errors import InvalidCommand, QuarterdeckError
from quarterdeck.session.callbacks import call
from quarterdeck.session.hooks import HookRegistry
from quarterdeck.session.mcp import McpServer
from quarterdeck.session.options import Options
from quarterdeck.session.permissions import (
    Allow,
    Defer,
    Deny,
    PermissionContext,
    PermissionRequest,
    decision_to_wire,
)

log = logging.getLogger(__name__)

DRAIN_SECONDS = 2.0
NOBODY = "nobody is there to answer permission requests"

Request = (
    ev.PermissionAsked
    | ev.QuestionAsked
    | ev.Elicitation
    | HookCalled
    | McpCalled
    | DialogAsked
    | UnknownRequest
)


class Answerer:
    """Serves the requests of one engine process.

    `send` writes a line to the engine, `emit` adds an event of ours to the stream. Both are called in
    the session's event loop only.
    """

    def __init__(
        self,
        options: Options,
        hooks: HookRegistry,
        servers: Mapping[str, McpServer],
        *,
        session: str,
        send: Callable[[bytes], Awaitable[None]],
        emit: Callable[..., None],
    ) -> None:
        self._options = options
        self._hooks = hooks
        self._servers = servers
        self._session = session
        self._send = send
        self._emit = emit
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._open: dict[str, PermissionRequest] = {}

    @property
    def waiting(self) -> tuple[PermissionRequest, ...]:
        """Permission requests without an answer yet."""
        return tuple(self._open.values())

    def serve(self, asked: Call) -> None:
        """Start answering; returns at once."""
        if isinstance(asked, Cancelled):
            self._cancel(asked.request_id)
            return
        assert not isinstance(asked, ControlReply)
        request_id = asked.request_id
        if isinstance(asked, ev.PermissionAsked | ev.QuestionAsked):
            # Now, for it may be withdrawn before the task has begun.
            self._open[request_id] = self._request(asked)
        task = asyncio.get_running_loop().create_task(self._guarded(asked))
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    def _work(self, asked: Request) -> Coroutine[Any, Any, bytes | None]:
        match asked:
            case ev.PermissionAsked() | ev.QuestionAsked():
                return self._permission(self._open[asked.request_id])
            case HookCalled():
                return self._hook(asked)
            case McpCalled():
                return self._mcp(asked)
            case ev.Elicitation():
                return self._elicitation(asked)
            case DialogAsked():
                return _constant(control.success(asked.request_id, {"behavior": "cancelled"}))
            case UnknownRequest():
                text = f"unsupported request: {asked.subtype}"
                return _constant(control.failure(asked.request_id, text))

    async def _guarded(self, asked: Request) -> None:
        request_id = asked.request_id
        try:
            line = await self._work(asked)
        except (Exception, asyncio.CancelledError) as error:
            _let_pass(error)
            log.exception("answering request %s failed", request_id)
            line = control.failure(request_id, f"the client failed: {error}")
        if line is not None:
            try:
                await self._send(line)
            except (OSError, QuarterdeckError) as error:
                log.debug("answer to %s was not delivered: %s", request_id, error)

    # -- permissions --------------------------------------------------------------------------------

    async def _permission(self, request: PermissionRequest) -> bytes | None:
        try:
            by = await self._decide(request)
        finally:
            self._open.pop(request.request_id, None)
        if request.state == "cancelled":
            return None
        decision = request.decision
        assert decision is not None
        message = decision.message if isinstance(decision, Deny) else ""
        word = {"allowed": "allow", "denied": "deny", "expired": "expired"}[request.state]
        context = request.context
        self._emit(
            ev.PermissionResolved,
            request.request_id, context.tool_use_id, request.tool_name, word, by, message,
        )  # fmt: skip
        return control.success(request.request_id, decision_to_wire(decision, request.input))

    def _request(self, asked: ev.PermissionAsked | ev.QuestionAsked) -> PermissionRequest:
        now = self._options.clock.now()
        if isinstance(asked, ev.QuestionAsked):
            source = asked.source.request
            context = PermissionContext(
                request_id=asked.request_id, tool_use_id=asked.tool_use_id, session=self._session
            )
            name, tool_input = "AskUserQuestion", source.get("input") or {}
        else:
            context = PermissionContext(
                request_id=asked.request_id,
                tool_use_id=asked.tool_use_id,
                suggestions=asked.suggestions,
                blocked_path=asked.blocked_path,
                reason=asked.reason,
                reason_type=asked.reason_type,
                agent_id=asked.agent_id,
                description=asked.description,
                session=self._session,
            )
            name, tool_input = asked.tool_name, asked.input
        return PermissionRequest(
            name,
            tool_input,
            context,
            created_at=now,
            expires_at=now + self._options.permission_timeout,
        )

    async def _decide(self, request: PermissionRequest) -> str:
        """Bring the request to an end; returns who decided."""
        limit = self._options.permission_timeout
        try:
            return await within(self._options.clock, limit, self._ask(request))
        except TimeoutError:
            request.expire(f"nobody answered within {limit:.0f} s")
            return "timeout"

    async def _ask(self, request: PermissionRequest) -> str:
        callback, queue = self._options.can_use_tool, self._options.permission_queue
        if callback is not None:
            by = await self._call(callback, request)
            if by:
                return by
        if queue is None:
            request.settle(Deny(NOBODY))
            return "default"
        if not queue.push(request):
            return "queue full"
        await request.wait_async()
        return "queue"

    async def _call(self, callback: Any, request: PermissionRequest) -> str:
        """Ask the callback; empty when it defers."""
        try:
            decision = await call(callback, request.tool_name, request.input, request.context)
        except (Exception, asyncio.CancelledError) as error:
            _let_pass(error)
            log.exception("can_use_tool failed for %s", request.tool_name)
            request.settle(Deny(f"the permission callback failed: {error}"))
            return "callback error"
        if isinstance(decision, Defer):
            return ""
        if not isinstance(decision, Allow | Deny):
            decision = Deny(f"the permission callback returned {type(decision).__name__}")
        request.settle(decision)
        return "callback"

    # -- the others ---------------------------------------------------------------------------------

    async def _hook(self, called: HookCalled) -> bytes:
        output = await self._hooks.call(called.callback_id, called.input, called.tool_use_id)
        return control.success(called.request_id, output)

    async def _mcp(self, called: McpCalled) -> bytes:
        server = self._servers.get(called.server)
        if server is None:
            return control.failure(called.request_id, f"no such server: {called.server}")
        reply = await server.handle(called.message)
        if reply is None:
            reply = {"jsonrpc": "2.0", "result": {}}
        try:
            return control.success(called.request_id, {"mcp_response": reply})
        except InvalidCommand as error:
            problem = {"code": -32603, "message": f"the result has no JSON form: {error}"}
            broken = {"jsonrpc": "2.0", "id": called.message.get("id"), "error": problem}
            return control.success(called.request_id, {"mcp_response": broken})

    async def _elicitation(self, asked: ev.Elicitation) -> bytes:
        answer: Mapping[str, Any] = {"action": "cancel"}
        if self._options.on_elicitation is not None:
            try:
                answer = await within(
                    self._options.clock,
                    self._options.permission_timeout,
                    call(self._options.on_elicitation, asked),
                )
            except (Exception, asyncio.CancelledError) as error:
                _let_pass(error)
                log.exception("on_elicitation failed for %s", asked.server)
                answer = {"action": "cancel"}
        if not isinstance(answer, Mapping) or answer.get("action") not in (
            "accept",
            "decline",
            "cancel",
        ):
            log.error("on_elicitation must return an action of accept, decline or cancel")
            answer = {"action": "cancel"}
        return control.success(asked.request_id, dict(answer))

    # -- the end ------------------------------------------------------------------------------------

    def _cancel(self, request_id: str) -> None:
        """The engine no longer waits: whoever thinks about it is told."""
        request = self._open.pop(request_id, None)
        if request is not None and request.cancel():
            self._emit(
                ev.PermissionResolved,
                request_id, request.context.tool_use_id, request.tool_name, "cancelled", "engine", "",
            )  # fmt: skip
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    async def drain(self, reason: str) -> None:
        """Deny what is open and stop everything.

        Returns when no task of ours is left, but does not wait long for code of the program that
        goes on although it is cancelled, or itself waits for the end of the session.
        """
        for request in self.waiting:
            request.settle(Deny(reason))
        tasks: list[asyncio.Task[None]] = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=0.2)
        for task in tasks:
            task.cancel()
        tasks += [asyncio.create_task(server.aclose()) for server in self._servers.values()]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
            if left:
                log.error("%d callbacks go on although the session has ended", len(left))


def _let_pass(error: BaseException) -> None:
    """Raise a cancellation of this task again; one that a callback made up is its failure."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


async def _constant(line: bytes) -> bytes:
    return line
