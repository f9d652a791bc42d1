from __future__ import annotations

import errno
import json

import pytest

from quarterdeck.cli import failures
from quarterdeck.errors import EngineDied, EngineStartError, EngineWedged, OptionError
from quarterdeck.model import Boundary
from quarterdeck.session.turns import Totals, TurnFold


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("turn_timeout", "--timeout"),
        ("max_budget_usd", "--max-budget-usd"),
        ("auth.url", "--gateway-url"),
        ("auth.token", "--gateway-token-file"),
        ("output_schema", "--schema"),
        ("attach", "--attach"),
        ("resume", "--resume"),
        ("title", "title"),
    ],
)
def test_an_option_is_called_by_its_flag(field: str, flag: str) -> None:
    assert failures.lines(OptionError(field, 3, "is odd")) == [f"error: {flag} = 3: is odd"]


def test_bypassing_names_the_flag_that_allows_it() -> None:
    error = OptionError("permission_mode", "x", "no", remedy="set bypass_is_safe=True")
    assert failures.lines(error)[1] == "  set --bypass-is-safe"


def test_a_dead_engine_has_exit_code_last_words_and_remedy() -> None:
    tail = "".join(f"line {i}\n" for i in range(20)) + "[ede_diagnostic] result_type=user\n"
    error = EngineDied("It is gone", exit_code=137, stderr_tail=tail, remedy="resume it by its id")
    failures.name_the_session(error, "3f2a")
    lines = failures.lines(error)
    assert lines[0] == "error: It is gone [exit code 137, SIGKILL]"
    assert lines[-2:] == ["    line 19", "  quarterdeck resume 3f2a"]
    assert len(lines) == 13


def test_only_a_session_that_began_can_be_resumed() -> None:
    for error, named in ((EngineWedged(remedy="?"), True), (EngineStartError(remedy="?"), False)):
        failures.name_the_session(error, "3f2a")
        assert (error.remedy == "quarterdeck resume 3f2a") is named


def test_programs_get_the_partial_turn_and_the_error() -> None:
    fold = TurnFold(prompt="p", index=1, session="s")
    partial = fold.partial(Boundary("errored", code="engine_died"), Totals())
    error = EngineDied("gone", exit_code=3, stderr_tail="why", partial=partial, remedy="r")
    made = json.loads(failures.to_line(error))
    assert (made["type"], made["prompt"], made["complete"]) == ("turn_result", "p", False)
    assert made["exit_code"] == error.exit_code
    assert made["error"] == {
        "code": "engine_died", "message": "gone", "remedy": "r", "exit_code": 3,
        "stderr_tail": "why",
    }  # fmt: skip
    bare = failures.to_json(EngineWedged("stuck"))
    assert (bare["type"], bare["complete"], bare["exit_code"]) == ("turn_result", False, 6)


def test_a_full_place_is_named() -> None:
    lines = failures.cannot_write(OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert lines[0] == "error: cannot write /x: No space left on device"
