"""PURE. The engine-neutral events: the one vocabulary of everything above the engines.

Every event carries our session id, a sequence number (per session, from 1, without gaps), the wall
time (Unix seconds) at which its bytes were read, the raw line it came from (`b""` for events that
Quarterdeck made itself) and `source`, the engine's own typed message. Raw line and source live as
long as the event does. `parent` is the tool call of the sub-agent that spoke, or None.

What the engine says and we do not know becomes `Unknown`, never an error.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from quarterdeck.model import Boundary, Exit, ModelUsage, PermissionDenial, RateLimit, Usage


def _tag(name: str) -> str:
    return "".join(
        ("_" + c.lower()) if c.isupper() and i else c.lower() for i, c in enumerate(name)
    )


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=_tag):
    """Base of all events."""

    session: str
    seq: int
    time: float
    raw: bytes
    source: Any
    parent: str | None

    @property
    def type(self) -> str:
        """The public name, `turn_ended` for TurnEnded."""
        return _tag(type(self).__name__)


# -- content blocks: what a whole message is made of ------------------------------------------------


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """Plain text."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, omit_defaults=True, tag="thinking"):
    """Reasoning. `redacted` thinking has no readable text."""

    thinking: str = ""
    signature: str = ""
    redacted: bool = False


class ToolUseBlock(msgspec.Struct, frozen=True, omit_defaults=True, tag="tool_use"):
    """A tool call. `server` is set when the provider runs the tool (or an MCP connector does)."""

    id: str
    name: str
    input: dict[str, Any]
    server: str | None = None

    @property
    def file_path(self) -> str | None:
        """The file of Read, Write, Edit, MultiEdit and NotebookEdit; else None."""
        from quarterdeck.engine.tools import file_path

        return file_path(self.name, self.input)

    @property
    def display_label(self) -> str:
        """One line for a person: `Read lib/foo.rb`, `Bash: git status`."""
        from quarterdeck.engine.tools import display_label

        return display_label(self.name, self.input, self.server)

    def summary(self, limit: int = 60) -> str:
        """The label plus what is counted (`Write a/b.py (12 lines)`), at most `limit` characters."""
        from quarterdeck.engine.tools import summary

        return summary(self.name, self.input, self.server, limit)


class ToolResultBlock(msgspec.Struct, frozen=True, omit_defaults=True, tag="tool_result"):
    """What a tool gave back. `content` is text or the engine's own list of blocks."""

    tool_use_id: str
    content: str | list[Any] | None = None
    is_error: bool = False
    server: bool = False

    @property
    def text(self) -> str:
        """The text parts of the content, joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        parts = [b.get("text", "") for b in self.content or () if isinstance(b, dict)]
        return "\n".join(p for p in parts if isinstance(p, str) and p)


class ImageBlock(msgspec.Struct, frozen=True, omit_defaults=True, tag="image"):
    """An image; `data` is base64 when source_type is `base64`, else a URL or file id."""

    media_type: str = ""
    source_type: str = ""
    data: str = ""


class UnknownBlock(msgspec.Struct, frozen=True, tag="unknown"):
    """A block of a kind that we do not know (or only pass on: documents, search results)."""

    kind: str
    fields: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def get(self, key: str, default: Any = None) -> Any:
        """`fields.get`."""
        return self.fields.get(key, default)


Block = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock | ImageBlock | UnknownBlock


# -- session and turn -------------------------------------------------------------------------------


class SessionReady(Event, frozen=True, gc=False):
    """What the engine says of itself; again whenever any of it has changed."""

    engine: str
    engine_session_id: str
    model: str
    cwd: str
    permission_mode: str
    version: str
    key_source: str
    tools: tuple[str, ...]
    mcp_servers: dict[str, str]
    commands: tuple[str, ...]
    agents: tuple[str, ...]


class TurnStarted(Event, frozen=True, gc=False):
    """The engine began a turn; `turn` counts from 1. It may begin one without a prompt of ours."""

    turn: int


class TurnEnded(Event, frozen=True, gc=False):
    """The result record of a turn. Cost and model usage are cumulative for the engine's process."""

    turn: int
    boundary: Boundary
    text: str
    is_error: bool
    stop_reason: str | None
    terminal_reason: str | None
    api_error_status: int | None
    errors: tuple[str, ...]
    num_turns: int
    duration_ms: int
    duration_api_ms: int
    usage: Usage
    model_usage: dict[str, ModelUsage]
    total_cost_usd: float | None
    permission_denials: tuple[PermissionDenial, ...]
    structured_output: Any
    deferred_tool_use: dict[str, Any] | None
    origin: str


class SessionEnded(Event, frozen=True, gc=False):
    """The engine's process is gone. `expected` is False when nobody asked for it."""

    exit: Exit
    expected: bool
    stderr_tail: str


class StateChanged(Event, frozen=True, gc=False):
    """The engine's own word on what it does: `requesting`, `compacting`, `idle`, `running`, ..."""

    state: str
    permission_mode: str | None


class ModelChanged(Event, frozen=True, gc=False):
    """The engine went on with another model."""

    old: str
    new: str
    reason: str


# -- text and messages ------------------------------------------------------------------------------


class TextDelta(Event, frozen=True, gc=False):
    """A piece of text as it streams; belongs to block `index` of message `message_id`."""

    text: str
    message_id: str
    index: int


class ThinkingDelta(Event, frozen=True, gc=False):
    """A piece of reasoning as it streams. `tokens` is an estimate when only that is known."""

    text: str
    message_id: str
    index: int
    tokens: int


class TextWithdrawn(Event, frozen=True, gc=False):
    """The last `characters` streamed for this message were abandoned by the engine: take them back."""

    message_id: str
    characters: int
    reason: str


