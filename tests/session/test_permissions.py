"""Requests are resolved once, and their queue holds up under threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quarterdeck.errors import AlreadyResolved, OptionError, SessionClosed, UsageError
from quarterdeck.session.permissions import (
    Allow,
    Defer,
    Deny,
    PermissionContext,
    PermissionQueue,
    PermissionRequest,
    PermissionUpdate,
)

QUESTIONS = {
    "questions": [
        {"question": "Which color?", "options": [{"label": "Red"}], "multiSelect": False},
        {"question": "Which sizes?", "options": [{"label": "S"}], "multiSelect": True},
    ]
}


def request(
    number: int = 0,
    *,
    tool: str = "Bash",
    tool_input: dict[str, Any] | None = None,
    expires_at: float | None = None,
    on_resolved: Callable[[PermissionRequest], None] | None = None,
) -> PermissionRequest:
    return PermissionRequest(
        tool,
        {"command": "ls"} if tool_input is None else tool_input,
        PermissionContext(f"req-{number}"),
        created_at=0.0,
        expires_at=expires_at,
        on_resolved=on_resolved,
    )


# -- one request ------------------------------------------------------------------------------------


def test_allow_with_another_input_and_an_update() -> None:
    mode = PermissionUpdate("setMode", mode="plan")
    asked = request()
    changed = {"command": "pwd", "list": [1]}
    asked.allow(changed, [mode])
    changed["list"].append(2)  # type: ignore[attr-defined]
    assert asked.state == "allowed"
    assert asked.decision == Allow({"command": "pwd", "list": [1]}, (mode,))


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": "\ud800"}, [1], "text"])
def test_an_input_that_is_not_json_is_refused_and_leaves_it_pending(wrong: Any) -> None:
    asked = request()
    with pytest.raises(OptionError):
        asked.allow(wrong)
    with pytest.raises(OptionError):
        asked.allow(None, [{"type": "setMode"}])  # type: ignore[list-item]
    assert asked.state == "pending"


@pytest.mark.parametrize("state", ["allowed", "denied", "expired", "cancelled"])
def test_the_second_answer_is_an_error(state: str) -> None:
    asked = request()
    end = {"allowed": "allow", "denied": "deny", "expired": "expire", "cancelled": "cancel"}[state]
    getattr(asked, end)()
    first = asked.decision
    assert asked.state == state
    for again in (asked.allow, asked.deny, asked.defer):
        with pytest.raises(AlreadyResolved):
            again()
    assert not asked.cancel()
    assert not asked.expire()
    assert not asked.settle(Allow())
    assert asked.decision is first


def test_what_is_not_allowed_is_a_denial() -> None:
    for end in ("expire", "cancel", "deny"):
        asked = request()
        getattr(asked, end)()
        assert isinstance(asked.decision, Deny)


def test_answers_go_beside_the_questions() -> None:
    asked = request(tool="AskUserQuestion", tool_input=QUESTIONS)
    asked.answer({"Which color?": "Blue", "Which sizes?": ["S", "L"]})
    expected = {**QUESTIONS, "answers": {"Which color?": "Blue", "Which sizes?": "S, L"}}
    assert asked.decision == Allow(expected)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"Which shape?": "Round"},
        {"Which color?": ["Red", "Blue"]},
        {"Which color?": ""},
        {"Which sizes?": []},
        {"Which sizes?": [1]},
    ],
)
def test_answers_that_do_not_fit_are_refused(answers: Any) -> None:
    asked = request(tool="AskUserQuestion", tool_input=QUESTIONS)
    with pytest.raises(OptionError):
        asked.answer(answers)
    assert asked.state == "pending"


@pytest.mark.parametrize("questions", [None, "x", [1], [{"question": 5}], []])
def test_broken_questions_can_only_be_allowed_or_denied(questions: Any) -> None:
    asked = request(tool="AskUserQuestion", tool_input={"questions": questions})
    with pytest.raises(UsageError):
        asked.answer({"a": "b"})
    with pytest.raises(UsageError):
        request().answer({"a": "b"})


def test_a_failing_watcher_does_not_reach_who_answers() -> None:
    def fail(_: PermissionRequest) -> None:
        raise ValueError("watcher")

    asked = request(on_resolved=fail)
    asked.allow()
    assert asked.state == "allowed"


def test_waiting_in_a_thread() -> None:
    asked = request()
    with pytest.raises(TimeoutError):
        asked.wait(0.001)
    thread = threading.Thread(target=asked.deny, args=("no",))
    thread.start()
    assert asked.wait(5) == Deny("no")
    thread.join()


async def test_waiting_in_asyncio_for_another_thread() -> None:
    asked = request()
    waiters = [asyncio.create_task(asked.wait_async()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.to_thread(asked.allow)
    assert await waiters[1] == await waiters[2] == Allow()
    assert await asked.wait_async() == Allow()
    assert waiters[0].cancelled()


def test_a_loop_that_is_gone_harms_nobody() -> None:
    asked = request()
    loop = asyncio.new_event_loop()
    waiter = loop.create_task(asked.wait_async())
    loop.run_until_complete(asyncio.sleep(0))
    waiter.cancel()
    loop.run_until_complete(asyncio.gather(waiter, return_exceptions=True))
    loop.close()
    asked.allow()
    assert asked.state == "allowed"


def test_of_many_threads_exactly_one_resolves() -> None:
    for _ in range(50):
        seen: list[str] = []

        def note(_: PermissionRequest, seen: list[str] = seen) -> None:
            seen.append(threading.current_thread().name)

        asked = request(on_resolved=note)
        start = threading.Barrier(4)
        won: list[str] = []

        def race(asked: PermissionRequest = asked, start: Any = start, won: Any = won) -> None:
            start.wait()
            try:
                asked.allow()
            except AlreadyResolved:
                return
            won.append(threading.current_thread().name)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert seen == won


# -- the queue --------------------------------------------------------------------------------------


def test_first_in_first_out() -> None:
    queue = PermissionQueue()
    asked = [request(n) for n in range(3)]
    assert all(queue.push(r) for r in asked)
    assert queue.poll() is asked[0]
    assert len(queue) == 2
    assert queue.pending() == asked
    asked[1].allow()
    assert queue.poll() is asked[2]
    assert queue.poll() is None
    assert queue.empty
    assert queue.pending() == [asked[0], asked[2]]
    assert queue


def test_pop_waits_for_a_push_and_gives_up() -> None:
    queue, asked = PermissionQueue(), request()
    assert queue.pop(0.001) is None
    with ThreadPoolExecutor(1) as pool:
        popped = pool.submit(queue.pop, 5)
        queue.push(asked)
        assert popped.result() is asked


def test_a_deferred_request_goes_to_the_end() -> None:
    queue = PermissionQueue()
    first, second = request(1), request(2)
    queue.push(first)
    queue.push(second)
    assert queue.poll() is first
    assert first.defer() == Defer()
    assert [queue.poll(), queue.poll(), queue.poll()] == [second, first, None]
    assert request().defer() == Defer()


def test_drain_denies_what_is_taken_too_and_goes_on() -> None:
    queue = PermissionQueue()
    asked = [request(n) for n in range(3)]
    for one in asked:
        queue.push(one)
    queue.poll()
    asked[2].allow()
    assert queue.drain() == 2
    assert asked[0].decision == asked[1].decision == Deny("Operation aborted")
    assert queue.pending() == []
    assert queue.empty
    assert queue.push(request())


async def test_close_ends_every_wait_and_refuses_what_comes() -> None:
    queue, late = PermissionQueue(), request()
    getter = asyncio.create_task(queue.get())
    popper = asyncio.create_task(asyncio.to_thread(queue.pop))
    await asyncio.sleep(0.01)
    queue.close("Client disconnected")
    with pytest.raises(SessionClosed, match="Client disconnected"):
        await getter
    assert await popper is None
    assert not queue.push(late)
    assert late.decision == Deny("Client disconnected")
    assert queue.closed


def test_one_too_many_is_denied_at_once() -> None:
    queue = PermissionQueue(limit=2)
    asked = [request(n) for n in range(3)]
    assert [queue.push(r) for r in asked] == [True, True, False]
    assert asked[2].state == "denied"
    queue.poll()
    assert not queue.push(request())
    asked[0].allow()
    assert queue.push(request())
    with pytest.raises(OptionError):
        PermissionQueue(limit=0)


def test_expiry_is_by_the_given_time() -> None:
    queue = PermissionQueue()
    early, late, never = request(1, expires_at=10), request(2, expires_at=20), request(3)
    for one in (early, late, never):
        queue.push(one)
    assert queue.next_expiry() == 10
    assert queue.expire(9.9) == []
    assert queue.expire(10) == [early]
    assert early.state == "expired"
    assert queue.poll() is late
    assert queue.expire(100) == [late]
    assert queue.next_expiry() is None
    assert queue.pending() == [never]


def test_what_was_answered_before_the_push_is_not_handed_out() -> None:
    queue, asked = PermissionQueue(), request()
    asked.allow()
    queue.push(asked)
    assert queue.poll() is None
    assert queue.pending() == []


async def test_get_takes_over_from_a_cancelled_one() -> None:
    queue, asked = PermissionQueue(), request()
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.push(asked)
    first.cancel()
    assert await second is asked
    third = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    assert queue._getters == set()


async def test_threads_and_asyncio_hammer_one_queue() -> None:
    """Every request is handed out once and resolved once, whoever takes it."""
    queue = PermissionQueue(limit=10_000)
    resolved: list[PermissionRequest] = []
    total, producers = 4000, 4
    asked = [request(n, expires_at=float(n), on_resolved=resolved.append) for n in range(total)]

    def produce(part: int) -> None:
        for one in asked[part::producers]:
            queue.push(one)

    def consume() -> int:
        taken = 0
        while (one := queue.pop()) is not None:
            if taken % 7 == 0 and one.state == "pending":
                try:
                    one.defer()
                except AlreadyResolved:
                    continue
            one.settle(Allow())
            taken += 1
        return taken

    async def consume_async() -> None:
        while True:
            one = await queue.get()
            one.settle(Deny("no"))

    def expire() -> None:
        for now in range(0, total, 50):
            queue.expire(float(now) / 10)

    async with asyncio.TaskGroup() as group:
        getters = [group.create_task(consume_async()) for _ in range(2)]
        threads = [group.create_task(asyncio.to_thread(consume)) for _ in range(2)]
        async with asyncio.TaskGroup() as pushing:
            for part in range(producers):
                pushing.create_task(asyncio.to_thread(produce, part))
            pushing.create_task(asyncio.to_thread(expire))
        for one in asked:
            await one.wait_async()
        for getter in getters:
            getter.cancel()
        queue.close()
    assert all(thread.done() for thread in threads)
    assert len(resolved) == total
    assert {id(r) for r in resolved} == {id(r) for r in asked}
    assert queue.empty
