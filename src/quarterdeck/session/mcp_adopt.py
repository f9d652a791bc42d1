"""Servers of the `mcp` package, served in this process over its own in-memory streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from quarterdeck.errors import OptionError
from quarterdeck.session.mcp import (
    CANCELLED,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Id,
    McpServer,
    failure,
    request_id_of,
)

log = logging.getLogger(__name__)

CONNECTION_CLOSED = -32000
GRACE = 2.0  # seconds for the server to end by itself


class AdoptedServer(McpServer):
    """An `mcp` server behind our interface. Each handshake gives it a new connection."""

    def __init__(self, server: Any) -> None:
        lowlevel = getattr(server, "_lowlevel_server", server)
        if not callable(getattr(lowlevel, "create_initialization_options", None)):
            raise OptionError("server", server, "is no server of the mcp package (2.x)")
        super().__init__(str(getattr(server, "name", "")))
        self._lowlevel = lowlevel
        self._connection: _Connection | None = None

    async def handle(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `McpServer.handle`."""
        starts = isinstance(message, Mapping) and message.get("method") == "initialize"
        if starts:
            await self.aclose()
            self._connection = _Connection(self._lowlevel)
            await self._connection.ready
        if self._connection is None:
            return failure(None, INVALID_REQUEST, "initialize comes first")
        return await self._connection.exchange(message)

    async def aclose(self) -> None:
        """End the connection and with it every call. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()


class _Connection:
    """One run of the server, in a task of its own; what waits is found by its id."""

    def __init__(self, lowlevel: Any) -> None:
        loop = asyncio.get_running_loop()
        self._lowlevel = lowlevel
        self._waiting: dict[Id, asyncio.Future[dict[str, Any]]] = {}
        self._write: Any = None
        self.ready: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._run())

    async def exchange(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        from mcp.shared.message import SessionMessage
        from mcp.types import JSONRPCMessage
        from pydantic import TypeAdapter, ValidationError

        request_id = request_id_of(message)
        try:
            typed: Any = TypeAdapter(JSONRPCMessage).validate_python(message)
        except ValidationError:
            return failure(request_id, INVALID_REQUEST, "not a JSON-RPC message")
        if request_id is None or "method" not in message:
            await self._send(SessionMessage(typed))
            self._withdraw(message)
            return None
        if request_id in self._waiting:
            return failure(request_id, INVALID_REQUEST, "a request with this id is still running")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            if not await self._send(SessionMessage(typed)):
                return failure(request_id, CONNECTION_CLOSED, "the server has ended")
            return await answer
        except asyncio.CancelledError:
            await self._cancel(request_id)
            raise
        finally:
            self._waiting.pop(request_id, None)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _withdraw(self, message: Mapping[str, Any]) -> None:
        """The server does not answer a call that was cancelled, but whoever waits here must know."""
        if message.get("method") != "notifications/cancelled":
            return
        params = message.get("params")
        wanted = params.get("requestId") if isinstance(params, Mapping) else None
        answer = self._waiting.get(wanted) if isinstance(wanted, str | int) else None
        if answer is not None and not answer.done():
            answer.set_result(failure(wanted, CANCELLED, "the call was cancelled"))

    async def _cancel(self, request_id: Id) -> None:
        params = {"requestId": request_id, "reason": "nobody waits any more"}
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        await self.exchange(cancelled)

    async def _send(self, message: Any) -> bool:
        """False when the server no longer listens."""
        import anyio

        try:
            await self._write.send(message)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    async def _run(self) -> None:
        from mcp.shared.memory import create_client_server_memory_streams

        try:
            async with create_client_server_memory_streams() as (ours, theirs):
                read, self._write = ours
                options = self._lowlevel.create_initialization_options()
                serving = asyncio.ensure_future(self._lowlevel.run(*theirs, options))
                self.ready.set_result(None)
                try:
                    async for message in read:
                        await self._route(message)
                finally:
                    await self._write.aclose()
                    await asyncio.wait({serving}, timeout=GRACE)
                    serving.cancel()
                    await asyncio.gather(serving, return_exceptions=True)
        except Exception as error:
            log.warning("an adopted MCP server ended", exc_info=error)
            if not self.ready.done():
                self.ready.set_result(None)
        finally:
            for request_id, answer in self._waiting.items():
                if not answer.done():
                    answer.set_result(
                        failure(request_id, CONNECTION_CLOSED, "the server has ended")
                    )

    async def _route(self, message: Any) -> None:
        if isinstance(message, Exception):
            log.warning("an adopted MCP server failed", exc_info=message)
            return
        wire = message.message.model_dump(mode="json", by_alias=True, exclude_none=True)
        if "method" in wire:
            # The control channel has no way to the client for requests of an in-process server.
            if "id" in wire:
                await self.exchange(
                    failure(wire["id"], METHOD_NOT_FOUND, "not offered by this client")
                )
            return
        answer = self._waiting.get(wire.get("id"))
        if answer is not None and not answer.done():
            answer.set_result(wire)
