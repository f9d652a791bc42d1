"""Showing a turn to a person while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quarterdeck.cli import failures
from quarterdeck.cli.output import Screen
from quarterdeck.cli.sanitize import one_line
from quarterdeck.engine import events as ev
from quarterdeck.session.turns import TurnResult

RATE_LIMITED = 429  # HTTP
TRUNCATED = "the provider's stream broke off; the answer above is incomplete (truncated)"


class TurnPrinter:
    """Text as it streams to standard output, everything else as lines beside it.

    `lines` False keeps the lines of tools and permissions away; warnings are always shown. `inline`
    puts the lines between the text, for a terminal that shows both. `permissions` False leaves them to
    whoever asks the person. `timeout` is the turn's, in seconds. Set `interrupted` when the person
    interrupts the turn: then tools that fail were stopped by it.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        lines: bool,
        inline: bool = False,
        permissions: bool = True,
        timeout: float | None = None,
    ) -> None:
        self._screen = screen
        self._lines = lines
        self._inline = inline
        self._permissions = permissions
        self._labels: dict[str, str] = {}
        self._streamed: set[str] = set()
        self._last_message = ""
        self._timeout = timeout
        self.interrupted = False
        self._retry: ev.Retrying | None = None  # what the model's last request came to
        self._withheld: list[str] = []
        self._answer = ""

    def show(self, event: ev.Event) -> None:
        """Show what of an event is worth showing."""
        shown = _SHOW.get(type(event))
        if shown is not None:
            shown(self, event)

    def finish(self, result: TurnResult | None) -> None:
        """Close the open line; what the engine says went wrong."""
        self._screen.end_line()
        if result is not None:
            for text in self._what_went_wrong(result):
                self._say(f"! {text}", "red", always=True)

    def _what_went_wrong(self, result: TurnResult) -> list[str]:
        boundary = result.boundary
        if boundary.limit == "time":
            return [self._timed_out()]
        if boundary.code == "truncated":
            return [TRUNCATED]
        if boundary.kind not in ("errored", "limit"):
            return self._withheld
        errors = failures.said(result.errors)
        if not errors and result.result_text.strip() != self._answer.strip():
            errors = failures.said([result.result_text])
        return errors or self._withheld

    def _timed_out(self) -> str:
        after = f" after {self._timeout:g} s" if self._timeout is not None else ""
        text = f"stopped{after} (--timeout)"
        if self._retry is None:
            return text
        limited = self._retry.status == RATE_LIMITED or self._retry.error == "rate_limit"
        what = "the provider's rate limit: " if limited else "the last error was "
        return f"{text}; {what}{_failure(self._retry)}"

    def _say(self, text: str, style: str = "dim", *, always: bool = False) -> None:
        if not (self._lines or always):
            return
        if self._inline:
            self._screen.line(text, style)
        else:
            self._screen.note(text, style)

    def _delta(self, event: ev.TextDelta) -> None:
        if event.parent is not None:
            return
        self._retry = None
        self._separate(event.message_id)
        self._streamed.add(event.message_id)
        self._screen.text(event.text)

    def _separate(self, message_id: str) -> None:
        if self._last_message and message_id != self._last_message:
            self._screen.end_line()
        self._last_message = message_id

    def _withdrawn(self, event: ev.TextWithdrawn) -> None:
        self._screen.end_line()
        self._say(
            f"! the engine withdrew the last {event.characters} characters and begins them anew",
            "yellow",
            always=True,
        )

    def _message(self, event: ev.Message) -> None:
        if event.role != "assistant":
            return
        for block in event.blocks:
            if isinstance(block, ev.ToolUseBlock):
                self._labels[block.id] = block.summary(100)
                self._say(f"{_indent(event)}● {block.summary(100)}", "cyan")
        if event.parent is not None:
            return
        if event.synthetic and event.error:
            self._withheld += failures.said([event.text])  # said once, at the end
            return
        self._retry = None
        self._answer = event.text or self._answer
        if event.text and event.message_id not in self._streamed:
            self._separate(event.message_id)
            self._screen.text(event.text)

    def _tool_ended(self, event: ev.ToolEnded) -> None:
        label = self._labels.pop(event.tool_use_id, event.name)
        took = f" ({event.duration:.1f} s)" if event.duration is not None else ""
        if event.is_error and self.interrupted:
            self._say(f"{_indent(event)}✗ {label} (interrupted)", "yellow")
            return
        mark, style = ("✗", "red") if event.is_error else ("✓", "green")
        self._say(f"{_indent(event)}{mark} {label}{took}", style)
        if event.is_error:
            self._say(f"{_indent(event)}  {one_line(content_text(event.content), 160)}", "dim")

    def _asked(self, event: ev.PermissionAsked) -> None:
        if self._permissions:
            self._say(f"? {event.tool_name} asks for permission", "yellow")

    def _resolved(self, event: ev.PermissionResolved) -> None:
        if not self._permissions:
            return
        reason = f": {one_line(event.message, 120)}" if event.message else ""
        style = "green" if event.decision == "allow" else "red"
        self._say(f"  {event.decision} {event.tool_name}{reason}", style)

    def _retrying(self, event: ev.Retrying) -> None:
        self._retry = event
        text = f"retrying in {event.delay:.1f} s: {_failure(event)}"
        self._screen.note(one_line(text, 400), "yellow")

    def _notice(self, event: ev.Notice) -> None:
        if event.level in ("warning", "error") and failures.said([event.text]):
            self._say(f"! {one_line(event.text, 400)}", "yellow", always=True)

    def _compacted(self, event: ev.Compacted) -> None:
        self._say(
            f"· the context was shortened: {event.tokens_before} → {event.tokens_after} tokens"
        )

    def _model(self, event: ev.ModelChanged) -> None:
        self._say(f"· model {event.old} → {event.new}: {event.reason}")


def _failure(event: ev.Retrying) -> str:
    status = f"{event.status} " if event.status else ""
    return f"{status}{event.error} (attempt {event.attempt} of {event.max_attempts})"


def _indent(event: ev.Event) -> str:
    return "  " if event.parent is not None else ""


def content_text(content: str | list[Any] | None) -> str:
    """The text of a tool's result."""
    return ev.ToolResultBlock("", content).text


_SHOW: dict[type[ev.Event], Callable[[TurnPrinter, Any], None]] = {
    ev.TextDelta: TurnPrinter._delta,
    ev.TextWithdrawn: TurnPrinter._withdrawn,
    ev.Message: TurnPrinter._message,
    ev.ToolEnded: TurnPrinter._tool_ended,
    ev.PermissionAsked: TurnPrinter._asked,
    ev.PermissionResolved: TurnPrinter._resolved,
    ev.Retrying: TurnPrinter._retrying,
    ev.Notice: TurnPrinter._notice,
    ev.Compacted: TurnPrinter._compacted,
    ev.ModelChanged: TurnPrinter._model,
}
