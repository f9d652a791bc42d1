"""The examples and the README run as they stand, on the real CLI with the scripted model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.testing import ScriptedModelThread

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

BASH = {"tools": [{"name": "Bash", "input": {"command": "echo one"}}]}
TOUCH = {"tools": [{"name": "Bash", "input": {"command": "touch note.txt"}}]}
STOCK = {"tools": [{"name": "mcp__shop__stock", "input": {"article": "lamp"}}]}

SAID: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "one_turn": ([{"text": "hello"}], ["hello"]),
    "conversation": (
        [BASH, {"text": "first"}, {"text": "second"}],
        ["[Bash: echo one]", "first", "2 turns"],
    ),
    "permission_queue": ([TOUCH, {"text": "done"}], ["('Bash: touch note.txt', 'ran')"]),
    "own_tools": ([STOCK, {"text": "Seven."}], ["-> 7", "Seven."]),
    "without_asyncio": ([{"text": "hello"}], ["hello", "claude:"]),
}


def environment(home: Path, engine: str) -> dict[str, str]:
    names = {"HOME": str(home), "QUARTERDECK_CLAUDE": engine, "TMPDIR": str(home)}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **names}


def test_every_example_is_tested() -> None:
    assert {p.stem for p in EXAMPLES.glob("[a-z]*.py")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_examples(name: str, tmp_path: Path, engine: str) -> None:
    replies, expected = SAID[name]
    with ScriptedModelThread(replies) as model:
        env = environment(tmp_path, engine)
        env |= {"QUARTERDECK_GATEWAY_URL": model.url, "QUARTERDECK_GATEWAY_TOKEN": model.token}
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{name}.py")],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text in done.stdout


WRAPPER = """
import functools, sys
import quarterdeck as qd
auth = qd.Gateway(sys.argv[1], sys.argv[2])
qd.Conversation = functools.partial(qd.Conversation, auth=auth)
exec(compile(sys.stdin.read(), "README.md", "exec"))
"""


def test_the_readme(tmp_path: Path, engine: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    repo = tmp_path / "repo"
    repo.mkdir()
    path = repo / "a.py"
    path.write_text("x = 1\n")
    edit = {"file_path": str(path), "old_string": "1", "new_string": "2"}
    replies: list[dict[str, Any]] = [
        {"tools": [{"name": "Read", "input": {"file_path": str(path)}}]},
        {"tools": [{"name": "Edit", "input": edit}]},
        {"text": "It is repaired."},
    ]
    with ScriptedModelThread(replies) as model:
        done = subprocess.run(
            [sys.executable, "-c", WRAPPER, model.url, model.token],
            input=code, env=environment(tmp_path, engine), cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "It is repaired." in done.stdout
    assert "completed" in done.stdout
    assert path.read_text() == "x = 2\n"
