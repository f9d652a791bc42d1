"""A client for the scripted model that sees what happens on the socket, and folds streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h11


class InstantClock:
    """Remembers every wait and returns at once."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@dataclass
class Heard:
    """One response. `ending`: complete (HTTP says so), cut (FIN too early), reset (RST)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ending: str = ""
    closed: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[bytes]:
        """The stream's events, whole ones only."""
        return self.data.split(b"\n\n")[:-1]


async def ask(
    url: str,
    path: str,
    body: Any = None,
    *,
    token: str = "",
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    keep: float = 0,
) -> Heard:
    """Send one request over a new connection, hear everything until its end, close the connection.

    With `keep` the connection may stay open; `Heard.closed` says whether the server closed it within
    so many seconds.
    """
    host, port = url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        data = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        head = {"Host": f"{host}:{port}", "Content-Length": str(len(data))}
        head |= {"x-api-key": token} if token else {}
        head |= {} if keep else {"Connection": "close"}
        head |= headers or {}
        writer.write(request_bytes(method, path, head) + data)
        heard = await hear(reader, method)
        if keep and heard.ending == "complete":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(keep):
                    heard.closed = await reader.read() == b""
        return heard
    finally:
        writer.close()


def request_bytes(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items() if v), "", ""]
    return "\r\n".join(lines).encode()


async def hear(reader: asyncio.StreamReader, method: str = "POST") -> Heard:
    """Read one response from a socket."""
    client, heard = h11.Connection(h11.CLIENT), Heard()
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    try:
        while not heard.ending:
            event = client.next_event()
            if event is h11.NEED_DATA:
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                async with asyncio.timeout(10):
                    received = await reader.read(65536)
                client.receive_data(received)
            elif isinstance(event, h11.Response):
                heard.status = event.status_code
                heard.headers = {n.decode(): v.decode() for n, v in event.headers}
            elif isinstance(event, h11.Data):
                heard.data += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                heard.ending = "complete"
            elif isinstance(event, h11.ConnectionClosed):
                heard.ending = "cut"
    except ConnectionResetError:
        heard.ending = "reset"
    except h11.RemoteProtocolError:
        heard.ending = "cut"
    return heard


def messages(text: str = "hi", *, tools: bool = True, **fields: Any) -> dict[str, Any]:
    """A request's body that fits both wire formats."""
    offered = [{"name": "Bash", "input_schema": {}}] if tools else []
    said = [{"role": "user", "content": text}]
    return {"model": "m-1", "max_tokens": 9, "messages": said, "tools": offered, **fields}


def anthropic_events(data: bytes) -> list[dict[str, Any]]:
    """Decode a Messages stream; the event name must agree with the data."""
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        name, payload = event.split("\n")
        decoded = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {decoded['type']}"
        found.append(decoded)
    return found


def fold_anthropic(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a Messages stream amounts to."""
    message: dict[str, Any] = {}
    blocks: list[dict[str, Any]] = []
    parts: list[str] = []
    for event in events:
        if event["type"] == "message_start":
            message = dict(event["message"])
        elif event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
            parts = []
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                parts.append(delta["partial_json"])
            else:
                name = delta["type"].removesuffix("_delta")
                blocks[-1][name] += delta[name]
        elif event["type"] == "content_block_stop" and parts:
            blocks[-1]["input"] = json.loads("".join(parts))
        elif event["type"] == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    assert events[-1]["type"] == "message_stop"
    return {**message, "content": blocks}


def openai_events(data: bytes) -> list[dict[str, Any]]:
    """Decode a chat stream, whose end must be [DONE]; comments are left out."""
    lines = [e for e in data.decode().split("\n\n")[:-1] if not e.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def fold_openai(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The completion that a chat stream amounts to."""
    said: dict[str, Any] = {"content": None}
    calls: list[dict[str, Any]] = []
    whole: dict[str, Any] = {}
    for event in events:
        whole |= {k: v for k, v in event.items() if k not in ("choices", "object")}
        for choice in event["choices"]:
            delta = choice["delta"]
            whole["finish_reason"] = choice["finish_reason"]
            for name in ("content", "reasoning_content"):
                said[name] = (said.get(name) or "") + delta.get(name, "")
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(calls)
                    calls.append({**call, "function": dict(call["function"])})
                else:
                    more = call["function"]["arguments"]
                    calls[call["index"]]["function"]["arguments"] += more
    return {**whole, "message": said, "calls": calls}
