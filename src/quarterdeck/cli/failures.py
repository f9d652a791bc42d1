"""How errors look: lines for a person, and a turn result with an error for programs."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterable
from typing import Any

import msgspec

from quarterdeck.cli import results
from quarterdeck.errors import (
    EngineDied,
    EngineStartError,
    EngineWedged,
    OptionError,
    QuarterdeckError,
)

CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG})
"""Errors of a place that takes no more, whatever was to be written."""

_STDERR_LINES = 10
_DIAGNOSTIC = "[ede_diagnostic]"
_FLAGS = {
    "auth.url": "--gateway-url",
    "auth.token": "--gateway-token-file",
    "continue_last": "--continue",
    "executable": "--engine-path",
    "output_schema": "--schema",
    "turn_timeout": "--timeout",
    **{
        name: "--" + name.replace("_", "-")
        for name in (
            "allow", "attach", "bypass_is_safe", "config_dir", "cwd", "deny", "fork",
            "gateway_token_file", "limit", "max_budget_usd", "max_turns", "model",
            "permission_mode", "port", "resume", "schema", "set", "to", "tools",
        )
    },
}  # fmt: skip


def said(texts: Iterable[str]) -> list[str]:
    """Without what the engine says of its own insides, which helps nobody who reads it."""
    return [text for text in texts if not text.lstrip().startswith(_DIAGNOSTIC)]


def lines(error: QuarterdeckError) -> list[str]:
    """An error as a person reads it. Not sanitized."""
    remedy = error.remedy
    message = error.message
    if isinstance(error, OptionError):
        flag = _FLAGS.get(error.field)
        if flag is not None:
            message = flag + message.removeprefix(error.field)
            remedy = remedy.replace("bypass_is_safe=True", "--bypass-is-safe")
    out = [f"error: {message}"]
    if isinstance(error, EngineDied | EngineStartError | EngineWedged):
        if error.process_exit_code is not None:
            out[0] += f" [{exit_text(error.process_exit_code)}]"
        tail = said(error.stderr_tail.strip().splitlines())[-_STDERR_LINES:]
        if tail:
            out += ["  the engine said:", *(f"    {line}" for line in tail)]
    if remedy:
        out.append(f"  {remedy}")
    return out


def exit_text(code: int) -> str:
    """`exit code 3`, `exit code 137, SIGKILL`."""
    try:
        return f"exit code {code}, {signal.Signals(code - 128).name}"
    except ValueError:
        return f"exit code {code}"


def name_the_session(error: QuarterdeckError, engine_session_id: str | None) -> None:
    """Fill in which session the remedy is about, for an engine that ended in the middle of one."""
    if engine_session_id and isinstance(error, EngineDied | EngineWedged):
        error.remedy = f"quarterdeck resume {engine_session_id}"


def to_json(error: QuarterdeckError) -> dict[str, Any]:
    """A `turn_result` for a turn that ended with an error: what had arrived, and the error."""
    partial = getattr(error, "partial", None)
    out: dict[str, Any] = {"v": 1, "type": "turn_result"}
    if partial is not None:
        out = results.to_json(partial)
    facts = {"code": error.code, "message": error.message, "remedy": error.remedy}
    return {
        **out,
        "exit_code": error.exit_code,
        "complete": False,
        "ok": False,
        "error": {**error.facts(), **facts},
    }


def to_line(error: QuarterdeckError) -> bytes:
    """One line of NDJSON, newline included."""
    return msgspec.json.encode(to_json(error)) + b"\n"


def cannot_write(error: OSError) -> list[str]:
    """The lines of an error in CANNOT_WRITE."""
    where = f" {error.filename}" if error.filename else ""
    return [
        f"error: cannot write{where}: {error.strerror}",
        "  make room there, or write elsewhere",
    ]
