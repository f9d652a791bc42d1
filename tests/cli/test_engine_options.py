from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.cli.engine_options import (
    TOKEN_VARIABLE,
    EngineOptions,
    gateway_token,
    read_schema,
    split_rules,
    to_options,
)
from quarterdeck.errors import OptionError, UsageError


@pytest.mark.parametrize(
    ("given_", "rules"),
    [
        (["Read,Edit"], ["Read", "Edit"]),
        (["Read", "Edit"], ["Read", "Edit"]),
        ([""], []),
        ([], []),
        (["Bash(git log, x), Read"], ["Bash(git log, x)", "Read"]),
        ([" Read , "], ["Read"]),
    ],
)
def test_rules_by_comma_or_repetition(given_: list[str], rules: list[str]) -> None:
    assert split_rules(given_) == rules


@given(st.lists(st.text("ab,() ", max_size=12), max_size=4))
def test_splitting_loses_nothing_but_commas_and_space(values: list[str]) -> None:
    kept = "".join(split_rules(values)).replace(" ", "").replace(",", "")
    assert kept == "".join(values).replace(" ", "").replace(",", "")


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "t0ken")
    assert gateway_token(None) == "t0ken"
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(UsageError, match="token"):
        gateway_token(None)


def test_a_token_file_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    file.chmod(0o600)
    assert gateway_token(file) == "t0ken"
    file.chmod(0o640)
    with pytest.raises(OptionError, match="others could read it") as caught:
        gateway_token(file)
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000])
def test_a_token_file_holds_a_token(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(OptionError, match="no token"):
        gateway_token(file)


def test_a_token_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token", 0o600)
    with pytest.raises(OptionError, match="not a file"):
        gateway_token(tmp_path / "token")


@pytest.mark.parametrize("content", ["[]", "{", "", "1"])
def test_a_schema_is_a_json_object(tmp_path: Path, content: str) -> None:
    file = tmp_path / "schema.json"
    file.write_text(content)
    with pytest.raises(OptionError, match="schema"):
        read_schema(file)


def test_tools_may_be_none_at_all() -> None:
    assert to_options(EngineOptions(tools=[""])).tools == []
    assert to_options(EngineOptions()).tools is None


def test_bypassing_is_safe_only_when_said() -> None:
    assert not to_options(EngineOptions()).bypass_is_safe
    given = EngineOptions(permission_mode="bypassPermissions", bypass_is_safe=True)
    assert to_options(given).bypass_is_safe


@pytest.mark.parametrize(
    "engine",
    [
        EngineOptions(resume="x", continue_last=True),
        EngineOptions(fork=True),
        EngineOptions(gateway_token_file=Path("x")),
    ],
)
def test_contradictions_are_usage_errors(engine: EngineOptions) -> None:
    with pytest.raises(UsageError):
        to_options(engine)
