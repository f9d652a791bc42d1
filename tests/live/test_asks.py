"""What the real CLI asks us: permissions, questions, hooks, MCP; and what we ask it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import (
    Allow,
    Client,
    Conversation,
    Defer,
    Deny,
    ExternalServer,
    HookMatcher,
    HookOutput,
    McpServer,
    Options,
    PermissionQueue,
    PermissionUpdate,
    Policy,
    query_turn,
    run_setup,
    tool,
)
from quarterdeck.engine import events as ev
from quarterdeck.errors import ControlError, InvalidCommand, UsageError
from quarterdeck.testing import FakeClock, ScriptedModel

Make = Callable[..., Options]


def bash(*commands: str) -> dict[str, Any]:
    return {"tools": [{"name": "Bash", "input": {"command": c}} for c in commands]}


async def gather(client: Client, prompt: str) -> tuple[list[ev.Event], Any]:
    handle = await client.send(prompt)
    events = [event async for event in handle.stream()]
    return events, await handle


# -- permissions ------------------------------------------------------------------------------------


async def test_allowed_with_another_input(make: Make, model: ScriptedModel, work: Path) -> None:
    def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        assert threading.current_thread() is not threading.main_thread()
        return Allow({**tool_input, "command": "touch changed"})

    model.push(bash("touch original"), {"text": "ok"})
    result = await query_turn("go", make(can_use_tool=decide))
    assert result.ok
    assert (work / "changed").exists()
    assert not (work / "original").exists()


async def test_denied_with_a_reason(make: Make, model: ScriptedModel, work: Path) -> None:
    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Deny:
        return Deny("not on my watch")

    model.push(bash("touch no"), {"text": "understood"})
    async with Client(make(can_use_tool=decide)) as client:
        events, result = await gather(client, "go")
    assert not (work / "no").exists()
    assert "not on my watch" in str(model.requests[-1].body["messages"])
    (resolved,) = [e for e in events if isinstance(e, ev.PermissionResolved)]
    assert (resolved.decision, resolved.by, resolved.message) == (
        "deny",
        "callback",
        "not on my watch",
    )
    assert result.permission_denials[0].tool_name == "Bash"


async def test_denied_with_an_interrupt(make: Make, model: ScriptedModel) -> None:
    model.push(bash("touch no"), {"text": "never"})
    result = await query_turn("go", make(can_use_tool=lambda *_: Deny("stop", interrupt=True)))
    assert result.boundary.kind == "interrupted"


async def test_nobody_to_ask_is_a_denial(make: Make, model: ScriptedModel, work: Path) -> None:
    model.push(bash("touch no"), {"text": "ok"})
    result = await query_turn("go", make())
    assert result.permission_denials
    assert not (work / "no").exists()


async def test_a_callback_that_fails_denies(make: Make, model: ScriptedModel, work: Path) -> None:
    def broken(*_: Any) -> Allow:
        raise KeyError("oops")

    model.push(bash("touch no"), {"text": "ok"})
    await query_turn("go", make(can_use_tool=broken))
    assert not (work / "no").exists()


async def test_several_requests_at_once_from_another_thread(
    make: Make, model: ScriptedModel, work: Path
) -> None:
    (work / "a.txt").write_text("a")
    reads = [
        {"name": "Read", "input": {"file_path": path}} for path in ("/etc/hostname", "/etc/issue")
    ]
    model.push({"tools": reads}, {"text": "ok"})
    queue = PermissionQueue()
    seen: list[int] = []

    def person() -> None:
        first, second = queue.pop(20), queue.pop(20)
        assert first is not None
        assert second is not None
        seen.append(len(queue.pending()))
        second.deny("second")
        first.allow()

    thread = threading.Thread(target=person)
    thread.start()
    async with Conversation(make(permission_queue=queue)) as talk:
        result = await talk.say("read")
    thread.join()
    assert seen == [2]
    assert sorted(t.is_error for t in result.tool_executions) == [False, True]


async def test_the_callback_leaves_some_to_the_queue(
    make: Make, model: ScriptedModel, work: Path
) -> None:
    queue = PermissionQueue()

    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow | Defer:
        return Allow() if "fine" in tool_input["command"] else Defer()

    async def person() -> None:
        (await queue.get()).allow()

    model.push(bash("touch fine"), bash("touch unsure"), {"text": "ok"})
    waiting = asyncio.create_task(person())
    await query_turn("go", make(can_use_tool=decide, permission_queue=queue))
    await waiting
    assert (work / "fine").exists()
    assert (work / "unsure").exists()


async def test_always_allow_by_the_engines_own_suggestion(
    make: Make, model: ScriptedModel, work: Path
) -> None:
    asked = []

    async def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        asked.append(tool_input["command"])
        mode = PermissionUpdate("setMode", mode="acceptEdits")
        return Allow(updated_permissions=(mode, *context.updates))

    model.push(bash("touch a"), bash("touch a"), {"text": "ok"})
    await query_turn("go", make(can_use_tool=decide))
    assert asked == ["touch a"]


async def test_a_policy_by_rules(make: Make, model: ScriptedModel, work: Path) -> None:
    policy = Policy(allow=("Bash(touch:*)",), default="deny")
    model.push(bash("touch yes"), bash("touch x; touch no"), {"text": "ok"})
    await query_turn("go", make(can_use_tool=policy))
    assert (work / "yes").exists()
    assert not (work / "no").exists()


async def test_a_request_that_nobody_answers_is_denied(
    make: Make, model: ScriptedModel, work: Path
) -> None:
    clock = FakeClock()
    model.push(bash("touch no"), {"text": "ok"})
    options = make(permission_queue=PermissionQueue(), permission_timeout=900.0, clock=clock)
    async with Client(options) as client:
        handle = await client.send("go")
        while not client.pending_permissions:
            await asyncio.sleep(0.01)
        request = client.pending_permissions[0]
        await clock.advance(899)
        assert request.state == "pending"
        await clock.advance(2)
        result = await handle
    assert request.state == "expired"
    assert result.permission_denials
    assert not (work / "no").exists()


async def test_an_interrupt_cancels_the_request(make: Make, model: ScriptedModel) -> None:
    queue = PermissionQueue()
    model.push(bash("touch no"), {"text": "next"})
    async with Client(make(permission_queue=queue)) as client:
        handle = await client.send("go")
        request = await queue.get()
        await handle.interrupt()
        assert request.state == "cancelled"
        assert (await handle).boundary.kind == "interrupted"
        assert (await client.turn("on")).ok


async def test_closing_denies_what_waits(make: Make, model: ScriptedModel) -> None:
    queue = PermissionQueue()
    model.push(bash("touch no"))
    client = await Client(make(permission_queue=queue)).connect()
    await client.send("go")
    request = await queue.get()
    await client.close()
    assert request.state in ("cancelled", "denied")


async def test_questions_are_answered(make: Make, model: ScriptedModel) -> None:
    options = [{"label": "red", "description": ""}, {"label": "blue", "description": ""}]
    question = {
        "question": "Which colour?",
        "header": "Colour",
        "options": options,
        "multiSelect": False,
    }
    ask = {"tools": [{"name": "AskUserQuestion", "input": {"questions": [question]}}]}
    model.push(ask, {"text": "thanks"})
    async with Conversation(make()) as talk:
        assert not talk.has_pending_permissions
        handle = await talk.send("ask me")
        while not talk.has_pending_permissions:
            await asyncio.sleep(0.01)
        request = talk.pending_permission
        assert request is not None
        assert talk.pending_permission is None
        request.answer({"Which colour?": "blue"})
        assert (await handle).ok
    assert "blue" in str(model.requests[-1].body["messages"][-1])


# -- hooks ------------------------------------------------------------------------------------------


async def test_hooks_see_and_change(make: Make, model: ScriptedModel, work: Path) -> None:
    seen: list[str] = []

    async def before(hook: Any) -> HookOutput:
        seen.append(f"before {hook.tool_name}")
        changed = {**hook.tool_input, "command": "touch hooked"}
        return HookOutput(permission_decision="allow", updated_input=changed)

    def after(hook: Any) -> HookOutput:
        seen.append(f"after {hook.tool_name}")
        return HookOutput(additional_context="remember the milk")

    def stop(hook: Any) -> None:
        seen.append(hook.hook_event_name)

    hooks = {
        "PreToolUse": [HookMatcher("Bash", [before])],
        "PostToolUse": [HookMatcher(None, [after])],
        "Stop": [HookMatcher(None, [stop])],
    }
    model.push(bash("touch original"), {"text": "ok"})
    await query_turn("go", make(hooks=hooks))
    assert seen == ["before Bash", "after Bash", "Stop"]
    assert (work / "hooked").exists()
    assert "remember the milk" in str(model.requests[-1].body["messages"])


@pytest.mark.parametrize("fault", ["raises", "hangs", "nonsense"])
async def test_a_hook_that_fails_denies(
    make: Make, model: ScriptedModel, work: Path, fault: str
) -> None:
    async def broken(hook: Any) -> Any:
        if fault == "raises":
            raise ValueError("oops")
        if fault == "hangs":
            await asyncio.sleep(60)
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "sure"}}

    hooks = {"PreToolUse": [HookMatcher("Bash", [broken], timeout=0.5)]}
    model.push(bash("touch no"), {"text": "ok"})
    result = await query_turn("go", make(hooks=hooks, allow=["Bash"]))
    assert result.ok
    assert not (work / "no").exists()


async def test_a_prompt_can_be_refused_by_a_hook(make: Make, model: ScriptedModel) -> None:
    def check(hook: Any) -> HookOutput | None:
        return (
            HookOutput(decision="block", reason="no secrets") if "secret" in hook.prompt else None
        )

    hooks = {"UserPromptSubmit": [HookMatcher(None, [check])]}
    model.push({"text": "fine"})
    async with Client(make(hooks=hooks)) as client:
        refused = await client.turn("tell the secret")
        assert "no secrets" in refused.result_text
        assert (await client.turn("tell a joke")).text == "fine"


# -- MCP --------------------------------------------------------------------------------------------


@tool
async def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@tool(read_only=True)
def fail(why: str) -> str:
    """Fail."""
    raise ValueError(why)


async def test_tools_in_our_own_process(make: Make, model: ScriptedModel) -> None:
    server = McpServer("calc", [add, fail])
    calls = [
        {"name": "mcp__calc__add", "input": {"a": 40, "b": 2}},
        {"name": "mcp__calc__fail", "input": {"why": "no luck"}},
        {"name": "mcp__calc__add", "input": {"a": "x"}},
    ]
    model.push({"tools": calls}, {"text": "ok"})
    options = make(mcp_servers={"calc": server}, allow=["mcp__calc__add", "mcp__calc__fail"])
    async with Client(options) as client:
        result = await client.turn("add")
        status = {s.name: s.status for s in await client.mcp_status()}
        assert status == {"calc": "connected"}
    results = {t.use.input.get("why") or str(t.use.input["a"]): t for t in result.tool_executions}
    assert results["40"].result is not None
    assert results["40"].result.text == "42"
    failed, wrong = results["no luck"].result, results["x"].result
    assert failed is not None
    assert wrong is not None
    assert failed.is_error
    assert "no luck" in failed.text
    assert wrong.is_error


def write_server(path: Path) -> Path:
    """An MCP server in thirty lines, for a child of the CLI."""
    path.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    if 'id' not in m: continue\n"
        "    if m['method'] == 'initialize':\n"
        "        r = {'protocolVersion': m['params']['protocolVersion'], 'capabilities': {'tools': {}},\n"
        "             'serverInfo': {'name': 'echo', 'version': '1'}}\n"
        "    elif m['method'] == 'tools/list':\n"
        "        r = {'tools': [{'name': 'say', 'inputSchema': {'type': 'object'}}]}\n"
        "    elif m['method'] == 'tools/call':\n"
        "        r = {'content': [{'type': 'text', 'text': 'said ' + m['params']['arguments']['x']}]}\n"
        "    else: r = {}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': r}), flush=True)\n"
    )
    return path


async def test_servers_of_their_own(make: Make, model: ScriptedModel, tmp_path: Path) -> None:
    server = ExternalServer.stdio(sys.executable, ["-I", str(write_server(tmp_path / "server.py"))])
    model.push({"tools": [{"name": "mcp__echo__say", "input": {"x": "hi"}}]}, {"text": "ok"})
    async with Client(make(mcp_servers={"echo": server}, allow=["mcp__echo__say"])) as client:
        deadline = time.monotonic() + 10
        while [s.status for s in await client.mcp_status()] != ["connected"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        result = await client.turn("say")
        assert result.tool_executions[0].result is not None
        assert result.tool_executions[0].result.text == "said hi"
        assert (await client.mcp_call("mcp__echo__say", {"x": "yo"}))["content"][0][
            "text"
        ] == "said yo"
        await client.mcp_toggle("echo", False)
        assert [s.status for s in await client.mcp_status()] == ["disabled"]
        await client.mcp_toggle("echo", True)
        await client.mcp_reconnect("echo")
        with pytest.raises(ControlError, match="not found"):
            await client.mcp_reconnect("nobody")
        with pytest.raises(ControlError):
            await client.mcp_clear_auth("nobody")
        with pytest.raises(ControlError):
            await client.mcp_authenticate("nobody")


async def test_servers_can_come_and_go(make: Make, model: ScriptedModel, tmp_path: Path) -> None:
    external = ExternalServer.stdio(
        sys.executable, ["-I", str(write_server(tmp_path / "server.py"))]
    )
    model.push({"tools": [{"name": "mcp__calc__add", "input": {"a": 1}}]}, {"text": "ok"})
    options = make(mcp_servers={"calc": McpServer("calc", [add])}, allow=["mcp__calc__add"])
    async with Client(options) as client:
        change = await client.set_mcp_servers({"echo": external})
        assert change.added == ("echo",)
        result = await client.turn("add")
        assert result.tool_executions[0].result is not None
        assert result.tool_executions[0].result.text == "2"
        assert {s.name for s in await client.mcp_status()} == {"calc", "echo"}
        broken = ExternalServer.stdio("/nowhere/at/all")
        change = await client.set_mcp_servers({"bad": broken})
        assert "bad" in change.errors


ELICITING = """
import json, sys
def put(**message): print(json.dumps({'jsonrpc': '2.0', **message}), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    if m.get('method') == 'initialize':
        put(id=m['id'], result={'protocolVersion': m['params']['protocolVersion'],
            'capabilities': {'tools': {}}, 'serverInfo': {'name': 'ask', 'version': '1'}})
    elif m.get('method') == 'tools/list':
        put(id=m['id'], result={'tools': [{'name': 'order', 'inputSchema': {'type': 'object'}}]})
    elif m.get('method') == 'tools/call':
        call = m['id']
        schema = {'type': 'object', 'properties': {'size': {'type': 'string'}}}
        put(id='e1', method='elicitation/create', params=dict(message='Which size?', requestedSchema=schema))
    elif m.get('id') == 'e1':
        put(id=call, result={'content': [{'type': 'text', 'text': json.dumps(m['result'])}]})
"""


@pytest.mark.parametrize("answered", [True, False])
async def test_a_server_asks_the_person(
    make: Make, model: ScriptedModel, tmp_path: Path, answered: bool
) -> None:
    path = tmp_path / "asking.py"
    path.write_text(ELICITING)
    asked: list[str] = []

    def answer(event: ev.Elicitation) -> dict[str, Any]:
        asked.append(event.message)
        return {"action": "accept", "content": {"size": "large"}}

    server = ExternalServer.stdio(sys.executable, ["-I", str(path)])
    options = make(
        mcp_servers={"ask": server},
        allow=["mcp__ask__order"],
        on_elicitation=answer if answered else None,
    )
    model.push({"tools": [{"name": "mcp__ask__order", "input": {}}]}, {"text": "ok"})
    async with Client(options) as client:
        deadline = time.monotonic() + 10
        while [s.status for s in await client.mcp_status()] != ["connected"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        result = await client.turn("order")
    (call,) = result.tool_executions
    assert call.result is not None
    assert ("large" in call.result.text) == answered
    assert asked == (["Which size?"] if answered else [])
    if not answered:
        assert "cancel" in call.result.text


# -- control ----------------------------------------------------------------------------------------


async def test_controls(make: Make, model: ScriptedModel, work: Path) -> None:
    model.push({"text": "one"}, {"text": "two"})
    async with Client(make()) as client:
        assert client.commands
        assert client.models
        assert client.account.api_key_source
        await client.turn("first")
        await client.set_model("claude-haiku-4-5")
        await client.set_permission_mode("plan")
        await client.set_max_thinking_tokens(0)
        result = await client.turn("second")
        assert "haiku" in result.model
        assert model.requests[-1].body["model"].startswith("claude-haiku")
        await client.rename("a fine title")
        await client.apply_flag_settings({"effortLevel": "low"})
        assert (await client.get_settings())["effective"] is not None
        usage = await client.context_usage()
        assert usage.max_tokens > 0
        assert "cost" in (await client.cost_text()).lower()
        assert await client.engine_usage()
        await client.stop_task("unknown")
        assert await client.cancel_queued("5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8") is False
        with pytest.raises(InvalidCommand):
            await client.control("novelty")
        with pytest.raises(UsageError):
            await client.control("initialize")
        with pytest.raises(ControlError):
            await client.set_permission_mode("bypassPermissions")
        assert await client.control("get_binary_version")


async def test_questions_beside_the_conversation(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "one"})
    async with Client(make()) as client:
        await client.turn("first")
        model.push({"text": "aside"})
        assert await client.side_question("what did I say?") == "aside"
        assert len(client.turns) == 1
        model.push({"text": '{"title": "A chat"}', "when_tools": False})
        assert await client.generate_title("Fix a bug in the parser") == "A chat"


async def test_rewinding(make: Make, model: ScriptedModel, work: Path) -> None:
    path = work / "a.txt"
    path.write_text("before\n")
    prompt_id = "11111111-1111-4111-8111-111111111111"
    read = {"tools": [{"name": "Read", "input": {"file_path": str(path)}}]}
    write = {"tools": [{"name": "Write", "input": {"file_path": str(path), "content": "after\n"}}]}
    model.push({"text": "hello"}, read, write, {"text": "written"}, {"text": "again"})
    options = make(file_checkpointing=True, permission_mode="acceptEdits")
    async with Client(options) as client:
        await client.turn("hello")
        await (await client.send("change it", prompt_id=prompt_id))
        assert path.read_text() == "after\n"
        dry = await client.rewind_files(prompt_id, dry_run=True)
        assert dry.can_rewind
        assert dry.files_changed == (str(path),)
        assert (await client.rewind_files(prompt_id)).can_rewind
        assert path.read_text() == "before\n"
        unknown = await client.rewind_files("22222222-2222-4222-8222-222222222222")
        assert (unknown.can_rewind, bool(unknown.error)) == (False, True)
        assert (await client.rewind_conversation(prompt_id)).rewound
        await client.turn("and now")
    assert "change it" not in str(model.requests[-1].body["messages"])


async def test_a_running_command_goes_to_the_background(make: Make, model: ScriptedModel) -> None:
    model.push(bash("sleep 30"), {"text": "moved"}, {"text": "stopped"})
    async with Client(make(allow=["Bash"])) as client:
        handle = await client.send("go")
        task_id = ""
        async for event in handle.stream():
            if isinstance(event, ev.TaskStarted):
                task_id = event.task_id
                await client.background()
        assert (await handle).text == "moved"
        assert task_id
        await client.stop_task(task_id)


async def test_a_prompt_is_given_to_the_running_turn(make: Make, model: ScriptedModel) -> None:
    model.push(bash("sleep 1"), {"text": "both"})
    async with Client(make(allow=["Bash"])) as client:
        handle = await client.send("go")
        async for event in handle.stream():
            if isinstance(event, ev.ToolInput) and event.input:
                await client.inject("also this")
        assert (await handle).text == "both"
        assert len(client.turns) == 1
    assert "also this" in str(model.requests[-1].body["messages"])


async def test_an_urgent_prompt_cuts_the_answer_short(make: Make, model: ScriptedModel) -> None:
    model.push({"text": "slow " * 40, "chunk": 5, "step_delay": 0.05}, {"text": "urgent"})
    async with Client(make()) as client:
        handle = await client.send("go")
        async for event in handle.stream():
            if isinstance(event, ev.TextDelta):
                await client.inject("fire!", priority="now")
                break
        assert (await handle).boundary.kind == "interrupted"
        deadline = time.monotonic() + 10
        while len(client.turns) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert client.turns[1].text == "urgent"


async def test_handlers_are_called_in_order(make: Make, model: ScriptedModel) -> None:
    said: list[str] = []
    model.push({"text": "one two", "chunk": 4, **bash("true")}, {"text": "end"})
    async with Conversation(make(allow=["Bash"])) as talk:
        talk.on_text(lambda text: said.append(f"text {text}"))
        talk.on("tool_use", lambda block: said.append(f"use {block.display_label}"))
        talk.on("tool_result", lambda ended, use: said.append(f"result {use.name}"))
        talk.on("result", lambda ended: said.append(ended.text))
        await talk.say("go")
    assert said == ["text one ", "text two", "use Bash: true", "result Bash", "text end", "end"]


async def test_setup_hooks_run_without_a_prompt(
    make: Make, model: ScriptedModel, work: Path
) -> None:
    result = await run_setup("init", make())
    assert result.exit.code == 0
    assert model.requests == ()


async def test_stderr_is_given_line_by_line(make: Make, model: ScriptedModel) -> None:
    lines: list[str] = []
    async with Client(
        make(effort=None, on_stderr=lines.append, settings={"nonsense": 1})
    ) as client:
        await client.turn("hi")
    assert all("\n" not in line for line in lines)
