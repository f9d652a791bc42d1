"""`run` and `resume` with the real engine and a scripted model."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Agent

pytestmark = pytest.mark.live
MakeAgent = Callable[..., Agent]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_text(agent: MakeAgent) -> None:
    run = agent({"text": "Hello \x1b]0;owned\x07there.", "repeat": "forever"})
    done = run("run", "say hello")
    assert done.code == 0, done.err
    assert done.out == "Hello ␛]0;owned␇there.\n"
    assert done.err == ""
    told = run("run", "say hello", "--verbose")
    assert "completed" in told.err


def test_the_prompt_from_standard_input_and_from_a_file(agent: MakeAgent, tmp_path: Path) -> None:
    run = agent({"text": "ok", "repeat": "forever"})
    assert run("run", "--json", stdin="from a pipe").json()["prompt"] == "from a pipe"
    (tmp_path / "p").write_text("from a file")
    assert run("run", "--json", "--file", str(tmp_path / "p")).json()["prompt"] == "from a file"


def test_json_has_the_whole_result(agent: MakeAgent) -> None:
    tools = [{"name": "Write", "input": {"file_path": "a.txt", "content": "x"}}]
    run = agent({"text": "I write.", "tools": tools}, {"text": "Done."})
    done = run("run", "write", "--json", "--allow", "Write")
    result = done.json()
    assert done.code == result["exit_code"] == 0, done.err
    assert result["boundary"]["kind"] == "completed"
    assert result["text"] == "I write.\nDone."
    assert [t["name"] for t in result["tools"]] == ["Write"]
    assert [Path(p).name for p in result["files_changed"]] == ["a.txt"]
    assert result["usage"]["output_tokens"] > 0
    assert result["cost_usd"] > 0
    assert (run.cli.cwd / "a.txt").read_text() == "x"


def test_stream_json_has_events_and_the_result_last(agent: MakeAgent) -> None:
    run = agent({"text": "Hello there.", "chunk": 3})
    lines = run("run", "hi", "--stream-json").lines()
    kinds = [line["type"] for line in lines]
    assert kinds[-2:] == ["turn_ended", "turn_result"]
    assert "".join(x["text"] for x in lines if x["type"] == "text_delta") == "Hello there."
    assert all(line["v"] == 1 for line in lines)
    assert lines[-1]["text"] == "Hello there."


def test_what_is_not_allowed_is_denied_and_exits_with_4(agent: MakeAgent) -> None:
    tools = [{"name": "Write", "input": {"file_path": "a.txt", "content": "x"}}]
    run = agent({"tools": tools}, {"text": "I could not."})
    done = run("run", "write")
    assert done.code == 4
    assert done.out == "I could not.\n"
    assert "! denied: Write work/a.txt" in done.err
    assert not (run.cli.cwd / "a.txt").exists()


def test_no_tools_at_all(agent: MakeAgent) -> None:
    run = agent({"text": "ok"})
    lines = run("run", "hi", "--tools", "", "--stream-json").lines()
    ready = next(line for line in lines if line["type"] == "session_ready")
    assert ready["tools"] == []


def test_a_schema_gives_a_value(agent: MakeAgent, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}}))
    run = agent({"tools": [{"name": "StructuredOutput", "input": {"n": 7}}]}, {"text": "ok"})
    done = run("run", "count", "--schema", str(schema), "--json")
    assert done.json()["structured_output"] == {"n": 7}, done.err


def test_an_attachment_reaches_the_model(agent: MakeAgent, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "notes.txt").write_text("the secret word is heron")
    run = agent({"text": "a heron", "when_text": "heron"}, {"text": "no"})
    files = ["--attach", str(tmp_path / "x.png"), "--attach", str(tmp_path / "notes.txt")]
    done = run("run", "what?", *files)
    assert done.out == "a heron\n", done.err


def test_time_limit_is_6(agent: MakeAgent) -> None:
    run = agent({"hang": 60})
    done = run("run", "wait", "--timeout", "1", "--json")
    assert done.code == 6, done.err
    assert done.json()["boundary"]["limit"] == "time"


def test_round_limit_is_5(agent: MakeAgent) -> None:
    tools = [{"name": "Bash", "input": {"command": "true"}}]
    run = agent({"tools": tools, "repeat": "forever"})
    done = run("run", "loop", "--max-turns", "1", "--allow", "Bash")
    assert done.code == 5, done.err


def test_rate_limit_is_75(agent: MakeAgent) -> None:
    error = {"type": "rate_limit_error", "message": "slow down"}
    headers = {"retry-after": "3600", "x-should-retry": "false"}
    run = agent({"status": 429, "error": error, "repeat": "forever", "headers": headers})
    done = run("run", "hi", "--json")
    assert done.code == 75, done.out
    assert done.json()["boundary"]["limit"] == "rate"


def test_a_failed_turn_is_1_and_its_error_is_told_once(agent: MakeAgent) -> None:
    error = {"type": "invalid_request_error", "message": "what is this"}
    run = agent({"status": 400, "error": error, "repeat": "forever"})
    done = run("run", "hi")
    assert done.code == 1
    assert done.out == ""
    assert done.err.count("what is this") == 1
    assert done.err.startswith("! ")


def test_retries_are_shown_and_a_time_limit_names_the_rate_limit(agent: MakeAgent) -> None:
    error = {"type": "rate_limit_error", "message": "slow down"}
    run = agent({"status": 429, "error": error, "repeat": "forever"})
    done = run("run", "hi", "--timeout", "3")
    assert done.code == 6, done.err
    lines = done.err.splitlines()
    assert re.fullmatch(r"retrying in \d+\.\d s: 429 rate_limit \(attempt 1 of \d+\)", lines[0])
    assert lines[-1].startswith("! stopped after 3 s (--timeout); the provider's rate limit: 429")
    assert "ede_diagnostic" not in done.err
    assert done.out == ""


def test_a_stream_that_breaks_off_is_told(agent: MakeAgent) -> None:
    tools = [{"name": "Bash", "input": {"command": "true"}}]
    run = agent({"text": "I do.", "tools": tools, "truncate_after": 6})
    done = run("run", "hi", "--allow", "Bash")
    assert (done.code, done.out) == (1, "I do.\n")
    assert done.err == (
        "! the provider's stream broke off; the answer above is incomplete (truncated)\n"
    )


def test_a_full_disk_behind_the_answer_is_told(agent: MakeAgent) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full on this system")
    run = agent({"text": "Hello."})
    with full.open("wb") as out:
        done = subprocess.run(
            run.cli.argv("run", "hi", *run.flags), cwd=run.cli.cwd, env={**run.cli.env, **run.env},
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write standard output: No space left on device\n")
    assert len(done.stderr.splitlines()) == 2
    assert of_home(run.cli.home, "cmdline") == []


def test_bypassing_permissions_needs_its_flag(agent: MakeAgent) -> None:
    done = agent({"text": "ok"})("run", "hi", "--permission-mode", "bypassPermissions")
    assert done.code == 2
    assert done.err.startswith("error: --permission-mode = ")
    assert "--bypass-is-safe" in done.err


def test_resume_by_title_and_fork(agent: MakeAgent) -> None:
    run = agent({"text": "one"}, {"text": "two"}, {"text": "three"}, {"text": "four"})
    assert run("run", "first").code == 0
    session = run.cli("list", "-o", "json").json()[0]["engine_session_id"]
    run.cli("rename", session, "the bug")
    done = run("run", "second", "--resume", "the bug", "--json")
    assert done.code == 0, done.err
    assert (done.json()["text"], done.json()["engine_session_id"]) == ("two", session)
    other = run("run", "third", "--resume", session[:8], "--fork", "--json").json()
    assert other["engine_session_id"] != session
    done = run("resume", session, "fourth")
    assert (done.code, done.out) == (0, "four\n")
    history = run.cli("history", session, "-o", "json").json()["messages"]
    assert [m["text"] for m in history if m["role"] == "assistant"] == ["one", "two", "four"]


def test_continue_takes_the_newest(agent: MakeAgent) -> None:
    run = agent({"text": "one"}, {"text": "two"})
    assert run("run", "x", "--continue").code == 2
    first = run("run", "first", "--json").json()["engine_session_id"]
    assert run("run", "more", "--continue", "--json").json()["engine_session_id"] == first


def start(run: Agent, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        run.cli.argv(*words, *run.flags),
        cwd=run.cli.cwd,
        env={**run.cli.env, **run.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def of_home(home: Path, name: str) -> list[bytes]:
    """The /proc files of that name of all processes that have this home directory."""
    mark, found = b"HOME=" + os.fsencode(str(home)), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / name).read_bytes())
        except OSError:
            continue
    return found


def test_neither_prompt_nor_token_stands_in_the_engines_arguments(agent: MakeAgent) -> None:
    run = agent({"text": "slow", "first_delay": 1.5})
    process = start(run, "run", "a hidden prompt")
    try:
        deadline = time.monotonic() + 10
        engines: list[bytes] = []
        while time.monotonic() < deadline and not engines:
            seen = of_home(run.cli.home, "cmdline")
            engines = [s for s in seen if b"stream-json" in s]
            time.sleep(0.02)
        assert engines
        assert not any(b"a hidden prompt" in s for s in engines)
        assert not any(run.env["QUARTERDECK_GATEWAY_TOKEN"].encode() in s for s in seen)
    finally:
        process.communicate(timeout=30)


def kill_engine(home: Path) -> None:
    """Kill the engine that has this home directory; its guard is left to see it."""
    mark = b"HOME=" + os.fsencode(str(home))
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if mark in (path / "environ").read_bytes().split(b"\0") and b"claude" in words[0]:
                os.kill(int(path.name), signal.SIGKILL)
        except OSError:
            continue


@pytest.mark.parametrize("form", ["text", "json", "stream-json"])
def test_a_dead_engine_leaves_what_there_was_and_how_to_go_on(agent: MakeAgent, form: str) -> None:
    run = agent({"text": "Once upon a time", "chunk": 4, "step_delay": 1.0})
    process = start(run, "run", "tell", *([] if form == "text" else [f"--{form}"]))
    assert process.stdout is not None
    first = b""
    if form == "json":
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not list(run.cli.home.rglob("*.jsonl")):
            time.sleep(0.05)
        time.sleep(2)  # the text has begun
    while form != "json" and b"Once" not in first:
        first += os.read(process.stdout.fileno(), 65536)
    kill_engine(run.cli.home)
    out, err = process.communicate(timeout=30)
    out, told = first + out, err.decode().splitlines()
    assert process.returncode == 1, err
    assert told[0].startswith("error: Claude Code is no longer running")
    assert "exit code 137, SIGKILL" in told[0]
    session = run.cli("list", "-o", "json").json()[0]["engine_session_id"]
    assert told[-1] == f"  quarterdeck resume {session}"
    if form == "text":
        assert out.startswith(b"Once")
        assert out.endswith(b"\n")
        return
    result = json.loads(out if form == "json" else out.splitlines()[-1])
    assert (result["type"], result["complete"], result["exit_code"]) == ("turn_result", False, 1)
    assert result["text"].startswith("Once")
    assert result["error"]["code"] == "engine_died"
    assert result["error"]["remedy"] == f"quarterdeck resume {session}"


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
def test_signals_end_the_turn_and_leave_nothing(
    agent: MakeAgent, sent: signal.Signals, code: int
) -> None:
    run = agent({"text": "Once upon a time in a far land", "chunk": 5, "step_delay": 0.5})
    process = start(run, "run", "tell", "--stream-json")
    assert process.stdout is not None
    lines: list[Any] = []
    while not any(x["type"] == "text_delta" for x in lines):
        lines.append(json.loads(process.stdout.readline()))
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    if sent == signal.SIGINT:
        last = json.loads(out.splitlines()[-1])
        assert (last["type"], last["boundary"]["kind"]) == ("turn_result", "interrupted")
        assert last["text"].startswith("Once")
    assert of_home(run.cli.home, "cmdline") == []


def test_a_session_that_was_not_saved_is_told(agent: MakeAgent) -> None:
    run = agent({"text": "Hello.", "repeat": "forever"})
    assert "not saved" not in run("run", "hi").err
    done = run("run", "hi", "--config-dir", "/proc/nowhere")
    assert done.code == 0, done.err
    assert "the session was not saved" in done.err
