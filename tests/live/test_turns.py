"""Turns on the real CLI: text, tools, limits, faults, interrupts, ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import (
    Allow,
    Catalog,
    Client,
    Conversation,
    Options,
    query,
    query_turn,
    resume_conversation,
)
from quarterdeck.engine import events as ev
from quarterdeck.errors import (
    EngineDied,
    EngineWedged,
    OptionError,
    QueueFull,
    SessionBusy,
    SessionClosed,
    SessionNotFound,
    TurnFailed,
)
from quarterdeck.testing import ScriptedModel

Make = Callable[..., Options]

SLOW = {"text": "slow " * 40, "chunk": 5, "step_delay": 0.05}


def bash(command: str, **more: Any) -> dict[str, Any]:
    return {"tools": [{"name": "Bash", "input": {"command": command, **more}}]}


async def allow_all(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
    return Allow()


async def test_one_turn(make: Make, model: ScriptedModel) -> None:
    model.push({"thinking": "let me see", "text": "Hello there."})
    result = await query_turn("hi", make())
    assert result.ok
    assert result.text == result.result_text == "Hello there."
    assert result.thinking == "let me see"
    assert result.cost_usd > 0
    assert result.total_cost_usd == pytest.approx(result.cost_usd)
    assert result.usage.output_tokens > 0
    assert result.model_usage
    assert result.raise_for_boundary() is result


async def test_events_come_as_they_happen(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "one two three four", "chunk": 4})
    kinds, text = [], ""
    async for event in query("hi", make()):
        kinds.append(event.type)
        if isinstance(event, ev.TextDelta):
            text += event.text
    assert text == "one two three four"
    assert kinds.count("text_delta") == 5
    assert kinds[-1] == "turn_ended"
    assert "session_ready" in kinds


async def test_a_conversation_adds_up(make: Make, model: ScriptedModel, work: Path) -> None:
    model.push(bash("touch made.txt"), {"text": "made"}, {"text": "again"})
    async with Conversation(make(can_use_tool=allow_all)) as talk:
        assert not talk.is_open
        first = await talk.say("make it")
        assert talk.is_open
        assert (work / "made.txt").exists()
        (activity,) = first.tool_executions
        assert activity.display_label == "Bash: touch made.txt"
        assert activity.duration is not None
        assert not activity.is_error
        second = await talk.say("again")
        assert (second.index, second.text) == (2, "again")
        assert talk.total_cost_usd == pytest.approx(first.cost_usd + second.cost_usd)
        assert [t.text for t in talk.turns] == ["made", "again"]
        assert len(talk.tool_activity) == 1
        assert talk.usage.output_tokens == first.usage.output_tokens + second.usage.output_tokens
        assert len(talk.messages) >= 6
    assert talk.is_closed
    with pytest.raises(SessionClosed):
        await talk.say("more")


async def test_changed_files_are_named(make: Make, model: ScriptedModel, work: Path) -> None:
    path = work / "a.txt"
    write = {"tools": [{"name": "Write", "input": {"file_path": str(path), "content": "x\n"}}]}
    model.push(write, {"text": "ok"})
    result = await query_turn("write", make(permission_mode="acceptEdits"))
    assert result.files_changed == (str(path),)
    assert path.read_text() == "x\n"


async def test_prompts_wait_in_order_and_each_has_a_turn(make: Make, model: ScriptedModel) -> None:
    model.push({**SLOW, "text": "slow " * 8}, {"text": "two"}, {"text": "three"})
    async with Client(make(max_queued_prompts=2)) as client:
        first = await client.send("1")
        while first.state == "queued":
            await asyncio.sleep(0.01)
        second, third = await client.send("2"), await client.send("3")
        with pytest.raises(QueueFull):
            await client.send("4")
        texts = [(await handle).text for handle in (first, second, third)]
    assert texts[1:] == ["two", "three"]


async def test_interrupt_while_text_streams(make: Make, model: ScriptedModel) -> None:
    model.push(SLOW, {"text": "next"})
    async with Client(make()) as client:
        handle = await client.send("go")
        dropped: tuple[str, ...] = ()
        async for event in handle.stream():
            if isinstance(event, ev.TextDelta):
                await client.send("queued")
                dropped = await handle.interrupt(drain=True)
                break
        result = await handle
        assert dropped == ("queued",)
        assert result.boundary.kind == "interrupted"
        assert result.complete
        assert result.text.startswith("slow")
        assert (await client.turn("go on")).text == "next"


async def test_interrupt_while_bash_runs(make: Make, model: ScriptedModel) -> None:
    model.push(bash("sleep 300"), {"text": "next"})
    async with Client(make(allow=["Bash"])) as client:
        handle = await client.send("go")
        async for event in handle.stream():
            if isinstance(event, ev.ToolInput) and event.input:
                await asyncio.sleep(0.3)
                await handle.interrupt()
                break
        assert (await handle).boundary.kind == "interrupted"
        assert (await client.turn("go on")).ok


async def test_a_prompt_that_waits_can_be_dropped(make: Make, model: ScriptedModel) -> None:
    model.push({**SLOW, "text": "slow " * 6})
    async with Client(make()) as client:
        first = await client.send("1")
        second = await client.send("2")
        await second.interrupt()
        result = await second
        assert (result.boundary.kind, result.complete) == ("interrupted", False)
        assert (await first).ok
    assert len([r for r in model.requests if r.path.endswith("/messages")]) == 1


async def test_cancelling_a_turn_interrupts_it(make: Make, model: ScriptedModel) -> None:
    model.push(SLOW, {"text": "next"})
    async with Client(make()) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await client.turn("go")
        assert (await client.turn("go on")).text == "next"
        assert client.turns[0].boundary.kind == "interrupted"


async def test_leaving_a_stream_interrupts_its_turn(make: Make, model: ScriptedModel) -> None:
    model.push(SLOW, {"text": "next"})
    async with Client(make()) as client:
        stream = client.stream("go")
        async for event in stream:
            if isinstance(event, ev.TextDelta):
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert (await client.turn("go on")).text == "next"


async def test_a_turn_has_a_time_limit(make: Make, model: ScriptedModel) -> None:
    model.push({"hang": 60}, {"text": "next"})
    async with Client(make(turn_timeout=1.0)) as client:
        result = await client.turn("go")
        assert str(result.boundary) == "limit(time)"
        with pytest.raises(Exception, match="limit"):
            result.raise_for_boundary()
        assert (await client.turn("go on")).ok


async def test_a_turn_has_a_round_limit(make: Make, model: ScriptedModel) -> None:
    model.push(bash("true"), {"text": "never"})
    result = await query_turn("go", make(allow=["Bash"], max_turns=1))
    assert str(result.boundary) == "limit(turns)"


async def test_a_session_has_a_budget(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "dear", "usage": {"output_tokens": 1_000_000}}, {"text": "never"})
    async with Client(make(max_budget_usd=0.01)) as client:
        await client.turn("go")
        assert str((await client.turn("more")).boundary) == "limit(budget)"


FAULTS = [
    ([{"status": 429, "headers": {"retry-after": "0"}}], "completed"),
    ([{"status": 500}], "completed"),
    ([{"status": 500}] * 3, "errored(server_error)"),
    ([{"status": 529, "error": {"type": "overloaded_error", "message": "x"}}] * 3, "errored"),
    ([{"status": 400, "error": {"type": "invalid_request_error", "message": "x"}}], "errored"),
    (
        [{"status": 404, "error": {"type": "not_found_error", "message": "x"}}] * 3,
        "errored(model_not_found)",
    ),
    ([{"text": "half of it", "chunk": 2, "drop_after": 4}], "completed"),
    ([{"text": "half of it", "chunk": 2, "truncate_after": 4}], "completed"),
]


@pytest.mark.parametrize(("replies", "expected"), FAULTS, ids=lambda v: str(v)[:50])
async def test_faults_of_the_provider(
    make: Make, model: ScriptedModel, replies: list[dict[str, Any]], expected: str
) -> None:
    model.push(*replies, {"text": "fine"})
    result = await query_turn("go", make())
    assert str(result.boundary).startswith(expected)
    assert result.ok == (expected == "completed")
    if result.ok:
        assert result.text == "fine"
    else:
        with pytest.raises(TurnFailed) as caught:
            result.raise_for_boundary()
        assert caught.value.result is result


@pytest.mark.parametrize("fault", ["drop_after", "truncate_after"])
async def test_a_stream_that_breaks_in_a_tool_call_is_not_success(
    make: Make, model: ScriptedModel, fault: str
) -> None:
    model.push({"text": "pre", **bash("echo hello"), "chunk": 4, fault: 7})
    result = await query_turn("go", make(allow=["Bash"]))
    assert str(result.boundary) in ("errored(truncated)", "errored(server_error)")
    assert result.tool_executions == ()


async def test_abandoned_text_is_withdrawn(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "abandoned words", "chunk": 3, "drop_after": 5}, {"text": "the answer"})
    shown: dict[str, int] = {}
    async for event in query("go", make()):
        if isinstance(event, ev.TextDelta):
            shown[event.message_id] = shown.get(event.message_id, 0) + len(event.text)
        elif isinstance(event, ev.TextWithdrawn):
            shown[event.message_id] -= event.characters
    assert sum(shown.values()) == 0  # the answer itself came without deltas


async def test_structured_output(make: Make, model: ScriptedModel) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model.push({"tools": [{"name": "StructuredOutput", "input": {"n": 3}}]})
    result = await query_turn("count", make(output_schema=schema))
    assert result.structured_output == {"n": 3}
    assert result.ok


async def test_prose_instead_of_structured_output_is_no_success(
    make: Make, model: ScriptedModel
) -> None:
    model.push(*[{"text": "three"}] * 4)
    result = await query_turn("count", make(output_schema={"type": "object"}))
    assert str(result.boundary) == "errored(structured_output)"


async def test_what_the_engine_would_ignore_is_refused(make: Make, tmp_path: Path) -> None:
    for field, value in (
        ("agent", "nobody"),
        ("add_dirs", ["/nope"]),
        ("plugin_dirs", ["/nope"]),
        ("debug_file", "/nope/x"),
    ):
        client = Client(make(**{field: value}))
        with pytest.raises(OptionError) as caught:
            await client.connect()
        assert caught.value.field == field
        assert client.pid is None or not Path(f"/proc/{client.pid}").exists()
    assert not Path("/nope").exists()


async def test_a_session_that_cannot_be_saved_says_so(
    make: Make, model: ScriptedModel, tmp_path: Path
) -> None:
    model.push({"text": "one"}, {"text": "two"})
    async with Client(make()) as client:
        await client.turn("hi")
        await client.close()
        assert client.is_saved()
    async with Client(make(persist=False)) as client:
        await client.turn("hi")
        await client.close()
        assert not client.is_saved()


async def test_a_fork_has_a_title_of_its_own(
    make: Make, model: ScriptedModel, tmp_path: Path
) -> None:
    model.push({"text": "one"}, {"text": "two"})
    async with Client(make()) as client:
        await client.turn("hi")
        await client.rename("login bug")
        origin = client.engine_session_id
    assert origin is not None
    async with Client(make(resume=origin, fork=True)) as client:
        await client.turn("on")
    catalog = Catalog(config_dir=tmp_path / "config")
    assert catalog.get("login bug").engine_session_id == origin
    assert catalog.get("login bug (fork)").engine_session_id == client.engine_session_id


async def test_attachments(make: Make, model: ScriptedModel, tmp_path: Path) -> None:
    note, image = tmp_path / "note.txt", tmp_path / "dot.bin"
    note.write_text("remember this")
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    model.push({"text": "seen"})
    result = await query_turn("look", make(), attachments=[note, image])
    assert result.ok
    content = str(model.requests[0].body["messages"])
    assert "remember this" in content
    assert "image/png" in content


async def test_background_work_makes_a_turn_that_nobody_asked_for(
    make: Make, model: ScriptedModel
) -> None:
    model.push(
        bash("sleep 1; echo done", run_in_background=True), {"text": "started"}, {"text": "noticed"}
    )
    async with Client(make(allow=["Bash"])) as client:
        first = await client.turn("start it")
        assert first.text == "started"
        deadline = time.monotonic() + 15
        while len(client.turns) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert client.turns[1].text == "noticed"
        assert client.turns[1].origin
        model.push({"text": "mine"})
        assert (await client.turn("next")).text == "mine"


async def test_resume_fork_and_continue(make: Make, model: ScriptedModel) -> None:
    for text in ("one", "two", "three", "four"):
        model.push({"text": text})
    async with Conversation(make()) as talk:
        await talk.say("first")
        origin = talk.session_id
    assert origin is not None
    async with resume_conversation(origin, make()) as talk:
        result = await talk.say("second")
        assert result.engine_session_id == origin
        with pytest.raises(SessionBusy):
            await resume_conversation(origin, make()).say("no")
        async with resume_conversation(origin, make(), fork=True) as copy:
            await copy.say("third")
            assert copy.session_id != origin
    async with Conversation(make(continue_last=True)) as talk:
        assert (await talk.say("fourth")).text == "four"
    sent = str(model.requests[-1].body["messages"])
    assert "first" in sent


async def test_what_cannot_be_resumed(make: Make) -> None:
    with pytest.raises(SessionNotFound):
        await resume_conversation("5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8", make()).say("x")
    with pytest.raises(SessionNotFound):
        await Conversation(make(continue_last=True)).say("x")


async def test_clear_goes_on_under_a_new_id(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "one"}, {"text": "two"})
    async with Client(make()) as client:
        await client.turn("first")
        before = client.engine_session_id
        await client.turn("/clear")
        assert (await client.turn("second")).text == "two"
        assert client.engine_session_id != before


async def test_an_engine_that_is_killed(make: Make, model: ScriptedModel) -> None:
    model.push(SLOW, {"text": "resumed"})
    async with Client(make()) as client:
        handle = await client.send("go")
        async for event in handle.stream():
            if isinstance(event, ev.TextDelta):
                await asyncio.sleep(0.4)  # the transcript is written a moment after the event
                assert client.pid is not None
                os.kill(client.pid, signal.SIGKILL)
                break
        with pytest.raises(EngineDied) as caught:
            await handle
        assert caught.value.partial is not None
        assert caught.value.partial.prompt == "go"
        assert not caught.value.partial.complete
        assert caught.value.process_exit_code == 137
        assert client.is_closed
        engine_id = client.engine_session_id
    assert client.exit is not None
    assert client.exit.clean
    assert engine_id is not None
    async with resume_conversation(engine_id, make()) as talk:
        assert (await talk.say("go on")).ok


async def test_a_wedged_engine_is_ended(make: Make, model: ScriptedModel) -> None:
    async with Client(make(control_timeout=1.0)) as client:
        stream = client._stream
        assert stream is not None
        bad = (
            b'{"type":"control_request","request_id":"x","request":{"subtype":"mcp_set_servers"}}\n'
        )
        await stream.write(bad)
        with pytest.raises(EngineWedged):
            await client.mcp_status()
        assert not client.is_open
        assert client.pid is not None
        assert not Path(f"/proc/{client.pid}").exists()


async def test_closing_ends_every_process(make: Make, model: ScriptedModel, work: Path) -> None:
    model.push(bash(f"echo $$ > {work}/pid; sleep 300 & sleep 300"))
    client = await Client(make(allow=["Bash"])).connect()
    handle = await client.send("go")
    while not (work / "pid").exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    pid = int((work / "pid").read_text())
    exit = await client.close()
    assert exit is not None
    assert exit.clean
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{client.pid}").exists()
    assert (await handle).boundary.kind == "interrupted"


async def test_large_output_of_a_turn(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "x" * 4_000_000})
    result = await query_turn("go", make(include_deltas=False))
    assert len(result.text) == 4_000_000


async def test_the_session_style_face(make: Make, model: ScriptedModel) -> None:
    from quarterdeck import create_session

    model.push({"text": "one"}, {"text": "two"})
    async with await create_session(make()) as session:
        await session.send("1")
        await session.send("2")
        texts = [e.text async for e in session.stream() if isinstance(e, ev.TurnEnded)]
    assert texts == ["one", "two"]


async def test_the_child_sees_only_what_is_allowed(
    make: Make, model: ScriptedModel, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "s3cret")
    model.push(bash(f"env > {work}/env; ls -l /proc/self/fd > {work}/fds"), {"text": "ok"})
    options: Options = make(allow=["Bash"], env={"MINE": "yes"})
    assert (await query_turn("go", options)).ok
    env = (work / "env").read_text()
    assert "s3cret" not in env
    assert "MINE=yes" in env
