"""Callbacks by kind of event, instead of a `match` over the stream.

One event may concern several kinds. The order is fixed: `*` first, then the event's own type, then
what it is made of (text, thinking, tool_use, tool_result) or stands for (result, permission).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from quarterdeck.engine import events as ev
from quarterdeck.errors import OptionError, UsageError
from quarterdeck.session.callbacks import call, is_async

log = logging.getLogger(__name__)

Callback = Callable[..., Any]
V = TypeVar("V")

MAX_REMEMBERED = 1000  # messages and tool calls that are remembered for pairing
MAX_ERRORS = 100  # errors of callbacks that are kept

COMPOSED = ("text", "thinking", "tool_use", "tool_result", "result", "permission")
EVENT_TYPES: tuple[str, ...] = tuple(
    str(kind.__struct_config__.tag) for kind in ev.Event.__subclasses__()
)
KINDS: tuple[str, ...] = ("*", *COMPOSED, *EVENT_TYPES)


class EventHandlers:
    """A chainable registry of callbacks; with a client, a conversation, or alone.

    What each kind is called with:

    * `text`, `thinking`: a piece of text of the main agent, as it streams; the whole text when the
      message did not stream. Nothing is given twice.
    * `tool_use`: a ToolUseBlock with its whole input; sub-agents' too.
    * `tool_result`: the ToolEnded event and the ToolUseBlock it answers, or None when that is unknown.
    * `result`: the TurnEnded event.
    * `permission`: the PermissionAsked or QuestionAsked event.
    * an event type (`message`, `turn_ended`, `task_started`, ...) and `*` (everything): the event.

    Callbacks may be async. In `dispatch` sync ones run in a worker thread, one after another. What a
    callback raises is logged and counted; it ends neither the others nor the session.
    """

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}
        self._errors: deque[Exception] = deque(maxlen=MAX_ERRORS)
        self._error_count = 0
        self._streamed: _Recent[None] = _Recent()
        self._thought: _Recent[None] = _Recent()
        self._tools: _Recent[ev.ToolUseBlock] = _Recent()

    # -- registering ----------------------------------------------------------------------------

    def on(self, kind: str, callback: Callback) -> EventHandlers:
        """Call it for every event of this kind, after those registered before. Raises OptionError."""
        if kind not in KINDS:
            raise OptionError(
                "kind", kind, "is no kind of event", remedy=f"one of {', '.join(KINDS)}"
            )
        if not callable(callback):
            raise OptionError("callback", callback, "must be a function")
        self._callbacks.setdefault(kind, []).append(callback)
        return self

    def on_text(self, callback: Callback) -> EventHandlers:
        """`callback(text)` for the agent's text."""
        return self.on("text", callback)

    on_stream = on_text

    def on_thinking(self, callback: Callback) -> EventHandlers:
        """`callback(text)` for the agent's reasoning."""
        return self.on("thinking", callback)

    def on_tool_use(self, callback: Callback) -> EventHandlers:
        """`callback(tool_use_block)` for every tool call."""
        return self.on("tool_use", callback)

    def on_tool_result(self, callback: Callback) -> EventHandlers:
        """`callback(tool_ended, tool_use_block_or_none)` for the end of every tool call."""
        return self.on("tool_result", callback)

    def on_result(self, callback: Callback) -> EventHandlers:
        """`callback(turn_ended)` for the end of every turn."""
        return self.on("result", callback)

    def on_message(self, callback: Callback) -> EventHandlers:
        """`callback(message)` for every whole message."""
        return self.on("message", callback)

    def on_permission(self, callback: Callback) -> EventHandlers:
        """`callback(asked)` for every permission request and question; it only tells, it decides nothing."""
        return self.on("permission", callback)

    @property
    def empty(self) -> bool:
        """Whether there is no callback at all."""
        return not self._callbacks

    @property
    def errors(self) -> tuple[Exception, ...]:
        """The last 100 errors that callbacks raised, oldest first."""
        return tuple(self._errors)

    @property
    def error_count(self) -> int:
        """How many errors callbacks raised."""
        return self._error_count

    # -- dispatching ----------------------------------------------------------------------------

    async def dispatch(self, event: ev.Event) -> None:
        """Call whoever wants this event and wait for each. Cancelling stops an async callback."""
        for callback, args in self._plan(event):
            try:
                await call(callback, *args)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._failed(callback, RuntimeError("the callback was cancelled"))
            except Exception as error:
                self._failed(callback, error)

    def handle(self, event: ev.Event) -> None:
        """The same without asyncio, in this thread.

        Raises UsageError, before anything is called, when one of the callbacks is async.
        """
        for callbacks in self._callbacks.values():
            for callback in callbacks:
                if is_async(callback):
                    raise UsageError(f"{_name(callback)} is async", remedy="await dispatch(event)")
        for callback, args in self._plan(event):
            try:
                value = callback(*args)
                if inspect.iscoroutine(value):
                    value.close()
                    raise UsageError(f"{_name(callback)} is async", remedy="await dispatch(event)")
            except Exception as error:
                self._failed(callback, error)

    def reset(self) -> None:
        """Forget which messages streamed and which tool calls are open; the callbacks stay."""
        self._streamed.clear()
        self._thought.clear()
        self._tools.clear()

    def _failed(self, callback: Callback, error: Exception) -> None:
        log.error("event callback %s failed", _name(callback), exc_info=error)
        self._errors.append(error)
        self._error_count += 1

    def _plan(self, event: ev.Event) -> list[tuple[Callback, tuple[Any, ...]]]:
        """Who is called with what, in order."""
        if not self._callbacks:
            return []
        return [
            (callback, args)
            for kind, args in self._kinds(event)
            for callback in self._callbacks.get(kind, ())
        ]

    def _kinds(self, event: ev.Event) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "*", (event,)
        yield event.type, (event,)
        match event:
            case ev.TextDelta():
                if event.parent is None and event.text:
                    self._streamed.add(event.message_id, None)
                    yield "text", (event.text,)
            case ev.ThinkingDelta():
                if event.parent is None and event.text:
                    self._thought.add(event.message_id, None)
                    yield "thinking", (event.text,)
            case ev.TextWithdrawn():
                self._streamed.pop(event.message_id)
                self._thought.pop(event.message_id)
            case ev.Message(role="assistant"):
                yield from self._message(event)
            case ev.ToolEnded():
                yield "tool_result", (event, self._tools.pop(event.tool_use_id))
            case ev.TurnEnded():
                yield "result", (event,)
            case ev.PermissionAsked() | ev.QuestionAsked():
                yield "permission", (event,)

    def _message(self, message: ev.Message) -> Iterator[tuple[str, tuple[Any, ...]]]:
        ours = message.parent is None and not message.replay
        texts = ours and message.message_id not in self._streamed
        thoughts = ours and message.message_id not in self._thought
        blocks = message.blocks
        for block in blocks:
            if isinstance(block, ev.TextBlock) and texts and block.text:
                yield "text", (block.text,)
        for block in blocks:
            if isinstance(block, ev.ThinkingBlock) and thoughts and block.thinking:
                yield "thinking", (block.thinking,)
        for block in blocks:
            if isinstance(block, ev.ToolUseBlock):
                self._tools.add(block.id, block)
                yield "tool_use", (block,)
        for block in blocks:
            if isinstance(block, ev.ToolResultBlock):
                used = self._tools.pop(block.tool_use_id)
                yield "tool_result", (_ended(message, block, used), used)


def _ended(
    message: ev.Message, block: ev.ToolResultBlock, used: ev.ToolUseBlock | None
) -> ev.ToolEnded:
    """A tool that the provider ran has its result in the agent's own message, and no event of its own."""
    return ev.ToolEnded(
        message.session, message.seq, message.time, message.raw, message.source, message.parent,
        block.tool_use_id, used.name if used else "", block.is_error, block.content, None, None,
    )  # fmt: skip


def _name(callback: Callback) -> str:
    return str(getattr(callback, "__qualname__", repr(callback)))


class _Recent(Generic[V]):
    """The last so many keys with their values."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, V] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def add(self, key: str, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > MAX_REMEMBERED:
            self._items.popitem(last=False)

    def pop(self, key: str) -> V | None:
        return self._items.pop(key, None)

    def clear(self) -> None:
        self._items.clear()
