"""One prompt, one answer: the shortest ways to ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from quarterdeck.engine import events as ev
from quarterdeck.engine.claude.launch import compile_launch
from quarterdeck.errors import EngineStartError
from quarterdeck.model import Exit
from quarterdeck.session.client import Client
from quarterdeck.session.credentials import check_credentials, child_environment
from quarterdeck.session.engines import claude_program
from quarterdeck.session.handlers import EventHandlers
from quarterdeck.session.options import Options
from quarterdeck.session.prompts import Prompt
from quarterdeck.session.turns import TurnResult


async def query(
    prompt: Prompt,
    options: Options | None = None,
    *,
    attachments: Sequence[str | Path] = (),
    **changes: Any,
) -> AsyncIterator[ev.Event]:
    """Start an agent, give it one prompt, yield the turn's events, end it.

    Keeps nothing, so memory is flat. Raises what Client.connect and Client.turn raise. Leaving the
    loop early (with `aclosing`, or at the generator's end) interrupts the turn and ends the agent.
    """
    async with Client(options, **changes) as client:
        handle = await client.send(prompt, attachments=attachments, keep=False)
        async with contextlib.aclosing(client.batches(handle)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event


async def query_turn(
    prompt: Prompt,
    options: Options | None = None,
    *,
    attachments: Sequence[str | Path] = (),
    handlers: EventHandlers | None = None,
    **changes: Any,
) -> TurnResult:
    """Start an agent, give it one prompt, return the turn's result, end the agent.

    Raises what Client.connect and Client.turn raise; when cancelled, the turn is interrupted and the
    agent ended first.
    """
    client = Client(options, **changes)
    if handlers is not None:
        client.handlers = handlers
    async with client:
        return await client.turn(prompt, attachments=attachments)


class SetupResult(msgspec.Struct, frozen=True):
    """What `run_setup` saw; `exit.code` 0 means that the engine was satisfied."""

    exit: Exit
    output: str
    stderr_tail: str


async def run_setup(
    trigger: Literal["init", "maintenance"] = "init",
    options: Options | None = None,
    *,
    timeout: float = 600.0,
    **changes: Any,
) -> SetupResult:
    """Run the project's Setup hooks and end, without a prompt to the model.

    Setup hooks are code of the project: they run only when `setting_sources` trusts its settings.
    Raises what Client.connect raises, EngineStartError when it takes longer than `timeout` seconds.
    """
    flag: Literal["init-only", "maintenance"] = "init-only" if trigger == "init" else "maintenance"
    client = Client(options, **{**changes, "trigger": flag, "persist": True})
    made = client.options
    inherited = dict(os.environ)
    check_credentials(made, inherited)
    program = await asyncio.to_thread(claude_program, made.executable, inherited)
    launch = compile_launch(made, executable=program.path, files_dir="", asks=False)
    host = client.host()
    env = {**child_environment(inherited), **launch.env}
    cwd = str(Path(made.cwd or Path.cwd()))
    process = await host.spawn(launch.argv, cwd=cwd, env=env, mark=client.session_id)
    try:
        async with asyncio.timeout(timeout):
            await process.close_stdin()
            output = bytearray()
            while data := await process.read():
                output += data[: max(0, 1_000_000 - len(output))]
            return SetupResult(
                await process.wait(), output.decode("utf-8", "replace"), process.stderr_tail
            )
    except TimeoutError:
        await process.kill("setup took too long")
        raise EngineStartError(
            f"setup took longer than {timeout:.0f} s", stderr_tail=process.stderr_tail
        ) from None
    finally:
        await process.aclose()
