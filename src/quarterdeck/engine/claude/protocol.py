"""PURE. Claude Code's control protocol: bytes in, events and calls out; calls in, bytes out.

`ClaudeProtocol` sees the standard output of one CLI process. It has no clock (the time is an
argument) and does no I/O. No input raises anything but `LineTooLong`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from quarterdeck.engine import events as ev
from quarterdeck.engine.claude import control
from quarterdeck.engine.claude import messages as m
from quarterdeck.engine.claude.decode import UNEXPECTED, decode, decode_top
from quarterdeck.engine.claude.mapping import Mapper
from quarterdeck.errors import LineTooLong

MAX_LINE = 64 * 1024 * 1024  # bytes


class ControlReply(msgspec.Struct, frozen=True):
    """The CLI answered one of our control requests. `pending` are requests that still wait for us."""

    request_id: str
    ok: bool
    response: dict[str, Any]
    error: str
    pending: tuple[dict[str, Any], ...] = ()


class HookCalled(msgspec.Struct, frozen=True):
    """The CLI waits for a hook callback."""

    request_id: str
    callback_id: str
    input: dict[str, Any]
    tool_use_id: str | None


class McpCalled(msgspec.Struct, frozen=True):
    """A JSON-RPC message for one of our in-process MCP servers."""

    request_id: str
    server: str
    message: dict[str, Any]


class DialogAsked(msgspec.Struct, frozen=True):
    """The CLI would show a dialog; unknown kinds are answered `cancelled`."""

    request_id: str
    kind: str
    payload: dict[str, Any]


class Cancelled(msgspec.Struct, frozen=True):
    """The CLI no longer needs an answer to this request."""

    request_id: str


class UnknownRequest(msgspec.Struct, frozen=True):
    """A request of a kind that we do not know. It must be answered (with an error) all the same."""

    request_id: str
    subtype: str


Call = (
    ControlReply
    | HookCalled
    | McpCalled
    | DialogAsked
    | Cancelled
    | UnknownRequest
    | ev.PermissionAsked
    | ev.QuestionAsked
    | ev.Elicitation
)


class Received(NamedTuple):
    """What one piece of input meant: events in order, and the calls among them that need action.

    Asking events (permission, question, elicitation) stand in both lists.
    """

    events: list[ev.Event]
    calls: list[Call]


class ClaudeProtocol:
    """Both directions of one CLI process."""

    def __init__(self, session: str, *, max_line: int = MAX_LINE) -> None:
        self.mapper = Mapper(session)
        self.max_line = max_line
        self._parts: list[bytes] = []
        self._held = 0
        self._requests = 0

    # -- in -----------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Received:
        """Take bytes of standard output as they come; `now` is the wall time (Unix seconds).

        Raises LineTooLong when a line grows over the limit; the stream is useless then.
        """
        events: list[ev.Event] = []
        calls: list[Call] = []
        if b"\n" not in data:
            self._hold(data)
            return Received(events, calls)
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts, self._held = [], 0
        lines = data.split(b"\n")
        self._hold(lines.pop())
        limit, hot, quick = self.max_line, self.mapper.hot, decode_top
        for line in lines:
            if len(line) > limit:
                raise LineTooLong(len(line), limit)
            try:
                message = quick(line)
            except UNEXPECTED:
                message = decode(line)
            event = hot(message, line, now)
            if event is not None:
                events.append(event)
            else:
                self._take(message, line, now, events, calls)
        return Received(events, calls)

    def eof(self, now: float) -> Received:
        """Standard output is closed. A line that was cut in the middle becomes an Unknown event."""
        events: list[ev.Event] = []
        rest = b"".join(self._parts)
        self._parts, self._held = [], 0
        if rest.strip():
            events.append(self.mapper.make(ev.Unknown, now, rest, None, None, "cut_line", None))
        return Received(events, [])

    def _hold(self, data: bytes) -> None:
        self._held += len(data)
        if self._held > self.max_line:
            raise LineTooLong(self._held, self.max_line)
        if data:
            self._parts.append(data)

    def _take(
        self, message: Any, line: bytes, now: float, events: list[ev.Event], calls: list[Call]
    ) -> None:
        if type(message) is m.SystemMessage:
            message = decode(line)
        if message is None:
            if line.strip():
                events.append(self.mapper.make(ev.Unknown, now, line, None, None, "not_json", None))
            return
        if isinstance(message, m.ControlResponse):
            calls.append(_reply(message))
        elif isinstance(message, m.ControlCancelRequest):
            calls.append(Cancelled(message.request_id))
        elif isinstance(message, m.ControlRequest):
            call = self._request(message, line, now)
            calls.append(call)
            if isinstance(call, ev.Event):
                events.append(call)
        else:
            events.extend(self.mapper.events(message, line, now))

    def _request(self, message: m.ControlRequest, raw: bytes, now: float) -> Call:
        request = message.request
        subtype = _text(request.get("subtype"))
        match subtype:
            case "can_use_tool":
                return self._permission(message, raw, now)
            case "hook_callback":
                return HookCalled(
                    message.request_id,
                    _text(request.get("callback_id")),
                    _object(request.get("input")),
                    request.get("tool_use_id")
                    if isinstance(request.get("tool_use_id"), str)
                    else None,
                )
            case "mcp_message":
                return McpCalled(
                    message.request_id,
                    _text(request.get("server_name")),
                    _object(request.get("message")),
                )
            case "elicitation":
                schema, url = request.get("requested_schema"), request.get("url")
                made = self.mapper.make(
                    ev.Elicitation, now, raw, message, None,
                    message.request_id,
                    _text(request.get("mcp_server_name")),
                    _text(request.get("message")),
                    _text(request.get("mode")) or "form",
                    schema if isinstance(schema, dict) else None,
                    url if isinstance(url, str) else None,
                )  # fmt: skip
                assert isinstance(made, ev.Elicitation)
                return made
            case "request_user_dialog":
                return DialogAsked(
                    message.request_id,
                    _text(request.get("dialog_kind")),
                    _object(request.get("payload")),
                )
        return UnknownRequest(message.request_id, subtype)

    def _permission(
        self, message: m.ControlRequest, raw: bytes, now: float
    ) -> ev.PermissionAsked | ev.QuestionAsked:
        r = message.request
        tool_name, tool_input = _text(r.get("tool_name")), _object(r.get("input"))
        tool_use_id = _text(r.get("tool_use_id"))
        questions = tool_input.get("questions")
        if tool_name == "AskUserQuestion" and isinstance(questions, list):
            kept = tuple(q for q in questions if isinstance(q, dict))
            made = self.mapper.make(
                ev.QuestionAsked, now, raw, message, None, message.request_id, tool_use_id, kept
            )
        else:
            suggestions = r.get("permission_suggestions")
            made = self.mapper.make(
                ev.PermissionAsked, now, raw, message, None,
                message.request_id,
                tool_use_id,
                tool_name,
                tool_input,
                _text(r.get("description")),
                tuple(s for s in suggestions if isinstance(s, dict)) if isinstance(suggestions, list) else (),
                r.get("blocked_path") if isinstance(r.get("blocked_path"), str) else None,
                _text(r.get("decision_reason")),
                _text(r.get("decision_reason_type")),
                r.get("agent_id") if isinstance(r.get("agent_id"), str) else None,
            )  # fmt: skip
        assert isinstance(made, ev.PermissionAsked | ev.QuestionAsked)
        return made

    def event(self, kind: type[ev.Event], now: float, *fields: Any) -> ev.Event:
        """An event of our own making, in sequence with the engine's."""
        return self.mapper.make(kind, now, b"", None, None, *fields)

    # -- out ----------------------------------------------------------------------------------------

    def control(self, subtype: str, fields: Mapping[str, Any]) -> tuple[str, bytes]:
        """A control request: its id and its line. Raises InvalidCommand; then nothing may be sent."""
        request_id = f"qd_{self._requests + 1}"
        line = control.control_request(request_id, subtype, fields)
        self._requests += 1
        return request_id, line


def _reply(message: m.ControlResponse) -> ControlReply:
    body = message.response
    return ControlReply(
        body.request_id,
        body.subtype == "success",
        body.response or {},
        body.error,
        tuple(body.pending_permission_requests),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
