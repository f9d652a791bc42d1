"""Options of a session: what the launch needs, plus the callbacks of the program that asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.clock import SYSTEM_CLOCK, Clock
from quarterdeck.engine.events import Elicitation
from quarterdeck.engine.options import LaunchOptions
from quarterdeck.engine.options import check as check_launch
from quarterdeck.errors import OptionError
from quarterdeck.host import Host
from quarterdeck.session.hooks import HookMatcher
from quarterdeck.session.mcp import ExternalServer, McpServer
from quarterdeck.session.permissions import CanUseTool, PermissionQueue

OnElicitation = Callable[[Elicitation], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
"""Answers an MCP server's question with {"action": accept | decline | cancel, "content": {...}}."""


@dataclass(frozen=True, kw_only=True)
class Options(LaunchOptions):
    """Everything a session can be asked for; checked before a process starts.

    Permission requests go to `can_use_tool`, and those it defers (or all, without a callback) to
    `permission_queue`; with neither, what would need asking is denied. Callbacks may be sync (run in
    a thread) or async.
    """

    can_use_tool: CanUseTool | None = None
    permission_queue: PermissionQueue | None = None
    hooks: Mapping[str, Sequence[HookMatcher]] = field(default_factory=dict)
    mcp_servers: Mapping[str, McpServer | ExternalServer] = field(default_factory=dict)
    on_elicitation: OnElicitation | None = None
    on_stderr: Callable[[str], None] | None = None
    host: Host | None = None
    """Where the engine runs; None = this machine."""
    clock: Clock = SYSTEM_CLOCK

    @property
    def asks(self) -> bool:
        """Whether somebody answers permission requests."""
        return self.can_use_tool is not None or self.permission_queue is not None


def check(options: Options) -> None:
    """Raise OptionError for whatever is wrong in itself; see `engine.options.check`."""
    check_launch(options)
    for name in ("can_use_tool", "on_elicitation", "on_stderr"):
        value = getattr(options, name)
        if value is not None and not callable(value):
            raise OptionError(name, value, "must be callable")
    queue = options.permission_queue
    if queue is not None and not isinstance(queue, PermissionQueue):
        raise OptionError("permission_queue", queue, "must be a PermissionQueue")
    _check_types(options)
    for name, server in options.mcp_servers.items():
        if not isinstance(server, McpServer | ExternalServer):
            raise OptionError(
                f"mcp_servers[{name}]", server, "must be an McpServer or an ExternalServer",
                remedy="see quarterdeck.session.mcp",
            )  # fmt: skip


def _check_types(options: Options) -> None:
    for name in ("mcp_servers", "hooks"):
        value = getattr(options, name)
        if not isinstance(value, Mapping):
            raise OptionError(name, value, "must be a mapping")
    if not all(callable(getattr(options.clock, n, None)) for n in ("now", "monotonic", "sleep")):
        raise OptionError("clock", options.clock, "must be a Clock")
    if options.host is not None and not callable(getattr(options.host, "spawn", None)):
        raise OptionError("host", options.host, "must be a Host")
    if options.output_schema is not None:
        _check_schema(options.output_schema)


def _check_schema(schema: Mapping[str, Any]) -> None:
    """The engine takes an invalid schema without a word."""
    import jsonschema  # 60 ms, and few sessions need it

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise OptionError("output_schema", schema, f"is no JSON Schema: {error.message}") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise OptionError("output_schema", schema, f"is no JSON Schema: {error}") from None
