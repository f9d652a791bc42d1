"""Options that are wrong in themselves are refused, with field, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.engine.options import Gateway, LaunchOptions, SandboxSettings, check
from quarterdeck.errors import OptionError

ID = "5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8"

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": ""}),
    ("model", {"model": "--dangerous"}),
    ("model", {"model": "a\nb"}),
    ("cwd", {"cwd": 5}),
    ("cwd", {"cwd": "a\x00b"}),
    ("effort", {"effort": "huge"}),
    ("permission_mode", {"permission_mode": "yolo"}),
    ("thinking", {"thinking": "maybe"}),
    ("max_turns", {"max_turns": 0}),
    ("max_turns", {"max_turns": 1.5}),
    ("max_turns", {"max_turns": True}),
    ("max_budget_usd", {"max_budget_usd": 0}),
    ("max_budget_usd", {"max_budget_usd": float("nan")}),
    ("max_budget_usd", {"max_budget_usd": float("inf")}),
    ("turn_timeout", {"turn_timeout": -1}),
    ("allow", {"allow": None}),
    ("setting_sources", {"setting_sources": None}),
    ("settings", {"settings": "{}"}),
    ("agents", {"agents": ["x"]}),
    ("output_schema", {"output_schema": {"a": print}}),
    ("worktree", {"worktree": "../../x"}),
    ("max_thinking_tokens", {"thinking": "disabled", "max_thinking_tokens": 5}),
    ("tools", {"tools": "Read"}),
    ("tools", {"tools": ["Bash(ls:*)"]}),
    ("allow", {"allow": ["Bash(ls"]}),
    ("allow", {"allow": ["--flag"]}),
    ("deny", {"deny": ["a b"]}),
    ("allow", {"allow": [None]}),
    ("resume", {"resume": "abc"}),
    ("resume_at", {"resume_at": ID}),
    ("session_id", {"session_id": "abc"}),
    ("session_id", {"session_id": ID, "resume": ID}),
    ("continue_last", {"resume": ID, "continue_last": True}),
    ("fork", {"fork": True}),
    ("title", {"title": "x" * 201}),
    ("env", {"env": {"A B": "x"}}),
    ("env[A]", {"env": {"A": 5}}),
    ("env", {"env": ["A=1"]}),
    ("setting_sources", {"setting_sources": ["enterprise"]}),
    ("append_system_prompt", {"system_prompt": "a", "append_system_prompt": "b"}),
    ("output_schema", {"output_schema": "{}"}),
    ("include_deltas", {"include_deltas": "no"}),
    ("auth", {"auth": "subscription"}),
    ("worktree", {"worktree": "x", "setting_sources": ["user", "project"]}),
    ("sandbox", {"sandbox": {"enabled": True}}),
    ("sandbox.deny_read", {"sandbox": SandboxSettings(deny_read="/etc")}),
]


@pytest.mark.parametrize(("field", "changes"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_options_are_refused(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        check(LaunchOptions(**changes))
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tools": ()},
        {"tools": ["Read", "mcp__calc__add"], "allow": ["Bash(git log:*)", "Edit(/a,b c)"]},
        {"resume": ID, "fork": True, "session_id": ID.upper()},
        {"resume": ID, "resume_at": ID},
        {"max_thinking_tokens": 0, "max_retries": 0},
    ],
    ids=str,
)
def test_sound_options_pass(changes: dict[str, Any]) -> None:
    check(LaunchOptions(**changes))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:1",
        "http://example.com:80",
        "http://127.0.0.1",
        "http://u:p@127.0.0.1:1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1.example.com:80",
        "",
    ],
)
def test_a_gateway_is_on_loopback(url: str) -> None:
    with pytest.raises(OptionError, match=r"auth\.url"):
        Gateway(url, "token")


def test_a_gateway_hides_its_token() -> None:
    gateway = Gateway("http://127.0.0.1:8080", "s3cret")
    assert "s3cret" not in repr(gateway)
    assert "s3cret" not in repr(LaunchOptions(auth=gateway, env={"A": "s3cret"}))
    with pytest.raises(OptionError, match="token"):
        Gateway("http://127.0.0.1:8080", "a\nb")


def test_sandbox_settings_take_the_engines_form() -> None:
    made = SandboxSettings(
        excluded_commands=["docker"], allowed_domains=["*.example.org"], allow_local_binding=False,
        deny_read=["/etc/shadow"], ripgrep_command="rg",
    )  # fmt: skip
    assert made.to_settings() == {
        "enabled": True,
        "excludedCommands": ["docker"],
        "network": {"allowedDomains": ["*.example.org"], "allowLocalBinding": False},
        "filesystem": {"denyRead": ["/etc/shadow"]},
        "ripgrep": {"command": "rg"},
    }
    assert SandboxSettings().to_settings() == {"enabled": True}
