from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest

from quarterdeck.cli.output import Screen
from quarterdeck.cli.turn_printer import TRUNCATED, TurnPrinter
from quarterdeck.engine import events as ev
from quarterdeck.model import Boundary
from quarterdeck.session.turns import Totals, TurnFold, TurnResult

HEAD: dict[str, Any] = {
    "session": "s",
    "seq": 1,
    "time": 0.0,
    "raw": b"",
    "source": None,
    "parent": None,
}


class Shown:
    """A printer with what it printed."""

    def __init__(self, **how: Any) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.printer = TurnPrinter(Screen(self._out, self._err), **{"lines": False, **how})

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def err(self) -> str:
        return self._err.getvalue()


def result(boundary: Boundary, text: str = "", *errors: str) -> TurnResult:
    partial = TurnFold(prompt="p", index=1, session="s").partial(boundary, Totals())
    return msgspec.structs.replace(partial, complete=True, result_text=text, errors=errors)


def message(text: str, error: str = "") -> ev.Message:
    return ev.Message(
        **HEAD, role="assistant", blocks=(ev.TextBlock(text),), message_id="m", uuid="u",
        model="x", error=error, replay=False, synthetic=bool(error),
    )  # fmt: skip


def retry(status: int | None, error: str) -> ev.Retrying:
    return ev.Retrying(**HEAD, attempt=2, max_attempts=10, delay=1.14, status=status, error=error)


DIAGNOSTIC = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null"


def test_a_retry_is_always_shown_beside_the_text() -> None:
    shown = Shown()
    shown.printer.show(retry(429, "rate_limit"))
    assert shown.err == "retrying in 1.1 s: 429 rate_limit (attempt 2 of 10)\n"
    assert shown.out == ""


@pytest.mark.parametrize(
    ("event", "more"),
    [
        (None, ""),
        (retry(429, "rate_limit"), "; the provider's rate limit: 429 rate_limit (attempt 2 of 10)"),
        (retry(None, "timeout"), "; the last error was timeout (attempt 2 of 10)"),
    ],
    ids=["slow", "rate limit", "other"],
)
def test_a_time_limit_says_so_instead_of_the_engines_diagnostic(
    event: ev.Retrying | None, more: str
) -> None:
    shown = Shown(timeout=3.0)
    if event is not None:
        shown.printer.show(event)
    shown.printer.finish(result(Boundary("limit", limit="time"), "", DIAGNOSTIC))
    assert shown.err.splitlines()[-1] == f"! stopped after 3 s (--timeout){more}"
    assert "ede" not in shown.err


def test_an_answer_after_a_retry_clears_it() -> None:
    shown = Shown(timeout=3.0)
    shown.printer.show(retry(429, "rate_limit"))
    shown.printer.show(message("here it is"))
    shown.printer.finish(result(Boundary("limit", limit="time")))
    assert shown.err.splitlines()[-1] == "! stopped after 3 s (--timeout)"


def test_an_api_error_is_told_once_and_not_as_an_answer() -> None:
    shown = Shown()
    shown.printer.show(message("API Error: 400 what", "invalid_request"))
    shown.printer.finish(result(Boundary("errored", code="x"), "API Error: 400 what"))
    assert (shown.out, shown.err) == ("", "! API Error: 400 what\n")


def test_an_api_error_is_told_also_without_a_text_in_the_record() -> None:
    shown = Shown()
    shown.printer.show(message("API Error: 400 what", "invalid_request"))
    shown.printer.finish(result(Boundary("errored", code="x"), "", DIAGNOSTIC))
    assert (shown.out, shown.err) == ("", "! API Error: 400 what\n")


def test_the_answer_is_no_error_text() -> None:
    shown = Shown()
    shown.printer.show(message("half an answ"))
    shown.printer.finish(result(Boundary("limit", limit="tokens"), "half an answ"))
    assert (shown.out, shown.err) == ("half an answ\n", "")


def test_a_stream_that_broke_off_is_told() -> None:
    shown = Shown()
    shown.printer.show(message("half an answ"))
    shown.printer.finish(result(Boundary("errored", code="truncated"), "half an answ"))
    assert shown.err == f"! {TRUNCATED}\n"


def test_tools_that_an_interrupt_stopped() -> None:
    shown = Shown(lines=True)
    use = ev.ToolUseBlock("t", "Bash", {"command": "sleep 40"})
    call = msgspec.structs.replace(message(""), blocks=(use,))
    ended = ev.ToolEnded(
        **HEAD, tool_use_id="t", name="Bash", is_error=True, result=None, duration=2.0,
        content="The user doesn't want to proceed with this tool use. The tool use was rejected",
    )  # fmt: skip
    shown.printer.show(call)
    shown.printer.interrupted = True
    shown.printer.show(ended)
    assert shown.err.splitlines()[-1] == "✗ Bash: sleep 40 (interrupted)"
