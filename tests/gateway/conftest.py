"""Servers for the tests of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.gateway.gateway_client import Heard, InstantClock, ask

from quarterdeck.gateway.server import ModelServer

Say = Callable[..., Awaitable[Heard]]


@pytest.fixture
def clock() -> InstantClock:
    return InstantClock()


@pytest.fixture
async def model(clock: InstantClock) -> AsyncIterator[ModelServer]:
    async with ModelServer(clock=clock) as server:
        yield server
    assert server.connections == 0


@pytest.fixture
def say(model: ModelServer) -> Say:
    """Ask the model with its token; the Messages path unless another is given."""

    async def call(body: Any = None, path: str = "/v1/messages", **options: Any) -> Heard:
        return await ask(model.url, path, body, **{"token": model.token, **options})

    return call
