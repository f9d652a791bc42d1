from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.errors import OptionError, ScriptError
from quarterdeck.gateway.reply import FIELDS
from quarterdeck.gateway.script import parse_text
from quarterdeck.testing import RecordedRequest, ScriptedModel, ScriptedModelThread

ROOT = Path(__file__).resolve().parent.parent.parent
CLAUDE = ROOT / "node_modules" / ".bin" / "claude"


def ask(url: str, token: str, text: str = "hi") -> str:
    body = {"messages": [{"role": "user", "content": text}], "tools": [{"name": "Bash"}]}
    request = urllib.request.Request(
        f"{url}/v1/messages", json.dumps(body).encode(), {"x-api-key": token}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(json.load(response)["content"][0]["text"])


async def test_on_the_running_loop() -> None:
    async with ScriptedModel([{"text": "hi ${name}"}], variables={"name": "Ada"}) as model:
        model.push({"text": "pushed"})
        said = [await asyncio.to_thread(ask, model.url, model.token) for _ in range(2)]
        assert said == ["hi Ada", "pushed"]
        assert model.url.startswith("http://127.0.0.1:")
    assert [r.source for r in model.requests] == ["script", "script"]
    assert isinstance(model.requests[0], RecordedRequest)
    model.clear()
    assert model.requests == ()


def test_in_a_thread(tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text("- text: from a file\n")
    with ScriptedModelThread(script) as model:
        model.push({"text": "pushed"})
        assert ask(model.url, model.token) == "from a file"
        assert ask(model.url, model.token) == "pushed"
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(model.url, "wrong-token")
        caught.value.close()
        assert caught.value.code == 401
    assert len(model.requests) == 2
    assert "scripted-model" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(urllib.error.URLError):
        ask(model.url, model.token)


async def test_errors_come_on_entering() -> None:
    bad: Any = [{"txt": "a"}]
    with pytest.raises(ScriptError, match="script: reply 1: txt = 'a'"):
        async with ScriptedModel(bad):
            pass
    with pytest.raises(ScriptError, match="txt"), ScriptedModelThread(bad):
        pass
    with pytest.raises(OptionError, match="variables"), ScriptedModelThread(variables={"a b": ""}):
        pass
    assert "scripted-model" not in [thread.name for thread in threading.enumerate()]


def test_before_the_start_there_is_nothing() -> None:
    with pytest.raises(RuntimeError, match="with statement"):
        _ = ScriptedModel().url


def test_importing_is_cheap() -> None:
    code = "import sys, quarterdeck.testing; print({'h11', 'yaml', 'mcp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples" / "scripts").glob("*.yaml")), ids=lambda f: f.name
)
def test_the_examples_are_valid(file: Path) -> None:
    with ScriptedModelThread(file, variables={"repo": "/repo"}):
        pass


def test_the_documentation_agrees_with_the_format() -> None:
    page = (ROOT / "docs" / "scripted-model.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert documented == set(FIELDS)
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        assert parse_text(example, "docs.yaml", {"repo": "/repo"}).replies
    said = re.search(r"^demo.yaml: .*$", page, re.MULTILINE)
    with pytest.raises(ScriptError) as caught:
        parse_text("- text: a\n- {text: a, stop_reson: end_turn}", "demo.yaml")
    assert said is not None
    assert said[0] == str(caught.value)


@pytest.mark.live
@pytest.mark.skipif(not CLAUDE.exists(), reason="Claude Code is missing: make setup")
def test_the_real_engine(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    calls = [{"name": "Bash", "input": {"command": "echo from ${where}"}}]
    script: list[dict[str, Any]] = [
        {"text": "I look.", "tools": calls, "chunk": 3},
        {"text": "done", "when_tool_result": "from here"},
    ]
    with ScriptedModelThread(script, variables={"where": "here"}) as model:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CLAUDE_CONFIG_DIR": str(tmp_path / "claude"),
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": model.token,
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        arguments = ["-p", "hi", "--output-format", "json", "--allowedTools", "Bash(echo:*)"]
        start = time.monotonic()
        done = subprocess.run(
            [CLAUDE, *arguments],
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        result = json.loads(done.stdout)
        assert result["is_error"] is False, (done.stderr, time.monotonic() - start)
        assert result["result"] == "done"
        assert [r.source for r in model.requests] == ["script", "script"]
        assert model.token not in repr(model.requests)
