from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck.cli.asking import MAX_LINES, choose, describe, describe_update, question_lines


def no_file(_: str) -> str | None:
    return None


def test_a_command_is_shown_whole() -> None:
    command = "echo one\nrm -rf " + "x" * 500
    lines = describe("Bash", {"command": command, "description": "clean"}, no_file)
    assert "\n".join(lines[1:]) == f"$ {command}\n# clean"


def test_an_edit_is_a_diff() -> None:
    lines = describe(
        "Edit",
        {"file_path": "/a/b.py", "old_string": "x = 1\ny = 2", "new_string": "x = 1\ny = 3"},
        no_file,
    )
    assert lines[0] == "Edit /a/b.py"
    assert "-y = 2" in lines
    assert "+y = 3" in lines
    assert " x = 1" in lines


def test_a_write_is_compared_with_the_file() -> None:
    read = {"/f": "old\nsame\n"}.get
    lines = describe("Write", {"file_path": "/f", "content": "new\nsame\n"}, read)
    assert lines[2:] == ["-old", "+new", " same"]
    assert "+new" in describe("Write", {"file_path": "/g", "content": "new\n"}, no_file)


def test_every_edit_of_several_is_shown() -> None:
    edits = [{"old_string": f"a{i}", "new_string": f"b{i}"} for i in range(3)]
    lines = describe("MultiEdit", {"file_path": "/f", "edits": edits}, no_file)
    assert {"-a0", "+b0", "-a2", "+b2"} <= set(lines)


def test_other_tools_show_their_input() -> None:
    lines = describe("WebFetch", {"url": "https://user:secret@host/x"}, no_file)
    assert '  "url": "https://user:secret@host/x"' in lines


def test_what_is_left_out_is_counted() -> None:
    lines = describe("Write", {"file_path": "/f", "content": "x\n" * 500}, no_file)
    assert len(lines) == MAX_LINES + 2
    assert lines[-1] == "... 441 more lines"


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["Bash", "Edit", "MultiEdit", "Write", "NotebookEdit", "mcp__x__y"]),
    st.dictionaries(
        st.sampled_from(["command", "file_path", "old_string", "edits", "content", "x"]),
        st.none()
        | st.text(max_size=20)
        | st.integers()
        | st.lists(st.text(max_size=5), max_size=3),
    ),
)
def test_no_input_of_a_model_breaks_it(name: str, tool_input: dict[str, Any]) -> None:
    lines = describe(name, tool_input, no_file)
    assert lines
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (
            {"type": "addRules", "behavior": "allow", "destination": "localSettings",
             "rules": [{"toolName": "Bash", "ruleContent": "git:*"}]},
            "allow Bash(git:*) in the project's local settings",
        ),
        ({"type": "setMode", "mode": "acceptEdits", "destination": "session"},
         "mode acceptEdits for this session"),
        ({"type": "addDirectories", "directories": ["/x"], "destination": "session"},
         "directory /x for this session"),
    ],
)  # fmt: skip
def test_what_always_means_is_said(wire: dict[str, Any], text: str) -> None:
    assert describe_update(wire) == text


QUESTION = {
    "question": "Which colours?",
    "options": [{"label": "Red", "description": "warm"}, {"label": "Blue"}],
}


def test_a_question_has_numbered_options() -> None:
    lines = question_lines(QUESTION)
    assert lines[:3] == ["Which colours?", "  1  Red: warm", "  2  Blue"]


@pytest.mark.parametrize(
    ("typed", "several", "labels"),
    [
        ("2", False, ["Blue"]),
        ("1, 2", True, ["Red", "Blue"]),
        ("1,1", True, ["Red"]),
        ("1,2", False, None),
        ("3", False, None),
        ("0", True, None),
        ("", False, None),
        ("green, please", False, ["green, please"]),
        (",", True, None),
    ],
)
def test_what_an_answer_means(typed: str, several: bool, labels: list[str] | None) -> None:
    assert choose({**QUESTION, "multiSelect": several}, typed) == labels
