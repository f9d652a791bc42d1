"""PURE. Options to the start of one Claude Code process: argv, environment, files, initialize.

Every value goes as `--flag=value`, because a separate token that begins with a dash would become a
flag of its own. Texts (prompts, schemas, agents) go through `initialize`, servers and settings
through files of mode 0600: the command line is visible to every local process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from quarterdeck.engine.options import Gateway, LaunchOptions
from quarterdeck.errors import OptionError

KNOWN_BETAS = ("context-1m-2025-08-07",)
_MCP_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Launch(NamedTuple):
    """What to start. `files` are name -> content, to be written into `files_dir` before."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    initialize: Mapping[str, Any]


def compile_launch(
    options: LaunchOptions,
    *,
    executable: str,
    files_dir: str,
    asks: bool,
    hooks: Mapping[str, Any] | None = None,
    mcp_servers: Mapping[str, Mapping[str, Any]] | None = None,
    sdk_servers: Sequence[str] = (),
    client_app: str = "quarterdeck",
) -> Launch:
    """Compile checked options.

    `session_id` or `resume` must be set already. `asks` says that somebody answers permission
    requests; without it the CLI denies what would need asking. Raises OptionError for what Claude
    Code cannot do.
    """
    _check(options, mcp_servers or {}, sdk_servers)
    files: dict[str, bytes] = {}
    argv = [executable, *_stream_flags(options, asks)]
    argv += _session_flags(options)
    argv += _model_flags(options)
    argv += _tool_flags(options)
    argv += _other_flags(options)
    settings = dict(options.settings)
    if options.sandbox is not None:
        settings["sandbox"] = options.sandbox.to_settings()
    if settings:
        files["settings.json"] = _json(settings)
        argv.append(f"--settings={files_dir}/settings.json")
    if mcp_servers:
        files["mcp.json"] = _json({"mcpServers": mcp_servers})
        argv.append(f"--mcp-config={files_dir}/mcp.json")
    return Launch(
        tuple(argv),
        _environment(options, client_app),
        files,
        _initialize(options, hooks, sdk_servers),
    )


def _check(
    options: LaunchOptions, servers: Mapping[str, Mapping[str, Any]], sdk_servers: Sequence[str]
) -> None:
    if options.permission_mode == "bypassPermissions" and not options.bypass_is_safe:
        raise OptionError(
            "permission_mode", "bypassPermissions", "no tool call would be checked",
            remedy="run in a sandbox and set bypass_is_safe=True",
        )  # fmt: skip
    for beta in options.betas:
        if beta not in KNOWN_BETAS:
            raise OptionError(
                "betas", beta, "Claude Code would drop it", remedy="use " + ", ".join(KNOWN_BETAS)
            )
    for name in (*servers, *sdk_servers):
        if not _MCP_NAME.match(name):
            raise OptionError(
                "mcp_servers", name, "not a server name", remedy="use letters, digits, _ and -"
            )
    both = set(servers) & set(sdk_servers)
    if both:
        raise OptionError("mcp_servers", min(both), "the name stands twice")
    for name, agent in options.agents.items():
        if not isinstance(agent, Mapping):
            raise OptionError(f"agents[{name}]", agent, "must be an object")
        for key in ("description", "prompt"):
            if not isinstance(agent.get(key), str) or not agent[key]:
                raise OptionError(f"agents[{name}].{key}", agent.get(key), "must be a text")
    if options.agent is not None and options.agents and options.agent not in options.agents:
        raise OptionError(
            "agent", options.agent, "not among agents; Claude Code would ignore it silently",
            remedy="use " + ", ".join(options.agents),
        )  # fmt: skip


def _stream_flags(options: LaunchOptions, asks: bool) -> list[str]:
    flags = [
        "--output-format=stream-json",
        "--input-format=stream-json",
        "--verbose",
        "--strict-mcp-config",
        "--setting-sources=" + ",".join(options.setting_sources),
    ]
    if asks:
        flags.append("--permission-prompt-tool=stdio")
    if options.include_deltas:
        flags.append("--include-partial-messages")
    if options.echo_prompts:
        flags.append("--replay-user-messages")
    return flags


def _session_flags(options: LaunchOptions) -> list[str]:
    flags: list[str] = []
    if options.resume is not None:
        flags.append(f"--resume={options.resume}")
        if options.resume_at is not None:
            flags.append(f"--resume-session-at={options.resume_at}")
        if options.fork:
            flags.append("--fork-session")
    if options.session_id is not None:
        flags.append(f"--session-id={options.session_id}")
    if not options.persist:
        flags.append("--no-session-persistence")
    return flags


def _model_flags(options: LaunchOptions) -> list[str]:
    values: dict[str, Any] = {
        "--model": options.model,
        "--fallback-model": ",".join(options.fallback_models) or None,
        "--effort": options.effort,
        "--thinking": options.thinking,
        "--max-thinking-tokens": options.max_thinking_tokens,
        "--thinking-display": options.thinking_display,
        "--betas": ",".join(options.betas) or None,
        "--agent": options.agent,
        "--max-turns": options.max_turns,
        "--max-budget-usd": options.max_budget_usd,
        "--task-budget": options.task_budget,
    }
    return [f"{flag}={value}" for flag, value in values.items() if value is not None]


