"""PURE. The hook events of Claude Code and what each of them says.

An input is a view of what the engine sent: every value is passed on as it came, so a field holds
another type than declared when the engine sent another type. Decoding never fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

HookEvent = Literal[
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PostToolBatch",
    "PermissionRequest",
    "PermissionDenied",
    "UserPromptSubmit",
    "UserPromptExpansion",
    "Stop",
    "StopFailure",
    "SubagentStart",
    "SubagentStop",
    "PreCompact",
    "PostCompact",
    "SessionStart",
    "SessionEnd",
    "InstructionsLoaded",
    "MessageDisplay",
    "Notification",
    "Setup",
    "TeammateIdle",
    "TaskCreated",
    "TaskCompleted",
    "Elicitation",
    "ElicitationResult",
    "ConfigChange",
    "WorktreeCreate",
    "WorktreeRemove",
    "CwdChanged",
    "FileChanged",
]
HOOK_EVENTS: tuple[HookEvent, ...] = get_args(HookEvent)


class HookInput(msgspec.Struct, frozen=True, kw_only=True):
    """What every hook is told.

    `agent_id` is set only inside a sub-agent. `tool_use_id` is the tool call, and for events without
    one whatever the engine calls this occasion. `extra` has the fields we do not know, `raw` all.
    """

    hook_event_name: str = ""
    session_id: str = ""
    transcript_path: str = ""
    cwd: str = ""
    prompt_id: str | None = None
    permission_mode: str | None = None
    effort: dict[str, Any] | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    tool_use_id: str | None = None
    extra: dict[str, Any] = {}
    raw: dict[str, Any] = {}


class PreToolUseInput(HookInput, frozen=True, kw_only=True):
    """A tool is about to run."""

    tool_name: str = ""
    tool_input: dict[str, Any] = {}


class PostToolUseInput(HookInput, frozen=True, kw_only=True):
    """A tool ran well; `duration_ms` without the time for permissions and hooks."""

    tool_name: str = ""
    tool_input: dict[str, Any] = {}
    tool_response: Any = None
    duration_ms: float | None = None


class PostToolUseFailureInput(HookInput, frozen=True, kw_only=True):
    """A tool failed or was interrupted."""

    tool_name: str = ""
    tool_input: dict[str, Any] = {}
    error: str = ""
    is_interrupt: bool = False
    duration_ms: float | None = None


class PostToolBatchInput(HookInput, frozen=True, kw_only=True):
    """All tool calls of one model answer are over.

    Each of `tool_calls` has tool_name, tool_input, tool_use_id and tool_response.
    """

    tool_calls: list[dict[str, Any]] = []


class PermissionRequestInput(HookInput, frozen=True, kw_only=True):
    """A permission is asked for, at the same time as `can_use_tool`; the first answer counts."""

    tool_name: str = ""
    tool_input: dict[str, Any] = {}
    permission_suggestions: list[dict[str, Any]] = []


class PermissionDeniedInput(HookInput, frozen=True, kw_only=True):
    """A tool call was refused."""

    tool_name: str = ""
    tool_input: dict[str, Any] = {}
    reason: str = ""


class UserPromptSubmitInput(HookInput, frozen=True, kw_only=True):
    """A prompt was sent; fires before the session says that it is ready."""

    prompt: str = ""
    session_title: str | None = None


class UserPromptExpansionInput(HookInput, frozen=True, kw_only=True):
    """A slash command or MCP prompt is about to be expanded."""

    expansion_type: str = ""
    command_name: str = ""
    command_args: str = ""
    command_source: str | None = None
    prompt: str = ""


class StopInput(HookInput, frozen=True, kw_only=True):
    """The agent is about to stop; `stop_hook_active` when a stop hook already made it go on."""

    stop_hook_active: bool = False
    last_assistant_message: str | None = None
    background_tasks: list[dict[str, Any]] = []
    session_crons: list[dict[str, Any]] = []


class StopFailureInput(HookInput, frozen=True, kw_only=True):
    """The turn ended with an error of the model's interface."""

    error: str = ""
    error_details: str | None = None
    last_assistant_message: str | None = None


class SubagentStartInput(HookInput, frozen=True, kw_only=True):
    """A sub-agent begins; `agent_id` and `agent_type` name it."""


class SubagentStopInput(StopInput, frozen=True, kw_only=True):
    """A sub-agent is about to stop; `agent_type` is empty for the engine's own compaction."""

    agent_transcript_path: str = ""


class PreCompactInput(HookInput, frozen=True, kw_only=True):
    """The context is about to be shortened; `trigger` is `manual` or `auto`."""

    trigger: str = ""
    custom_instructions: str | None = None


class PostCompactInput(HookInput, frozen=True, kw_only=True):
    """The context was shortened."""

    trigger: str = ""
    compact_summary: str = ""


class SessionStartInput(HookInput, frozen=True, kw_only=True):
    """A session began; callbacks only see the sources `compact` and `clear`."""

    source: str = ""
    model: str | None = None
    session_title: str | None = None


