"""Engines that misbehave: each ends in a typed error, a settled session and no process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import Client
from quarterdeck.engine import events as ev
from quarterdeck.errors import (
    EngineDied,
    EngineNotFound,
    EngineStartError,
    EngineVersionError,
    LineTooLong,
    OptionError,
    SessionClosed,
    UsageError,
)

START = f"""#!{sys.executable} -IS
import json, os, sys, time
if "--version" in sys.argv:
    print(VERSION); sys.exit()
def put(**message):
    os.write(1, json.dumps(message).encode() + b"\\n")
def reply(message):
    body = dict(subtype="success", request_id=message["request_id"], response={{}})
    put(type="control_response", response=body)
def turn(text):
    put(type="system", subtype="init", session_id="s", model="m")
    put(type="assistant", message=dict(id="m", content=[dict(type="text", text=text)]))
def result():
    put(type="result", subtype="success", is_error=False, result="x", stop_reason="end_turn",
        terminal_reason="completed", num_turns=1)
"""
LOOP = """
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "control_request":
        if message["request"]["subtype"] == "end_session": sys.exit()
        reply(message)
    elif message["type"] == "user":
        PROMPT
"""

Fake = Callable[..., str]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)

    def write(body: str = "", *, prompt: str = "", version: str = "2.1.197 (Claude Code)") -> str:
        path = tmp_path / "claude"
        text = body or LOOP.replace("PROMPT", prompt)
        path.write_text(START.replace("VERSION", repr(version)) + text)
        path.chmod(0o755)
        return str(path)

    return write


def gone(client: Client) -> bool:
    return client.pid is None or not Path(f"/proc/{client.pid}").exists()


async def test_a_missing_program(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(EngineNotFound, match="path"):
        await Client(executable=str(tmp_path / "nothing")).connect()


async def test_no_program_on_the_path(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("QUARTERDECK_CLAUDE", raising=False)
    with pytest.raises(EngineNotFound, match="npm install"):
        await Client().connect()


@pytest.mark.parametrize("version", ["1.0.128 (Claude Code)", "3.0.0 (Claude Code)", "hello", ""])
async def test_other_versions(fake: Fake, version: str) -> None:
    with pytest.raises(EngineVersionError):
        await Client(executable=fake(version=version)).connect()


async def test_a_missing_directory(fake: Fake) -> None:
    with pytest.raises(OptionError, match="cwd"):
        await Client(executable=fake(), cwd="/nowhere").connect()


async def test_a_crash_at_the_start(fake: Fake) -> None:
    client = Client(executable=fake("sys.stderr.write('out of cheese\\n'); sys.exit(7)"))
    with pytest.raises(EngineStartError, match="out of cheese") as caught:
        await client.connect()
    assert caught.value.process_exit_code == 7
    assert gone(client)
    with pytest.raises(SessionClosed):
        await client.connect()


async def test_silence_at_the_start(fake: Fake) -> None:
    client = Client(executable=fake("time.sleep(60)"), start_timeout=0.5)
    with pytest.raises(EngineStartError, match="did not answer"):
        await client.connect()
    assert gone(client)


async def test_cancelled_at_the_start(fake: Fake) -> None:
    client = Client(executable=fake("time.sleep(60)"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.connect()
    assert gone(client)


async def test_garbage_on_stdout_is_no_reason_to_stop(fake: Fake) -> None:
    prompt = "os.write(1, b'\\xff\\x00 npm WARN\\n[]\\n\\n'); turn('hi'); result()"
    async with Client(executable=fake(prompt=prompt)) as client:
        events = [e async for e in client.stream("go")]
        assert client.turns[0].ok
    assert [e.kind for e in events if isinstance(e, ev.Unknown)] == ["not_json", "not_json"]


async def test_an_end_without_a_record(fake: Fake) -> None:
    prompt = "turn('half'); sys.stderr.write('boom\\n'); sys.exit(0)"
    async with Client(executable=fake(prompt=prompt)) as client:
        handle, waiting = await client.send("go"), await client.send("more")
        with pytest.raises(EngineDied, match="boom") as caught:
            await handle
        with pytest.raises(EngineDied):
            await waiting
        assert caught.value.partial.text == "half"
        assert not caught.value.partial.complete
        with pytest.raises(EngineDied):
            await client.turn("again")
    assert gone(client)


async def test_a_line_cut_in_the_middle(fake: Fake) -> None:
    prompt = "turn('half'); os.write(1, b'{\"type\":\"resu'); sys.exit(0)"
    async with Client(executable=fake(prompt=prompt)) as client:
        events: list[ev.Event] = []
        client.handlers.on("*", events.append)
        with pytest.raises(EngineDied):
            await client.turn("go")
    assert [e.kind for e in events if isinstance(e, ev.Unknown)] == ["cut_line"]
    assert isinstance(events[-1], ev.SessionEnded)
    assert not events[-1].expected


async def test_a_line_over_the_limit(fake: Fake) -> None:
    client = Client(executable=fake(prompt="turn('x' * 5000); time.sleep(60)"), max_line_bytes=1000)
    async with client:
        with pytest.raises(LineTooLong, match="max_line_bytes"):
            await client.turn("go")
    assert gone(client)


async def test_an_engine_that_ignores_everything_but_a_kill(fake: Fake) -> None:
    body = "import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n" + LOOP.replace(
        "sys.exit()", "pass"
    ).replace("PROMPT", "pass") + "\ntime.sleep(600)\n"  # fmt: skip
    client = await Client(executable=fake(body)).connect()
    exit = await client.close()
    assert exit is not None
    assert exit.signal == 9
    assert exit.killed
    assert gone(client)


async def test_children_that_outlive_the_engine_are_named_and_ended(
    fake: Fake, tmp_path: Path
) -> None:
    body = (
        "import subprocess\np = subprocess.Popen(['sleep', '287'], start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))\n" + LOOP.replace("PROMPT", "pass")
    )
    client = await Client(executable=fake(body)).connect()
    pid = int((tmp_path / "pid").read_text())
    exit = await client.close()
    assert exit is not None
    assert exit.code == 0
    assert any("sleep 287" in name for name in exit.left)
    assert not Path(f"/proc/{pid}").exists()


async def test_a_slow_consumer_holds_the_engine_back_but_not_control_calls(
    fake: Fake, tmp_path: Path
) -> None:
    note = tmp_path / "written"
    prompt = (
        "turn('start')\n        for n in range(200):\n"
        "            turn('x' * 100_000)\n"
        f"            open({str(note)!r}, 'w').write(str(n))\n        result()"
    )
    client = Client(executable=fake(prompt=prompt), queue_events=10, queue_bytes=500_000)
    async with client:
        handle = await client.send("go", keep=False)
        stream = handle.stream()
        await anext(stream)
        await asyncio.sleep(1.0)
        written = int(note.read_text())
        assert written < 100
        await asyncio.sleep(0.3)
        assert int(note.read_text()) == written
        rest = [event async for event in stream]
        assert sum(isinstance(e, ev.Message) for e in rest) == 201


async def test_a_callback_may_await_a_control_call(fake: Fake) -> None:
    prompt = "turn('start')\n        for n in range(300): turn('x' * 1000)\n        result()"
    async with Client(executable=fake(prompt=prompt), queue_events=5, queue_bytes=5000) as client:
        answers: list[Any] = []

        async def ask(event: ev.Event) -> None:
            if len(answers) < 3:
                answers.append(await client.get_settings())

        client.handlers.on("message", ask)
        async with asyncio.timeout(20):
            assert (await client.turn("go")).ok
        assert len(answers) == 3


async def test_a_callback_may_not_await_a_turn(fake: Fake) -> None:
    async with Client(executable=fake(prompt="turn('hi'); result()")) as client:

        async def wait(event: ev.Event) -> None:
            await (await client.send("more"))

        client.handlers.on("message", wait)
        async with asyncio.timeout(20):
            assert (await client.turn("go")).ok
        assert isinstance(client.handlers.errors[0], UsageError)