def _tool_flags(options: LaunchOptions) -> list[str]:
    flags: list[str] = []
    if options.permission_mode is not None:
        flags.append(f"--permission-mode={options.permission_mode}")
    if options.bypass_is_safe:
        flags.append("--allow-dangerously-skip-permissions")
    if options.tools is not None:
        flags.append("--tools=" + ",".join(options.tools))
    if options.allow:
        flags.append("--allowedTools=" + ",".join(options.allow))
    if options.deny:
        flags.append("--disallowedTools=" + ",".join(options.deny))
    flags += [f"--add-dir={path}" for path in options.add_dirs]
    return flags


def _other_flags(options: LaunchOptions) -> list[str]:
    switches = {
        "--include-hook-events": options.include_hook_events,
        "--prompt-suggestions=true": options.prompt_suggestions,
        "--session-mirror": options.session_mirror,
        "--debug": options.debug,
        "--bare": options.bare,
        "--safe-mode": options.safe_mode,
        "--disable-slash-commands": not options.slash_commands,
        "--exclude-dynamic-system-prompt-sections": options.exclude_dynamic_sections,
    }
    flags = [flag for flag, on in switches.items() if on]
    if options.trigger is not None:
        flags.append(f"--{options.trigger}")
    if options.worktree is not None:
        flags.append(f"--worktree={options.worktree}")
    if options.debug_file is not None:
        flags.append(f"--debug-file={options.debug_file}")
    if options.managed_settings is not None:
        flags.append("--managed-settings=" + _json(options.managed_settings).decode())
    flags += [f"--plugin-dir={path}" for path in options.plugin_dirs]
    return flags


def _environment(options: LaunchOptions, client_app: str) -> dict[str, str]:
    env = {
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_AGENT_SDK_CLIENT_APP": client_app,
        "DISABLE_AUTOUPDATER": "1",
    }
    switches = {
        "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": ("true", options.file_checkpointing),
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": ("1", options.state_events),
        "CLAUDE_CODE_BG_TASKS_REPORT_RUNNING": ("1", options.state_events),
        "CLAUDE_CODE_RESUME_INTERRUPTED_TURN": ("1", options.resume_interrupted),
        "CLAUDE_CODE_EMIT_TOOL_USE_SUMMARIES": ("1", options.tool_use_summaries),
        "IS_SANDBOX": ("1", options.bypass_is_safe),
    }
    env.update({name: value for name, (value, on) in switches.items() if on})
    if options.max_retries is not None:
        env["CLAUDE_CODE_MAX_RETRIES"] = str(options.max_retries)
    if options.request_timeout is not None:
        env["API_TIMEOUT_MS"] = str(int(options.request_timeout * 1000))
    env.update(options.env)
    if options.config_dir is not None:
        env["CLAUDE_CONFIG_DIR"] = options.config_dir
    if isinstance(options.auth, Gateway):
        env["ANTHROPIC_BASE_URL"] = options.auth.url
        env["ANTHROPIC_API_KEY"] = options.auth.token
        env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
        env["DISABLE_TELEMETRY"] = "1"
    return env


def _initialize(
    options: LaunchOptions, hooks: Mapping[str, Any] | None, sdk_servers: Sequence[str]
) -> dict[str, Any]:
    request: dict[str, Any] = {"hooks": dict(hooks) if hooks else None}
    if options.agents:
        request["agents"] = {name: dict(agent) for name, agent in options.agents.items()}
    if sdk_servers:
        request["sdkMcpServers"] = list(sdk_servers)
    if options.system_prompt is not None:
        request["systemPrompt"] = [options.system_prompt] if options.system_prompt else []
    if options.append_system_prompt is not None:
        request["appendSystemPrompt"] = options.append_system_prompt
    if options.output_schema is not None:
        request["jsonSchema"] = dict(options.output_schema)
    texts = {"title": options.title, "planModeInstructions": options.plan_mode_instructions}
    request.update({name: text for name, text in texts.items() if text is not None})
    if options.skills is not None:
        request["skills"] = list(options.skills)
    switches = {
        "forwardSubagentText": options.forward_subagent_text,
        "promptSuggestions": options.prompt_suggestions,
        "excludeDynamicSections": options.exclude_dynamic_sections,
        "agentProgressSummaries": options.agent_progress_summaries,
    }
    request.update({name: True for name, on in switches.items() if on})
    return request


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError("settings", value, f"has no JSON form: {error}") from None


def parse_version(text: str) -> tuple[int, int, int] | None:
    """`2.1.197 (Claude Code)` -> (2, 1, 197); None when there is no version in it."""
    found = re.search(r"(\d{1,4})\.(\d{1,4})\.(\d{1,6})", text[:200])
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


# -- the end of a process ---------------------------------------------------------------------------


class Rung(NamedTuple):
    """One step of the stop ladder: what to do, and how long (seconds) it may take to end."""

    action: str
    wait: float


STOP_LADDER = (
    Rung("end_session", 2.0),
    Rung("close_stdin", 1.0),
    Rung("SIGINT", 1.0),
    Rung("SIGTERM", 1.0),
    Rung("kill", 5.0),
)
"""How a session ends, gentlest first. A turn that runs is interrupted before the first rung, so that
its result is read. `end_session` also kills the CLI's Bash children; the guard sweeps what is left."""

KILL_LADDER = STOP_LADDER[-1:]

WEDGED_LADDER = (Rung("SIGTERM", 1.0), Rung("kill", 5.0))
"""For a CLI that no longer answers: it ignores the end of its input too."""
