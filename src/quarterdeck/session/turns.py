"""PURE. Turns: what arrived between a prompt and its boundary, folded into one frozen result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from quarterdeck.engine import events as ev
from quarterdeck.errors import TurnFailed, TurnTimeout
from quarterdeck.model import Boundary, ModelUsage, PermissionDenial, Usage


class ToolActivity(msgspec.Struct, frozen=True):
    """One tool call and what came of it. Times are Unix seconds, `duration` seconds (None = unknown)."""

    use: ev.ToolUseBlock
    result: ev.ToolResultBlock | None
    turn_index: int
    started_at: float
    duration: float | None
    parent: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether the tool failed or was refused."""
        return self.result is not None and self.result.is_error

    @property
    def display_label(self) -> str:
        """One line for a person."""
        return self.use.display_label

    def summary(self, limit: int = 60) -> str:
        """The label with what is counted."""
        return self.use.summary(limit)


class TurnResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything from one prompt to its boundary.

    `complete` is False when no result record came (the engine died, or the prompt never ran); then
    nothing here proves success. Cost and per-model usage are this turn's own; `total_cost_usd` is the
    session's. Messages are kept without their raw lines; `dropped` counts those given up because the
    result grew over `Options.max_result_bytes`.
    """

    prompt: str
    index: int
    boundary: Boundary
    complete: bool
    text: str
    result_text: str = ""
    thinking: str = ""
    session_id: str
    engine_session_id: str = ""
    model: str = ""
    stop_reason: str | None = None
    terminal_reason: str | None = None
    api_error_status: int | None = None
    errors: tuple[str, ...] = ()
    cost_usd: float = 0.0
    total_cost_usd: float = 0.0
    duration_ms: int = 0
    duration_api_ms: int = 0
    num_turns: int = 0
    usage: Usage = Usage()
    model_usage: Mapping[str, ModelUsage] = {}
    permission_denials: tuple[PermissionDenial, ...] = ()
    structured_output: Any = None
    deferred_tool_use: Mapping[str, Any] | None = None
    origin: str = ""
    messages: tuple[ev.Message, ...] = ()
    tool_executions: tuple[ToolActivity, ...] = ()
    files_changed: tuple[str, ...] = ()
    stream_events: tuple[ev.Event, ...] = ()
    dropped: int = 0

    @property
    def ok(self) -> bool:
        """Completed: a result record came, and it says so."""
        return self.complete and self.boundary.kind == "completed"

    @property
    def is_error(self) -> bool:
        """The boundary is errored."""
        return self.boundary.kind == "errored"

    @property
    def assistant_messages(self) -> tuple[ev.Message, ...]:
        return tuple(m for m in self.messages if m.role == "assistant")

    @property
    def user_messages(self) -> tuple[ev.Message, ...]:
        """Tool results, echoes of prompts and what the engine wrote in the user's name."""
        return tuple(m for m in self.messages if m.role == "user")

    @property
    def content_blocks(self) -> tuple[ev.Block, ...]:
        """All blocks of the assistant's messages, in order."""
        return tuple(b for m in self.assistant_messages for b in m.blocks)

    @property
    def tool_uses(self) -> tuple[ev.ToolUseBlock, ...]:
        return tuple(b for b in self.content_blocks if isinstance(b, ev.ToolUseBlock))

    @property
    def tool_results(self) -> tuple[ev.ToolResultBlock, ...]:
        """Of our own tools and of the provider's."""
        found = (b for m in self.messages for b in m.blocks)
        return tuple(b for b in found if isinstance(b, ev.ToolResultBlock))

    def raise_for_boundary(self) -> TurnResult:
        """Itself when completed; else TurnTimeout or TurnFailed, which carry this result."""
        if self.ok:
            return self
        if self.boundary.limit == "time":
            raise TurnTimeout(f"the turn ended at {self.boundary}", result=self)
        detail = "; ".join(self.errors) or self.result_text
        raise TurnFailed(f"the turn ended at {self.boundary}: {detail[:500]}", result=self)


