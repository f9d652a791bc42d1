from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.gateway.gateway_client import hear, request_bytes

from quarterdeck.gateway import http
from quarterdeck.gateway.server import ModelServer

Wire = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
def wire(model: ModelServer) -> Wire:
    host, port = model.url.removeprefix("http://").split(":")
    return lambda: asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 403),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request(wire: Wire, data: bytes, status: int) -> None:
    reader, writer = await wire()
    writer.write(data)
    heard = await hear(reader)
    assert (heard.status, heard.ending) == (status, "complete")
    writer.close()


async def test_too_many_connections(model: ModelServer, wire: Wire, monkeypatch: Any) -> None:
    monkeypatch.setattr("quarterdeck.gateway.server.MAX_CONNECTIONS", 2)
    held = [await wire() for _ in range(2)]
    async with asyncio.timeout(5):
        while model.connections < 2:
            await asyncio.sleep(0.001)
    reader, writer = await wire()
    heard = await hear(reader)
    assert heard.status == 503
    for _, other in (*held, (reader, writer)):
        other.close()


async def test_a_client_that_waits_for_100_continue(model: ModelServer, wire: Wire) -> None:
    reader, writer = await wire()
    body = b'{"messages": [{"role": "user", "content": "hi"}]}'
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: {model.url[7:]}\r\nX-Api-Key: {model.token}\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode())
    assert await reader.readline() == b"HTTP/1.1 100 \r\n"
    assert await reader.readline() == b"\r\n"
    writer.write(body)
    assert (await hear(reader)).status == 200
    writer.close()


async def test_a_chunked_body_is_counted(model: ModelServer, wire: Wire, monkeypatch: Any) -> None:
    monkeypatch.setattr("quarterdeck.gateway.server.MAX_BODY", 1000)
    reader, writer = await wire()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: {model.url[7:]}\r\nX-Api-Key: {model.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    writer.write(head.encode() + (b"1f4\r\n" + b"x" * 500 + b"\r\n") * 3)
    assert (await hear(reader)).status == 413
    writer.close()


async def test_a_client_that_sends_on_can_read_its_refusal(model: ModelServer) -> None:
    host, port = model.url.removeprefix("http://").split(":")

    def send_everything_first() -> bytes:
        with socket.create_connection((host, int(port)), timeout=10) as client:
            body = bytes(16 * 1024 * 1024)
            head = {"Host": f"{host}:{port}", "Content-Length": str(len(body))}
            client.sendall(request_bytes("POST", "/v1/messages", head) + body)
            return client.recv(65536)

    assert (await asyncio.to_thread(send_everything_first)).startswith(b"HTTP/1.1 401 ")


async def test_a_slow_request_is_given_up(wire: Wire, monkeypatch: Any) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)
    reader, writer = await wire()
    writer.write(b"GET / HT")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_failure_of_ours_is_told(model: ModelServer, wire: Wire, monkeypatch: Any) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model._recorder, "add", broken)
    reader, writer = await wire()
    writer.write(
        f"GET /v1/models HTTP/1.1\r\nHost: {model.url[7:]}\r\nX-Api-Key: {model.token}\r\n\r\n".encode()
    )
    heard = await hear(reader)
    assert heard.status == 500
    assert b"No space left" in heard.data
    writer.close()
