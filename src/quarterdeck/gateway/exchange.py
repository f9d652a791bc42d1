"""PURE. What passes between a wire codec and whoever answers: request, answer, frames, delivery.

A codec turns a request's body into a `ModelRequest`, and an `Answer` into a body or into `Frame`s.
`deliver` puts a reply's pauses and faults between the frames; the server only carries out its steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from quarterdeck.errors import ProtocolError
from quarterdeck.gateway.reply import RESERVED_ID, STREAMED_INPUT, Reply

DEFAULT_USAGE: Mapping[str, int] = {
    "input_tokens": 100,
    "output_tokens": 20,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
}
SIGNATURE = "c2NyaXB0ZWQ="
RESET_GRACE = 0.02
"""Seconds before a reset: the peer's program may lose what it has not read by then."""

_MODEL = {
    "id": "scripted",
    "type": "model",
    "object": "model",
    "display_name": "Scripted model",
    "created_at": "1970-01-01T00:00:00Z",
    "created": 0,
    "owned_by": "quarterdeck",
}
PAGES: Mapping[str, Mapping[str, Any]] = {
    "/": {"name": "quarterdeck scripted model"},
    "/v1/models": {
        "object": "list",
        "data": [_MODEL],
        "has_more": False,
        "first_id": "scripted",
        "last_id": "scripted",
    },
}
"""What GET gives, in a form that fits both wire formats."""

Source = Literal["script", "directive", "aux", "default", ""]


class ModelRequest(msgspec.Struct, frozen=True):
    """What matters of a request for a model's answer.

    `text` and `tool_result` are what is new: the text and the tool results of the messages after the
    assistant's last one.
    """

    model: str
    stream: bool
    system: str
    text: str
    tool_result: str
    tools: tuple[str, ...]
    messages: int
    include_usage: bool = True


class Answer(msgspec.Struct, frozen=True):
    """A whole answer of the model: content blocks in the Anthropic form, ids included."""

    number: int
    model: str
    blocks: tuple[dict[str, Any], ...]
    stop_reason: str
    stop_details: dict[str, Any] | None
    usage: dict[str, int]
    created: int


class Frame(msgspec.Struct, frozen=True):
    """One event of a stream, encoded. `head` opens the message, a `delta` carries content."""

    kind: Literal["head", "ping", "block", "delta", "end"]
    data: bytes


class RecordedRequest(msgspec.Struct, frozen=True):
    """A request that the scripted model answered. Its token is nowhere in it.

    `body` is the decoded JSON ({} without one); `reply` is the reply as the script has it, and
    `source` says where that came from: `script`, `directive`, `aux`, `default`, or "" for a path that
    no script answers. `time` in Unix seconds.
    """

    time: float
    method: str
    path: str
    model: str
    headers: dict[str, str]
    body: dict[str, Any]
    reply: dict[str, Any]
    source: Source
    status: int


class Ids:
    """Numbers for messages, tool calls and requests: the same script gives the same ids."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def number(self, kind: str) -> int:
        """The next number of this kind, from 1."""
        self._next[kind] = self._next.get(kind, 0) + 1
        return self._next[kind]

    def tool(self) -> str:
        """An id for a tool call."""
        return f"{RESERVED_ID}{self.number('tool'):04d}"


def make_answer(reply: Reply, request: ModelRequest, ids: Ids, created: int) -> Answer:
    """The answer that a reply gives to a request. `created` in Unix seconds."""
    blocks = tuple(_with_id(block, ids) for block in reply.blocks)
    if reply.thinking is not None:
        blocks += ({"type": "thinking", "thinking": reply.thinking, "signature": SIGNATURE},)
    if reply.text is not None:
        blocks += ({"type": "text", "text": reply.text},)
    blocks += tuple(
        {"type": "tool_use", "id": call.get("id") or ids.tool(), **_call(call)}
        for call in reply.tools
    )
    calls = any(block["type"] == "tool_use" for block in blocks)
    return Answer(
        number=ids.number("message"),
        model=request.model,
        blocks=blocks,
        stop_reason=reply.stop_reason or ("tool_use" if calls else "end_turn"),
        stop_details=reply.stop_details,
        usage={**DEFAULT_USAGE, **reply.usage},
        created=created,
    )


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": call["name"], "input": call["input"]}


def _with_id(block: dict[str, Any], ids: Ids) -> dict[str, Any]:
    if block["type"] in STREAMED_INPUT and "id" not in block:
        return {**block, "id": ids.tool()}
    return block


# -- delivery -----------------------------------------------------------------------------------------


class Pause(msgspec.Struct, frozen=True):
    """Wait."""

    seconds: float


class Send(msgspec.Struct, frozen=True):
    """Send bytes of the body."""

    data: bytes


class End(msgspec.Struct, frozen=True):
    """The end of the response.

    `complete`: the body is whole for HTTP, the connection stays. `closed`: the same, and the connection
    is closed. `cut`: it is closed though more was announced. `reset`: it is torn down.
    """

    how: Literal["complete", "closed", "cut", "reset"]


Step = Pause | Send | End

_AFTER: Mapping[str, Literal["error", "drop", "truncate", "malformed"]] = {
    "error_after": "error",
    "drop_after": "drop",
    "truncate_after": "truncate",
    "malformed_after": "malformed",
}


def stream_fault(reply: Reply) -> tuple[str, int] | None:
    """The reply's fault inside the stream and after how many events it comes, or None."""
    for field, fault in _AFTER.items():
        count = getattr(reply, field)
        if count is not None:
            return fault, count
    return None


