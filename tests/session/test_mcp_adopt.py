"""Servers of the mcp package behind our interface."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.server import Server
from mcp.server.mcpserver import MCPServer

from quarterdeck.errors import OptionError
from quarterdeck.session.mcp import McpServer, adopt

INITIALIZE = {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "claude-code", "version": "2.1.197"},
    },
    "jsonrpc": "2.0",
    "id": 0,
}


def calculator(running: asyncio.Semaphore | None = None) -> MCPServer[Any]:
    made: MCPServer[Any] = MCPServer("calc")

    @made.tool()
    def add(a: int, b: int) -> str:
        return str(a + b)

    @made.tool()
    async def forever() -> str:
        if running is not None:
            running.release()
        await asyncio.Event().wait()
        return "never"

    return made


def use(tool_name: str, request_id: int, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool_name, "arguments": arguments, "_meta": {"progressToken": 2}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


async def test_two_handshakes_and_calls() -> None:
    server = adopt(calculator())
    assert isinstance(server, McpServer)
    assert server.name == "calc"
    for _ in range(2):
        hello = await server.handle(INITIALIZE)
        assert hello is not None
        assert hello["result"]["protocolVersion"] == "2025-11-25"
        assert (
            await server.handle({"jsonrpc": "2.0", "method": "notifications/initialized"}) is None
        )
        listed = await server.handle({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert listed is not None
        assert [t["name"] for t in listed["result"]["tools"]] == ["add", "forever"]
    answers = await asyncio.gather(*(server.handle(use("add", n, a=n, b=1)) for n in range(2, 6)))
    texts = [a["result"]["content"][0]["text"] for a in answers if a is not None]
    assert texts == ["3", "4", "5", "6"]
    await server.aclose()
    await server.aclose()


async def test_the_low_level_server_too() -> None:
    server = adopt(Server("plain"))
    hello = await server.handle(INITIALIZE)
    assert hello is not None
    assert hello["result"]["serverInfo"]["name"] == "plain"
    unknown = await server.handle({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert unknown is not None
    assert unknown["error"]["code"] == -32601
    await server.aclose()


async def test_every_way_a_call_ends_early() -> None:
    running = asyncio.Semaphore(0)
    server = adopt(calculator(running))
    await server.handle(INITIALIZE)
    await server.handle({"jsonrpc": "2.0", "method": "notifications/initialized"})
    calls = [asyncio.create_task(server.handle(use("forever", n))) for n in (1, 2, 3)]
    for _ in calls:
        await asyncio.wait_for(running.acquire(), 5)
    params = {"requestId": 1}
    await server.handle({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
    cancelled = await asyncio.wait_for(calls[0], 5)
    assert cancelled is not None
    assert cancelled["error"]["code"] == -32800
    calls[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[1]
    await server.aclose()
    ended = await asyncio.wait_for(calls[2], 5)
    assert ended is not None
    assert ended["error"]["code"] == -32000


async def test_messages_that_are_none() -> None:
    server = adopt(calculator())
    early = await server.handle({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert early is not None
    assert early["error"]["code"] == -32600
    await server.handle(INITIALIZE)
    wrong: Any
    for wrong in ({"id": 4}, [], None):
        reply = await server.handle(wrong)
        assert reply is not None
        assert reply["error"]["code"] == -32600
    await server.aclose()


@pytest.mark.parametrize("other", [None, object(), print])
def test_other_objects_are_refused(other: Any) -> None:
    with pytest.raises(OptionError):
        adopt(other)
