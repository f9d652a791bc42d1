"""PURE. The Anthropic Messages wire format, as a server speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

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
from quarterdeck.gateway.reply import STREAMED_INPUT, STREAMED_TEXT

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STREAM_ERROR = {"type": "overloaded_error", "message": "Overloaded"}


def read_request(body: Mapping[str, Any]) -> ModelRequest:
    """What matters of a request's body. Raises ProtocolError when it is no Messages request."""
    messages = messages_of(body)
    fresh = [m for m in newest(messages) if m.get("role") == "user"]
    results = [
        text_of(block.get("content"))
        for message in fresh
        for block in _parts(message)
        if block.get("type") == "tool_result"
    ]
    return ModelRequest(
        model=str(body.get("model", "")),
        stream=body.get("stream") is True,
        system=text_of(body.get("system")),
        text="\n".join(text for m in fresh if (text := text_of(m.get("content")))),
        tool_result="\n".join(results),
        tools=tool_names(body),
        messages=len(messages),
    )


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


def message(answer: Answer) -> dict[str, Any]:
    """The whole answer as one JSON object."""
    return {
        **_head(answer),
        "content": list(answer.blocks),
        "stop_reason": answer.stop_reason,
        **({"stop_details": answer.stop_details} if answer.stop_details is not None else {}),
        "usage": answer.usage,
    }


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_scripted_{answer.number:04d}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**answer.usage, "output_tokens": 1},
    }


def frames(
    answer: Answer, *, chunk: int | None, pings: int, include_usage: bool
) -> Iterator[Frame]:
    """The answer as stream events: `chunk` characters a delta, `pings` after the first event.

    `include_usage` is for the other wire format; here usage is always part of the stream.
    """
    yield Frame("head", _event("message_start", {"message": _head(answer)}))
    for _ in range(pings):
        yield Frame("ping", _event("ping", {}))
    for index, block in enumerate(answer.blocks):
        opening, deltas = _split(block, chunk)
        start = {"index": index, "content_block": opening}
        yield Frame("block", _event("content_block_start", start))
        for delta in deltas:
            yield Frame("delta", _event("content_block_delta", {"index": index, "delta": delta}))
        yield Frame("block", _event("content_block_stop", {"index": index}))
    ending: dict[str, Any] = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    if answer.stop_details is not None:
        ending["stop_details"] = answer.stop_details
    yield Frame("end", _event("message_delta", {"delta": ending, "usage": answer.usage}))
    yield Frame("end", _event("message_stop", {}))


def _split(
    block: dict[str, Any], chunk: int | None
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """How a block is opened, and what follows in pieces."""
    kind = block["type"]
    if kind in STREAMED_TEXT:
        name = STREAMED_TEXT[kind]
        opening = {**block, name: ""}
        deltas = ({"type": f"{kind}_delta", name: part} for part in chunks(block[name], chunk))
        if "signature" in block:
            opening["signature"] = ""
            return opening, _signed(deltas, block["signature"])
        return opening, deltas
    if kind in STREAMED_INPUT:
        text = json.dumps(block["input"], ensure_ascii=False)
        parts = ({"type": "input_json_delta", "partial_json": p} for p in chunks(text, chunk))
        return {**block, "input": {}}, parts
    return block, iter(())


def _signed(deltas: Iterator[dict[str, Any]], signature: Any) -> Iterator[dict[str, Any]]:
    yield from deltas
    yield {"type": "signature_delta", "signature": signature}


def error_body(status: int, error: Mapping[str, str]) -> dict[str, Any]:
    """The body of an HTTP error; what `error` leaves open follows from the status."""
    kind = error.get("type") or ERROR_TYPES.get(status, "api_error")
    text = error.get("message", f"scripted failure with status {status}")
    return {"type": "error", "error": {"type": kind, "message": text}}


def error_frame(error: Mapping[str, str]) -> bytes:
    """An error inside a stream; overloaded unless `error` says otherwise."""
    return _event("error", {"error": {**STREAM_ERROR, **error}})


def _event(kind: str, fields: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
