"""Conversation: several turns with one agent; connects with the first message."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quarterdeck.engine import events as ev
from quarterdeck.errors import SessionClosed
from quarterdeck.model import Exit, Usage
from quarterdeck.session.client import Client
from quarterdeck.session.handle import TurnHandle
from quarterdeck.session.handlers import EventHandlers
from quarterdeck.session.options import Options
from quarterdeck.session.permissions import PermissionQueue, PermissionRequest
from quarterdeck.session.prompts import Prompt
from quarterdeck.session.turns import ToolActivity, TurnResult


class Conversation:
    """A session with memory of its turns.

    ::

        async with Conversation(cwd="repo") as talk:
            result = await talk.say("fix the test")

    Without a permission callback, requests go to `permission_queue`, where they wait for `allow` or
    `deny`, and are denied when nobody answers in time. Keeps every turn's result; for endless or huge
    sessions use Client.stream. For one event loop; `quarterdeck.sync` has the synchronous face.
    """

    def __init__(self, options: Options | None = None, **changes: Any) -> None:
        """`changes` are fields of Options. Raises OptionError; starts nothing."""
        client = Client(options, **changes)
        if not client.options.asks:
            queued = replace(client.options, permission_queue=PermissionQueue())
            client = Client(queued)
        self.client = client

    # -- life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> Exit | None:
        """End the session with all its processes; see Client.close. Idempotent."""
        return await self.client.close()

    @property
    def is_open(self) -> bool:
        """The engine runs. False before the first message."""
        return self.client.is_open

    @property
    def is_closed(self) -> bool:
        """`close` was called, or the engine ended."""
        return self.client.is_closed

    # -- talking ------------------------------------------------------------------------------------

    async def say(self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()) -> TurnResult:
        """Give a prompt and wait for its boundary; see Client.turn."""
        return await self.client.turn(prompt, attachments=attachments)

    turn = say

    async def send(self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()) -> TurnHandle:
        """Give a prompt and return at once; see Client.send."""
        return await self.client.send(prompt, attachments=attachments)

    async def stream(
        self, prompt: Prompt, *, attachments: Sequence[str | Path] = ()
    ) -> AsyncIterator[ev.Event]:
        """Give a prompt and yield its events as they come; the result stands in `turns` after."""
        handle = await self.client.send(prompt, attachments=attachments)
        async with contextlib.aclosing(self.client.follow(handle)) as events:
            async for event in events:
                yield event

    async def interrupt(self, *, drain: bool = False) -> tuple[str, ...]:
        """Stop the running turn; see TurnHandle.interrupt. Nothing happens before the first message."""
        if not self.client.is_open:
            return ()
        return await self.client.interrupt(drain=drain)

    # -- callbacks ----------------------------------------------------------------------------------

    @property
    def handlers(self) -> EventHandlers:
        """The registry of callbacks."""
        return self.client.handlers

    def on(self, kind: str, callback: Callable[..., Any]) -> Self:
        """Call `callback` for each event of that kind; see EventHandlers.on."""
        self.client.handlers.on(kind, callback)
        return self

    def on_text(self, callback: Callable[[str], Any]) -> Self:
        """Call with each piece of text as it comes."""
        return self.on("text", callback)

    on_stream = on_text

    # -- permissions --------------------------------------------------------------------------------

    @property
    def permission_queue(self) -> PermissionQueue | None:
        """Where requests wait, unless a callback decides all of them."""
        return self.client.permission_queue

    @property
    def pending_permission(self) -> PermissionRequest | None:
        """The oldest request that waits, without waiting for one."""
        queue = self.client.permission_queue
        return queue.poll() if queue is not None else None

    @property
    def has_pending_permissions(self) -> bool:
        """Whether a request waits in the queue."""
        queue = self.client.permission_queue
        return queue is not None and not queue.empty

    # -- what has been ------------------------------------------------------------------------------

    @property
    def turns(self) -> tuple[TurnResult, ...]:
        """The results so far."""
        return self.client.turns

    @property
    def messages(self) -> tuple[ev.Message, ...]:
        """Every whole message of every turn."""
        return tuple(m for turn in self.turns for m in turn.messages)

    @property
    def tool_activity(self) -> tuple[ToolActivity, ...]:
        """One timeline of all tool calls."""
        return tuple(t for turn in self.turns for t in turn.tool_executions)

    @property
    def total_cost_usd(self) -> float:
        """Cost of the session so far."""
        return self.client.total_cost_usd

    @property
    def usage(self) -> Usage:
        """Tokens of all turns."""
        return self.client.totals.usage

    @property
    def session_id(self) -> str | None:
        """The engine's session id, to resume by; None before the first message."""
        return self.client.engine_session_id


def resume_conversation(
    session_id: str, options: Options | None = None, *, fork: bool = False, **changes: Any
) -> Conversation:
    """A conversation that goes on with an earlier session, or (`fork`) with a copy of it.

    `session_id` is the engine's id, plain or as `claude:<id>`. Raises OptionError; that the session
    exists shows at the first message (SessionNotFound).
    """
    engine_id = session_id.removeprefix("claude:")
    return Conversation(options, resume=engine_id, fork=fork, **changes)


class Session:
    """The session-style face: `create_session`, then `send` and `stream`.

    `send` gives prompts, `stream` yields the events of the turns they make, in order, until the last
    prompt given so far is done.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._handles: list[TurnHandle] = []

    @property
    def session_id(self) -> str | None:
        """The engine's session id."""
        return self.conversation.session_id

    async def send(self, prompt: Prompt) -> None:
        """Give a prompt; returns at once."""
        if self.conversation.is_closed:
            raise SessionClosed("the session is closed")
        self._handles.append(await self.conversation.send(prompt))

    async def stream(self) -> AsyncIterator[ev.Event]:
        """The events of the prompts that were sent and not streamed yet."""
        while self._handles:
            handle = self._handles.pop(0)
            async with contextlib.aclosing(self.conversation.client.follow(handle)) as events:
                async for event in events:
                    yield event

    async def close(self) -> Exit | None:
        """End the session."""
        return await self.conversation.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def create_session(options: Options | None = None, **changes: Any) -> Session:
    """Start a session at once; raises what Client.connect raises."""
    conversation = Conversation(options, **changes)
    await conversation.client.connect()
    return Session(conversation)
