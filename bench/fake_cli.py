"""A scripted stand-in for the CLI that prints as fast as it can; for throughput only.

Speaks just enough of the control protocol for both sides of the comparison. The first word of the
prompt is the kind of lines, the second their number.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SESSION = "5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8"
COMMON = {"session_id": SESSION, "uuid": "54a98d43-6b8e-4813-b38e-fd5907866e0c"}


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def assistant(size: int) -> bytes:
    """A message whose whole line has about `size` bytes."""
    usage = {"input_tokens": 12, "output_tokens": 1}
    inner = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{"type": "text", "text": ""}], "stop_reason": None, "usage": usage,
    }  # fmt: skip
    message: dict[str, Any] = {
        "type": "assistant",
        "message": inner,
        "parent_tool_use_id": None,
        **COMMON,
    }
    inner["content"] = [{"type": "text", "text": "x" * max(1, size - len(line(message)))}]
    return line(message)


def delta() -> bytes:
    event = {
        "type": "content_block_delta", "index": 0,
        "delta": {"type": "text_delta", "text": "y" * 40},
    }  # fmt: skip
    return line({"type": "stream_event", "event": event, "parent_tool_use_id": None, **COMMON})


def init() -> bytes:
    return line(
        {
            "type": "system", "subtype": "init", "cwd": "/", "tools": [], "mcp_servers": [],
            "model": "claude-x", "permissionMode": "default", "slash_commands": [],
            "apiKeySource": "none", "claude_code_version": "2.1.197", "output_style": "default",
            "agents": [], "skills": [], "plugins": [], **COMMON,
        }
    )  # fmt: skip


def result() -> bytes:
    return line(
        {
            "type": "result", "subtype": "success", "is_error": False, "duration_ms": 1,
            "duration_api_ms": 1, "num_turns": 1, "result": "done", "stop_reason": "end_turn",
            "terminal_reason": "completed", "total_cost_usd": 0.0, "usage": {}, **COMMON,
        }
    )  # fmt: skip


def put(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def flood(kind: str, count: int) -> None:
    unit = delta() if kind == "delta" else assistant(int(kind))
    batch = max(1, 262_144 // len(unit))
    block = unit * batch
    put(init())
    for _ in range(count // batch):
        put(block)
    put(unit * (count % batch))
    put(result())


def main() -> None:
    if "--version" in sys.argv or "-v" in sys.argv:
        print("2.1.197 (Claude Code)")
        return
    for raw in sys.stdin.buffer:
        message = json.loads(raw)
        if message["type"] == "control_request":
            if message["request"]["subtype"] == "end_session":
                return
            body = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            put(line({"type": "control_response", "response": body}))
        elif message["type"] == "user":
            content = message["message"]["content"]
            text = content if isinstance(content, str) else content[0]["text"]
            kind, count = text.split()
            flood(kind, int(count))


main()
