"""PURE. Typed messages of Claude Code to engine-neutral events."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from quarterdeck.engine import events as ev
from quarterdeck.engine.claude import messages as m
from quarterdeck.engine.claude.boundary import boundary_of
from quarterdeck.model import ModelUsage, PermissionDenial, RateLimit, Usage

MAX_OPEN_TOOLS = 4096  # a tool call whose end never comes must not be remembered for ever
FILE_TOOLS = frozenset({"Write", "Edit", "MultiEdit", "NotebookEdit"})

Made = Iterator[ev.Event]


class Mapper:
    """The state that turns one session's messages into events.

    `session` is our id. One Mapper sees the lines of one engine process, in order.
    """

    def __init__(self, session: str) -> None:
        self.session = session
        self.engine_session_id = ""
        self.in_turn = False
        self.turn = 0
        self._seq = 0
        self._ready: tuple[Any, ...] | None = None
        self._tools: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._todos: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._streaming = _Streaming()
        self._model_spoke = False
        self._message_error = ""
        self._rate_reset: float | None = None

    def make(
        self,
        kind: Callable[..., ev.Event],
        now: float,
        raw: bytes,
        source: Any,
        parent: str | None,
        *fields: Any,
    ) -> ev.Event:
        """An event with the next sequence number."""
        self._seq += 1
        return kind(self.session, self._seq, now, raw, source, parent, *fields)

    def hot(self, message: Any, raw: bytes, now: float) -> ev.Event | None:
        """The event of a text delta or a plain text message; None for everything else.

        Only a shortcut: `events` says the same, at half the speed. Nine of ten lines go this way.
        """
        kind = type(message)
        if kind is m.StreamEvent:
            event = message.event
            if type(event) is not m.BlockDelta or type(event.delta) is not m.TextPiece:
                return None
            text, s = event.delta.text, self._streaming
            s.pending += len(text)
            self._seq += 1
            return ev.TextDelta(
                self.session, self._seq, now, raw, message, message.parent_tool_use_id,
                text, s.message_id, event.index,
            )  # fmt: skip
        if kind is m.AssistantMessage:
            inner = message.message
            content = inner.content
            if (
                message.parent_tool_use_id is None
                and type(content) is list
                and len(content) == 1
                and type(content[0]) is ev.TextBlock
                and self._streaming.message_id in ("", inner.id)
                and inner.model != "<synthetic>"
            ):
                self._streaming.pending = 0
                self._model_spoke = True
                self._message_error = message.error
                self._seq += 1
                return ev.Message(
                    self.session, self._seq, now, raw, message, None, "assistant",
                    (content[0],), inner.id, message.uuid, inner.model, message.error, False, False,
                )  # fmt: skip
        return None

    def events(self, message: Any, raw: bytes, now: float) -> Made:
        """The events of one message; none for those that carry nothing of interest."""
        handler = _HANDLERS.get(type(message))
        if handler is None:
            yield self.make(ev.Unknown, now, raw, message, None, type(message).__name__, None)
            return
        yield from handler(self, message, raw, now)

    # -- the stream ---------------------------------------------------------------------------------

    def _stream(self, msg: m.StreamEvent, raw: bytes, now: float) -> Made:
        parent, s = msg.parent_tool_use_id, self._streaming
        match msg.event:
            case m.BlockDelta() as event:
                yield from self._block_delta(msg, event, raw, now)
            case m.BlockStart() as event:
                block = event.content_block
                if block.type.endswith("tool_use") and block.id:
                    s.tools[event.index] = block.id
                    yield from self._tool_started(block.id, block.name, msg, raw, now, parent)
            case m.MessageStart() as event:
                yield from self._withdraw(msg, raw, now, "a new message began")
                s.begin(event.message.id)
                self._model_spoke = True
                if event.message.usage is not None:
                    s.usage = _usage(event.message.usage)
                    yield self.make(ev.UsageUpdated, now, raw, msg, parent, s.message_id, s.usage)
            case m.MessageDelta() as event:
                grown = _usage(event.usage)
                s.usage = Usage(
                    grown.input_tokens or s.usage.input_tokens,
                    grown.output_tokens,
                    grown.cache_read_input_tokens or s.usage.cache_read_input_tokens,
                    grown.cache_creation_input_tokens or s.usage.cache_creation_input_tokens,
                )
                yield self.make(ev.UsageUpdated, now, raw, msg, parent, s.message_id, s.usage)

    def _block_delta(self, msg: m.StreamEvent, event: m.BlockDelta, raw: bytes, now: float) -> Made:
        parent, s, index = msg.parent_tool_use_id, self._streaming, event.index
        match event.delta:
            case m.TextPiece(text=text):
                s.pending += len(text)
                yield self.make(ev.TextDelta, now, raw, msg, parent, text, s.message_id, index)
            case m.ThinkingPiece(thinking=text):
                yield self.make(
                    ev.ThinkingDelta, now, raw, msg, parent, text, s.message_id, index, 0
                )
            case m.InputPiece(partial_json=text):
                tool_id = s.tools.get(index, "")
                name = self._tools.get(tool_id, ("", 0.0))[0]
                yield self.make(ev.ToolInput, now, raw, msg, parent, tool_id, name, text, None)

    def _withdraw(self, msg: Any, raw: bytes, now: float, reason: str) -> Made:
        """A stream that broke inside a block is abandoned silently; the answer comes anew."""
        s = self._streaming
        if s.pending:
            yield self.make(ev.TextWithdrawn, now, raw, msg, None, s.message_id, s.pending, reason)
        s.begin("")

    # -- whole messages -----------------------------------------------------------------------------

    def _assistant(self, msg: m.AssistantMessage, raw: bytes, now: float) -> Made:
        parent, inner = msg.parent_tool_use_id, msg.message
        blocks = _blocks(inner.content)
        synthetic = inner.model == "<synthetic>"
        if parent is None:
            s = self._streaming
            if s.message_id and s.message_id != inner.id:
                yield from self._withdraw(msg, raw, now, "the engine asked again")
            else:
                s.pending = 0
            self._model_spoke = self._model_spoke or not synthetic
            self._message_error = msg.error
        yield self.make(
            ev.Message, now, raw, msg, parent,
            "assistant", blocks, inner.id, msg.uuid, inner.model, msg.error, False, synthetic,
        )  # fmt: skip
        for block in blocks:
            if type(block) is ev.ToolUseBlock:
                yield from self._tool_started(block.id, block.name, msg, raw, now, parent)
                yield self.make(
                    ev.ToolInput, now, raw, msg, parent, block.id, block.name, "", block.input
                )
                if block.name == "TodoWrite":
                    yield from self._todo_write(block.input, msg, raw, now, parent)

    def _user(self, msg: m.UserMessage, raw: bytes, now: float) -> Made:
        parent = msg.parent_tool_use_id
        blocks = _blocks(msg.message.content)
        synthetic = msg.isSynthetic or msg.isMeta
        yield self.make(
            ev.Message, now, raw, msg, parent,
            "user", blocks, msg.message.id, msg.uuid, "", "", msg.isReplay, synthetic,
        )  # fmt: skip
        for block in blocks:
            if type(block) is ev.ToolResultBlock:
                yield from self._tool_ended(block, msg, raw, now, parent)

    # -- tools --------------------------------------------------------------------------------------

    def _tool_started(
        self, tool_id: str, name: str, msg: Any, raw: bytes, now: float, parent: str | None
    ) -> Made:
        if tool_id in self._tools:
            return
        self._tools[tool_id] = (name, now)
        if len(self._tools) > MAX_OPEN_TOOLS:
            self._tools.popitem(last=False)
        yield self.make(ev.ToolStarted, now, raw, msg, parent, tool_id, name)

    def _tool_ended(
        self,
        block: ev.ToolResultBlock,
        msg: m.UserMessage,
        raw: bytes,
        now: float,
        parent: str | None,
    ) -> Made:
        name, started = self._tools.pop(block.tool_use_id, ("", None))
        result = msg.tool_use_result
        yield self.make(
            ev.ToolEnded, now, raw, msg, parent,
            block.tool_use_id, name, block.is_error, block.content, result,
            None if started is None else max(0.0, now - started),
        )  # fmt: skip
        if block.is_error or not isinstance(result, dict):
            return
        if name in FILE_TOOLS and isinstance(path := _written_path(result), str):
            yield self.make(ev.FilesChanged, now, raw, msg, parent, (path,), block.tool_use_id)
        elif name in ("TaskCreate", "TaskUpdate"):
            yield from self._todo_task(result, msg, raw, now, parent)

    def _todo_write(
        self, value: dict[str, Any], msg: Any, raw: bytes, now: float, parent: str | None
    ) -> Made:
        todos = value.get("todos")
        if isinstance(todos, list):
            kept = tuple(t for t in todos if isinstance(t, dict))
            yield self.make(ev.TodoChanged, now, raw, msg, parent, kept)

    def _todo_task(
        self, result: dict[str, Any], msg: Any, raw: bytes, now: float, parent: str | None
    ) -> Made:
        task = result.get("task")
        task_id = task.get("id") if isinstance(task, dict) else result.get("taskId")
        if not isinstance(task_id, str) or len(self._todos) >= MAX_OPEN_TOOLS:
            return
        entry = self._todos.setdefault(task_id, {"id": task_id, "status": "pending"})
        if isinstance(task, dict):
            entry.update(task)
        change = result.get("statusChange")
        if isinstance(change, dict) and isinstance(change.get("to"), str):
            entry["status"] = change["to"]
        yield self.make(
            ev.TodoChanged, now, raw, msg, parent, tuple(dict(t) for t in self._todos.values())
        )

    def _tool_progress(self, msg: m.ToolProgressMessage, raw: bytes, now: float) -> Made:
        tool_id = msg.parent_tool_use_id or msg.tool_use_id
        yield self.make(
            ev.ToolProgress, now, raw, msg, None, tool_id, msg.tool_name, msg.elapsed_time_seconds
        )

    # -- turn ---------------------------------------------------------------------------------------

    def _init(self, msg: m.SystemInit, raw: bytes, now: float) -> Made:
        self.engine_session_id = msg.session_id
        servers = {str(s.get("name", "")): str(s.get("status", "")) for s in msg.mcp_servers}
        ready = (
            "claude-code",
            msg.session_id,
            msg.model,
            msg.cwd,
            msg.permissionMode,
            msg.claude_code_version,
            msg.apiKeySource,
            tuple(msg.tools),
            servers,
            tuple(msg.slash_commands),
            tuple(msg.agents),
        )
        if ready != self._ready:
            self._ready = ready
            yield self.make(ev.SessionReady, now, raw, msg, None, *ready)
        yield from self._begin_turn(msg, raw, now)

    def _begin_turn(self, msg: Any, raw: bytes, now: float) -> Made:
        if self.in_turn:
            return
        self.in_turn = True
        self.turn += 1
        self._model_spoke = False
        self._message_error = ""
        yield self.make(ev.TurnStarted, now, raw, msg, None, self.turn)

    def _result(self, msg: m.ResultMessage, raw: bytes, now: float) -> Made:
        yield from self._begin_turn(msg, raw, now)
        yield from self._withdraw(msg, raw, now, "the turn ended")
        boundary = boundary_of(
            msg,
            model_spoke=self._model_spoke,
            message_error=self._message_error,
            rate_reset=self._rate_reset,
        )
        origin = msg.origin.get("kind") if msg.origin else ""
        self.in_turn = False
        yield self.make(
            ev.TurnEnded, now, raw, msg, None,
            self.turn,
            boundary,
            msg.result,
            msg.is_error,
            msg.stop_reason,
            msg.terminal_reason,
            msg.api_error_status,
            tuple(msg.errors),
            msg.num_turns,
            _whole(msg.duration_ms),
            _whole(msg.duration_api_ms),
            _usage(msg.usage),
            {name: _model_usage(u) for name, u in msg.modelUsage.items()},
            msg.total_cost_usd,
            tuple(PermissionDenial(d.tool_name, d.tool_use_id, d.tool_input) for d in msg.permission_denials),
            msg.structured_output,
            msg.deferred_tool_use,
            origin if isinstance(origin, str) else "",
        )  # fmt: skip

    # -- system lines -------------------------------------------------------------------------------

    def _status(self, msg: m.SystemStatus, raw: bytes, now: float) -> Made:
        if msg.status or msg.permissionMode:
            yield self.make(
                ev.StateChanged, now, raw, msg, None, msg.status or "", msg.permissionMode
            )
        if msg.compact_error:
            yield self.make(ev.Notice, now, raw, msg, None, "compact", "warning", msg.compact_error)

    def _state(self, msg: m.SessionStateChanged, raw: bytes, now: float) -> Made:
        yield self.make(ev.StateChanged, now, raw, msg, None, msg.state, None)

    def _retry(self, msg: m.ApiRetry, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.Retrying, now, raw, msg, None,
            msg.attempt, msg.max_retries, msg.retry_delay_ms / 1000, msg.error_status, msg.error,
        )  # fmt: skip

    def _fallback(self, msg: m.ModelFallback, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.ModelChanged,
            now,
            raw,
            msg,
            None,
            msg.original_model,
            msg.fallback_model,
            msg.trigger,
        )

    def _refusal(self, msg: m.ModelRefusal, raw: bytes, now: float) -> Made:
        text = msg.api_refusal_explanation or msg.api_refusal_category or ""
        yield self.make(ev.Notice, now, raw, msg, None, "refusal", "warning", text)
        if msg.fallback_model:
            yield self.make(
                ev.ModelChanged,
                now,
                raw,
                msg,
                None,
                msg.original_model,
                msg.fallback_model,
                "refusal",
            )

    def _compacted(self, msg: m.CompactBoundary, raw: bytes, now: float) -> Made:
        data = msg.compact_metadata
        yield self.make(
            ev.Compacted, now, raw, msg, None, data.trigger, data.pre_tokens, data.post_tokens
        )

    def _task_started(self, msg: m.TaskStartedMessage, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.TaskStarted, now, raw, msg, None,
            msg.task_id, msg.tool_use_id, msg.task_type, msg.description,
        )  # fmt: skip

    def _task_progress(self, msg: m.TaskProgressMessage, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.TaskProgress, now, raw, msg, None,
            msg.task_id, msg.description, msg.last_tool_name,
            msg.usage.total_tokens, msg.usage.tool_uses,
        )  # fmt: skip

    def _task_updated(self, msg: m.TaskUpdated, raw: bytes, now: float) -> Made:
        if msg.patch.status or msg.patch.is_backgrounded:
            text = msg.patch.status or "backgrounded"
            yield self.make(ev.Notice, now, raw, msg, None, "task", "info", f"{msg.task_id} {text}")

    def _task_ended(self, msg: m.TaskNotification, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.TaskEnded, now, raw, msg, None, msg.task_id, msg.tool_use_id, msg.status, msg.summary
        )

    def _thinking_tokens(self, msg: m.ThinkingTokens, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.ThinkingDelta, now, raw, msg, None,
            "", self._streaming.message_id, 0, msg.estimated_tokens,
        )  # fmt: skip

    def _hook_started(self, msg: m.HookStarted, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.HookRan, now, raw, msg, None,
            msg.hook_id, msg.hook_name, msg.hook_event, "started", None, "",
        )  # fmt: skip

    def _hook_response(self, msg: m.HookResponse, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.HookRan, now, raw, msg, None,
            msg.hook_id, msg.hook_name, msg.hook_event, msg.outcome or "running", msg.exit_code, msg.output,
        )  # fmt: skip

    def _denied(self, msg: m.PermissionDeniedMessage, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.PermissionResolved, now, raw, msg, None,
            "", msg.tool_use_id, msg.tool_name, "deny", msg.decision_reason_type or "rule", msg.message,
        )  # fmt: skip

    def _informational(self, msg: m.Informational, raw: bytes, now: float) -> Made:
        yield self.make(
            ev.Notice, now, raw, msg, None, "informational", msg.level or "info", msg.content
        )

    def _notification(self, msg: m.Notification, raw: bytes, now: float) -> Made:
        yield self.make(ev.Notice, now, raw, msg, None, msg.key, msg.priority or "info", msg.text)

    def _commands(self, msg: m.CommandsChanged, raw: bytes, now: float) -> Made:
        names = ", ".join(str(c.get("name", "")) for c in msg.commands)
        yield self.make(ev.Notice, now, raw, msg, None, "commands_changed", "info", names)

    # -- the rest -----------------------------------------------------------------------------------

    def _rate_limit(self, msg: m.RateLimitEvent, raw: bytes, now: float) -> Made:
        info = msg.rate_limit_info
        self._rate_reset = info.resets_at
        limit = RateLimit(info.status, info.rate_limit_type, info.resets_at, info.utilization)
        yield self.make(ev.RateLimited, now, raw, msg, None, limit)

    def _summary(self, msg: m.ToolUseSummary, raw: bytes, now: float) -> Made:
        yield self.make(ev.Notice, now, raw, msg, None, "tool_use_summary", "info", msg.summary)

    def _suggestion(self, msg: m.PromptSuggestion, raw: bytes, now: float) -> Made:
        yield self.make(ev.Notice, now, raw, msg, None, "prompt_suggestion", "info", msg.suggestion)

    def _auth_status(self, msg: m.AuthStatus, raw: bytes, now: float) -> Made:
        text = msg.error or "\n".join(msg.output)
        yield self.make(
            ev.Notice, now, raw, msg, None, "auth_status", "error" if msg.error else "info", text
        )

    def _mirror(self, msg: m.TranscriptMirror, raw: bytes, now: float) -> Made:
        yield self.make(ev.Notice, now, raw, msg, None, "transcript_mirror", "debug", msg.filePath)

    def _generic(self, msg: m.GenericMessage, raw: bytes, now: float) -> Made:
        kind = f"{msg.type}/{msg.subtype}" if msg.subtype else msg.type
        yield self.make(ev.Unknown, now, raw, msg, None, kind, msg.fields)

    def _nothing(self, msg: Any, raw: bytes, now: float) -> Made:
        return iter(())


class _Streaming:
    """The main thread's message that streams at the moment."""

    __slots__ = ("message_id", "pending", "tools", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.tools: dict[int, str] = {}
        self.begin("")

    def begin(self, message_id: str) -> None:
        self.message_id = message_id
        self.pending = 0  # characters of text that no whole message has confirmed
        self.tools.clear()


_HANDLERS: dict[type, Callable[[Mapper, Any, bytes, float], Made]] = {
    m.StreamEvent: Mapper._stream,
    m.AssistantMessage: Mapper._assistant,
    m.UserMessage: Mapper._user,
    m.ResultMessage: Mapper._result,
    m.SystemInit: Mapper._init,
    m.SystemStatus: Mapper._status,
    m.SessionStateChanged: Mapper._state,
    m.ApiRetry: Mapper._retry,
    m.ModelFallback: Mapper._fallback,
    m.ModelRefusal: Mapper._refusal,
    m.CompactBoundary: Mapper._compacted,
    m.TaskStartedMessage: Mapper._task_started,
    m.TaskProgressMessage: Mapper._task_progress,
    m.TaskUpdated: Mapper._task_updated,
    m.TaskNotification: Mapper._task_ended,
    m.ThinkingTokens: Mapper._thinking_tokens,
    m.HookStarted: Mapper._hook_started,
    m.HookResponse: Mapper._hook_response,
    m.PermissionDeniedMessage: Mapper._denied,
    m.Informational: Mapper._informational,
    m.Notification: Mapper._notification,
    m.CommandsChanged: Mapper._commands,
    m.RateLimitEvent: Mapper._rate_limit,
    m.ToolProgressMessage: Mapper._tool_progress,
    m.ToolUseSummary: Mapper._summary,
    m.PromptSuggestion: Mapper._suggestion,
    m.AuthStatus: Mapper._auth_status,
    m.TranscriptMirror: Mapper._mirror,
    m.KeepAlive: Mapper._nothing,
    m.GenericMessage: Mapper._generic,
}


def _whole(value: float) -> int:
    """The lenient second decode also takes the words "nan" and "inf" for numbers."""
    return int(value) if math.isfinite(value) else 0


def _usage(usage: m.ApiUsage) -> Usage:
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens or 0,
        usage.cache_creation_input_tokens or 0,
    )


def _model_usage(usage: m.WireModelUsage) -> ModelUsage:
    return ModelUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.web_search_requests,
        usage.cost_usd,
        usage.context_window,
        usage.max_output_tokens,
    )


def _blocks(content: str | list[Any]) -> tuple[ev.Block, ...]:
    if isinstance(content, str):
        return (ev.TextBlock(content),) if content else ()
    return tuple(content)


def _written_path(result: dict[str, Any]) -> Any:
    return result.get("filePath") or result.get("notebook_path")