class Message(Event, frozen=True, gc=False):
    """A whole message, or a whole block of one: several may share a message_id.

    `replay` marks an echo of a prompt, `synthetic` what the engine wrote in somebody's name.
    """

    role: Literal["user", "assistant", "system"]
    blocks: tuple[Block, ...]
    message_id: str
    uuid: str
    model: str
    error: str
    replay: bool
    synthetic: bool

    @property
    def text(self) -> str:
        """The text blocks, joined."""
        return "".join(b.text for b in self.blocks if isinstance(b, TextBlock))


# -- tools ------------------------------------------------------------------------------------------


class ToolStarted(Event, frozen=True, gc=False):
    """The model began a tool call. Its input follows as ToolInput."""

    tool_use_id: str
    name: str


class ToolInput(Event, frozen=True, gc=False):
    """A piece of a tool call's input as JSON text (`delta`), or the whole `input` at its end."""

    tool_use_id: str
    name: str
    delta: str
    input: dict[str, Any] | None


class ToolProgress(Event, frozen=True, gc=False):
    """A running tool gave a sign of life."""

    tool_use_id: str
    name: str
    elapsed: float


class ToolEnded(Event, frozen=True, gc=False):
    """A tool call is over. `duration` in seconds from the block's start; None when unknown."""

    tool_use_id: str
    name: str
    is_error: bool
    content: str | list[Any] | None
    result: Any
    duration: float | None


class FilesChanged(Event, frozen=True, gc=False):
    """A tool reported that it wrote these files."""

    paths: tuple[str, ...]
    tool_use_id: str


class TodoChanged(Event, frozen=True, gc=False):
    """The agent's own to-do list."""

    todos: tuple[dict[str, Any], ...]


# -- asking -----------------------------------------------------------------------------------------


class PermissionAsked(Event, frozen=True, gc=False):
    """The engine waits for a decision on a tool call."""

    request_id: str
    tool_use_id: str
    tool_name: str
    input: dict[str, Any]
    description: str
    suggestions: tuple[dict[str, Any], ...]
    blocked_path: str | None
    reason: str
    reason_type: str
    agent_id: str | None


class QuestionAsked(Event, frozen=True, gc=False):
    """The agent asks the person; answered through the same request as a permission."""

    request_id: str
    tool_use_id: str
    questions: tuple[dict[str, Any], ...]


class PermissionResolved(Event, frozen=True, gc=False):
    """A request is over: `allow`, `deny`, `expired` (denied) or `cancelled` (by the engine)."""

    request_id: str
    tool_use_id: str
    tool_name: str
    decision: Literal["allow", "deny", "expired", "cancelled"]
    by: str
    message: str


class Elicitation(Event, frozen=True, gc=False):
    """An MCP server asks the person for input."""

    request_id: str
    server: str
    message: str
    mode: str
    schema: dict[str, Any] | None
    url: str | None


# -- tasks, usage and the rest ----------------------------------------------------------------------


class TaskStarted(Event, frozen=True, gc=False):
    """A sub-agent or background command began."""

    task_id: str
    tool_use_id: str
    kind: str
    description: str


class TaskProgress(Event, frozen=True, gc=False):
    """A sub-agent or background command moved on."""

    task_id: str
    description: str
    last_tool: str
    total_tokens: int
    tool_uses: int


class TaskEnded(Event, frozen=True, gc=False):
    """A sub-agent or background command is over: `completed`, `failed`, `stopped`, `killed`."""

    task_id: str
    tool_use_id: str
    status: str
    summary: str


class UsageUpdated(Event, frozen=True, gc=False):
    """Tokens of the model request that is running; cumulative within that request."""

    message_id: str
    usage: Usage


class RateLimited(Event, frozen=True, gc=False):
    """The provider's rate-limit state."""

    limit: RateLimit


class Retrying(Event, frozen=True, gc=False):
    """A model request failed and is tried again after `delay` seconds."""

    attempt: int
    max_attempts: int
    delay: float
    status: int | None
    error: str


class Compacted(Event, frozen=True, gc=False):
    """The engine shortened its context."""

    trigger: str
    tokens_before: int
    tokens_after: int


class HookRan(Event, frozen=True, gc=False):
    """A hook of the settings began (`outcome` is `started`) or ended."""

    hook_id: str
    name: str
    event: str
    outcome: str
    exit_code: int | None
    output: str


class Notice(Event, frozen=True, gc=False):
    """Something a person may want to read. `kind` is the engine's word for it."""

    kind: str
    level: str
    text: str


class Unknown(Event, frozen=True, gc=False):
    """Something the engine said that we do not know; `fields` is the decoded line, if it was JSON."""

    kind: str
    fields: dict[str, Any] | None


STREAM_DELTAS: tuple[type[Event], ...] = (TextDelta, ThinkingDelta)
"""Events that only repeat, early, what a whole Message says later."""

_HIDDEN = frozenset({"raw", "source"})
_PUBLIC: dict[type[Event], tuple[str, ...]] = {}


def public(event: Event) -> dict[str, Any]:
    """The event as the public NDJSON form (version 1): JSON-safe, without raw line and source."""
    names = _PUBLIC.get(type(event))
    if names is None:
        names = tuple(n for n in event.__struct_fields__ if n not in _HIDDEN)
        _PUBLIC[type(event)] = names
    out: dict[str, Any] = {"v": 1, "type": event.type}
    for name in names:
        value = getattr(event, name)
        if value is not None or name != "parent":
            out[name] = msgspec.to_builtins(value)
    return out


_ENCODER = msgspec.json.Encoder()


def to_line(event: Event) -> bytes:
    """One line of public NDJSON, newline included."""
    return _ENCODER.encode(public(event)) + b"\n"
