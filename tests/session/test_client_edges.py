"""Races, cancellations and odd orders of calls: nothing hangs, nothing is lost, nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import Allow, Client, Conversation, sync
from quarterdeck.engine import events as ev
from quarterdeck.errors import (
    EngineWedged,
    SessionClosed,
    SessionError,
)
from quarterdeck.session import lock
from quarterdeck.session.handle import TurnHandle

ENGINE = f"""#!{sys.executable} -IS
import json, os, sys, time
if "--version" in sys.argv:
    print("2.1.197 (Claude Code)"); sys.exit()
def lines(*messages):
    os.write(1, b"".join(json.dumps(m).encode() + b"\\n" for m in messages))
def reply(message):
    body = dict(subtype="success", request_id=message["request_id"], response={{}})
    return dict(type="control_response", response=body)
def echo(message):
    return dict(type="user", uuid=message["uuid"], message=message["message"], isReplay=True)
def init(**more):
    return dict(type="system", subtype="init", session_id=SESSION, model="m", **more)
def text(said, **more):
    message = dict(id="m" + said[:9], model="m", content=[dict(type="text", text=said)])
    return dict(type="assistant", message=message, **more)
def result(said="x", **more):
    return dict(dict(type="result", subtype="success", is_error=False, result=said, num_turns=1,
        stop_reason="end_turn", terminal_reason="completed"), **more)
def ask(number, **more):
    request = dict(subtype="can_use_tool", tool_name="Bash", input=dict(command="x"), tool_use_id="t")
    return dict(type="control_request", request_id="ask%d" % number, request=dict(request, **more))
ABORTED = result(subtype="error_during_execution", is_error=True, terminal_reason="aborted_tools")
SESSION = next(a.partition("=")[2] for a in sys.argv if a[:9] in ("--session", "--resume="))
START
for line in sys.stdin:
    message = json.loads(line)
    kind = message["type"]
    if kind == "control_request":
        kind = message["request"]["subtype"]
        if kind == "end_session":
            sys.exit()
        elif kind == "interrupt":
            INTERRUPT
        else:
            lines(reply(message))
            if kind == "initialize":
                INITIALIZED
    elif kind == "control_response":
        ANSWERED
    elif kind == "user":
        PROMPT
