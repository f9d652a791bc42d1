"""PURE. What the command line exits with.

Programs read these numbers; they do not change. Errors carry their own number, see
`quarterdeck.errors`.
"""

from __future__ import annotations

from quarterdeck.model import Boundary, BoundaryKind, LimitKind

OK = 0
FAILED = 1
USAGE = 2
NO_ENGINE = 3
DENIED = 4
LIMIT = 5
TIMEOUT = 6
RATE_LIMIT = 75
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

MEANING: dict[int, str] = {
    OK: "done; for a turn: completed, and no tool call was denied",
    FAILED: "the turn failed, or something else went wrong",
    USAGE: "wrong usage; nothing was started",
    NO_ENGINE: "the engine is missing or has a version that Quarterdeck does not drive",
    DENIED: "the turn completed, but tool calls were denied",
    LIMIT: "a limit was reached: rounds, budget or tokens",
    TIMEOUT: "the time limit was reached, or the engine no longer answered",
    RATE_LIMIT: "the provider's rate limit; try again later",
    INTERRUPTED: "interrupted (Ctrl-C)",
    BROKEN_PIPE: "whoever read the output went away",
    TERMINATED: "ended by SIGTERM; the session was closed first",
}

_KINDS: dict[BoundaryKind, int] = {
    "completed": OK,
    "interrupted": INTERRUPTED,
    "limit": LIMIT,
    "errored": FAILED,
}
_LIMITS: dict[LimitKind, int] = {"rate": RATE_LIMIT, "time": TIMEOUT}


def of_turn(boundary: Boundary, *, complete: bool = True, denials: int = 0) -> int:
    """The exit code of a turn.

    A turn without a result record (`complete` is False) has not succeeded, whatever its boundary. A
    completed one whose tool calls were denied exits with DENIED: nobody could be asked, so the work
    may not be what the prompt wanted.
    """
    if boundary.kind == "completed":
        if not complete:
            return FAILED
        return DENIED if denials else OK
    if boundary.limit is not None:
        return _LIMITS.get(boundary.limit, LIMIT)
    return _KINDS[boundary.kind]


def table() -> str:
    """The exit codes for `--help`."""
    return "\n".join(f"  {code:>3}  {text}" for code, text in MEANING.items())
