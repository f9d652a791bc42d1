"""The synchronous face, for programs without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import Allow, Gateway, Options, PermissionQueue
from quarterdeck.engine import events as ev
from quarterdeck.errors import UsageError
from quarterdeck.sync import (
    Client,
    Conversation,
    create_session,
    query,
    query_turn,
    resume_conversation,
    run_setup,
)
from quarterdeck.testing import ScriptedModelThread

Make = Callable[..., Options]
SLOW = {"text": "slow " * 40, "chunk": 5, "step_delay": 0.05}


@pytest.fixture
def model() -> Iterator[ScriptedModelThread]:
    with ScriptedModelThread() as model:
        yield model


@pytest.fixture
def make(
    tmp_path: Path, model: ScriptedModelThread, engine: str, monkeypatch: pytest.MonkeyPatch
) -> Make:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)

    def options(**changes: Any) -> Options:
        auth = Gateway(model.url, model.token)
        standard = {"auth": auth, "cwd": str(tmp_path), "config_dir": str(tmp_path / "config")}
        return Options(**{**standard, "executable": engine, **changes})

    return options


def test_one_turn(make: Make, model: ScriptedModelThread) -> None:
    model.push({"text": "hello"})
    assert query_turn("hi", make()).text == "hello"


def test_events(make: Make, model: ScriptedModelThread) -> None:
    model.push({"text": "one two", "chunk": 4})
    texts = [e.text for e in query("hi", make()) if isinstance(e, ev.TextDelta)]
    assert texts == ["one ", "two"]


def test_leaving_the_events_early_ends_the_agent(make: Make, model: ScriptedModelThread) -> None:
    model.push(SLOW)
    events = query("hi", make())
    for event in events:
        if isinstance(event, ev.TextDelta):
            break
    events.close()  # type: ignore[attr-defined]


def test_a_conversation_with_callbacks(make: Make, model: ScriptedModelThread) -> None:
    touch = {"tools": [{"name": "Bash", "input": {"command": "touch made"}}]}
    model.push(touch, {"text": "done"}, {"text": "again"})
    said: list[str] = []
    threads: set[int] = set()

    def decide(name: str, tool_input: dict[str, Any], context: Any) -> Allow:
        threads.add(threading.get_ident())
        return Allow()

    with Conversation(make(can_use_tool=decide)) as talk:
        talk.on("text", said.append)
        result = talk.say("go")
        assert result.tool_executions[0].display_label == "Bash: touch made"
        talk.client.set_model("claude-haiku-4-5")
        assert talk.say("again").model.startswith("claude-haiku")
        assert len(talk.turns) == 2
        assert talk.total_cost_usd > 0
        session = talk.session_id
    assert said == ["done", "again"]
    assert threading.get_ident() not in threads
    assert session is not None
    model.push({"text": "resumed"})
    with resume_conversation(session, make()) as talk:
        assert talk.say("more").text == "resumed"


def test_a_queue_answered_by_the_main_thread(make: Make, model: ScriptedModelThread) -> None:
    model.push({"tools": [{"name": "Bash", "input": {"command": "touch x"}}]}, {"text": "ok"})
    queue = PermissionQueue()
    with Client(make(permission_queue=queue)) as client:
        handle = client.send("go")
        request = queue.pop(20)
        assert request is not None
        request.allow()
        assert handle.result(20).ok


def test_interrupting_a_turn_that_runs(make: Make, model: ScriptedModelThread) -> None:
    model.push(SLOW, {"text": "next"})
    with Client(make()) as client:
        handle = client.send("go")
        with pytest.raises(TimeoutError):
            handle.result(0.5)
        for event in handle.stream():
            if isinstance(event, ev.TextDelta):
                handle.interrupt()
                break
        assert handle.result().boundary.kind == "interrupted"
        assert client.turn("on").text == "next"


def test_the_session_style_face(make: Make, model: ScriptedModelThread) -> None:
    model.push({"text": "one"})
    with create_session(make()) as session:
        session.send("1")
        assert [e.text for e in session.stream() if isinstance(e, ev.TurnEnded)] == ["one"]


def test_setup(make: Make) -> None:
    assert run_setup("init", make()).exit.code == 0


def test_a_synchronous_call_in_an_async_callback_is_refused(
    make: Make, model: ScriptedModelThread
) -> None:
    model.push({"text": "one"})
    errors: list[BaseException] = []
    with Client(make()) as client:

        async def callback(event: ev.Event) -> None:
            try:
                client.turn("no")
            except UsageError as error:
                errors.append(error)

        client.on("message", callback)
        client.turn("go")
    assert errors
