"""The scripted model for tests: one for asyncio, one for synchronous code.

What a server needs is imported when one starts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quarterdeck.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from quarterdeck.gateway.exchange import RecordedRequest
    from quarterdeck.gateway.server import ModelServer, ScriptSource


class _Model:
    """What both forms offer. Usable from any thread; `requests` also after the end."""

    def __init__(
        self,
        script: ScriptSource = None,
        *,
        variables: Mapping[str, str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`script`: a file's path, a list of replies, a mapping as in a file, or None."""
        self._arguments = (script, dict(variables or {}), clock)
        self._made: ModelServer | None = None

    @property
    def _server(self) -> ModelServer:
        if self._made is None:
            raise RuntimeError(f"{type(self).__name__} is not started: use it in a with statement")
        return self._made

    @property
    def url(self) -> str:
        """What the agent needs as base URL, `http://127.0.0.1:PORT`."""
        return self._server.url

    @property
    def token(self) -> str:
        """What the agent must present as API key."""
        return self._server.token

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The newest requests, oldest first: at most 1000, and at most 64 MiB of bodies."""
        return self._server.requests

    def push(self, *replies: Mapping[str, Any]) -> None:
        """Append replies. Raises ScriptError for one that is not valid; then none is appended."""
        self._server.push(*replies)

    def clear(self) -> None:
        """Forget the replies that wait and the requests so far."""
        self._server.clear()

    async def _start(self) -> None:
        from quarterdeck.gateway.server import ModelServer

        script, variables, clock = self._arguments
        server = ModelServer(script, variables=variables, clock=clock)
        await server.start()
        self._made = server


class ScriptedModel(_Model):
    """A scripted model on the running event loop: `async with ScriptedModel() as model:`.

    Entering raises ScriptError or OptionError. Leaving ends every connection.
    """

    async def __aenter__(self) -> ScriptedModel:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()


class ScriptedModelThread(_Model):
    """A scripted model in a thread of its own: `with ScriptedModelThread() as model:`.

    Entering raises ScriptError or OptionError. Leaving ends every connection and the thread.
    """

    def __enter__(self) -> ScriptedModelThread:
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(started)), name="scripted-model", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self, started: concurrent.futures.Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._start()
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            await self._stop.wait()
        finally:
            await self._server.aclose()
