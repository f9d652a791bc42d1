"""The synchronous face: the same names as the package, for programs without an event loop.

::

    from quarterdeck.sync import Conversation

    with Conversation(cwd="repo") as talk:
        print(talk.say("fix the test").text)

One daemon thread runs one event loop for everything here; calls wait for it, from any thread.
KeyboardInterrupt in a waiting call cancels what it waited for (a turn is then interrupted).
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import quarterdeck
from quarterdeck.engine.events import Event
from quarterdeck.errors import SessionClosed, UsageError
from quarterdeck.model import Exit
from quarterdeck.session import client as _client
from quarterdeck.session import conversation as _conversation
from quarterdeck.session import handle as _handle
from quarterdeck.session import query as _query
from quarterdeck.session.handlers import EventHandlers
from quarterdeck.session.options import Options
from quarterdeck.session.prompts import Prompt
from quarterdeck.session.query import SetupResult
from quarterdeck.session.turns import TurnResult

__all__ = [
    "Client",
    "Conversation",
    "Session",
    "TurnHandle",
    "create_session",
    "query",
    "query_turn",
    "resume_conversation",
    "run_setup",
]

T = TypeVar("T")


class _Loop:
    """The one loop thread; starts with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="quarterdeck-sync", daemon=True
                )
                self._thread.start()
                atexit.register(self.stop)
            return self._loop

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop and wait. Raises what the work raises; UsageError inside that loop.

        When interrupted (KeyboardInterrupt), the work is cancelled and has ended before that goes on.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError("a synchronous call inside an async callback would wait for itself")
        loop, done = self._running(), threading.Event()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = loop.create_task(work)
            tasks.append(task)
            task.add_done_callback(lambda _: done.set())

        loop.call_soon_threadsafe(begin)
        try:
            done.wait()
        except BaseException:
            # What it waited for tidies up first: a generator in the middle of that cannot be closed.
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            done.wait()
            if not tasks[0].cancelled():
                tasks[0].exception()
            raise
        if tasks[0].cancelled():
            raise SessionClosed("the program is ending")
        return tasks[0].result()

    def iterate(self, events: AsyncIterator[T]) -> Iterator[T]:
        """An async iterator as a plain one; leaving early closes it."""
        try:
            while True:
                try:
                    yield self.call(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                self.call(close())

    def stop(self) -> None:
        """End the loop; for the end of the program."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(timeout=15)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=5)
            loop.close()


async def _next(events: AsyncIterator[T]) -> T:
    return await anext(events)


async def _cancel_all() -> None:
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=10)


_LOOP = _Loop()


class TurnHandle:
    """A turn that runs: wait for its `result`, `stream` its events, `interrupt` it."""

    def __init__(self, handle: _handle.TurnHandle) -> None:
        self._handle = handle

    @property
    def prompt(self) -> str:
        return self._handle.prompt

    @property
    def done(self) -> bool:
        """Whether the turn is over."""
        return self._handle.done

    def result(self, timeout: float | None = None) -> TurnResult:
        """Wait for the boundary; TimeoutError after `timeout` seconds, the turn goes on then."""

        async def wait() -> TurnResult:
            async with asyncio.timeout(timeout):
                return await self._handle

        return _LOOP.call(wait())

    def interrupt(self, *, drain: bool = False) -> tuple[str, ...]:
        """See the async TurnHandle."""
        return _LOOP.call(self._handle.interrupt(drain=drain))

    def stream(self) -> Iterator[Event]:
        """See the async TurnHandle."""
        return _LOOP.iterate(self._handle.stream())


class _Face:
    """Wraps an async object: coroutine methods block, other attributes pass through."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(value):
            return value

        def blocking(*args: Any, **kwargs: Any) -> Any:
            return _LOOP.call(value(*args, **kwargs))

        blocking.__name__, blocking.__doc__ = name, value.__doc__
        return blocking

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(n for n in dir(self._inner) if n[0] != "_")})

    def close(self) -> Exit | None:
        """End the session with all its processes. Idempotent."""
        made: Exit | None = _LOOP.call(self._inner.close())
        return made

    def send(self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()) -> TurnHandle:
        """Give a prompt and return at once."""
        return TurnHandle(_LOOP.call(self._inner.send(prompt, attachments=attachments)))

    def turn(self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()) -> TurnResult:
        """Give a prompt and wait for its boundary."""
        made: TurnResult = _LOOP.call(self._inner.turn(prompt, attachments=attachments))
        return made

    def stream(self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()) -> Iterator[Event]:
        """Give a prompt and yield its events as they come."""
        return _LOOP.iterate(self._inner.stream(prompt, attachments=attachments))

    def interrupt(self, *, drain: bool = False) -> tuple[str, ...]:
        """Stop the running turn and wait until the session has settled."""
        made: tuple[str, ...] = _LOOP.call(self._inner.interrupt(drain=drain))
        return made

    def on(self, kind: str, callback: Callable[..., Any]) -> Self:
        """Call `callback` for each event of that kind, in a worker thread, in order."""
        self._inner.handlers.on(kind, callback)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client(_Face):
    """The synchronous Client; control calls (`set_model`, `mcp_status`, ...) block too."""

    def __init__(self, options: Options | None = None, **changes: Any) -> None:
        super().__init__(_LOOP.call(_make(_client.Client, options, changes)))

    def connect(self) -> Self:
        """Start the engine; see the async Client for what it raises."""
        _LOOP.call(self._inner.connect())
        return self

    def follow(self, handle: TurnHandle) -> Iterator[Event]:
        """The events of a turn to its end; leaving early interrupts it."""
        return _LOOP.iterate(self._inner.follow(handle._handle))

    def batches(self, handle: TurnHandle) -> Iterator[Sequence[Event]]:
        """Like `follow`, as many events at once as have come."""
        return _LOOP.iterate(self._inner.batches(handle._handle))

    def events(self) -> Iterator[Event]:
        """Every event of the session from now on."""
        return _LOOP.iterate(self._inner.events())

    def __enter__(self) -> Self:
        return self.connect()


