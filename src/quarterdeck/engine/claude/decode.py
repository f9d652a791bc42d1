"""PURE. Lines of Claude Code to typed messages.

Never fails on a JSON object: unknown types become `GenericMessage`, a field of an unexpected shape
falls back to its default, an unknown content block to `UnknownBlock`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quarterdeck.engine.claude.messages import (
    SYSTEM,
    TOP,
    ApiMessage,
    ControlReplyBody,
    GenericMessage,
    SystemMessage,
    TopMessage,
    Wire,
    WireBlock,
    WireModelUsage,
)
from quarterdeck.engine.events import (
    Block,
    ImageBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
)

_TOP = msgspec.json.Decoder(TopMessage)
decode_top = _TOP.decode
"""The quick half of `decode`: `system` lines stay SystemMessage, and what is unusual raises."""
UNEXPECTED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SYSTEM = {name: msgspec.json.Decoder(struct) for name, struct in SYSTEM.items()}
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def decode(line: bytes) -> Wire | GenericMessage | None:
    """The typed message of one line; None when the line is not a JSON object."""
    try:
        message: Wire = decode_top(line)
        if type(message) is SystemMessage:
            decoder = _SYSTEM.get(message.subtype)
            if decoder is None:
                return _generic(_OBJECT.decode(line))
            message = decoder.decode(line)
        return message
    except UNEXPECTED:
        return _decode_leniently(line)


def _decode_leniently(line: bytes) -> Wire | GenericMessage | None:
    try:
        fields = _OBJECT.decode(line)
    except UNEXPECTED:
        return _repair_utf8(line)
    return _from_fields(fields)


def _repair_utf8(line: bytes) -> Wire | GenericMessage | None:
    """Invalid UTF-8 inside a string must not cost the record (a tool may print any bytes)."""
    try:
        repaired = line.decode("utf-8", "replace").encode()
        return None if repaired == line else _from_fields(_OBJECT.decode(repaired))
    except (msgspec.DecodeError, RecursionError):
        return None


def _from_fields(fields: dict[str, Any]) -> Wire | GenericMessage:
    kind = fields.get("type")
    if kind == "system":
        struct = SYSTEM.get(str(fields.get("subtype")))
    else:
        struct = TOP.get(kind) if isinstance(kind, str) else None
    return _generic(fields) if struct is None else _convert(struct, fields)


def _generic(fields: dict[str, Any]) -> GenericMessage:
    kind, subtype = fields.get("type"), fields.get("subtype")
    return GenericMessage(
        kind if isinstance(kind, str) else "",
        subtype if isinstance(subtype, str) else "",
        fields,
    )


def _convert(struct: type[Wire], fields: dict[str, Any]) -> Wire | GenericMessage:
    """Field by field: what does not fit keeps its default."""
    values: dict[str, Any] = {}
    for info in msgspec.structs.fields(struct):
        if info.encode_name not in fields:
            continue
        value = fields[info.encode_name]
        if info.type is ApiMessage:
            values[info.name] = _api_message(value)
            continue
        try:
            values[info.name] = msgspec.convert(value, info.type, strict=False)
        except (msgspec.ValidationError, RecursionError):
            if info.name == "event":  # a stream event that we do not know
                return _generic(fields)
            if info.type is ControlReplyBody and isinstance(value, dict):
                values[info.name] = _partial(ControlReplyBody, value)
            elif info.name == "modelUsage" and isinstance(value, dict):
                usable = {k: _partial(WireModelUsage, v) for k, v in value.items()}
                values[info.name] = usable
            elif isinstance(info.type, type) and issubclass(info.type, msgspec.Struct):
                values[info.name] = _partial(info.type, value)
    return struct(**values)


def _partial(struct: type[msgspec.Struct], value: Any) -> Any:
    out: dict[str, Any] = {}
    if isinstance(value, dict):
        for info in msgspec.structs.fields(struct):
            if info.encode_name in value:
                try:
                    out[info.name] = msgspec.convert(
                        value[info.encode_name], info.type, strict=False
                    )
                except (msgspec.ValidationError, RecursionError):
                    continue
    return struct(**out)


def _api_message(value: Any) -> ApiMessage:
    if not isinstance(value, dict):
        return ApiMessage()
    plain = {k: v for k, v in value.items() if k != "content"}
    message: ApiMessage = _partial(ApiMessage, plain)
    return msgspec.structs.replace(message, content=blocks_of(value.get("content")))


def blocks_of(content: Any) -> str | list[Any]:
    """Content of any shape as text or typed blocks; never fails."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return []
    return [block_of(b) for b in content]


def block_of(value: Any) -> Block:
    """One content block of any kind, typed as far as it can be."""
    if not isinstance(value, dict):
        return UnknownBlock("", {"value": value})
    kind = value.get("type")
    try:
        match kind:
            case "text" | "thinking" | "tool_use" | "tool_result":
                known: WireBlock = msgspec.convert(value, WireBlock)
                return known
            case "redacted_thinking":
                return ThinkingBlock(signature=str(value.get("data", "")), redacted=True)
            case "server_tool_use" | "mcp_tool_use":
                return ToolUseBlock(
                    msgspec.convert(value.get("id"), str),
                    msgspec.convert(value.get("name"), str),
                    msgspec.convert(value.get("input") or {}, dict[str, Any]),
                    str(value.get("server_name") or "server"),
                )
            case "image":
                source = value["source"]
                return ImageBlock(
                    str(source.get("media_type", "")),
                    str(source.get("type", "")),
                    str(source.get("data") or source.get("url") or source.get("file_id") or ""),
                )
            case str() if kind.endswith("_tool_result") and isinstance(
                value.get("tool_use_id"), str
            ):
                inner = value.get("content")
                return ToolResultBlock(
                    value["tool_use_id"],
                    inner if isinstance(inner, str | list) else [inner],
                    bool(value.get("is_error")),
                    server=True,
                )
    except (msgspec.ValidationError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    return UnknownBlock(kind if isinstance(kind, str) else "", value)
