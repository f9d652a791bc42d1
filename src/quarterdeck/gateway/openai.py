"""PURE. The OpenAI chat-completions wire format, as a server speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from quarterdeck.errors import ScriptError
from quarterdeck.gateway.exchange import (
    Answer,
    Frame,
    ModelRequest,
    chunks,
    messages_of,
    newest,
    text_of,
    tool_names,
)

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
STREAM_ERROR = {"type": "server_error", "message": "Overloaded"}
FINISH: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
}
_SYSTEM = ("system", "developer")


def read_request(body: Mapping[str, Any]) -> ModelRequest:
    """What matters of a request's body. Raises ProtocolError when it is no chat request."""
    messages = messages_of(body)
    fresh = newest(messages)
    options = body.get("stream_options")
    return ModelRequest(
        model=str(body.get("model", "")),
        stream=body.get("stream") is True,
        system=_joined(messages, *_SYSTEM),
        text=_joined(fresh, "user"),
        tool_result=_joined(fresh, "tool"),
        tools=tool_names(body),
        messages=len(messages),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _joined(messages: list[dict[str, Any]], *roles: str) -> str:
    texts = (text_of(m.get("content")) for m in messages if m.get("role") in roles)
    return "\n".join(text for text in texts if text)


def message(answer: Answer) -> dict[str, Any]:
    """The whole answer as one JSON object. Raises ScriptError for a block this format lacks."""
    said: dict[str, Any] = {"role": "assistant", "content": None}
    calls = []
    for block in answer.blocks:
        field, text = _field(block)
        if field == "call":
            function = {"name": block["name"], "arguments": text}
            calls.append({"id": block["id"], "type": "function", "function": function})
        else:
            said[field] = (said.get(field) or "") + text
    if calls:
        said["tool_calls"] = calls
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": _finish(answer)}
    return {**_head(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)}


def frames(
    answer: Answer, *, chunk: int | None, pings: int, include_usage: bool
) -> Iterator[Frame]:
    """The answer as stream events, `[DONE]` included: `chunk` characters a delta.

    The usage comes in an event of its own when the request asked for it. A ping is a comment line.
    Raises ScriptError for a block that this format lacks.
    """
    head = _head(answer, "chat.completion.chunk")
    if include_usage:
        head["usage"] = None
    parts = [(block, *_field(block)) for block in answer.blocks]
    return _stream(answer, head, parts, chunk, pings)


def _stream(
    answer: Answer,
    head: Mapping[str, Any],
    parts: list[tuple[dict[str, Any], str, str]],
    chunk: int | None,
    pings: int,
) -> Iterator[Frame]:
    def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice]})

    yield Frame("head", event({"role": "assistant", "content": ""}))
    for _ in range(pings):
        yield Frame("ping", b": ping\n\n")
    calls = 0
    for block, field, text in parts:
        if field == "call":
            opening = {"name": block["name"], "arguments": ""}
            call = {"index": calls, "id": block["id"], "type": "function", "function": opening}
            yield Frame("block", event({"tool_calls": [call]}))
            for piece in chunks(text, chunk):
                more = {"index": calls, "function": {"arguments": piece}}
                yield Frame("delta", event({"tool_calls": [more]}))
            calls += 1
        else:
            for piece in chunks(text, chunk):
                yield Frame("delta", event({field: piece}))
    yield Frame("end", event({}, _finish(answer)))
    if "usage" in head:
        yield Frame("end", _event({**head, "choices": [], "usage": _usage(answer)}))
    yield Frame("end", b"data: [DONE]\n\n")


def _field(block: Mapping[str, Any]) -> tuple[str, str]:
    """Where a block goes in a chat message, and its text."""
    kind = block["type"]
    if kind == "text":
        return "content", str(block["text"])
    if kind == "thinking":
        return "reasoning_content", str(block["thinking"])
    if kind == "tool_use":
        return "call", json.dumps(block["input"], ensure_ascii=False)
    raise ScriptError(
        f"chat completions cannot carry a block of type {kind!r}",
        remedy="use text, thinking and tools for agents that speak this format",
    )


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    number = f"chatcmpl-scripted-{answer.number:04d}"
    return {"id": number, "object": kind, "created": answer.created, "model": answer.model}


def _finish(answer: Answer) -> str:
    return FINISH.get(answer.stop_reason, answer.stop_reason)


def _usage(answer: Answer) -> dict[str, Any]:
    cached = answer.usage["cache_read_input_tokens"]
    sent = answer.usage["input_tokens"] + cached + answer.usage["cache_creation_input_tokens"]
    received = answer.usage["output_tokens"]
    return {
        "prompt_tokens": sent,
        "completion_tokens": received,
        "total_tokens": sent + received,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def error_body(status: int, error: Mapping[str, str]) -> dict[str, Any]:
    """The body of an HTTP error; what `error` leaves open follows from the status."""
    kind = error.get("type") or ERROR_TYPES.get(status, "server_error")
    text = error.get("message", f"scripted failure with status {status}")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def error_frame(error: Mapping[str, str]) -> bytes:
    """An error inside a stream."""
    return _event({"error": {**STREAM_ERROR, **error, "param": None, "code": None}})


def _event(fields: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()
