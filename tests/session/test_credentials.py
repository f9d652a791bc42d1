"""The auth invariant: no credential reaches an agent that did not ask for it by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import Client
from quarterdeck.engine.claude.launch import compile_launch
from quarterdeck.engine.options import LaunchOptions
from quarterdeck.errors import CredentialRefused, EngineNotFound, OptionError
from quarterdeck.session.credentials import (
    check_credentials,
    child_environment,
    config_dir,
    inherited_credentials,
    refused,
)
from quarterdeck.session.engines import find_claude

CREDENTIALS = [
    "ANTHROPIC_API_KEY",
    "anthropic_api_key",
    "Anthropic_Auth_Token",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CUSTOM_HEADERS",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_SECRET_ACCESS_KEY",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "OPENAI_API_KEY",
    "LD_PRELOAD",
    "NODE_OPTIONS",
    "CLAUDE_CODE_SESSION_ACCESS_TOKEN",
    "claude_code_proxy_url",
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_are_refused_and_stripped(name: str, tmp_path: Path) -> None:
    assert refused(name)
    assert name not in child_environment({name: "x", "PATH": "/bin"})
    with pytest.raises(CredentialRefused, match=name):
        check_credentials(LaunchOptions(env={name: "x"}, config_dir=str(tmp_path)), {})


def test_the_child_environment_is_an_allow_list() -> None:
    env = {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "GITHUB_TOKEN": "x",
        "MY_VAR": "y",
        "CLAUDECODE": "1",
    }
    assert child_environment(env) == {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C"}
    assert inherited_credentials({**env, "ANTHROPIC_API_KEY": "x"}) == ["ANTHROPIC_API_KEY"]


SETTINGS: list[dict[str, Any]] = [
    {"apiKeyHelper": "echo key"},
    {"env": {"ANTHROPIC_API_KEY": "x"}},
    {"env": {"anthropic_base_url": "x"}},
    {"awsAuthRefresh": "x"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_cannot_smuggle(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CredentialRefused, match=r"Options\.settings"):
        check_credentials(LaunchOptions(settings=settings, config_dir=str(tmp_path)), {})
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(CredentialRefused, match=r"settings\.json"):
        check_credentials(LaunchOptions(config_dir=str(tmp_path)), {})
    check_credentials(LaunchOptions(config_dir=str(tmp_path), setting_sources=()), {})


def test_project_settings_count_only_when_trusted(tmp_path: Path) -> None:
    project, config = tmp_path / "repo", tmp_path / "config"
    (project / ".claude").mkdir(parents=True)
    (project / ".claude" / "settings.json").write_text('{"apiKeyHelper": "x"}')
    options = {"cwd": str(project), "config_dir": str(config)}
    check_credentials(LaunchOptions(**options), {})  # type: ignore[arg-type]
    with pytest.raises(CredentialRefused):
        check_credentials(LaunchOptions(**options, setting_sources=("user", "project")), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_settings_that_nobody_can_read_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(OptionError, match="settings"):
        check_credentials(LaunchOptions(), {"CLAUDE_CONFIG_DIR": str(tmp_path)})


@pytest.mark.parametrize("name", [".claude.json", ".config.json"])
def test_the_global_state_counts_with_any_sources(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"env": {"ANTHROPIC_BASE_URL": "http://elsewhere"}}')
    options = LaunchOptions(config_dir=str(tmp_path), setting_sources=())
    with pytest.raises(CredentialRefused, match="json"):
        check_credentials(options, {})


def test_the_global_state_beside_the_directory(tmp_path: Path) -> None:
    (tmp_path / ".claude.json").write_text('{"env": {"ANTHROPIC_API_KEY": "x"}}')
    with pytest.raises(CredentialRefused, match="json"):
        check_credentials(LaunchOptions(), {"HOME": str(tmp_path)})


def test_the_settings_that_are_checked_are_those_the_engine_reads(tmp_path: Path) -> None:
    for name in ("one", "repo/two", "two"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "repo/two/settings.json").write_text('{"apiKeyHelper": "x"}')
    relative = LaunchOptions(cwd=str(tmp_path / "repo"), config_dir="two")
    with pytest.raises(CredentialRefused, match=r"repo/two/settings\.json"):
        check_credentials(relative, {})
    both = LaunchOptions(
        config_dir=str(tmp_path / "one"), env={"CLAUDE_CONFIG_DIR": str(tmp_path / "two")}
    )
    assert config_dir(both, {}) == tmp_path / "one"
    launch = compile_launch(both, executable="claude", files_dir="", asks=False)
    assert launch.env["CLAUDE_CONFIG_DIR"] == str(tmp_path / "one")


async def test_settings_at_run_time_cannot_smuggle_either() -> None:
    with pytest.raises(CredentialRefused, match="ANTHROPIC_BASE_URL"):
        await Client().apply_flag_settings({"env": {"ANTHROPIC_BASE_URL": "http://elsewhere"}})


@pytest.mark.parametrize("path", ["", ".", "bin"])
def test_a_program_in_the_working_directory_is_not_found(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for place in (tmp_path, tmp_path / "bin"):
        (place / "claude").write_text("#!/bin/sh\n")
        (place / "claude").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineNotFound):
        find_claude(None, {"PATH": f"{path}:/nowhere", "HOME": "/nowhere"})


def test_the_message_does_not_hold_the_value(tmp_path: Path) -> None:
    options = LaunchOptions(env={"ANTHROPIC_API_KEY": "s3cret"}, config_dir=str(tmp_path))
    with pytest.raises(CredentialRefused) as caught:
        check_credentials(options, {})
    assert "s3cret" not in str(caught.value)