class SessionEndInput(HookInput, frozen=True, kw_only=True):
    """A session ended; callbacks only see the reason `clear`."""

    reason: str = ""


class InstructionsLoadedInput(HookInput, frozen=True, kw_only=True):
    """A file of instructions was read into the context."""

    file_path: str = ""
    memory_type: str = ""
    load_reason: str = ""
    globs: list[str] | None = None
    trigger_file_path: str | None = None
    parent_file_path: str | None = None


class MessageDisplayInput(HookInput, frozen=True, kw_only=True):
    """Lines of a message that are about to be shown; `final` marks its last piece."""

    turn_id: str = ""
    message_id: str = ""
    index: int = 0
    final: bool = False
    delta: str = ""


class NotificationInput(HookInput, frozen=True, kw_only=True):
    """The engine wants to tell the person something."""

    message: str = ""
    title: str | None = None
    notification_type: str = ""


class SetupInput(HookInput, frozen=True, kw_only=True):
    """First use or upkeep; `trigger` is `init` or `maintenance`."""

    trigger: str = ""


class TeammateIdleInput(HookInput, frozen=True, kw_only=True):
    """An agent of the team has nothing to do."""

    teammate_name: str = ""
    team_name: str = ""


class TaskInput(HookInput, frozen=True, kw_only=True):
    """A task of the agent's list was created or completed."""

    task_id: str = ""
    task_subject: str = ""
    task_description: str | None = None
    teammate_name: str | None = None
    team_name: str | None = None


class ElicitationInput(HookInput, frozen=True, kw_only=True):
    """An MCP server asks the person; `mode` is `form` or `url`."""

    mcp_server_name: str = ""
    message: str = ""
    mode: str | None = None
    url: str | None = None
    elicitation_id: str | None = None
    requested_schema: dict[str, Any] | None = None


class ElicitationResultInput(HookInput, frozen=True, kw_only=True):
    """The person answered an MCP server."""

    mcp_server_name: str = ""
    elicitation_id: str | None = None
    mode: str | None = None
    action: str = ""
    content: dict[str, Any] | None = None


class ConfigChangeInput(HookInput, frozen=True, kw_only=True):
    """Settings changed; `source` is for example `project_settings`."""

    source: str = ""
    file_path: str | None = None


class WorktreeCreateInput(HookInput, frozen=True, kw_only=True):
    """A work tree is wanted; the hook makes it and answers with `worktree_path`."""

    name: str = ""


class WorktreeRemoveInput(HookInput, frozen=True, kw_only=True):
    """A work tree is to be removed."""

    worktree_path: str = ""


class CwdChangedInput(HookInput, frozen=True, kw_only=True):
    """The working directory changed."""

    old_cwd: str = ""
    new_cwd: str = ""


class FileChangedInput(HookInput, frozen=True, kw_only=True):
    """A watched file changed; `event` is `change`, `add` or `unlink`."""

    file_path: str = ""
    event: str = ""


INPUTS: dict[HookEvent, type[HookInput]] = {
    "PreToolUse": PreToolUseInput,
    "PostToolUse": PostToolUseInput,
    "PostToolUseFailure": PostToolUseFailureInput,
    "PostToolBatch": PostToolBatchInput,
    "PermissionRequest": PermissionRequestInput,
    "PermissionDenied": PermissionDeniedInput,
    "UserPromptSubmit": UserPromptSubmitInput,
    "UserPromptExpansion": UserPromptExpansionInput,
    "Stop": StopInput,
    "StopFailure": StopFailureInput,
    "SubagentStart": SubagentStartInput,
    "SubagentStop": SubagentStopInput,
    "PreCompact": PreCompactInput,
    "PostCompact": PostCompactInput,
    "SessionStart": SessionStartInput,
    "SessionEnd": SessionEndInput,
    "InstructionsLoaded": InstructionsLoadedInput,
    "MessageDisplay": MessageDisplayInput,
    "Notification": NotificationInput,
    "Setup": SetupInput,
    "TeammateIdle": TeammateIdleInput,
    "TaskCreated": TaskInput,
    "TaskCompleted": TaskInput,
    "Elicitation": ElicitationInput,
    "ElicitationResult": ElicitationResultInput,
    "ConfigChange": ConfigChangeInput,
    "WorktreeCreate": WorktreeCreateInput,
    "WorktreeRemove": WorktreeRemoveInput,
    "CwdChanged": CwdChangedInput,
    "FileChanged": FileChangedInput,
}


def decode(
    event: HookEvent, fields: Mapping[str, Any], tool_use_id: str | None = None
) -> HookInput:
    """The typed input of `event`; `tool_use_id` is used when the fields have none of their own."""
    kind = INPUTS[event]
    ours = set(kind.__struct_fields__) - {"extra", "raw"}
    known = {name: value for name, value in fields.items() if name in ours}
    known.setdefault("hook_event_name", event)
    known.setdefault("tool_use_id", tool_use_id)
    extra = {name: value for name, value in fields.items() if name not in ours}
    return kind(**known, extra=extra, raw=dict(fields))
