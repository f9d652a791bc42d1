"""Every exception Quarterdeck raises.

The first line of a class docstring is its default message; facts travel as attributes, and `remedy`
says what to do next. `exit_code` is what the command line exits with when the error reaches it.

::

    QuarterdeckError
    ├── UsageError                  you asked for something wrong; nothing was started
    │   ├── OptionError             one field of Options, a profile or the command line
    │   ├── CredentialRefused       a credential that the session did not ask for by name
    │   ├── ScriptError             a script for the scripted model
    │   └── AlreadyResolved         a permission request was answered twice
    ├── PlatformUnsupported         this operating system cannot run agents safely
    ├── EngineError                 the agent's own program
    │   ├── EngineNotFound
    │   ├── EngineVersionError
    │   ├── EngineStartError        it ended before it was ready
    │   ├── EngineDied              it ended before the turn's result record
    │   └── EngineWedged            alive, but it no longer answers
    ├── ProtocolError               what the peer sent, or what we would have sent
    │   ├── LineTooLong             peer: one line over the limit
    │   ├── InvalidCommand          us: refused before writing, for it would wedge the engine
    │   └── ControlError            the engine answered a control call with an error
    ├── TurnError                   the turn ended, and not well
    │   ├── TurnFailed
    │   └── TurnTimeout
    ├── SessionError
    │   ├── SessionNotFound
    │   ├── SessionAmbiguous
    │   ├── SessionBusy             somebody else owns it
    │   ├── SessionClosed
    │   └── QueueFull               more prompts waiting than the limit
    └── TranscriptError             a session file that cannot be read or written
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class QuarterdeckError(Exception):
    """Something went wrong in Quarterdeck."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", *, remedy: str = "") -> None:
        if not message:
            message = (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @property
    def code(self) -> str:
        """A stable word for programs: the class name in snake_case."""
        name = type(self).__name__
        return "".join(
            ("_" + c.lower()) if c.isupper() and i else c.lower() for i, c in enumerate(name)
        )

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def facts(self) -> Mapping[str, Any]:
        """What a machine should know besides code and message; JSON-safe."""
        return {}


class UsageError(QuarterdeckError):
    """The call was wrong; nothing was started."""

    exit_code = 2


class OptionError(UsageError):
    """An option has a value that cannot be used."""

    def __init__(self, field: str, value: object, reason: str, *, remedy: str = "") -> None:
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field} = {shown}: {reason}", remedy=remedy)
        self.field = field
        self.value = value
        self.reason = reason

    def facts(self) -> Mapping[str, Any]:
        return {"field": self.field, "reason": self.reason}


class CredentialRefused(UsageError):
    """A credential would reach the agent although its session did not ask for it by name."""

    def __init__(self, where: str, name: str, *, remedy: str = "") -> None:
        super().__init__(
            f"{where} sets {name}: this auth mode does not let it reach the agent", remedy=remedy
        )
        self.where = where
        self.name = name

    def facts(self) -> Mapping[str, Any]:
        return {"where": self.where, "name": self.name}


class ScriptError(UsageError):
    """The script for the scripted model is not valid."""


class AlreadyResolved(UsageError):
    """This permission request was already answered."""


class PlatformUnsupported(QuarterdeckError):
    """Quarterdeck does not run agents on this operating system."""

    exit_code = 2


class EngineError(QuarterdeckError):
    """The agent's program failed."""


class EngineNotFound(EngineError):
    """The agent's program was not found."""

    exit_code = 3


class EngineVersionError(EngineError):
    """The agent's program has a version that Quarterdeck does not drive."""

    exit_code = 3


class _EngineEnded(EngineError):
    """Common facts of an agent process that is gone or useless.

    `partial` is the TurnResult of what had arrived of the turn, or None outside a turn.
    """

    def __init__(
        self,
        message: str = "",
        *,
        exit_code: int | None = None,
        stderr_tail: str = "",
        partial: Any = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.process_exit_code = exit_code
        self.stderr_tail = stderr_tail
        self.partial = partial

    def __str__(self) -> str:
        text = self.message
        if self.process_exit_code is not None:
            text += f" [exit code {self.process_exit_code}]"
        if self.stderr_tail:
            text += f"\n  stderr: {self.stderr_tail.strip()[-2000:]}"
        return f"{text}\n  {self.remedy}" if self.remedy else text

    def facts(self) -> Mapping[str, Any]:
        return {"exit_code": self.process_exit_code, "stderr_tail": self.stderr_tail}


class EngineStartError(_EngineEnded):
    """The agent's program ended before it was ready."""


class EngineDied(_EngineEnded):
    """The agent's program ended before the turn had a result."""


class EngineWedged(_EngineEnded):
    """The agent's program is alive but no longer answers."""

    exit_code = 6


class ProtocolError(QuarterdeckError):
    """The control protocol was broken."""


class LineTooLong(ProtocolError):
    """The agent printed one line over the limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the agent printed a line of over {size} bytes; the limit is {limit}",
            remedy="raise Options.max_line_bytes if such lines are expected",
        )
        self.size = size
        self.limit = limit

    def facts(self) -> Mapping[str, Any]:
        return {"size": self.size, "limit": self.limit}


class InvalidCommand(ProtocolError):
    """A message to the agent was refused before it was written, because it could wedge the agent."""

    exit_code = 2


class ControlError(ProtocolError):
    """The agent answered a control call with an error."""

    def __init__(self, subtype: str, error: str) -> None:
        super().__init__(f"{subtype}: {error}")
        self.subtype = subtype
        self.error = error

    def facts(self) -> Mapping[str, Any]:
        return {"subtype": self.subtype, "error": self.error}


class TurnError(QuarterdeckError):
    """The turn did not end well. `result` is its TurnResult."""

    def __init__(self, message: str = "", *, result: Any = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.result = result


class TurnFailed(TurnError):
    """The turn ended with an error."""


class TurnTimeout(TurnError):
    """The turn took longer than its time limit."""

    exit_code = 6


class SessionError(QuarterdeckError):
    """The session cannot be used."""


class SessionNotFound(SessionError):
    """No such session."""

    exit_code = 2


class SessionAmbiguous(SessionError):
    """The name fits more than one session."""

    exit_code = 2

    def __init__(self, name: str, candidates: Sequence[str]) -> None:
        listed = ", ".join(candidates[:10])
        super().__init__(
            f"{name!r} fits {len(candidates)} sessions: {listed}", remedy="use a whole id"
        )
        self.candidates = tuple(candidates)

    def facts(self) -> Mapping[str, Any]:
        return {"candidates": list(self.candidates)}


class SessionBusy(SessionError):
    """Another process owns this session."""

    def __init__(self, session: str, holder: str, *, remedy: str = "") -> None:
        super().__init__(
            f"session {session} is owned by {holder}; two writers would fork its history",
            remedy=remedy or "end that process, or fork the session",
        )
        self.session = session
        self.holder = holder

    def facts(self) -> Mapping[str, Any]:
        return {"session": self.session, "holder": self.holder}


class SessionClosed(SessionError):
    """The session is closed."""


class QueueFull(SessionError):
    """Too many prompts are waiting."""


class TranscriptError(SessionError):
    """The session file cannot be read or written."""
