"""MCP servers for the agent: your own in this process, and external ones described.

An in-process server speaks JSON-RPC in dicts; the engine's control channel carries them. Loading this
module does not load the `mcp` package.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from quarterdeck.clock import SYSTEM_CLOCK, Clock, within
from quarterdeck.errors import OptionError
from quarterdeck.session.mcp_tools import Image, Tool, ToolResult, error_result, tool

__all__ = ["ExternalServer", "Image", "McpServer", "Tool", "ToolResult", "adopt", "tool"]

log = logging.getLogger(__name__)

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")  # newest first
CALL_TIMEOUT = 600.0  # seconds one tool call may take
MAX_CALLS = 64  # tool calls at the same time in one server

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
CANCELLED = -32800

_NAME = re.compile(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

Id = str | int


# -- in this process --------------------------------------------------------------------------------


class McpServer:
    """Tools of yours as a server; the agent sees them as `mcp__<name>__<tool>`.

    `call_timeout` is in seconds; None = no limit. One server may serve one session at a time. Raises
    OptionError.
    """

    def __init__(
        self,
        name: str,
        tools: Sequence[Tool] = (),
        version: str = "1.0.0",
        *,
        instructions: str = "",
        call_timeout: float | None = CALL_TIMEOUT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = check_server_name(name)
        self.version = version
        self.instructions = instructions
        if call_timeout is not None and not call_timeout > 0:
            raise OptionError("call_timeout", call_timeout, "must be over 0 seconds, or None")
        self._timeout = call_timeout
        self._clock = clock
        self._tools: dict[str, Tool] = {}
        self._calls: dict[Id, asyncio.Task[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        for one in tools:
            if not isinstance(one, Tool):
                raise OptionError("tools", one, "must be made by @tool")
            if one.name in self._tools:
                raise OptionError("tools", one.name, "is there twice")
            self._tools[one.name] = one

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What it offers."""
        return tuple(self._tools.values())

    async def handle(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """Answer one JSON-RPC message; None for a notification. Never raises.

        Several may be handled at once. Cancelling ends the tool call, as does a
        `notifications/cancelled` for it; a sync tool runs on in its thread, unheard.
        """
        request_id = request_id_of(message)
        method = message.get("method") if isinstance(message, Mapping) else None
        if not isinstance(method, str):
            if isinstance(message, Mapping) and ("result" in message or "error" in message):
                return None
            return failure(request_id, INVALID_REQUEST, "not a JSON-RPC request")
        params = message.get("params")
        params = params if isinstance(params, Mapping) else {}
        if "id" not in message:
            self._notified(method, params)
            return None
        if message.get("jsonrpc") != "2.0" or request_id is None:
            return failure(request_id, INVALID_REQUEST, "not a JSON-RPC 2.0 request")
        match method:
            case "initialize":
                return success(request_id, self._initialize(params))
            case "ping":
                return success(request_id, {})
            case "tools/list":
                return success(request_id, {"tools": [t.to_wire() for t in self.tools]})
            case "tools/call":
                return await self._call(request_id, params)
        return failure(request_id, METHOD_NOT_FOUND, f"no such method: {method[:200]}")

    async def aclose(self) -> None:
        """End every call that runs. Idempotent; the server can be used again."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _initialize(self, params: Mapping[str, Any]) -> dict[str, Any]:
        # The engine counts its request ids anew after each handshake; what still runs is not asked
        # for any more, and must not be mistaken for a call of the new count.
        self._calls = {}
        asked = params.get("protocolVersion")
        result: dict[str, Any] = {
            "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": self.name, "version": self.version},
        }
        if self.instructions:
            result["instructions"] = self.instructions
        return result

    def _notified(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "notifications/cancelled":
            wanted = _id(params.get("requestId"))
            task = None if wanted is None else self._calls.get(wanted)
            if task is not None:
                task.cancel()

    async def _call(self, request_id: Id, params: Mapping[str, Any]) -> dict[str, Any]:
        calls = self._calls
        if request_id in calls:
            return failure(request_id, INVALID_REQUEST, "a request with this id is still running")
        if len(self._tasks) >= MAX_CALLS:
            return success(request_id, error_result(f"more than {MAX_CALLS} calls at once"))
        task = asyncio.ensure_future(self._run(params))
        calls[request_id] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait({task})
        finally:
            calls.pop(request_id, None)
            task.cancel()
        if task.cancelled():
            return failure(request_id, CANCELLED, "the call was cancelled")
        return success(request_id, task.result())

    async def _run(self, params: Mapping[str, Any]) -> dict[str, Any]:
        name = params.get("name")
        found = self._tools.get(name) if isinstance(name, str) else None
        if found is None:
            log.warning("server %s was asked for an unknown tool: %.100r", self.name, name)
            return error_result(f"unknown tool: {name!s:.200}; there is {', '.join(self._tools)}")
        try:
            return await within(self._clock, self._timeout, found.run(params.get("arguments")))
        except TimeoutError:
            return error_result(f"{found.name} took longer than {self._timeout:g} s")


def check_server_name(name: str) -> str:
    """The name of a server as part of tool names. Raises OptionError."""
    if not isinstance(name, str) or len(name) > 64 or not _NAME.fullmatch(name):
        raise OptionError(
            "name", name, "must be up to 64 letters, digits, - and single _ between them"
        )
    return name


def adopt(server: Any) -> McpServer:
    """Serve a server object of the `mcp` package (`Server` or `MCPServer`) in this process.

    Its name is taken over; it answers everything itself. Raises OptionError for anything else.
    """
    from quarterdeck.session.mcp_adopt import AdoptedServer

    return AdoptedServer(server)


def success(request_id: Id, result: dict[str, Any]) -> dict[str, Any]:
    """A JSON-RPC answer."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def failure(request_id: Id | None, code: int, text: str) -> dict[str, Any]:
    """A JSON-RPC error; the id is None when it could not be read."""
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def request_id_of(message: object) -> Id | None:
    """The id of a JSON-RPC message; None when it has none that can be used."""
    return _id(message.get("id")) if isinstance(message, Mapping) else None


def _id(value: object) -> Id | None:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


# -- outside ----------------------------------------------------------------------------------------


class ExternalServer(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server that the engine starts (`stdio`) or connects to (`http`, `sse`).

    `stdio` has `command`, `args` and `env`; the others have `url` and `headers`. Raises OptionError
    for what is missing, does not belong together or could not be passed on as it is.
    """

    type: Literal["stdio", "http", "sse"] = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.type not in _FIELDS:
            raise OptionError("type", self.type, f"must be one of {', '.join(_FIELDS)}")
        for name in ("command", "args", "env", "url", "headers"):
            if name not in _FIELDS[self.type] and getattr(self, name):
                raise OptionError(name, getattr(self, name), f"has no meaning for {self.type}")
        if self.type == "stdio":
            _check_text("command", self.command)
            if not self.command.strip():
                raise OptionError("command", self.command, "is empty")
            if not isinstance(self.args, tuple):
                raise OptionError("args", self.args, "must be a tuple of texts")
            for arg in self.args:
                _check_text("args", arg)
            _check_names("env", self.env, _ENV_NAME, "\0")
        else:
            _check_url(self.url)
            _check_names("headers", self.headers, _HEADER_NAME, "\0\r\n")

    @classmethod
    def stdio(
        cls, command: str, args: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> ExternalServer:
        """A program that the engine starts; never through a shell."""
        if isinstance(args, str):
            raise OptionError("args", args, "must be a list of texts, not one text")
        return cls(command=command, args=tuple(args), env=dict(env or {}))

    @classmethod
    def http(cls, url: str, headers: Mapping[str, str] | None = None) -> ExternalServer:
        """A server with the streamable HTTP transport."""
        return cls(type="http", url=url, headers=dict(headers or {}))

    @classmethod
    def sse(cls, url: str, headers: Mapping[str, str] | None = None) -> ExternalServer:
        """A server with the older transport by server-sent events."""
        return cls(type="sse", url=url, headers=dict(headers or {}))

    @classmethod
    def from_wire(cls, wire: object) -> ExternalServer:
        """Read the form of `.mcp.json`; `type` may be missing for stdio. Raises OptionError."""
        try:
            fields = msgspec.convert(wire, dict[str, Any])
            unknown = fields.keys() - set(cls.__struct_fields__)
            if unknown:
                raise OptionError("mcp server", sorted(unknown), "has fields that we do not know")
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise OptionError("mcp server", wire, str(error)) from None

    def to_wire(self) -> dict[str, Any]:
        """The engine's own form."""
        if self.type == "stdio":
            wire = {"type": "stdio", "command": self.command, "args": list(self.args)}
            return {**wire, "env": dict(self.env)} if self.env else wire
        wire = {"type": self.type, "url": self.url}
        return {**wire, "headers": dict(self.headers)} if self.headers else wire


_FIELDS: dict[str, tuple[str, ...]] = {
    "stdio": ("command", "args", "env"),
    "http": ("url", "headers"),
    "sse": ("url", "headers"),
}


def _check_text(field: str, value: object, forbidden: str = "\0") -> None:
    if not isinstance(value, str) or any(c in value for c in forbidden):
        raise OptionError(field, value, "must be text without NUL or line breaks where they matter")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise OptionError(field, value, "is not valid Unicode")


def _check_names(field: str, values: object, name: re.Pattern[str], forbidden: str) -> None:
    if not isinstance(values, dict):
        raise OptionError(field, values, "must be a dict of texts")
    for key, value in values.items():
        if not isinstance(key, str) or not name.fullmatch(key):
            raise OptionError(field, key, "is not a valid name")
        try:
            _check_text(f"{field}[{key}]", value, forbidden)
        except OptionError as error:
            # The value may be a secret, so it must not be in the message.
            raise OptionError(f"{field}[{key}]", type(value).__name__, error.reason) from None


def _check_url(url: object) -> None:
    _check_text("url", url, "\0\r\n\t ")
    assert isinstance(url, str)
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError as error:
        raise OptionError("url", url, f"is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise OptionError("url", url, "must be an http or https URL with a host")
    if parts.username is not None or parts.password is not None:
        raise OptionError(
            "url", f"{parts.scheme}://...@{parts.hostname}", "carries a login", remedy="use headers"
        )
