"""In-process servers answer what the engine sends; external ones are checked before they are passed on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import InitializeResult, JSONRPCError, JSONRPCResponse, ListToolsResult

from quarterdeck.errors import OptionError
from quarterdeck.session.mcp import ExternalServer, McpServer, Tool, tool


@tool(read_only=True)
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


@tool
def boom() -> None:
    raise ValueError("it broke")


# As Claude Code 2.1.197 sends them.
INITIALIZE: dict[str, Any] = {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "claude-code", "version": "2.1.197"},
    },
    "jsonrpc": "2.0",
    "id": 0,
}
INITIALIZED = {"method": "notifications/initialized", "jsonrpc": "2.0"}


def server(*tools: Tool, **options: Any) -> McpServer:
    return McpServer("calc", tools or (add, boom), **options)


def request(method: str, request_id: Any = 1, **params: Any) -> dict[str, Any]:
    return {"method": method, "params": params, "jsonrpc": "2.0", "id": request_id}


def use(tool_name: str, request_id: Any = 1, **arguments: Any) -> dict[str, Any]:
    meta = {"claudecode/toolUseId": "toolu_1", "progressToken": 2}
    return request("tools/call", request_id, name=tool_name, arguments=arguments, _meta=meta)


async def result(of: McpServer, message: dict[str, Any]) -> dict[str, Any]:
    reply = await of.handle(message)
    JSONRPCResponse.model_validate(reply)
    assert reply is not None
    assert reply["id"] == message["id"]
    return dict(reply["result"])


async def test_the_handshake_twice_and_a_call() -> None:
    calc = server(instructions="Count.")
    for _ in range(2):
        hello = await result(calc, INITIALIZE)
        InitializeResult.model_validate(hello)
        assert hello["protocolVersion"] == "2025-11-25"
        assert hello["serverInfo"] == {"name": "calc", "version": "1.0.0"}
        assert hello["instructions"] == "Count."
        assert await calc.handle(INITIALIZED) is None
        listed = await result(calc, request("tools/list"))
        ListToolsResult.model_validate(listed)
        assert [t["name"] for t in listed["tools"]] == ["add", "boom"]
    assert await result(calc, use("add", a=2, b=3)) == {
        "content": [{"type": "text", "text": "5.0"}]
    }
    assert (await result(calc, use("boom")))["isError"] is True
    assert await result(calc, request("ping", "p")) == {}


@pytest.mark.parametrize(
    ("asked", "got"),
    [("2024-11-05", "2024-11-05"), ("1999-01-01", "2025-11-25"), ([], "2025-11-25")],
)
async def test_the_protocol_version(asked: Any, got: str) -> None:
    hello = await result(server(), request("initialize", protocolVersion=asked))
    assert hello["protocolVersion"] == got


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (use("subtract"), "subtract"),
        (use("add", a=1), "`b`"),
        (request("tools/call"), "unknown tool"),
        (request("tools/call", name=5), "unknown tool"),
        (request("tools/call", name="add", arguments="x"), "add"),
    ],
)
async def test_what_the_model_did_wrong_it_reads(message: dict[str, Any], named: str) -> None:
    answer = await result(server(), message)
    assert answer["isError"] is True
    assert named in answer["content"][0]["text"]


@pytest.mark.parametrize(
    ("message", "code", "request_id"),
    [
        (request("resources/list", 7), -32601, 7),
        ({"jsonrpc": "2.0", "id": "x"}, -32600, "x"),
        ({"method": "ping", "id": 3}, -32600, 3),
        ({"method": "ping", "jsonrpc": "2.0", "id": True}, -32600, None),
        ({"method": "ping", "jsonrpc": "2.0", "id": None}, -32600, None),
        ({"method": 5, "jsonrpc": "2.0", "id": 1}, -32600, 1),
        ([], -32600, None),
        (None, -32600, None),
    ],
)
async def test_what_is_no_request(message: Any, code: int, request_id: Any) -> None:
    reply = await server().handle(message)
    assert reply is not None
    assert reply["error"]["code"] == code
    assert reply["id"] == request_id
    JSONRPCError.model_validate(reply)


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/unknown"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}},
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {}},
    ],
)
async def test_what_needs_no_answer(message: Any) -> None:
    assert await server().handle(message) is None


async def test_calls_run_side_by_side() -> None:
    here, there = threading.Barrier(2, timeout=5), asyncio.Barrier(2)

    @tool
    def sync() -> None:
        here.wait()

    @tool
    async def later() -> None:
        await there.wait()

    both = server(sync, later)
    names = ["sync", "sync", "later", "later"]
    calls = (result(both, use(name, number)) for number, name in enumerate(names))
    assert await asyncio.wait_for(asyncio.gather(*calls), 10) == [{"content": []}] * 4


class Waiting:
    """A server with a tool that waits until it is ended."""

    def __init__(self, **options: Any) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.server = server(tool(self.wait), **options)

    async def wait(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def begin(self, request_id: Any = 5) -> asyncio.Task[Any]:
        self.started.clear()
        task = asyncio.create_task(self.server.handle(use("wait", request_id)))
        await asyncio.wait_for(self.started.wait(), 5)
        return task


async def test_the_engine_cancels_a_call() -> None:
    waiting = Waiting()
    task = await waiting.begin()
    params = {"requestId": 5, "reason": "timeout"}
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    assert await waiting.server.handle(cancel) is None
    reply = await asyncio.wait_for(task, 5)
    assert reply["error"]["code"] == -32800
    assert reply["id"] == 5
    assert waiting.ended.is_set()
    assert await waiting.server.handle(cancel) is None


async def test_cancelling_the_answer_ends_the_call() -> None:
    waiting = Waiting()
    task = await waiting.begin()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(waiting.ended.wait(), 5)


async def test_ids_in_use_and_a_new_handshake() -> None:
    waiting = Waiting()
    first = await waiting.begin(0)
    again = await waiting.server.handle(use("wait", 0))
    assert again is not None
    assert again["error"]["code"] == -32600
    await waiting.server.handle(INITIALIZE)
    second = await waiting.begin(0)
    await waiting.server.aclose()
    for task in (first, second):
        assert (await asyncio.wait_for(task, 5))["error"]["code"] == -32800
    assert await result(waiting.server, request("ping")) == {}


async def test_a_call_that_takes_too_long() -> None:
    waiting = Waiting(call_timeout=0.01)
    reply = await asyncio.wait_for(await waiting.begin(), 5)
    assert reply["result"]["isError"] is True
    assert "longer than 0.01 s" in reply["result"]["content"][0]["text"]
    assert waiting.ended.is_set()


async def test_too_many_calls_at_once() -> None:
    waiting = Waiting()
    tasks = [await waiting.begin(number) for number in range(64)]
    assert (await result(waiting.server, use("wait", 64)))["isError"] is True
    await waiting.server.aclose()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: McpServer("a b"),
        lambda: McpServer("a__b"),
        lambda: McpServer("_a"),
        lambda: McpServer("x" * 65),
        lambda: McpServer(5),  # type: ignore[arg-type]
        lambda: McpServer("a", [add, add]),
        lambda: McpServer("a", [print]),  # type: ignore[list-item]
        lambda: McpServer("a", call_timeout=0),
    ],
)
def test_what_cannot_be_a_server(make: Any) -> None:
    with pytest.raises(OptionError):
        make()


WORDS = st.sampled_from(["2.0", "initialize", "tools/call", "tools/list", "add"])
KEYS = st.sampled_from(["jsonrpc", "id", "method", "params", "name", "arguments", "requestId"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner | WORDS, max_size=5)
        ),
        max_leaves=8,
    )
)
def test_no_message_raises(message: Any) -> None:
    with asyncio.Runner() as runner:
        runner.run(server().handle(message))


def test_loading_the_module_does_not_load_mcp() -> None:
    code = "import sys, quarterdeck.session.mcp; print('mcp' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- external servers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "wire"),
    [
        (ExternalServer.stdio("node"), {"type": "stdio", "command": "node", "args": []}),
        (
            ExternalServer.stdio("node", ["a b", "--x", ""], {"A_1": "v\n"}),
            {"type": "stdio", "command": "node", "args": ["a b", "--x", ""], "env": {"A_1": "v\n"}},
        ),
        (
            ExternalServer.http("https://example.org:8/mcp?x", {"Authorization": "Bearer x"}),
            {
                "type": "http",
                "url": "https://example.org:8/mcp?x",
                "headers": {"Authorization": "Bearer x"},
            },
        ),
        (ExternalServer.sse("http://[::1]/sse"), {"type": "sse", "url": "http://[::1]/sse"}),
    ],
)
def test_external_servers_in_the_engines_form(made: ExternalServer, wire: dict[str, Any]) -> None:
    assert made.to_wire() == wire
    assert ExternalServer.from_wire(wire) == made


def test_the_type_may_be_missing_for_a_program() -> None:
    assert ExternalServer.from_wire({"command": "x"}) == ExternalServer.stdio("x")


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ({"type": "websocket"}, "mcp server"),
        ({"command": ""}, "command"),
        ({"command": " "}, "command"),
        ({"command": "a\0"}, "command"),
        ({"command": 5}, "mcp server"),
        ({"command": "a", "args": "b"}, "mcp server"),
        ({"command": "a", "args": ["b\0"]}, "args"),
        ({"command": "a", "args": [5]}, "mcp server"),
        ({"command": "a", "env": {"A B": ""}}, "env"),
        ({"command": "a", "env": {"A": "secret\0"}}, "env[A]"),
        ({"command": "a", "cwd": "/"}, "mcp server"),
        ({"command": "a", "url": "http://x"}, "url"),
        ({"type": "http"}, "url"),
        ({"type": "http", "url": "file:///etc/passwd"}, "url"),
        ({"type": "http", "url": "http://"}, "url"),
        ({"type": "http", "url": "http://x:99999/"}, "url"),
        ({"type": "http", "url": "http://x/\r\nA: b"}, "url"),
        ({"type": "sse", "url": "https://me:secret@x/"}, "url"),
        ({"type": "sse", "url": "http://x", "headers": {"A": "secret\r\nB: c"}}, "headers[A]"),
        ({"type": "sse", "url": "http://x", "headers": {"A:": "b"}}, "headers"),
        ({"type": "sse", "url": "http://x", "command": "a"}, "command"),
        ([], "mcp server"),
        (None, "mcp server"),
    ],
)
def test_wrong_external_servers_are_refused(wire: Any, field: str) -> None:
    with pytest.raises(OptionError) as caught:
        ExternalServer.from_wire(wire)
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": 5},
        {"command": "a", "args": ["b"]},
        {"command": "a", "args": (5,)},
        {"command": "a", "env": {"A": 5}},
        {"command": "a", "env": ["A"]},
        {"type": "http", "url": 5},
        {"type": "http", "url": "http://" + chr(0xD800)},
        {"type": "websocket"},
    ],
    ids=range(8),
)
def test_types_are_checked_without_the_reader_too(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ExternalServer(**fields)
    with pytest.raises(OptionError):
        ExternalServer.stdio("a", "b")
