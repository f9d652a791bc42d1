"""Functions of the program are called where they may block."""

from __future__ import annotations

import contextvars
import functools
import threading
from typing import Any

import pytest

from quarterdeck.session.callbacks import call, is_async

WHERE: contextvars.ContextVar[str] = contextvars.ContextVar("WHERE", default="nowhere")


async def twice(value: int) -> int:
    return value * 2


class Object:
    async def __call__(self, value: int) -> int:
        return value * 2

    def method(self, value: int) -> int:
        return value * 2


@pytest.mark.parametrize(
    "function",
    [twice, Object(), Object().method, functools.partial(twice), lambda value: twice(value)],
)
async def test_sync_and_async_alike(function: Any) -> None:
    assert await call(function, 4) == 8


def test_what_is_async() -> None:
    assert is_async(twice)
    assert is_async(Object())
    assert is_async(functools.partial(twice))
    assert not is_async(Object().method)


async def test_sync_functions_run_in_a_thread_with_our_context() -> None:
    WHERE.set("here")
    thread, where = await call(lambda: (threading.current_thread(), WHERE.get()))
    assert thread is not threading.main_thread()
    assert where == "here"


@pytest.mark.parametrize("error", [StopIteration, SystemExit])
async def test_what_would_end_more_than_the_call_is_an_error(error: type[BaseException]) -> None:
    def sync() -> None:
        raise error

    async def later() -> None:
        raise error

    for function in (sync, later):
        with pytest.raises(RuntimeError):
            await call(function)


async def test_other_errors_arrive_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        await call(lambda: 1 / 0)
