"""What the engine tells a hook, as it was recorded and as it may come to be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.session.hook_events import (
    HOOK_EVENTS,
    INPUTS,
    PostToolUseInput,
    PreToolUseInput,
    StopInput,
    SubagentStopInput,
    decode,
)

BASE = {
    "session_id": "979d1b80",
    "transcript_path": "/home/user/.claude/projects/-workspace/979d1b80.jsonl",
    "cwd": "/workspace",
    "prompt_id": "3212b500",
    "permission_mode": "default",
}
# Shortened from what Claude Code 2.1.197 sent, event by event.
SENT: dict[str, dict[str, Any]] = {
    "PreToolUse": {"tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_use_id": "t1"},
    "PostToolUse": {
        "tool_name": "Bash",
        "tool_input": {"command": "ls"},
        "tool_response": {"stdout": "hi"},
        "tool_use_id": "t1",
        "duration_ms": 72,
    },
    "PostToolUseFailure": {
        "tool_name": "Read",
        "tool_input": {},
        "tool_use_id": "t2",
        "error": "File does not exist.",
        "is_interrupt": False,
        "duration_ms": 5,
    },
    "PostToolBatch": {"tool_calls": [{"tool_name": "Bash", "tool_response": "hi"}]},
    "PermissionRequest": {
        "tool_name": "Read",
        "tool_input": {"file_path": "/x"},
        "permission_suggestions": [{"type": "addRules"}],
    },
    "UserPromptSubmit": {"prompt": "go"},
    "UserPromptExpansion": {
        "expansion_type": "slash_command",
        "command_name": "debug",
        "command_args": "x",
        "command_source": "bundled",
        "prompt": "/debug x",
    },
    "Stop": {
        "stop_hook_active": False,
        "last_assistant_message": "ok",
        "background_tasks": [],
        "session_crons": [],
    },
    "StopFailure": {"error": "unknown", "last_assistant_message": "API Error: 400 bad"},
    "SubagentStart": {"agent_id": "a58", "agent_type": "general-purpose"},
    "SubagentStop": {
        "agent_id": "a58",
        "agent_type": "",
        "stop_hook_active": False,
        "agent_transcript_path": "/home/user/a.jsonl",
        "last_assistant_message": "sub",
        "background_tasks": [],
        "session_crons": [],
    },
    "PreCompact": {"trigger": "manual", "custom_instructions": None},
    "PostCompact": {"trigger": "manual", "compact_summary": "S"},
    "SessionStart": {"source": "compact", "model": "claude-opus-4-8[1m]"},
    "SessionEnd": {"reason": "clear"},
    "InstructionsLoaded": {
        "file_path": "/workspace/CLAUDE.md",
        "memory_type": "Project",
        "load_reason": "session_start",
    },
    "MessageDisplay": {"turn_id": "8", "message_id": "2", "index": 0, "final": True, "delta": "ok"},
    "TaskCreated": {"task_id": "1", "task_subject": "do", "task_description": "d"},
}


@pytest.mark.parametrize("event", SENT)
def test_recorded_inputs_leave_nothing_unknown(event: Any) -> None:
    fields = {**BASE, "hook_event_name": event, "effort": {"level": "high"}, **SENT[event]}
    typed = decode(event, fields)
    assert typed.extra == {}
    assert typed.raw == fields
    for name, value in fields.items():
        assert getattr(typed, name) == value


def test_every_event_has_an_input() -> None:
    assert set(INPUTS) == set(HOOK_EVENTS)
    assert len(HOOK_EVENTS) == 30
    for event in HOOK_EVENTS:
        assert decode(event, {}).hook_event_name == event


def test_unknown_fields_and_wrong_types_are_kept() -> None:
    typed: Any = decode("PreToolUse", {"tool_name": 5, "tool_input": "rm", "new": [1]}, "outer")
    assert typed.tool_name == 5
    assert typed.tool_input == "rm"
    assert typed.extra == {"new": [1]}
    assert typed.tool_use_id == "outer"


def test_our_own_names_cannot_be_set_from_outside() -> None:
    typed = decode("Stop", {"extra": {"a": 1}, "raw": "x"})
    assert isinstance(typed, StopInput)
    assert typed.extra == {"extra": {"a": 1}, "raw": "x"}


def test_the_fields_own_tool_use_id_counts() -> None:
    assert decode("PostToolUse", {"tool_use_id": "inner"}, "outer").tool_use_id == "inner"
    assert isinstance(decode("PostToolUse", {}), PostToolUseInput)
    assert isinstance(decode("PreToolUse", {}), PreToolUseInput)
    assert isinstance(decode("SubagentStop", {}), SubagentStopInput)


@given(
    st.sampled_from(HOOK_EVENTS),
    st.dictionaries(
        st.sampled_from(["tool_name", "tool_input", "prompt", "cwd", "extra", "raw", "self"])
        | st.text(max_size=4),
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
        max_size=6,
    ),
)
def test_any_fields_are_kept(event: Any, fields: dict[str, Any]) -> None:
    typed = decode(event, fields)
    assert typed.raw == fields
    for name, value in fields.items():
        assert value == typed.extra.get(name, getattr(typed, name, None))