class Totals:
    """What a session has used so far; turns the engine's cumulative figures into each turn's own."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.cost_usd = 0.0
        self.turns = 0
        self.num_turns = 0
        self.duration_ms = 0
        self.duration_api_ms = 0
        self.model_usage: dict[str, ModelUsage] = {}

    def add(self, end: ev.TurnEnded) -> tuple[float, int, dict[str, ModelUsage]]:
        """Take a turn's record; this turn's own cost, API milliseconds and per-model usage."""
        total = self.cost_usd if end.total_cost_usd is None else end.total_cost_usd
        cost = max(0.0, total - self.cost_usd)
        api_ms = max(0, end.duration_api_ms - self.duration_api_ms)
        models = {
            name: _minus(used, self.model_usage.get(name)) for name, used in end.model_usage.items()
        }
        self.cost_usd = max(total, self.cost_usd)
        self.duration_api_ms = max(end.duration_api_ms, self.duration_api_ms)
        self.model_usage.update(end.model_usage)
        self.usage = self.usage + end.usage
        self.duration_ms += end.duration_ms
        self.turns += 1
        self.num_turns += end.num_turns
        return cost, api_ms, {n: u for n, u in models.items() if u.input_tokens or u.output_tokens}


def _minus(new: ModelUsage, old: ModelUsage | None) -> ModelUsage:
    if old is None:
        return new
    return ModelUsage(
        max(0, new.input_tokens - old.input_tokens),
        max(0, new.output_tokens - old.output_tokens),
        max(0, new.cache_read_input_tokens - old.cache_read_input_tokens),
        max(0, new.cache_creation_input_tokens - old.cache_creation_input_tokens),
        max(0, new.web_search_requests - old.web_search_requests),
        max(0.0, new.cost_usd - old.cost_usd),
        new.context_window,
        new.max_output_tokens,
    )


class TurnFold:
    """Takes the events of one turn, in order, and makes its result.

    `keep` is False for streaming consumers: then messages and tools pass through and only the record
    of the end stays, so that memory is flat however much the agent prints.
    """

    def __init__(
        self,
        *,
        prompt: str,
        index: int,
        session: str,
        keep: bool = True,
        keep_stream: bool = False,
        max_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self.prompt = prompt
        self.index = index
        self.session = session
        self.keep = keep
        self.folders = _FOLDERS if keep else _LIGHT_FOLDERS
        """What is done with an event of a kind; those without an entry pass through."""
        self.keep_stream = keep_stream
        self.max_bytes = max_bytes
        self.model = ""
        self.engine_session_id = ""
        self._messages: list[tuple[ev.Message, int]] = []
        self._bytes = 0
        self._dropped = 0
        self._deltas: list[str] = []
        self._stream: list[ev.Event] = []
        self._tools: dict[str, tuple[ev.ToolUseBlock, float, str | None]] = {}
        self._done: dict[str, tuple[ev.ToolResultBlock, float | None]] = {}
        self._files: dict[str, None] = {}

    def fresh(self) -> TurnFold:
        """An empty fold for the same prompt: what came so far was another turn's."""
        fold = TurnFold(
            prompt=self.prompt,
            index=self.index,
            session=self.session,
            keep=self.keep,
            keep_stream=self.keep_stream,
            max_bytes=self.max_bytes,
        )
        fold.engine_session_id, fold.model = self.engine_session_id, self.model
        return fold

    def add(self, event: ev.Event) -> None:
        """Fold one event in."""
        folder = self.folders.get(type(event))
        if folder is not None:
            folder(self, event)

    def _kept_delta(self, event: ev.Event) -> None:
        if self.keep_stream:
            self._stream.append(event)

    def _delta(self, event: ev.TextDelta) -> None:
        self._kept_delta(event)
        if event.parent is None:
            self._deltas.append(event.text)

    def _withdrawn(self, event: ev.TextWithdrawn) -> None:
        self._deltas.clear()

    def _message(self, event: ev.Message) -> None:
        if event.role == "assistant" and event.parent is None:
            self._deltas.clear()
            if event.model and not event.synthetic:
                self.model = event.model
        size = len(event.raw)
        self._messages.append((msgspec.structs.replace(event, raw=b""), size))
        self._bytes += size
        while self._bytes > self.max_bytes and len(self._messages) > 1:
            _, size = self._messages.pop(0)
            self._bytes -= size
            self._dropped += 1
        for block in event.blocks:
            if isinstance(block, ev.ToolUseBlock):
                self._tools.setdefault(block.id, (block, event.time, event.parent))

    def _tool_ended(self, event: ev.ToolEnded) -> None:
        block = ev.ToolResultBlock(event.tool_use_id, event.content, event.is_error)
        self._done[event.tool_use_id] = (block, event.duration)

    def _files_changed(self, event: ev.FilesChanged) -> None:
        self._files.update(dict.fromkeys(event.paths))

    def _ready(self, event: ev.SessionReady) -> None:
        self.engine_session_id = event.engine_session_id
        self.model = self.model or event.model

    def result(
        self, end: ev.TurnEnded, totals: Totals, boundary: Boundary | None = None
    ) -> TurnResult:
        """The result at a turn's record; `boundary` overrides the engine's word with our own."""
        cost, api_ms, models = totals.add(end)
        return TurnResult(
            **self._common(),
            boundary=boundary or end.boundary,
            complete=True,
            result_text=end.text,
            stop_reason=end.stop_reason,
            terminal_reason=end.terminal_reason,
            api_error_status=end.api_error_status,
            errors=end.errors,
            cost_usd=cost,
            total_cost_usd=totals.cost_usd,
            duration_ms=end.duration_ms,
            duration_api_ms=api_ms,
            num_turns=end.num_turns,
            usage=end.usage,
            model_usage=models,
            permission_denials=end.permission_denials,
            structured_output=end.structured_output,
            deferred_tool_use=end.deferred_tool_use,
            origin=end.origin,
        )

    def partial(self, boundary: Boundary, totals: Totals) -> TurnResult:
        """What there is of a turn that has no record."""
        return TurnResult(
            **self._common(), boundary=boundary, complete=False, total_cost_usd=totals.cost_usd
        )

    def _common(self) -> dict[str, Any]:
        messages = tuple(m for m, _ in self._messages)
        main = [m for m in messages if m.role == "assistant" and m.parent is None]
        said = [b for m in main for b in m.blocks]
        return {
            "prompt": self.prompt,
            "index": self.index,
            "session_id": self.session,
            "engine_session_id": self.engine_session_id,
            "model": self.model,
            "text": _joined(main, "".join(self._deltas)),
            "thinking": "".join(b.thinking for b in said if isinstance(b, ev.ThinkingBlock)),
            "messages": messages,
            "tool_executions": tuple(self._executions()),
            "files_changed": tuple(self._files),
            "stream_events": tuple(self._stream),
            "dropped": self._dropped,
        }

    def _executions(self) -> list[ToolActivity]:
        made = []
        for tool_id, (use, started, parent) in self._tools.items():
            result, duration = self._done.get(tool_id, (None, None))
            made.append(ToolActivity(use, result, self.index, started, duration, parent))
        return made


def _joined(messages: list[ev.Message], rest: str) -> str:
    """The text of several messages, a line apart; blocks of one message belong together."""
    parts: dict[str, str] = {}
    for message in messages:
        if message.text:
            key = message.message_id or message.uuid
            parts[key] = parts.get(key, "") + message.text
    return "\n".join([*parts.values(), rest] if rest else parts.values())


_FOLDERS: dict[type[ev.Event], Callable[[TurnFold, Any], None]] = {
    ev.TextDelta: TurnFold._delta,
    ev.ThinkingDelta: TurnFold._kept_delta,
    ev.ToolInput: TurnFold._kept_delta,
    ev.TextWithdrawn: TurnFold._withdrawn,
    ev.Message: TurnFold._message,
    ev.ToolEnded: TurnFold._tool_ended,
    ev.FilesChanged: TurnFold._files_changed,
    ev.SessionReady: TurnFold._ready,
}
_LIGHT_FOLDERS: dict[type[ev.Event], Callable[[TurnFold, Any], None]] = {
    ev.FilesChanged: TurnFold._files_changed,
    ev.SessionReady: TurnFold._ready,
}
