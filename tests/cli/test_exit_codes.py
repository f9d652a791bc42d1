from __future__ import annotations

import pytest

from quarterdeck import errors
from quarterdeck.cli import exit_codes
from quarterdeck.cli.exit_codes import of_turn
from quarterdeck.model import Boundary


@pytest.mark.parametrize(
    ("boundary", "code"),
    [
        (Boundary("completed"), 0),
        (Boundary("errored", code="server_error"), 1),
        (Boundary("limit", limit="turns"), 5),
        (Boundary("limit", limit="budget"), 5),
        (Boundary("limit", limit="tokens"), 5),
        (Boundary("limit", limit="time"), 6),
        (Boundary("limit", limit="rate"), 75),
        (Boundary("interrupted"), 130),
    ],
)
def test_each_boundary_has_its_code(boundary: Boundary, code: int) -> None:
    assert of_turn(boundary) == code
    assert code in exit_codes.MEANING


def test_denied_calls_show_only_when_the_turn_completed() -> None:
    assert of_turn(Boundary("completed"), denials=1) == 4
    assert of_turn(Boundary("interrupted"), denials=1) == 130
    assert of_turn(Boundary("limit", limit="rate"), denials=2) == 75


def test_without_a_result_record_nothing_has_succeeded() -> None:
    assert of_turn(Boundary("completed"), complete=False) == 1


def test_the_codes_of_all_errors_are_documented() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    codes = {k.exit_code for k in kinds if issubclass(k, errors.QuarterdeckError)}
    assert codes <= exit_codes.MEANING.keys()


def test_the_table_for_help_names_every_code() -> None:
    table = exit_codes.table()
    assert all(f"{code:>3}  {text}" in table for code, text in exit_codes.MEANING.items())
