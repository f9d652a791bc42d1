"""One HTTP/1.1 connection of the scripted model, on h11.

The protocol owns one task. A peer that closes its side is gone: the task is cancelled, so that a
scripted delay or hang never outlives its request.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

import h11
import msgspec

MAX_HEAD = 64 * 1024
MAX_WAITING = 256 * 1024
"""Bytes that may wait unread before we stop taking more from the socket."""
REQUEST_SECONDS = 300.0
"""How long a peer may take for one request, idle time before it included."""
LINGER_SECONDS = 2.0
"""How long a refused request's body is read and thrown away, so that the peer can read the refusal."""


class Request(msgspec.Struct, frozen=True):
    """The head of a request. Header names in lower case; `path` without the query."""

    method: str
    path: str
    headers: dict[str, str]


Handler = Callable[["Connection", Request], Awaitable[None]]


class Connection(asyncio.Protocol):
    """Reads requests one after the other and hands each to the handler, which must respond."""

    def __init__(
        self,
        handler: Handler,
        opened: Callable[[Connection], bool],
        closed: Callable[[Connection], None],
    ) -> None:
        """`opened` is asked once; False means that there are too many connections."""
        self._handler = handler
        self._opened = opened
        self._closed = closed
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._inbox = bytearray()
        self._head_only = False
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport
        self.task: asyncio.Task[None] | None = None

    # -- called by the event loop -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # With a limit of 0, `_write` returns only when the kernel has everything.
        transport.set_write_buffer_limits(high=0)
        if self._opened(self):
            self.task = asyncio.get_running_loop().create_task(self._run())
        else:
            transport.write(b"HTTP/1.1 503 Too many connections\r\nContent-Length: 0\r\n\r\n")
            transport.close()

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        if len(self._inbox) > MAX_WAITING:
            self._transport.pause_reading()
        self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()
        self._closed(self)

    # -- reading ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while await self._one():
                pass
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                text = f"not an HTTP request: {error}\n".encode()
                await self.respond(error.error_status_hint, {"content-type": "text/plain"}, text)
                await self._linger()
        except TimeoutError:
            pass
        except Exception as error:
            # The peer must not wait for an answer that will never come, and it should hear why.
            if self._http.our_state is h11.SEND_RESPONSE:
                text = f"{type(error).__name__}: {error}\n".encode()
                await self.respond(500, {"content-type": "text/plain"}, text)
        finally:
            self._transport.close()

    async def _one(self) -> bool:
        """Serve one request. False when the connection is over."""
        async with asyncio.timeout(REQUEST_SECONDS):
            event = await self._event()
        if not isinstance(event, h11.Request):
            return False
        headers: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        method = event.method.decode("ascii")
        self._head_only = method == "HEAD"
        target = event.target.decode("latin-1").partition("?")[0]
        await self._handler(self, Request(method, target, headers))
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            if self._http.their_state is h11.SEND_BODY:
                await self._linger()
            return False
        self._http.start_next_cycle()
        return True

    async def body(self, limit: int) -> bytes | None:
        """The whole body of the request; None when it is longer than `limit` bytes."""
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        parts, size = [], 0
        async with asyncio.timeout(REQUEST_SECONDS):
            while isinstance(event := await self._event(), h11.Data):
                size += len(event.data)
                if size > limit:
                    return None
                parts.append(bytes(event.data))
        return b"".join(parts)

    async def _event(self) -> h11.Event | None:
        """The next event of this request; None when there is none before our response."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
            self._http.receive_data(bytes(self._inbox))
            self._inbox.clear()
            self._transport.resume_reading()

    async def _linger(self) -> None:
        """Throw away what still comes: a close with unread bytes would destroy our response."""
        self._transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while True:
                    self._arrived.clear()
                    self._inbox.clear()
                    self._transport.resume_reading()
                    await self._arrived.wait()
        except TimeoutError:
            pass

    # -- writing ----------------------------------------------------------------------------------

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response. The connection ends with it if the request's body was not read."""
        head = {**headers, "content-length": str(len(body))}
        if self._http.their_state is h11.SEND_BODY:
            head["connection"] = "close"
        await self.start(status, head)
        if body and not self._head_only:
            await self.send(body)
        await self.finish()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send a response's head; without a content-length the body is sent in chunks."""
        await self._send(h11.Response(status_code=status, headers=list(headers.items())))

    async def send(self, data: bytes) -> None:
        """Send a part of the body; returns when the kernel has it."""
        await self._send(h11.Data(data=data))

    async def finish(self) -> None:
        """End the response."""
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._transport.write(data)
        await self._writable.wait()

    def cut(self) -> None:
        """Close the connection as it is: what was sent arrives, and then the end."""
        self._http.send_failed()
        self._transport.close()

    def reset(self) -> None:
        """Tear the connection down: the peer sees a reset."""
        found = self._transport.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._http.send_failed()
        self._transport.abort()

    def abort(self) -> None:
        """Close at once, unsent bytes included. Idempotent."""
        self._transport.abort()
