"""PURE. Lines to Claude Code: validated before a byte is written.

Some malformed control requests stop the CLI's input loop for good, without an answer (measured on
2.1.197), so every outgoing message passes through here. `InvalidCommand` means nothing was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from quarterdeck.errors import InvalidCommand
from quarterdeck.model import PERMISSION_MODES

_ENCODER = msgspec.json.Encoder()


class Field(NamedTuple):
    """What one request field must be."""

    type: type | tuple[type, ...]
    required: bool = False
    allowed: tuple[str, ...] = ()
    non_empty: bool = True


_STR = Field(str, required=True)
_OPT_STR = Field((str, type(None)))
_OBJ = Field(dict, required=True, non_empty=False)
_BOOL = Field(bool)

CONTROLS: dict[str, dict[str, Field]] = {
    "initialize": {
        "hooks": Field((dict, type(None))),
        "agents": Field(dict),
        "sdkMcpServers": Field(list, non_empty=False),
        "systemPrompt": Field(list, non_empty=False),
        "appendSystemPrompt": Field(str, non_empty=False),
        "jsonSchema": Field(dict),
        "title": Field(str),
        "forwardSubagentText": _BOOL,
        "promptSuggestions": _BOOL,
        "excludeDynamicSections": _BOOL,
        "skills": Field((list, str)),
        "toolAliases": Field(dict),
        "planModeInstructions": Field(str),
        "agentProgressSummaries": _BOOL,
        "supportedDialogKinds": Field(list, non_empty=False),
    },
    "interrupt": {},
    "set_permission_mode": {"mode": Field(str, required=True, allowed=PERMISSION_MODES)},
    "set_model": {"model": _OPT_STR},
    "set_max_thinking_tokens": {
        "max_thinking_tokens": Field((int, type(None)), required=True),
        "thinking_display": Field(str, allowed=("summarized", "omitted")),
    },
    "mcp_status": {},
    "mcp_set_servers": {"servers": _OBJ},
    "mcp_reconnect": {"serverName": _STR},
    "mcp_toggle": {"serverName": _STR, "enabled": Field(bool, required=True)},
    "mcp_call": {"tool": _STR, "arguments": Field(dict, non_empty=False)},
    "mcp_message": {"server_name": _STR, "message": _OBJ},
    "mcp_authenticate": {"serverName": _STR, "redirectUri": Field(str)},
    "mcp_oauth_callback_url": {"serverName": _STR, "callbackUrl": _STR},
    "mcp_clear_auth": {"serverName": _STR},
    "set_mcp_permission_mode_override": {
        "serverName": _STR,
        "mode": Field((str, type(None)), required=True, allowed=("default", "auto")),
    },
    "rewind_files": {"user_message_id": _STR, "dry_run": _BOOL},
    "rewind_conversation": {"target_message_uuid": _STR, "interrupt_if_running": _BOOL},
    "cancel_async_message": {"message_uuid": _STR},
    "stop_task": {"task_id": _STR},
    "background_tasks": {"tool_use_id": Field(str)},
    "apply_flag_settings": {"settings": _OBJ},
    "get_settings": {},
    "get_context_usage": {},
    "get_session_cost": {},
    "get_usage": {},
    "get_binary_version": {},
    "reload_plugins": {},
    "reload_skills": {},
    "rename_session": {"title": _STR},
    "generate_session_title": {"description": _STR, "persist": _BOOL},
    "side_question": {"question": _STR},
    "read_file": {"path": _STR, "max_bytes": Field(int), "encoding": Field(str)},
    "seed_read_state": {"path": _STR, "mtime": Field((int, float), required=True)},
    "file_suggestions": {"query": Field(str, required=True, non_empty=False)},
    "register_repo_root": {"directory": _STR},
    "end_session": {"reason": Field(str)},
}
"""Every control request that was seen to work on 2.1.197, with the fields it takes."""

_PRIORITIES = ("now", "next", "later")
_BLOCK_TYPES = ("text", "image", "document", "tool_result")


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Raises InvalidCommand when a value has no JSON form."""
    try:
        return _ENCODER.encode(message) + b"\n"
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidCommand(f"the message cannot be written as JSON: {error}") from None


