"""A turn's result as programs read it: `--json`, and the last line of `--stream-json`."""

from __future__ import annotations

from typing import Any

import msgspec

from quarterdeck.cli import exit_codes
from quarterdeck.session.turns import ToolActivity, TurnResult

_FIELDS = (
    "prompt", "index", "complete", "ok", "text", "result_text", "session_id", "engine_session_id",
    "model", "stop_reason", "terminal_reason", "api_error_status", "errors", "cost_usd",
    "total_cost_usd", "duration_ms", "duration_api_ms", "num_turns", "permission_denials",
    "structured_output", "deferred_tool_use", "origin", "files_changed", "dropped",
)  # fmt: skip
_USAGE = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def exit_code(result: TurnResult) -> int:
    """What the command line exits with after this turn."""
    return exit_codes.of_turn(
        result.boundary, complete=result.complete, denials=len(result.permission_denials)
    )


def to_json(result: TurnResult) -> dict[str, Any]:
    """The result as JSON-safe values, version 1: without raw lines and the text of messages twice."""
    out: dict[str, Any] = {"v": 1, "type": "turn_result", "exit_code": exit_code(result)}
    boundary = result.boundary
    out["boundary"] = {
        "kind": boundary.kind,
        "limit": boundary.limit,
        "code": boundary.code,
        "reason": boundary.reason,
        "retry_at": boundary.retry_at,
    }
    for name in _FIELDS:
        out[name] = msgspec.to_builtins(getattr(result, name))
    out["usage"] = {name: getattr(result.usage, name) for name in _USAGE}
    out["model_usage"] = msgspec.to_builtins(dict(result.model_usage))
    out["tools"] = [_tool(t) for t in result.tool_executions]
    return out


def to_line(result: TurnResult) -> bytes:
    """One line of NDJSON, newline included."""
    return msgspec.json.encode(to_json(result)) + b"\n"


def _tool(tool: ToolActivity) -> dict[str, Any]:
    return {
        "tool_use_id": tool.use.id,
        "name": tool.use.name,
        "label": tool.display_label,
        "input": tool.use.input,
        "output": tool.result.text if tool.result is not None else None,
        "is_error": tool.is_error,
        "started_at": tool.started_at,
        "duration": tool.duration,
        "parent": tool.parent,
    }


def summary(result: TurnResult) -> str:
    """One line for a person: how it ended, cost, tokens, time, tools."""
    usage = result.usage
    tokens = f"{usage.total_tokens} tokens ({usage.output_tokens} out)"
    parts = [str(result.boundary), f"${result.cost_usd:.4f}", tokens]
    parts.append(f"{result.duration_ms / 1000:.1f} s")
    if result.permission_denials:
        parts.append(f"{len(result.permission_denials)} denied")
    if not result.complete:
        parts.append("no result record")
    return " · ".join(parts)
