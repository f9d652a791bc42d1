"""The scripted model's server: answers from a script, on loopback only, to who knows the token."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from quarterdeck.clock import SYSTEM_CLOCK, Clock
from quarterdeck.errors import OptionError, ProtocolError, ScriptError
from quarterdeck.gateway import anthropic, openai
from quarterdeck.gateway.door import check_port, check_token, in_url, loopback, refusal
from quarterdeck.gateway.exchange import (
    PAGES,
    End,
    Ids,
    ModelRequest,
    Pause,
    RecordedRequest,
    Step,
    deliver,
    deliver_whole,
    make_answer,
)
from quarterdeck.gateway.http import Connection, Request
from quarterdeck.gateway.recording import Recorder
from quarterdeck.gateway.reply import Reply
from quarterdeck.gateway.script import (
    MAX_SCRIPT_BYTES,
    Replies,
    Script,
    check_variables,
    parse_replies,
    parse_script,
    parse_text,
)

MAX_BODY = 64 * 1024 * 1024
MAX_CONNECTIONS = 256
BATCH = 32 * 1024
"""Stream bytes that are sent at once when no pause lies between them."""

ScriptSource = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any] | None

_JSON = {"content-type": "application/json"}


class ModelServer:
    """A server that speaks the Anthropic Messages and OpenAI chat-completions formats.

    `script` is a file's path, a list of replies, a mapping as in a file, or None. `push`, `clear` and
    `requests` may be used from any thread, everything else on the loop that started it.

    Raises OptionError for an address that is not loopback, an unusable port, token or variable.
    """

    def __init__(
        self,
        script: ScriptSource = None,
        *,
        variables: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        log: Path | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._host = loopback(host)
        self._port = check_port(port)
        self.token = check_token(
            f"scripted-{secrets.token_urlsafe(24)}" if token is None else token
        )
        self._script = script
        self._variables = dict(check_variables(variables or {}))
        self._recorder = Recorder(self.token, clock, log)
        self._clock = clock
        self._lock = threading.Lock()
        self._replies = Replies(Script())
        self._ids = Ids()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the script, then listen.

        Raises ScriptError for the script, OptionError when port or log file cannot be used; then
        nothing was started.
        """
        self._replies = Replies(read_script(self._script, self._variables))
        self._recorder.open()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, self._host, self._port, backlog=128
            )
        except OSError as error:
            self._recorder.close()
            reason = f"cannot listen on {self._host}: {error.strerror}"
            remedy = "choose another port, or 0 for a free one"
            raise OptionError("port", self._port, reason, remedy=remedy) from None
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening, end every connection and reply, close the log. Idempotent.

        `requests`, `url` and `token` stay readable.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        try:
            while self._connections:
                tasks = [c.task for c in self._connections if c.task is not None]
                for connection in tuple(self._connections):
                    connection.abort()  # which cancels its task
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.sleep(0)  # the loop reports each lost connection in its next round
            await server.wait_closed()
        finally:
            self._recorder.close()

    async def __aenter__(self) -> ModelServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- for the owner ----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL for an agent, without a path."""
        return f"http://{in_url(self._host)}:{self._port}"

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The newest requests, oldest first: at most 1000, and at most 64 MiB of bodies."""
        return self._recorder.all()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def push(self, *replies: Mapping[str, Any]) -> None:
        """Append replies, checked and with variables filled in. Raises ScriptError; then none is."""
        checked = parse_replies(replies, "push", self._variables)
        with self._lock:
            self._replies.add(checked)

    def clear(self) -> None:
        """Forget the replies that wait and the requests so far."""
        with self._lock:
            self._replies.clear()
        self._recorder.clear()

    # -- one request ------------------------------------------------------------------------------

    def _connection(self) -> Connection:
        return Connection(self._handle, self._opened, self._connections.discard)

    def _opened(self, connection: Connection) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    async def _handle(self, connection: Connection, request: Request) -> None:
        codec = openai if request.path == "/v1/chat/completions" else anthropic
        refused = refusal(request.headers, address=self._host, port=self._port, token=self.token)
        # Claude Code opens its connection with a HEAD that carries no key (seen with 2.1.197).
        greeting = request.method == "HEAD" and request.path == "/"
        if refused is not None and not (greeting and refused[0] == 401):
            await _fail(connection, codec, *refused)
        elif (request.method, request.path) in _GENERATES:
            await self._generate(connection, codec, request)
        elif (request.method, request.path) == ("POST", "/v1/messages/count_tokens"):
            await self._count(connection, request)
        elif request.method in ("GET", "HEAD") and request.path in PAGES:
            if request.path != "/":
                self._recorder.add(request, {}, 0, 200)
            await connection.respond(200, _JSON, json.dumps(PAGES[request.path]).encode())
        else:
            self._recorder.add(request, {}, 0, 404)
            message = f"the scripted model has no {request.method} {request.path[:200]}"
            await _fail(connection, codec, 404, message)

    async def _count(self, connection: Connection, request: Request) -> None:
        read = await self._read(connection, anthropic)
        if read is not None:
            body, size = read
            self._recorder.add(request, body, size, 200)
            tokens = {"input_tokens": max(1, size // 4)}
            await connection.respond(200, _JSON, json.dumps(tokens).encode())

    async def _generate(self, connection: Connection, codec: ModuleType, request: Request) -> None:
        read = await self._read(connection, codec)
        if read is None:
            return
        body, size = read
        try:
            asked: ModelRequest = codec.read_request(body)
            with self._lock:
                choice = self._replies.choose(asked)
            plan = self._plan(codec, choice.reply, asked)
        except (ProtocolError, ScriptError) as error:
            self._recorder.add(request, body, size, 400)
            await _fail(connection, codec, 400, str(error))
            return
        self._recorder.add(request, body, size, plan.status, choice.source, choice.reply.written)
        await self._deliver(connection, choice.reply, plan)

    async def _read(
        self, connection: Connection, codec: ModuleType
    ) -> tuple[dict[str, Any], int] | None:
        """The request's decoded body without the token, and its size; None when it was refused."""
        raw = await connection.body(MAX_BODY)
        if raw is None:
            await _fail(connection, codec, 413, f"the request is larger than {MAX_BODY} bytes")
            return None
        try:
            body = self._recorder.scrub(json.loads(raw))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            await _fail(connection, codec, 400, "the request's body is not a JSON object")
            return None
        return body, len(raw)

    def _plan(self, codec: ModuleType, reply: Reply, asked: ModelRequest) -> _Plan:
        number = f"req_scripted_{self._ids.number('request'):04d}"
        headers = {"request-id": number, "x-request-id": number, **reply.headers}
        if reply.hang is not None:
            return _Plan(0, headers, iter(()))
        status, error = reply.status, reply.error or {}
        if reply.error_after is not None and not asked.stream:
            error = {**codec.STREAM_ERROR, **error}
            types = codec.ERROR_TYPES.items()
            status = next((number for number, kind in types if kind == error["type"]), 500)
        if status is not None:
            body = json.dumps(codec.error_body(status, error)).encode()
            return _whole(status, headers, reply, body)
        answer = make_answer(reply, asked, self._ids, int(self._clock.now()))
        if not asked.stream:
            return _whole(200, headers, reply, json.dumps(codec.message(answer)).encode())
        frames = codec.frames(
            answer, chunk=reply.chunk, pings=reply.pings, include_usage=asked.include_usage
        )
        headers |= {"content-type": "text/event-stream", "cache-control": "no-cache"}
        return _Plan(200, headers, deliver(reply, frames, codec.error_frame(error)))

    async def _deliver(self, connection: Connection, reply: Reply, plan: _Plan) -> None:
        await self._pause(reply.delay)
        if reply.hang is not None:
            await self._pause(reply.hang)
            connection.cut()
            return
        await connection.start(plan.status, plan.headers)
        batch = bytearray()
        for step in itertools.chain(plan.steps, (None,)):
            if batch and (not _sends(step) or len(batch) >= BATCH):
                await connection.send(bytes(batch))
                batch.clear()
                await asyncio.sleep(0)
            if isinstance(step, Pause):
                await self._pause(step.seconds)
            elif isinstance(step, End):
                await _end(connection, step)
            elif step is not None:
                batch += step.data

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await self._clock.sleep(seconds)


_GENERATES = frozenset({("POST", "/v1/messages"), ("POST", "/v1/chat/completions")})


class _Plan(msgspec.Struct, frozen=True):
    """The response that was decided: status 0 when there will be none."""

    status: int
    headers: dict[str, str]
    steps: Iterator[Step]


def _whole(status: int, headers: dict[str, str], reply: Reply, body: bytes) -> _Plan:
    head = {**headers, **_JSON, "content-length": str(len(body))}
    return _Plan(status, head, deliver_whole(reply, body))


def _sends(step: Step | None) -> bool:
    return step is not None and not isinstance(step, Pause | End)


async def _end(connection: Connection, step: End) -> None:
    if step.how in ("complete", "closed"):
        await connection.finish()
    if step.how in ("closed", "cut"):
        connection.cut()
    elif step.how == "reset":
        connection.reset()


async def _fail(connection: Connection, codec: ModuleType, status: int, message: str) -> None:
    body = json.dumps(codec.error_body(status, {"message": message})).encode()
    await connection.respond(status, _JSON, body)


def read_script(source: ScriptSource, variables: Mapping[str, str] | None = None) -> Script:
    """The checked script of a file or value; None is a script without replies.

    Raises ScriptError that names file, reply, field, value and remedy.
    """
    if source is None:
        return Script()
    if not isinstance(source, str | os.PathLike):
        return parse_script(source, "script", variables)
    path = Path(source)
    remedy = "name a YAML or JSON file with replies"
    try:
        # A FIFO without a writer must not hold us up.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ScriptError(f"{path}: not a file", remedy=remedy)
            raw = file.read(MAX_SCRIPT_BYTES + 1)
        if len(raw) > MAX_SCRIPT_BYTES:
            raise ScriptError(f"{path}: larger than {MAX_SCRIPT_BYTES} bytes", remedy="split it")
        text = raw.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ScriptError(f"{path}: cannot be read: {reason}", remedy=remedy) from None
    return parse_text(text, str(path), variables)


async def serve(
    script_path: str | os.PathLike[str] | None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    variables: Mapping[str, str] | None = None,
    log: Path | None = None,
    ready: Callable[[str, str], None],
) -> None:
    """Serve a script until cancelled; `ready(url, token)` is called once it listens.

    `log` gets one JSON line per request (no bodies, never the token). Raises ScriptError and
    OptionError before anything listens.
    """
    server = ModelServer(
        script_path, variables=variables, host=host, port=port, token=token, log=log
    )
    async with server:
        ready(server.url, server.token)
        await asyncio.Event().wait()