def deliver(reply: Reply, frames: Iterable[Frame], error_frame: bytes) -> Iterator[Step]:
    """The steps that send a stream, from the first event to the end of the response.

    A fault that is set for later than the stream's last event takes the place of that event: it
    always shows.
    """
    fault, count = stream_fault(reply) or ("", -1)
    first, sent = True, 0
    source = iter(frames)
    frame = next(source, None)
    while frame is not None:
        following = next(source, None)
        if fault and (sent == count or following is None):
            if fault != "malformed":
                yield from _fault(fault, error_frame)
                return
            yield Send(_MALFORMED)
            fault = ""
        delay = reply.step_delay if frame.kind in ("delta", "ping") else 0.0
        if first and frame.kind not in ("head", "ping"):
            first, delay = False, delay + reply.first_delay
        if delay:
            yield Pause(delay)
        yield Send(frame.data)
        sent += 1
        frame = following
    yield End("complete")


_MALFORMED = b'event: content_block_delta\ndata: {"type": "content_block_delta", "ind\n\n'


def _fault(fault: str, error_frame: bytes) -> Iterator[Step]:
    if fault == "error":
        yield Send(error_frame)
        yield End("complete")
    elif fault == "drop":
        yield Pause(RESET_GRACE)
        yield End("reset")
    else:
        yield End("closed")


def deliver_whole(reply: Reply, body: bytes) -> Iterator[Step]:
    """The steps that send an answer that is not streamed; its stream faults hit the body's middle.

    `error_after` has no meaning here: the server answers with an HTTP error instead.
    """
    fault, _ = stream_fault(reply) or ("", 0)
    half = len(body) // 2
    if fault == "malformed":
        yield Send(body[:half] + b"\x00" * (len(body) - half))
        yield End("complete")
    elif fault in ("drop", "truncate"):
        yield Send(body[:half])
        if fault == "drop":
            yield Pause(RESET_GRACE)
        yield End("reset" if fault == "drop" else "cut")
    else:
        yield Send(body)
        yield End("complete")


def chunks(text: str, size: int | None) -> Iterator[str]:
    """The text in pieces of `size` characters; in one piece without a size, in none when empty."""
    step = size or max(1, len(text))
    for start in range(0, len(text), step):
        yield text[start : start + step]


# -- what both codecs ask of a body -------------------------------------------------------------------


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The request's messages. Raises ProtocolError when they are not a list of objects."""
    found = body.get("messages")
    if not isinstance(found, list) or not found:
        raise ProtocolError("messages: a list with at least one message is required")
    if not all(isinstance(message, dict) for message in found):
        raise ProtocolError("messages: every message must be an object")
    return found


def newest(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages after the assistant's last one (an unfinished answer at the end apart)."""
    end = len(messages)
    while end and messages[end - 1].get("role") == "assistant":
        end -= 1
    start = end
    while start and messages[start - 1].get("role") != "assistant":
        start -= 1
    return messages[start:end]


def text_of(content: Any) -> str:
    """The text in a message's content: a text, or the text parts of a list, joined by newlines."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def tool_names(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the tools that the request offers, "" for one that has none."""
    tools = body.get("tools")
    found = []
    for tool in tools if isinstance(tools, list) else ():
        inner = tool.get("function", tool) if isinstance(tool, dict) else {}
        found.append(str(inner.get("name", "")) if isinstance(inner, dict) else "")
    return tuple(found)
