"""PURE. One reply of the scripted model: its fields, and how they are checked.

`docs/scripted-model.md` describes each field for users.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from quarterdeck.errors import ScriptError

RESERVED_ID = "toolu_scripted_"
"""Tool call ids that begin like this are given by the server."""

STREAMED_TEXT = {"text": "text", "thinking": "thinking"}
"""Raw blocks whose text travels in pieces, and the field that holds it."""
STREAMED_INPUT = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Raw blocks whose `input` travels in pieces."""

MAX_SECONDS = 86_400.0
MAX_COUNT = 1_000_000


class Reply(msgspec.Struct, frozen=True):
    """One checked reply. `written` is what the script said, variables filled in.

    `repeat` is how often it may be used; None is forever. The fields that end in `_after` count
    stream events.
    """

    written: dict[str, Any]
    text: str | None = None
    thinking: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    blocks: tuple[dict[str, Any], ...] = ()
    empty: bool = False
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: dict[str, int] = {}
    delay: float = 0.0
    first_delay: float = 0.0
    step_delay: float = 0.0
    chunk: int | None = None
    pings: int = 0
    headers: dict[str, str] = {}
    status: int | None = None
    error: dict[str, str] | None = None
    error_after: int | None = None
    drop_after: int | None = None
    truncate_after: int | None = None
    malformed_after: int | None = None
    hang: float | None = None
    when_model: str | None = None
    when_text: str | None = None
    when_system: str | None = None
    when_tool_result: str | None = None
    when_tools: bool | None = None
    repeat: int | None = 1

    @property
    def conditional(self) -> bool:
        """Whether the reply is only for requests that match."""
        return any(getattr(self, name) is not None for name in MATCHING)


CONTENT = ("text", "thinking", "tools", "blocks", "empty")
MATCHING = ("when_model", "when_text", "when_system", "when_tool_result", "when_tools")
FAULTS = ("status", "hang", "error_after", "drop_after", "truncate_after", "malformed_after")


class Place(msgspec.Struct, frozen=True):
    """Where in a script a value stands: the reply (`demo.yaml: reply 2`) and the field."""

    reply: str
    field: str = ""

    def at(self, more: str) -> Place:
        """A place inside this one: `.name`, `[0]`."""
        return Place(self.reply, f"{self.field}{more}" if self.field else more.removeprefix("."))

    def wrong(self, value: object, reason: str, remedy: str) -> ScriptError:
        """The error that names reply, field, value, reason and remedy."""
        shown = repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        subject = f"{self.field} = {shown}" if self.field else shown
        return ScriptError(f"{self.reply}: {subject}: {reason}", remedy=remedy)


Check = Callable[[Place, Any], Any]


# -- checks of single values --------------------------------------------------------------------------


def _text(place: Place, value: Any) -> str:
    if not isinstance(value, str):
        raise place.wrong(value, "not a text", "write a text; quote what looks like a number")
    return value


