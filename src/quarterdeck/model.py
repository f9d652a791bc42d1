"""Shared values: frozen, small, without behaviour that needs I/O."""

from __future__ import annotations

import os
import time
from typing import Any, Literal

import msgspec

BoundaryKind = Literal["completed", "interrupted", "limit", "errored"]
LimitKind = Literal["turns", "budget", "rate", "tokens", "time"]
PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions"]
PERMISSION_MODES: tuple[PermissionMode, ...] = (
    "default",
    "acceptEdits",
    "plan",
    "dontAsk",
    "auto",
    "bypassPermissions",
)


def new_id(now: float | None = None) -> str:
    """A UUIDv7: 48 bits of milliseconds (Unix time), then randomness; sorts by creation."""
    ms = int((time.time() if now is None else now) * 1000) & ((1 << 48) - 1)
    rand = int.from_bytes(os.urandom(10), "big")
    value = ms << 80 | 7 << 76 | (rand >> 68 & 0xFFF) << 64 | 2 << 62 | rand & ((1 << 62) - 1)
    h = f"{value:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens. `input` counts fresh tokens only; cached ones are beside it."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_input_tokens
        )


class ModelUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one model used in one session, cumulative for the engine's process."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    web_search_requests: int = 0
    cost_usd: float = 0.0
    context_window: int = 0
    max_output_tokens: int = 0


class Boundary(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a turn ended.

    `reason` is the engine's own word (terminal reason, else stop reason), `code` is ours for errors
    (`authentication_failed`, `server_error`, `engine_died`, ...), `retry_at` is Unix seconds and only
    known for rate limits.
    """

    kind: BoundaryKind
    limit: LimitKind | None = None
    code: str = ""
    reason: str = ""
    retry_at: float | None = None

    def __str__(self) -> str:
        detail = self.limit or self.code or ""
        return f"{self.kind}({detail})" if detail else self.kind


class PermissionDenial(msgspec.Struct, frozen=True):
    """A tool call that was refused during the turn."""

    tool_name: str
    tool_use_id: str
    tool_input: dict[str, Any]


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """The provider's rate-limit state; `resets_at` in Unix seconds."""

    status: str = ""
    limit_type: str = ""
    resets_at: float | None = None
    utilization: float | None = None


class Exit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a process tree ended, verified.

    Exactly one of `code` and `signal` is set, or neither when the guard itself was lost. `killed` is
    our own record of why we ended it and outranks what the engine says. `left` names the processes
    that had outlived the engine and were then killed; `survivors` those that could not be.
    """

    code: int | None = None
    signal: int | None = None
    killed: str = ""
    left: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """True when nothing is running any more."""
        return not self.survivors
