"""Callbacks by kind: in order, paired, nothing twice, and no error gets through."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.engine import events as ev
from quarterdeck.errors import OptionError, UsageError
from quarterdeck.model import Boundary, Usage
from quarterdeck.session.handlers import KINDS, EventHandlers


def make(kind: Callable[..., Any], *fields: Any, parent: str | None = None) -> Any:
    return kind("s", 1, 0.0, b"", None, parent, *fields)


def message(
    *blocks: ev.Block,
    role: str = "assistant",
    id: str = "m1",
    replay: bool = False,
    parent: str | None = None,
) -> Any:
    return make(ev.Message, role, blocks, id, "u", "model", "", replay, False, parent=parent)


def delta(text: str, id: str = "m1", parent: str | None = None) -> Any:
    return make(ev.TextDelta, text, id, 0, parent=parent)


def thought(text: str, id: str = "m1") -> Any:
    return make(ev.ThinkingDelta, text, id, 0, 1)


def ended(id: str) -> Any:
    return make(ev.ToolEnded, id, "Bash", False, "out", None, 0.1)


def turn_ended() -> Any:
    return make(
        ev.TurnEnded, 1, Boundary("completed"), "done", False, "end_turn", None, None, (), 1, 1, 1,
        Usage(), {}, 0.0, (), None, None, "",
    )  # fmt: skip


USE = ev.ToolUseBlock("t1", "Bash", {"command": "ls"})


class Log:
    """Handlers that write down what they were called with."""

    def __init__(self, *kinds: str) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.handlers = EventHandlers()
        for kind in kinds:
            self.handlers.on(kind, lambda *args, kind=kind: self.seen.append((kind, *args)))

    def feed(self, *events: ev.Event) -> list[tuple[Any, ...]]:
        for event in events:
            self.handlers.handle(event)
        seen, self.seen = self.seen, []
        return seen


def test_the_order_within_one_message() -> None:
    log = Log("tool_result", "tool_use", "thinking", "text", "message", "*")
    whole = message(USE, ev.ThinkingBlock("hm"), ev.TextBlock("hi"), ev.TextBlock("ho"))
    assert log.feed(whole) == [
        ("*", whole),
        ("message", whole),
        ("text", "hi"),
        ("text", "ho"),
        ("thinking", "hm"),
        ("tool_use", USE),
    ]


def test_text_comes_once_whether_it_streamed_or_not() -> None:
    log = Log("text", "thinking")
    assert log.feed(delta("a"), delta("b"), message(ev.TextBlock("ab"))) == [
        ("text", "a"),
        ("text", "b"),
    ]
    assert log.feed(message(ev.TextBlock("cd"), id="m2")) == [("text", "cd")]
    assert log.feed(thought("x"), thought(""), message(ev.ThinkingBlock("x"))) == [
        ("thinking", "x")
    ]
    assert log.feed(message(ev.ThinkingBlock("y"), ev.TextBlock("z"), id="m3")) == [
        ("text", "z"),
        ("thinking", "y"),
    ]
    assert log.feed(message(ev.ThinkingBlock(redacted=True), id="m4")) == []


def test_withdrawn_text_may_come_again() -> None:
    log = Log("text")
    withdrawn = make(ev.TextWithdrawn, "m1", "a", "dropped")
    assert log.feed(delta("a"), withdrawn, message(ev.TextBlock("whole"))) == [
        ("text", "a"),
        ("text", "whole"),
    ]


def test_text_is_the_main_agents_own() -> None:
    log = Log("text", "tool_use")
    assert log.feed(delta("inner", parent="toolu_1")) == []
    assert log.feed(message(ev.TextBlock("inner"), USE, parent="toolu_1")) == [("tool_use", USE)]
    assert log.feed(message(ev.TextBlock("prompt"), role="user")) == []
    assert log.feed(message(ev.TextBlock("echo"), replay=True)) == []


def test_results_are_paired_with_their_calls_once() -> None:
    log = Log("tool_result", "tool_ended")
    end = ended("t1")
    assert log.feed(message(USE), end, end) == [
        ("tool_ended", end),
        ("tool_result", end, USE),
        ("tool_ended", end),
        ("tool_result", end, None),
    ]


def test_tools_of_the_provider_have_their_results_in_the_message() -> None:
    log = Log("tool_result")
    use = ev.ToolUseBlock("s1", "web_search", {}, "web")
    result = ev.ToolResultBlock("s1", "found", server=True)
    ((kind, end, paired),) = log.feed(message(use, result))
    assert (kind, paired) == ("tool_result", use)
    assert (end.tool_use_id, end.name, end.content) == ("s1", "web_search", "found")


def test_reset_forgets_the_pairs_but_not_the_callbacks() -> None:
    log = Log("tool_result", "text", "thinking")
    end = ended("t1")
    log.feed(message(USE), delta("a"), thought("b"))
    log.handlers.reset()
    assert log.feed(end, message(ev.TextBlock("a"), ev.ThinkingBlock("b"))) == [
        ("tool_result", end, None),
        ("text", "a"),
        ("thinking", "b"),
    ]


def test_what_is_remembered_is_bounded() -> None:
    log = Log("tool_result")
    uses = [ev.ToolUseBlock(f"t{n}", "Bash", {}) for n in range(1500)]
    log.feed(*(message(use) for use in uses))
    assert log.feed(ended("t0"))[0][2] is None
    assert log.feed(ended("t1499"))[0][2] is uses[1499]
    assert len(log.handlers._tools._items) == 999


def test_result_and_permission() -> None:
    log = Log("result", "permission", "turn_ended")
    end = turn_ended()
    asked = make(ev.PermissionAsked, "r", "t", "Bash", {}, "", (), None, "", "", None)
    question = make(ev.QuestionAsked, "r", "t", ())
    assert log.feed(end, asked, question) == [
        ("turn_ended", end),
        ("result", end),
        ("permission", asked),
        ("permission", question),
    ]


async def test_chaining_with_sync_and_async_callbacks() -> None:
    seen: list[Any] = []

    async def later(value: Any) -> None:
        await asyncio.sleep(0)
        seen.append(("later", value))

    def now(*values: Any) -> None:
        seen.append(("now", *values, threading.current_thread() is threading.main_thread()))

    handlers = (
        EventHandlers()
        .on_text(now)
        .on_stream(later)
        .on_thinking(now)
        .on_tool_use(later)
        .on_tool_result(now)
        .on_result(later)
        .on_message(later)
        .on_permission(later)
    )
    whole, end = message(ev.TextBlock("hi")), turn_ended()
    for event in (whole, end):
        await handlers.dispatch(event)
    assert seen == [("later", whole), ("now", "hi", False), ("later", "hi"), ("later", end)]


async def test_what_a_callback_raises_is_counted_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    def fail(_: str) -> None:
        raise ValueError("sync")

    async def fail_later(_: str) -> None:
        raise ValueError("async")

    async def cancelled(_: str) -> None:
        raise asyncio.CancelledError

    handlers = EventHandlers()
    for callback in (fail, fail_later, cancelled, seen.append):
        handlers.on_text(callback)
    await handlers.dispatch(delta("a"))
    assert seen == ["a"]
    assert [str(e) for e in handlers.errors] == ["sync", "async", "the callback was cancelled"]
    assert len(caplog.records) == 3
    for _ in range(50):
        await handlers.dispatch(delta("a"))
    assert handlers.error_count == 153
    assert len(handlers.errors) == 100


async def test_cancelling_dispatch_is_no_error_of_a_callback() -> None:
    async def forever(_: str) -> None:
        await asyncio.Event().wait()

    handlers = EventHandlers().on_text(forever)
    task = asyncio.create_task(handlers.dispatch(delta("a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handlers.error_count == 0


def test_by_hand_async_callbacks_are_refused_before_anything_is_called() -> None:
    seen: list[str] = []

    async def later(_: ev.Event) -> None: ...

    handlers = EventHandlers().on_text(seen.append).on_result(later)
    with pytest.raises(UsageError):
        handlers.handle(delta("a"))
    assert seen == []


def test_by_hand_errors_are_counted_too() -> None:
    async def later(_: str) -> None: ...

    handlers = EventHandlers().on_text(lambda _: 1 / 0).on_text(lambda text: later(text))
    handlers.handle(delta("a"))
    assert [type(e) for e in handlers.errors] == [ZeroDivisionError, UsageError]


def test_only_known_kinds_and_functions() -> None:
    handlers = EventHandlers()
    assert handlers.empty
    with pytest.raises(OptionError):
        handlers.on("texts", print)
    with pytest.raises(OptionError):
        handlers.on("text", "print")  # type: ignore[arg-type]
    for kind in KINDS:
        assert not EventHandlers().on(kind, print).empty
    assert {"task_started", "turn_ended", "unknown", "message"} <= set(KINDS)


BLOCKS = st.one_of(
    st.builds(ev.TextBlock, st.text(max_size=3)),
    st.builds(ev.ThinkingBlock, st.text(max_size=3)),
    st.builds(ev.ToolUseBlock, st.sampled_from("ab"), st.just("Bash"), st.just({})),
)
IDS = st.sampled_from(["m1", "m2", ""])
EVENTS = st.one_of(
    st.builds(delta, st.text(max_size=3), IDS),
    st.builds(lambda blocks, id: message(*blocks, id=id), st.lists(BLOCKS, max_size=3), IDS),
    st.builds(ended, st.sampled_from("ab")),
    st.builds(turn_ended),
)


@given(st.lists(EVENTS, max_size=12))
def test_every_event_is_seen_once_and_no_streamed_text_twice(events: list[ev.Event]) -> None:
    log = Log("*", "text", "tool_use")
    seen = log.feed(*events)
    assert log.handlers.error_count == 0
    assert [args[0] for kind, *args in seen if kind == "*"] == events
    streamed: set[str] = set()
    expected = ""
    for event in events:
        if isinstance(event, ev.TextDelta) and event.text:
            streamed.add(event.message_id)
            expected += event.text
        elif isinstance(event, ev.Message) and event.message_id not in streamed:
            expected += event.text
    assert "".join(args[0] for kind, *args in seen if kind == "text") == expected