def _some_text(place: Place, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise place.wrong(
            value, "not a text, or empty", "write at least one character, or leave it out"
        )
    return value


def _flag(place: Place, value: Any) -> bool:
    if not isinstance(value, bool):
        raise place.wrong(value, "neither true nor false", "write true or false")
    return value


def _yes(place: Place, value: Any) -> bool:
    if value is not True:
        raise place.wrong(value, "can only be true", "write true, or leave the field out")
    return True


def _seconds(place: Place, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_SECONDS or not math.isfinite(value):
        raise place.wrong(value, "not a time", f"write seconds from 0 to {MAX_SECONDS:.0f}")
    return float(value)


def _whole(low: int, high: int = MAX_COUNT) -> Check:
    def check(place: Place, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            reason = "not a whole number in range"
            raise place.wrong(value, reason, f"write a number from {low} to {high}")
        return value

    return check


def _repeat(place: Place, value: Any) -> int | None:
    if value == "forever":
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= MAX_COUNT:
        raise place.wrong(value, "not a number of uses", "write a number from 1 on, or forever")
    return int(value)


def mapping(place: Place, value: Any) -> dict[str, Any]:
    """The value, if it is a mapping with names as keys; otherwise ScriptError."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise place.wrong(value, "not a mapping", "write it as `name: value` pairs")
    return dict(value)


def known(place: Place, value: Any, checks: Mapping[str, Check], what: str) -> dict[str, Any]:
    """A mapping in which each field is in the table and passes its check."""
    fields = mapping(place, value)
    checked = {}
    for name, inner in fields.items():
        inside = place.at(f".{name}")
        if name not in checks:
            close = difflib.get_close_matches(name, checks, 1)
            hint = f"did you mean {close[0]}?" if close else f"it can have: {', '.join(checks)}"
            raise inside.wrong(inner, f"{what} has no such field", hint)
        checked[name] = checks[name](inside, inner)
    return checked


# -- checks of the structured fields ------------------------------------------------------------------

_TOOL_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?\Z")
_OURS = frozenset({"connection", "content-length", "content-type", "transfer-encoding"})


def _tool_id(place: Place, value: Any) -> str:
    text = _text(place, value)
    if not _TOOL_ID.match(text) or text.startswith(RESERVED_ID):
        remedy = f"use letters, digits, _ and -, not beginning with {RESERVED_ID}"
        raise place.wrong(value, "not an id for a tool call", remedy)
    return text


_TOOL: Mapping[str, Check] = {"name": _some_text, "input": mapping, "id": _tool_id}


def _list(place: Place, value: Any) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise place.wrong(value, "not a list, or empty", "write a list of at least one item")
    return value


def _tools(place: Place, value: Any) -> tuple[dict[str, Any], ...]:
    calls = []
    for n, item in enumerate(_list(place, value)):
        call = known(place.at(f"[{n}]"), item, _TOOL, "a tool call")
        if "name" not in call:
            raise place.at(f"[{n}]").wrong(item, "has no name", "add `name:`, such as Bash")
        calls.append({"input": {}, **call})
    return tuple(calls)


def _blocks(place: Place, value: Any) -> tuple[dict[str, Any], ...]:
    blocks = []
    for n, item in enumerate(_list(place, value)):
        here = place.at(f"[{n}]")
        block = mapping(here, item)
        kind = _some_text(here.at(".type"), block.get("type"))
        if kind in STREAMED_TEXT:
            name = STREAMED_TEXT[kind]
            _text(here.at(f".{name}"), block.get(name))
        elif kind in STREAMED_INPUT:
            _some_text(here.at(".name"), block.get("name"))
            mapping(here.at(".input"), block.get("input"))
            if "id" in block:
                _tool_id(here.at(".id"), block["id"])
        blocks.append(block)
    return tuple(blocks)


def _headers(place: Place, value: Any) -> dict[str, str]:
    headers = {}
    for name, inner in mapping(place, value).items():
        here = place.at(f".{name}")
        if not _HEADER.match(name) or name.lower() in _OURS:
            raise here.wrong(inner, "not a header that a script may set", "leave it out")
        text = str(inner) if isinstance(inner, int | float | str) else ""
        if isinstance(inner, bool) or not _HEADER_VALUE.match(text):
            raise here.wrong(inner, "not a header value", "write printable ASCII on one line")
        headers[name.lower()] = text
    return headers


def _error(place: Place, value: Any) -> dict[str, str]:
    checks: Mapping[str, Check] = {"type": _some_text, "message": _text}
    return known(place, value, checks, "an error")


def _usage(place: Place, value: Any) -> dict[str, int]:
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens")
    checks = dict.fromkeys((*names, "cache_creation_input_tokens"), _whole(0, 10**12))
    return known(place, value, checks, "usage")


_events = _whole(0)
FIELDS: Mapping[str, Check] = {
    "text": _text,
    "thinking": _text,
    "tools": _tools,
    "blocks": _blocks,
    "empty": _yes,
    "stop_reason": _some_text,
    "stop_details": mapping,
    "usage": _usage,
    "delay": _seconds,
    "first_delay": _seconds,
    "step_delay": _seconds,
    "chunk": _whole(1),
    "pings": _whole(0, 10_000),
    "headers": _headers,
    "status": _whole(400, 599),
    "error": _error,
    "error_after": _events,
    "drop_after": _events,
    "truncate_after": _events,
    "malformed_after": _events,
    "hang": _seconds,
    "when_model": _some_text,
    "when_text": _some_text,
    "when_system": _some_text,
    "when_tool_result": _some_text,
    "when_tools": _flag,
    "repeat": _repeat,
}

# Fields that exclude each other: with one of the left side, none of the right side.
_EXCLUDES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("blocks",), ("text", "thinking", "tools")),
    (("empty",), ("text", "thinking", "tools", "blocks")),
    (("status",), (*CONTENT, "stop_reason", "stop_details", "usage", "chunk", "pings")),
    (("hang",), (*CONTENT, "stop_reason", "stop_details", "usage", "chunk", "pings", "headers")),
    (("status", "hang"), ("first_delay", "step_delay")),
    *(((fault,), tuple(f for f in FAULTS if f != fault)) for fault in FAULTS),
)


def parse_reply(place: Place, value: Any) -> Reply:
    """The checked reply. Raises ScriptError that names the place, the field, the value and a remedy."""
    fields = known(place, value, FIELDS, "a reply")
    for left, right in _EXCLUDES:
        for one in left:
            clash = next((name for name in right if one in fields and name in fields), None)
            if clash is not None:
                inner = place.at(clash)
                raise inner.wrong(
                    value[clash], f"cannot stand beside {one}", "leave out one of them"
                )
    if "error" in fields and not fields.keys() & {"status", "error_after"}:
        remedy = "add `status:` (an HTTP error) or `error_after:` (an error inside the stream)"
        raise place.at("error").wrong(value["error"], "an error without its occasion", remedy)
    if not fields.keys() & {*CONTENT, "status", "hang"}:
        remedy = (
            "add text, thinking, tools, blocks, status or hang; `empty: true` says nothing at all"
        )
        raise place.wrong(value, "a reply that says nothing", remedy)
    return Reply(written=dict(value), **fields)
