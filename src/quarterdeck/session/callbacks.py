"""Calling the program's own functions: async ones here, sync ones in a worker thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; also for an object with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method itself is looked at
    )


async def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call it and return what it gives.

    A sync function runs in a worker thread (with the caller's context variables), so it may block.
    Cancelling stops an async function at its next await; a thread cannot be stopped, it runs on and
    its result is dropped. SystemExit and StopIteration come out as RuntimeError: the one would end
    the program, the other would never arrive through a future.
    """
    try:
        if is_async(function):
            return await function(*args, **kwargs)
        value = await asyncio.to_thread(_in_thread, function, args, kwargs)
        return await value if inspect.isawaitable(value) else value
    except SystemExit as error:
        raise RuntimeError(f"the callback raised SystemExit({error.code!r})") from error


def _in_thread(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the callback raised {type(error).__name__}") from error
