"""Options to argv, environment, files and initialize."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quarterdeck.engine.claude.launch import Launch, compile_launch, parse_version
from quarterdeck.engine.options import Gateway, LaunchOptions
from quarterdeck.errors import OptionError

ID = "5775075e-1f3c-4757-bc9f-e3cc3d3bfbc8"


def launch(asks: bool = False, servers: dict[str, Any] | None = None, **options: Any) -> Launch:
    return compile_launch(
        LaunchOptions(**options),
        executable="/bin/claude",
        files_dir="/f",
        asks=asks,
        mcp_servers=servers,
    )


def test_the_least() -> None:
    made = launch(session_id=ID)
    assert made.argv == (
        "/bin/claude",
        "--output-format=stream-json",
        "--input-format=stream-json",
        "--verbose",
        "--strict-mcp-config",
        "--setting-sources=user",
        "--include-partial-messages",
        "--replay-user-messages",
        f"--session-id={ID}",
    )
    assert made.files == {}
    assert made.initialize == {"hooks": None}
    assert made.env["DISABLE_AUTOUPDATER"] == "1"
    assert not any(name.startswith("ANTHROPIC") for name in made.env)


def test_every_value_is_glued_to_its_flag() -> None:
    made = launch(
        asks=True,
        resume=ID, fork=True, resume_at=ID, model="opus", fallback_models=["a", "b"], effort="low",
        max_turns=3, max_budget_usd=0.5, permission_mode="plan", tools=["Read", "Edit"],
        allow=["Bash(a:*)"], deny=["WebFetch"], add_dirs=["/x y"], debug_file="-d", agent="rev",
    )  # fmt: skip
    for token in made.argv[1:]:
        assert token.startswith("--"), token
    expected = {
        f"--resume={ID}", "--fork-session", f"--resume-session-at={ID}", "--model=opus",
        "--fallback-model=a,b", "--effort=low", "--max-turns=3", "--max-budget-usd=0.5",
        "--permission-mode=plan", "--tools=Read,Edit", "--allowedTools=Bash(a:*)",
        "--disallowedTools=WebFetch", "--add-dir=/x y", "--debug-file=-d", "--agent=rev",
        "--permission-prompt-tool=stdio",
    }  # fmt: skip
    assert expected <= set(made.argv)


def test_no_tools_is_not_the_default_set() -> None:
    assert "--tools=" in launch(tools=()).argv
    assert not any(t.startswith("--tools") for t in launch().argv)


def test_texts_and_secrets_stay_off_the_command_line() -> None:
    made = launch(
        servers={"db": {"command": "srv", "env": {"KEY": "s3cret"}}},
        settings={"env": {"A": "s3cret"}},
        append_system_prompt="s3cret",
        agents={"rev": {"description": "d", "prompt": "s3cret"}},
        output_schema={"title": "s3cret"},
        auth=Gateway("http://127.0.0.1:9", "s3cret"),
    )
    assert not any("s3cret" in token for token in made.argv)
    assert "--mcp-config=/f/mcp.json" in made.argv
    assert json.loads(made.files["mcp.json"])["mcpServers"]["db"]["env"] == {"KEY": "s3cret"}
    assert json.loads(made.files["settings.json"]) == {"env": {"A": "s3cret"}}
    assert made.initialize["appendSystemPrompt"] == "s3cret"
    assert made.initialize["jsonSchema"] == {"title": "s3cret"}


def test_the_gateway_is_the_only_way_to_a_key() -> None:
    env = launch(auth=Gateway("http://127.0.0.1:9", "tok")).env
    assert (env["ANTHROPIC_BASE_URL"], env["ANTHROPIC_API_KEY"]) == ("http://127.0.0.1:9", "tok")


def test_switches_of_the_environment() -> None:
    env = launch(file_checkpointing=True, max_retries=2, request_timeout=1.5, config_dir="/c").env
    assert env["CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING"] == "true"
    assert (env["CLAUDE_CODE_MAX_RETRIES"], env["API_TIMEOUT_MS"]) == ("2", "1500")
    assert env["CLAUDE_CONFIG_DIR"] == "/c"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("permission_mode", {"permission_mode": "bypassPermissions"}),
        ("betas", {"betas": ["novelty"]}),
        ("agents[x].prompt", {"agents": {"x": {"description": "d"}}}),
        ("agent", {"agent": "y", "agents": {"x": {"description": "d", "prompt": "p"}}}),
    ],
    ids=["bypass", "betas", "agents", "agent"],
)
def test_what_claude_code_cannot_do_is_refused(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        launch(**options)
    assert caught.value.field == field


def test_server_names_are_checked() -> None:
    with pytest.raises(OptionError, match="mcp_servers"):
        launch(servers={"a b": {}})


def test_bypass_needs_a_promise() -> None:
    made = launch(permission_mode="bypassPermissions", bypass_is_safe=True)
    assert "--allow-dangerously-skip-permissions" in made.argv
    assert made.env["IS_SANDBOX"] == "1"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.1.197 (Claude Code)", (2, 1, 197)),
        ("claude 1.0.3", (1, 0, 3)),
        ("", None),
        ("x.y", None),
    ],
)
def test_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version