"""

Fake = Callable[..., str]
INTERRUPT = "lines(reply(message), ABORTED)"
ONE = "lines(init(), echo(message), text('hi'), result())"
HANG = "lines(init(), echo(message))"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Writes an engine; each keyword is what it does on that occasion."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)

    def write(prompt: str = ONE, **occasions: str) -> str:
        code = ENGINE
        for name in ("start", "initialized", "answered"):
            code = code.replace(name.upper(), occasions.get(name, "pass"))
        code = code.replace(" INTERRUPT", " " + occasions.get("interrupt", INTERRUPT))
        path = tmp_path / "claude"
        path.write_text(code.replace("PROMPT", prompt))
        path.chmod(0o755)
        return str(path)

    return write


def gone(client: Client) -> bool:
    return client.pid is None or not Path(f"/proc/{client.pid}").exists()


def left_behind(tmp_path: Path) -> list[Path]:
    """Files of launches that nobody removed."""
    return list(tmp_path.glob("quarterdeck-*"))


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# -- connect ----------------------------------------------------------------------------------------


async def test_first_calls_at_the_same_time(fake: Fake) -> None:
    async with Conversation(executable=fake()) as talk:
        results = await asyncio.gather(*(talk.say(str(n)) for n in range(3)))
        assert [r.prompt for r in results] == ["0", "1", "2"]
        assert all(r.ok for r in results)


async def test_everybody_who_connects_hears_of_the_failure(fake: Fake) -> None:
    client = Client(executable=fake(start="sys.exit(7)"))
    first, second = await asyncio.gather(client.connect(), client.connect(), return_exceptions=True)
    assert isinstance(first, Exception)
    assert isinstance(second, Exception)
    assert not isinstance(second, AssertionError)


async def test_one_of_two_who_connect_is_cancelled(fake: Fake) -> None:
    client = Client(executable=fake(start="time.sleep(0.5)"))
    first, second = asyncio.create_task(client.connect()), asyncio.create_task(client.turn("go"))
    await asyncio.sleep(0.2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(SessionClosed):
        await second
    assert gone(client)


async def test_closing_while_it_connects(fake: Fake, tmp_path: Path) -> None:
    client = Client(executable=fake(start="time.sleep(0.7)"))
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0.4)
    await client.close()
    with pytest.raises(SessionClosed):
        await connecting
    assert gone(client)
    assert not client.is_open
    assert not left_behind(tmp_path)


async def test_cancelled_while_it_takes_the_lock(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    acquire = lock.acquire

    def slow(engine: str, session: str, env: Any = None) -> lock.SessionLock:
        time.sleep(0.3)
        taken.append(session)
        return acquire(engine, session, env)

    monkeypatch.setattr(lock, "acquire", slow)
    connecting = asyncio.create_task(Client(executable=fake()).connect())
    await asyncio.sleep(0.2)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await until(lambda: taken)
    await asyncio.sleep(0.1)
    acquire("claude-code", taken[0]).release()


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionError, match="file"):
        lock.acquire("claude-code", "x", {"XDG_STATE_HOME": str(tmp_path / "file")})


# -- close ------------------------------------------------------------------------------------------


async def test_cancelled_while_a_turn_settles_on_close(fake: Fake, tmp_path: Path) -> None:
    client = await Client(executable=fake(HANG, interrupt="lines(reply(message))")).connect()
    handle = await client.send("go")
    await until(lambda: client.turns or handle.state == "running")
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.3)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert gone(client)
    await until(lambda: handle.done)
    await until(lambda: not left_behind(tmp_path))


async def test_closing_inside_a_permission_callback(fake: Fake) -> None:
    client = Client(executable=fake("lines(init(), echo(message), ask(1))"))

    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        await client.close()
        return Allow()

    client.options = replace(client.options, can_use_tool=decide)
    handle = await client.send("go")
    async with asyncio.timeout(15):
        assert (await handle).boundary.kind == "interrupted"
        await until(lambda: client.exit)
    assert gone(client)


async def test_a_permission_callback_that_will_not_be_cancelled(fake: Fake) -> None:
    over = asyncio.Event()

    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()
        return Allow()

    executable = fake("lines(init(), echo(message), ask(1))")
    client = await Client(executable=executable, can_use_tool=decide).connect()
    handle = await client.send("go")
    await until(lambda: client.pending_permissions)
    try:
        async with asyncio.timeout(15):
            await client.close()
        assert gone(client)
        assert handle.done
    finally:
        over.set()


async def test_closing_inside_an_event_callback_is_quick(fake: Fake) -> None:
    client = await Client(executable=fake(HANG)).connect()

    async def end(event: ev.Event) -> None:
        await client.close()

    client.handlers.on("turn_started", end)
    started = time.monotonic()
    handle = await client.send("go")
    await until(lambda: handle.done)
    assert time.monotonic() - started < 3
    assert gone(client)


async def test_the_last_events_reach_who_listens(fake: Fake) -> None:
    notice = "time.sleep(0.02); lines(dict(type='system', subtype='informational', content='x'))"
    client = await Client(executable=fake(f"{ONE}\n        for n in range(9): {notice}")).connect()
    seen: list[ev.Event] = []

    async def listen() -> None:
        seen.extend([event async for event in client.events()])

    listening = asyncio.create_task(listen())
    client.handlers.on("notice", lambda event: time.sleep(0.1))
    assert (await client.turn("go")).ok
    await asyncio.sleep(0.2)
    await client.close()
    async with asyncio.timeout(5):
        await listening
    assert isinstance(seen[-1], ev.SessionEnded)
    assert sum(isinstance(event, ev.Notice) for event in seen) == 9


async def test_listening_to_a_session_that_is_over(fake: Fake) -> None:
    client = await Client(executable=fake()).connect()
    await client.close()
    async with asyncio.timeout(2):
        assert [event async for event in client.events()] == []


async def test_listening_to_a_session_that_never_began(fake: Fake) -> None:
    client = Client(executable=fake(start="sys.exit(7)"))

    async def listen() -> list[ev.Event]:
        return [event async for event in client.events()]

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    with pytest.raises(Exception, match="ready"):
        await client.connect()
    async with asyncio.timeout(2):
        await listening


def test_a_loop_that_ends_while_it_closes(fake: Fake) -> None:
    """As `asyncio.run` does at the second Ctrl-C: every task is cancelled at once."""
    executable = Path(
        fake(start="import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)")
    )
    code = executable.read_text().replace("sys.exit()\n        elif", "continue\n        elif")
    executable.write_text(code + "\ntime.sleep(60)\n")

    async def main() -> Client:
        client = await Client(executable=str(executable)).connect()
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.5)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task is not None:
                task.cancel()
        _, pending = await asyncio.wait({closing}, timeout=8)
        assert not pending
        return client

    assert gone(asyncio.run(main()))


# -- turns ------------------------------------------------------------------------------------------


async def test_an_interrupt_by_a_reader_that_is_behind(fake: Fake) -> None:
    prompt = (
        "lines(init(), echo(message))\n"
        "        for n in range(500): time.sleep(0.0005); lines(text('%d' % n))"
    )
    client = Client(executable=fake(prompt), queue_events=20, settle_timeout=3.0)
    async with client:
        handle = await client.send("go")
        async for event in handle.stream():
            if isinstance(event, ev.Message) and event.role == "assistant":
                await asyncio.sleep(1.0)
                await handle.interrupt()
                break
        assert (await handle).boundary.kind == "interrupted"
        assert client.is_open


async def test_an_interrupt_while_a_callback_is_slow(fake: Fake) -> None:
    client = Client(executable=fake(HANG), settle_timeout=0.3)

    async def slow(event: ev.Event) -> None:
        await asyncio.sleep(1.0)

    client.handlers.on("turn_ended", slow)
    async with client:
        handle = await client.send("go")
        await until(lambda: handle.state == "running")
        await handle.interrupt()
        assert (await handle).boundary.kind == "interrupted"
        assert client.is_open


async def test_the_next_turn_has_only_its_own_events(fake: Fake) -> None:
    async with Client(executable=fake()) as client:
        handles: list[TurnHandle] = []

        async def send_more(event: ev.Event) -> None:
            if len(handles) < 2:
                handles.append(await client.send("second"))
                await asyncio.sleep(0.3)

        client.handlers.on("turn_ended", send_more)
        handles.append(await client.send("first"))
        await until(lambda: len(handles) == 2)
        events = [event async for event in handles[1].stream()]
        assert sum(isinstance(e, ev.TurnEnded) for e in events) == 1
        echoes = [e.uuid for e in events if isinstance(e, ev.Message) and e.replay]
        assert echoes == [handles[1].uuid]


async def test_a_late_interrupt_does_not_hit_the_next_turn(fake: Fake) -> None:
    prompt = (
        "lines(init(), echo(message))\n"
        "        if message['message']['content'] == 'first': lines(text('one'), result())"
    )
    async with Client(executable=fake(prompt)) as client:
        second: list[TurnHandle] = []

        async def hold(event: ev.Event) -> None:
            if not second:
                second.append(await client.send("second"))
                await until(lambda: second[0].state == "running")
                late = asyncio.create_task(first.interrupt())
                await asyncio.sleep(0.3)
                tasks.append(late)

        tasks: list[asyncio.Task[Any]] = []
        client.handlers.on("turn_ended", hold)
        first = await client.send("first")
        assert (await first).ok
        await until(lambda: tasks)
        await tasks[0]
        await asyncio.sleep(0.3)
        assert not second[0].done


async def test_a_prompt_that_the_engine_has_had(fake: Fake) -> None:
    prompt = (
        "known = globals().setdefault('known', set())\n"
        "        lines(echo(message)) if message['uuid'] in known else " + ONE + "\n"
        "        known.add(message['uuid'])"
    )
    known = "5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8"
    async with Client(executable=fake(prompt)) as client:
        assert (await client.turn("go")).ok
        assert (await (await client.send("more", prompt_id=known))).ok
        async with asyncio.timeout(5):
            again = await (await client.send("more", prompt_id=known))
        assert not again.complete
        assert again.boundary.reason == "duplicate"
        assert (await client.turn("go on")).ok
        assert len(client.turns) == 3


AUTO = "lines(init(), text('auto')); time.sleep(0.3); lines(result('auto'))"


async def test_a_prompt_given_while_the_engine_takes_up_an_old_turn(
    fake: Fake, tmp_path: Path
) -> None:
    executable = fake("lines(init(), echo(message), text('mine'), result())", initialized=AUTO)
    old = "5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8"
    transcript = tmp_path / ".claude" / "projects" / "p" / f"{old}.jsonl"
    transcript.parent.mkdir(parents=True)
    transcript.write_text("{}\n")
    async with Client(executable=executable, resume=old) as client:
        first, second = await client.send("first"), await client.send("second")
        assert (await first).text == "mine"
        assert (await second).text == "mine"
        assert [(t.prompt, t.text) for t in client.turns] == [
            ("", "auto"),
            ("first", "mine"),
            ("second", "mine"),
        ]
        assert len({t.index for t in client.turns}) == 3
        assert all(t.engine_session_id for t in client.turns)


async def test_a_turn_of_the_engine_that_callbacks_have_not_seen_yet(fake: Fake) -> None:
    prompt = ONE + "; lines(init(), text('own'), result('own', origin=dict(kind='task')))"
    async with Client(executable=fake(prompt)) as client:
        client.handlers.on("message", lambda event: time.sleep(0.1))
        await client.send("first")
        second = await client.send("second")
        assert (await second).text == "hi"
        await until(lambda: len(client.turns) == 4)
        assert [t.text for t in client.turns] == ["hi", "own", "hi", "own"]


async def test_a_time_limit_holds_for_a_prompt_that_nobody_reads(fake: Fake) -> None:
    executable = fake(initialized="time.sleep(60)")
    client = Client(executable=executable, turn_timeout=0.5, settle_timeout=1.0)
    async with client:
        handle = await client.send("x" * 8_000_000)
        async with asyncio.timeout(8):
            with pytest.raises(EngineWedged):
                await handle
    assert gone(client)


async def test_numbers_that_are_none(fake: Fake) -> None:
    prompt = "lines(init(), echo(message), result(duration_ms='nan', duration_api_ms='inf'))"
    async with Client(executable=fake(prompt)) as client:
        result = await client.turn("go")
        assert (result.ok, result.duration_ms) == (True, 0)


async def test_leaving_a_stream_interrupts_before_it_returns(fake: Fake) -> None:
    async with Client(executable=fake(HANG)) as client:
        stream = client.stream("go")
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert client._loop.current is None


# -- answers ----------------------------------------------------------------------------------------


async def test_a_permission_callback_that_raises_cancelled(fake: Fake) -> None:
    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        raise asyncio.CancelledError

    prompt = "lines(init(), echo(message), ask(1))"
    executable = fake(prompt, answered="lines(text(json.dumps(message)), result())")
    async with Client(executable=executable, can_use_tool=decide) as client:
        async with asyncio.timeout(5):
            result = await client.turn("go")
        assert '"deny"' in result.text


async def test_an_elicitation_callback_that_raises_cancelled(fake: Fake) -> None:
    async def answer(asked: ev.Elicitation) -> dict[str, Any]:
        raise asyncio.CancelledError

    prompt = "lines(init(), echo(message), ask(1, subtype='elicitation'))"
    executable = fake(prompt, answered="lines(text(json.dumps(message)), result())")
    async with Client(executable=executable, on_elicitation=answer) as client:
        async with asyncio.timeout(5):
            result = await client.turn("go")
        assert '"cancel"' in result.text


async def test_a_request_that_is_withdrawn_at_once(fake: Fake) -> None:
    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        return Allow()

    prompt = (
        "lines(init(), echo(message), ask(1),"
        " dict(type='control_cancel_request', request_id='ask1'), result())"
    )
    async with Client(executable=fake(prompt), can_use_tool=decide) as client:
        resolved: list[ev.PermissionResolved] = []
        client.handlers.on("permission_resolved", resolved.append)
        assert (await client.turn("go")).ok
        await until(lambda: resolved)
        assert resolved[0].decision == "cancelled"


# -- the synchronous face ---------------------------------------------------------------------------

SYNC = """
import sys
from quarterdeck.engine import events as ev
from quarterdeck.sync import query
try:
    for event in query("go", executable=sys.argv[1]):
        if isinstance(event, ev.TurnStarted):
            print("running", flush=True)
except BaseException as error:
    print(type(error).__name__, flush=True)
"""


def test_ctrl_c_in_a_synchronous_loop(fake: Fake) -> None:
    command = [sys.executable, "-c", SYNC, fake(HANG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "running\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=8)
        finally:
            process.kill()
    assert out == "KeyboardInterrupt\n"


def test_following_a_turn_synchronously(fake: Fake) -> None:
    with sync.Client(executable=fake()) as client:
        events = list(client.follow(client.send("go")))
    assert isinstance(events[-1], ev.TurnEnded)
