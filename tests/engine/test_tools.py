"""What a person is shown of a tool call."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.engine.events import ToolUseBlock
from quarterdeck.engine.tools import display_label, file_path, summary

NAMES = st.sampled_from(
    [
        "Read",
        "Write",
        "Edit",
        "MultiEdit",
        "NotebookEdit",
        "Bash",
        "Grep",
        "Glob",
        "WebFetch",
        "WebSearch",
        "Task",
        "Agent",
        "Skill",
        "LS",
        "AskUserQuestion",
        "mcp__a__b",
        "Other",
    ]
)
KEYS = st.sampled_from(
    [
        "file_path",
        "notebook_path",
        "command",
        "url",
        "pattern",
        "query",
        "description",
        "content",
        "old_string",
        "edits",
        "questions",
        "path",
    ]
)
TEXT = st.text(st.characters(), max_size=300)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("name", "tool_input", "expected"),
    [
        ("Read", {"file_path": "/home/me/lib/foo.rb"}, "Read lib/foo.rb"),
        ("Read", {"file_path": "foo.rb"}, "Read foo.rb"),
        ("Read", {"file_path": "/"}, "Read /"),
        ("Read", {"file_path": 5}, "Read"),
        ("NotebookEdit", {"notebook_path": "/a/b/c.ipynb"}, "NotebookEdit b/c.ipynb"),
        ("read", {"filePath": "/a/b/c.py"}, "read b/c.py"),
        ("Bash", {"command": "git status"}, "Bash: git status"),
        ("Bash", {"command": "a\n\n  b\tc"}, "Bash: a b c"),
        ("Bash", {"command": "x" * 51}, "Bash: " + "x" * 49 + "…"),
        ("Bash", {"command": "x" * 50}, "Bash: " + "x" * 50),
        ("Bash", {"command": ["ls"]}, "Bash"),
        ("Bash", None, "Bash"),
        ("Grep", {"pattern": "def .*"}, "Grep: def .*"),
        ("WebSearch", {"query": "q" * 80}, "WebSearch: " + "q" * 49 + "…"),
        ("Task", {"description": "d" * 60, "prompt": "p"}, "Task: " + "d" * 49 + "…"),
        ("Agent", {"prompt": "find it"}, "Agent: find it"),
        (
            "WebFetch",
            {"url": "https://me:secret@docs.example.org:8/a?b"},
            "WebFetch: docs.example.org",
        ),
        ("WebFetch", {"url": "docs.example.org/a"}, "WebFetch: docs.example.org"),
        ("WebFetch", {"url": "http://[broken"}, "WebFetch"),
        ("AskUserQuestion", {"questions": [{"question": "Which?"}]}, "AskUserQuestion: Which?"),
        ("mcp__github__create_issue", {"command": "x"}, "github/create_issue"),
        ("mcp__broken", {}, "mcp__broken"),
        ("Bash", {"command": "echo \x1b[2J\u202ex"}, "Bash: echo \ufffd[2J\ufffdx"),
    ],
)
def test_label(name: str, tool_input: Any, expected: str) -> None:
    assert display_label(name, tool_input) == expected


def test_server_tools_are_named_by_server_and_tool() -> None:
    assert display_label("add", {"a": 1}, "calculator") == "calculator/add"
    assert summary("Write", {"file_path": "a", "content": "b"}, "disk") == "disk/Write"


@pytest.mark.parametrize(
    ("name", "tool_input", "expected"),
    [
        ("Write", {"file_path": "/x/a/b.py", "content": "1\n2\n3\n"}, "Write a/b.py (3 lines)"),
        ("Write", {"file_path": "b.py", "content": "1"}, "Write b.py (1 line)"),
        ("Write", {"file_path": "b.py", "content": ""}, "Write b.py (0 lines)"),
        ("Write", {"file_path": "b.py", "content": 7}, "Write b.py"),
        ("Edit", {"file_path": "b.py", "old_string": "1\n2"}, "Edit b.py replacing 2 line(s)"),
        ("MultiEdit", {"file_path": "b.py", "edits": [{}, {}]}, "MultiEdit b.py (2 edits)"),
        ("Bash", {"command": "ls"}, "Bash: ls"),
    ],
)
def test_summary(name: str, tool_input: Any, expected: str) -> None:
    assert summary(name, tool_input) == expected


def test_a_long_path_is_cut_and_the_count_stays() -> None:
    shown = summary("Write", {"file_path": "d" * 90 + "/f", "content": "1\n2\n"})
    assert len(shown) == 60
    assert shown.endswith("… (2 lines)")


@pytest.mark.parametrize("name", ["Read", "Write", "Edit", "MultiEdit"])
def test_file_path_is_given_back_as_it_was(name: str) -> None:
    assert file_path(name, {"file_path": "/a\nb"}) == "/a\nb"
    assert file_path(name, {"file_path": ""}) is None
    assert file_path("Bash", {"file_path": "/a"}) is None


def test_the_block_uses_the_same_words() -> None:
    block = ToolUseBlock("t", "Write", {"file_path": "/a/b/c.py", "content": "x\n"})
    assert block.file_path == "/a/b/c.py"
    assert block.display_label == "Write b/c.py"
    assert block.summary() == "Write b/c.py (1 line)"
    assert block.summary(6) == "Write…"


@given(
    name=NAMES | TEXT,
    tool_input=st.dictionaries(KEYS, JSON, max_size=5) | JSON,
    server=st.none() | TEXT,
    limit=st.integers(0, 90),
)
def test_any_input_gives_one_bounded_printable_line(
    name: str, tool_input: Any, server: str | None, limit: int
) -> None:
    label = display_label(name, tool_input, server)
    short = summary(name, tool_input, server, limit)
    assert len(label) <= 200
    assert len(short) <= limit
    for character in label + short:
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
    path = file_path(name, tool_input)
    assert path is None or isinstance(path, str)