class Conversation(_Face):
    """The synchronous Conversation; connects with the first message."""

    def __init__(self, options: Options | None = None, **changes: Any) -> None:
        super().__init__(_LOOP.call(_make(_conversation.Conversation, options, changes)))

    def say(self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()) -> TurnResult:
        """Give a prompt and wait for its boundary."""
        return self.turn(prompt, attachments=attachments)

    @property
    def client(self) -> _Face:
        """Control calls of the session."""
        return _Face(self._inner.client)

    def __enter__(self) -> Self:
        return self


class Session:
    """The session-style face: `send` prompts, `stream` their events."""

    def __init__(self, inner: _conversation.Session) -> None:
        self._inner = inner

    @property
    def session_id(self) -> str | None:
        """The engine's session id."""
        return self._inner.session_id

    def send(self, prompt: Prompt) -> None:
        """Give a prompt; returns at once."""
        _LOOP.call(self._inner.send(prompt))

    def stream(self) -> Iterator[Event]:
        """The events of the prompts that were sent and not streamed yet."""
        return _LOOP.iterate(self._inner.stream())

    def close(self) -> Exit | None:
        """End the session."""
        return _LOOP.call(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def query(
    prompt: Prompt,
    options: Options | None = None,
    *,
    attachments: Sequence[str | Path] = (),
    **changes: Any,
) -> Iterator[Event]:
    """Start an agent, give it one prompt, yield the turn's events, end it."""
    return _LOOP.iterate(_query.query(prompt, options, attachments=attachments, **changes))


def query_turn(
    prompt: Prompt,
    options: Options | None = None,
    *,
    attachments: Sequence[str | Path] = (),
    handlers: EventHandlers | None = None,
    **changes: Any,
) -> TurnResult:
    """Start an agent, give it one prompt, return the turn's result, end the agent."""
    return _LOOP.call(
        _query.query_turn(prompt, options, attachments=attachments, handlers=handlers, **changes)
    )


def resume_conversation(
    session_id: str, options: Options | None = None, *, fork: bool = False, **changes: Any
) -> Conversation:
    """A conversation that goes on with an earlier session, or with a copy of it."""
    engine_id = session_id.removeprefix("claude:")
    return Conversation(options, resume=engine_id, fork=fork, **changes)


def create_session(options: Options | None = None, **changes: Any) -> Session:
    """Start a session at once."""
    return Session(_LOOP.call(_conversation.create_session(options, **changes)))


def run_setup(
    trigger: Literal["init", "maintenance"] = "init",
    options: Options | None = None,
    *,
    timeout: float = 600.0,
    **changes: Any,
) -> SetupResult:
    """Run the project's Setup hooks and end."""
    return _LOOP.call(_query.run_setup(trigger, options, timeout=timeout, **changes))


def __getattr__(name: str) -> Any:
    """Values and errors are the same in both faces."""
    return getattr(quarterdeck, name)


async def _make(kind: Callable[..., T], options: Options | None, changes: dict[str, Any]) -> T:
    return kind(options, **changes)
