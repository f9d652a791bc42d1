"""Odd orders of things on the real CLI."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable

import pytest

from quarterdeck import Client, Options
from quarterdeck.engine import events as ev
from quarterdeck.errors import EngineDied
from quarterdeck.testing import ScriptedModel

Make = Callable[..., Options]
SLOW = {"text": "slow " * 40, "chunk": 5, "step_delay": 0.05}


async def test_a_prompt_given_twice_runs_once(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "one"}, {"text": "two"}, {"text": "three"})
    prompt_id = str(uuid.uuid4())
    async with Client(make()) as client:
        first = await client.send("go", prompt_id=prompt_id)
        assert (await first).text == "one"
        again = await client.send("go", prompt_id=prompt_id)
        events = [event async for event in client.follow(again)]
        assert not any(isinstance(event, ev.TurnEnded) for event in events)
        assert (await again).boundary.reason == "duplicate"
        assert (await client.turn("go on")).text == "two"
        engine_id = client.engine_session_id
    async with Client(make(resume=engine_id)) as client:
        again = await client.send("go", prompt_id=prompt_id)
        assert (await again).boundary.reason == "duplicate"
        assert (await client.turn("go on")).text == "three"


async def test_a_turn_that_is_taken_up_again_is_not_the_first_prompts(
    make: Make, model: ScriptedModel
) -> None:
    model.push(SLOW)
    async with Client(make()) as client:
        handle = await client.send("begin")
        async for event in handle.stream():
            if isinstance(event, ev.TextDelta):
                await asyncio.sleep(0.4)  # the transcript is written a moment after the event
                assert client.pid is not None
                os.kill(client.pid, signal.SIGKILL)
                break
        with pytest.raises(EngineDied):
            await handle
        engine_id = client.engine_session_id
    model.push({"text": "taken up", "chunk": 3, "step_delay": 0.1}, {"text": "mine"})
    async with Client(make(resume=engine_id, resume_interrupted=True)) as client:
        assert (await client.turn("mine")).text == "mine"
        assert [turn.text for turn in client.turns] == ["taken up", "mine"]


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.05])
async def test_an_interrupt_right_after_the_prompt(
    make: Make, model: ScriptedModel, delay: float
) -> None:
    model.push(SLOW)
    async with Client(make(settle_timeout=5.0)) as client:
        handle = await client.send("go")
        await asyncio.sleep(delay)
        await handle.interrupt()
        assert (await handle).boundary.kind == "interrupted"
        assert client.is_open