def control_request(request_id: str, subtype: str, fields: Mapping[str, Any]) -> bytes:
    """The line of a control request.

    Unknown subtypes are refused: the CLI would answer them with an error, but a newer one might act.
    Raises InvalidCommand naming the field.
    """
    spec = CONTROLS.get(subtype)
    if spec is None:
        raise InvalidCommand(
            f"unknown control request {subtype!r}", remedy=f"known: {', '.join(sorted(CONTROLS))}"
        )
    for name in fields.keys() - spec.keys():
        raise InvalidCommand(
            f"{subtype} takes no field {name!r}", remedy=f"fields: {', '.join(spec)}"
        )
    for name, field in spec.items():
        _check(subtype, name, field, fields)
    if subtype == "initialize":
        _check_hooks(fields.get("hooks"))
    return encode(
        {
            "type": "control_request",
            "request_id": request_id,
            "request": {"subtype": subtype, **fields},
        }
    )


def _check(subtype: str, name: str, field: Field, fields: Mapping[str, Any]) -> None:
    if name not in fields:
        if field.required:
            raise InvalidCommand(f"{subtype} needs the field {name!r}")
        return
    value = fields[name]
    numbers = isinstance(value, bool) and field.type is not bool
    if numbers or not isinstance(value, field.type):
        raise InvalidCommand(f"{subtype}.{name} has the wrong type {type(value).__name__}")
    if field.required and field.non_empty and value in ("", {}, []):
        raise InvalidCommand(f"{subtype}.{name} must not be empty")
    if field.allowed and value is not None and value not in field.allowed:
        raise InvalidCommand(
            f"{subtype}.{name} must be one of {', '.join(field.allowed)}, not {value!r}"
        )


def _check_hooks(hooks: Any) -> None:
    if hooks is None:
        return
    for event, matchers in hooks.items():
        if not isinstance(matchers, list):
            raise InvalidCommand(f"initialize.hooks.{event} must be a list")
        for matcher in matchers:
            ids = matcher.get("hookCallbackIds") if isinstance(matcher, dict) else None
            if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
                raise InvalidCommand(f"initialize.hooks.{event} needs hookCallbackIds")
            if not isinstance(matcher.get("timeout"), int | float):
                raise InvalidCommand(f"initialize.hooks.{event} needs a timeout")


def user_message(
    content: str | Sequence[Mapping[str, Any]],
    *,
    uuid: str,
    priority: str | None = None,
    should_query: bool = True,
) -> bytes:
    """The line of a prompt. `uuid` makes a repeated send harmless. Raises InvalidCommand."""
    if isinstance(content, str):
        body: Any = content.replace("\x00", "")
        if not body.strip():
            raise InvalidCommand("the prompt is empty", remedy="send some text")
    elif not isinstance(content, Sequence):
        raise InvalidCommand(
            f"a prompt is a text or a list of blocks, not {type(content).__name__}"
        )
    else:
        body = list(content)
        if not body:
            raise InvalidCommand("the prompt has no content blocks")
        for block in body:
            if not isinstance(block, Mapping) or block.get("type") not in _BLOCK_TYPES:
                raise InvalidCommand(f"a prompt block must be one of {', '.join(_BLOCK_TYPES)}")
    if priority is not None and priority not in _PRIORITIES:
        raise InvalidCommand(f"priority must be one of {', '.join(_PRIORITIES)}")
    message: dict[str, Any] = {
        "type": "user",
        "message": {"role": "user", "content": body},
        "parent_tool_use_id": None,
        "session_id": "",
        "uuid": uuid,
    }
    if priority is not None:
        message["priority"] = priority
    if not should_query:
        message["shouldQuery"] = False
    return encode(message)


def success(request_id: str, response: Mapping[str, Any]) -> bytes:
    """The answer to a request of the CLI."""
    if not isinstance(response, Mapping):
        raise InvalidCommand("an answer must be an object")
    return encode(
        {
            "type": "control_response",
            "response": {"subtype": "success", "request_id": request_id, "response": response},
        }
    )


def failure(request_id: str, error: str) -> bytes:
    """An error answer. Beware: to a hook it means that the tool proceeds."""
    return encode(
        {
            "type": "control_response",
            "response": {"subtype": "error", "request_id": request_id, "error": error},
        }
    )
