"""PURE. What a session can be asked for, whatever the engine: data only, checked before a launch.

`LaunchOptions` holds everything that shapes the engine's process; `session.Options` adds callbacks.
`check` refuses what is wrong in itself; each engine's `launch` refuses what it cannot do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from quarterdeck.errors import OptionError
from quarterdeck.model import PERMISSION_MODES, PermissionMode

Effort = Literal["low", "medium", "high", "xhigh", "max"]
EFFORTS = ("low", "medium", "high", "xhigh", "max")
SETTING_SOURCES = ("user", "project", "local")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Subscription:
    """Auth mode: the person's own login in the engine's configuration. API keys are refused."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Auth mode: a model gateway on loopback, with a token that is worth nothing elsewhere.

    `url` must be http on a loopback host with a port. Used with the scripted model and with
    Quarterdeck's own gateway.
    """

    url: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise OptionError("auth.url", self.url, str(error)) from None
        if parts.scheme != "http" or parts.hostname not in _LOOPBACK or not port:
            raise OptionError(
                "auth.url", self.url, "a gateway is reached on loopback only",
                remedy="use http://127.0.0.1:PORT",
            )  # fmt: skip
        if parts.username or parts.password or parts.query or parts.fragment:
            raise OptionError("auth.url", self.url, "must be a bare address")
        if not self.token or not self.token.isascii() or not self.token.isprintable():
            raise OptionError("auth.token", "...", "must be printable ASCII and not empty")


Auth = Subscription | Gateway


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSettings:
    """The engine's own sandbox around its shell commands; what it needs on the machine is its affair.

    Paths are patterns of the engine; domains may begin with `*.`. None leaves the engine's default.
    """

    enabled: bool = True
    excluded_commands: Sequence[str] = ()
    """Commands that run outside the sandbox."""
    allowed_domains: Sequence[str] = ()
    allow_local_binding: bool | None = None
    allow_managed_domains_only: bool | None = None
    """Has an effect in managed settings only."""
    allow_write: Sequence[str] = ()
    deny_write: Sequence[str] = ()
    deny_read: Sequence[str] = ()
    ripgrep_command: str | None = None

    def to_settings(self) -> dict[str, Any]:
        """The `sandbox` object of the engine's settings. Raises OptionError for lists of other things."""
        network = {
            "allowedDomains": _texts("sandbox.allowed_domains", self.allowed_domains),
            "allowLocalBinding": self.allow_local_binding,
            "allowManagedDomainsOnly": self.allow_managed_domains_only,
        }
        filesystem = {
            "allowWrite": _texts("sandbox.allow_write", self.allow_write),
            "denyWrite": _texts("sandbox.deny_write", self.deny_write),
            "denyRead": _texts("sandbox.deny_read", self.deny_read),
        }
        settings: dict[str, Any] = {
            "enabled": self.enabled,
            "excludedCommands": _texts("sandbox.excluded_commands", self.excluded_commands),
            "network": {k: v for k, v in network.items() if v not in (None, [])},
            "filesystem": {k: v for k, v in filesystem.items() if v},
            "ripgrep": {"command": self.ripgrep_command} if self.ripgrep_command else None,
        }
        return {k: v for k, v in settings.items() if v not in (None, [], {})}


def _texts(field: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str) or not all(isinstance(v, str) and v.isprintable() for v in values):
        raise OptionError(field, values, "must be a list of texts without control characters")
    return list(values)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How to start an engine. Sizes in bytes, times in seconds, money in US dollars.

    Words for tools: `tools` = which exist for the agent (None = the engine's own set, () = none),
    `allow` = approved without asking, `deny` = refused (and removed when it names a whole tool).
    """

    # where and who
    cwd: str | None = None
    """Working directory; None = the current one. Must exist."""
    executable: str | None = None
    """The engine's program; None = found on PATH and in the usual places."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to the child's environment, which is an allow-list, never the whole of ours."""
    auth: Auth = Subscription()
    config_dir: str | None = None
    """The engine's configuration and session directory; None = the user's own."""

    # model
    model: str | None = None
    fallback_models: Sequence[str] = ()
    effort: Effort | None = None
    thinking: Literal["enabled", "adaptive", "disabled"] | None = None
    max_thinking_tokens: int | None = None
    thinking_display: Literal["summarized", "omitted"] | None = None
    betas: Sequence[str] = ()

    # prompt
    system_prompt: str | None = None
    """Replaces the engine's own system prompt."""
    append_system_prompt: str | None = None
    exclude_dynamic_sections: bool = False
    plan_mode_instructions: str | None = None
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sub-agents: name -> {description, prompt, tools?, model?, ...}."""
    agent: str | None = None
    """Run the main thread as this agent."""
    skills: Sequence[str] | None = None

    # permission
    permission_mode: PermissionMode | None = None
    tools: Sequence[str] | None = None
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    add_dirs: Sequence[str] = ()
    bypass_is_safe: bool = False
    """Needed for bypassPermissions: says that this process runs in a sandbox of its own."""
    sandbox: SandboxSettings | None = None
    """The engine's own sandbox around its shell commands."""

    # limits
    max_turns: int | None = None
    """Model rounds for each prompt."""
    max_budget_usd: float | None = None
    """For the process; once exceeded every later prompt fails."""
    task_budget: int | None = None
    turn_timeout: float | None = None
    """A turn that takes longer is interrupted and ends at limit(time)."""
    max_retries: int | None = None
    """How often the engine repeats a failed model request (its default is 10)."""
    request_timeout: float | None = None
    """For one model request."""

    # session
    session_id: str | None = None
    """The engine's id for a new session (a UUID); None = one is made."""
    resume: str | None = None
    """The engine's id of the session to go on with."""
    resume_at: str | None = None
    """Cut the history after this message (UUID); needs `resume`."""
    continue_last: bool = False
    """Go on with the newest session of the working directory; none = refused."""
    fork: bool = False
    """Leave the resumed session as it is and go on in a copy."""
    persist: bool = True
    title: str | None = None
    resume_interrupted: bool = False
    """A resumed session whose last turn was cut off takes it up again by itself."""
    worktree: str | None = None
    """Work in a git worktree of this name."""

    # output
    output_schema: Mapping[str, Any] | None = None
    """JSON Schema for a structured result."""
    include_deltas: bool = True
    echo_prompts: bool = True
    include_hook_events: bool = False
    forward_subagent_text: bool = False
    prompt_suggestions: bool = False
    agent_progress_summaries: bool = False
    state_events: bool = False
    tool_use_summaries: bool = False
    session_mirror: bool = False

    # settings and extensions
    setting_sources: Sequence[str] = ("user",)
    """Which settings files count; project and local ones only when the project is trusted."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """A settings layer above the files."""
    managed_settings: Mapping[str, Any] | None = None
    plugin_dirs: Sequence[str] = ()
    slash_commands: bool = True
    file_checkpointing: bool = False
    """Needed for rewind_files."""
    debug: bool = False
    """The engine prints what it does on standard error."""
    debug_file: str | None = None
    bare: bool = False
    safe_mode: bool = False
    trigger: Literal["init", "init-only", "maintenance"] | None = None
    """Run the engine's setup hooks; see `run_setup`."""

    # our own limits
    start_timeout: float = 60.0
    control_timeout: float = 60.0
    settle_timeout: float = 10.0
    """How long an interrupted turn may take to settle before the process is ended."""
    permission_timeout: float = 900.0
    """A request that nobody answers in this time is denied."""
    max_line_bytes: int = 64 * 1024 * 1024
    queue_events: int = 1000
    queue_bytes: int = 16 * 1024 * 1024
    max_queued_prompts: int = 16
    keep_stream: bool = False
    """Keep stream deltas in the turn result."""
    max_result_bytes: int = 256 * 1024 * 1024
    """What one turn result keeps; beyond it the oldest messages are dropped and counted."""


def check(options: LaunchOptions) -> None:
    """Raise OptionError, naming field, value and remedy, for whatever is wrong in itself."""
    _check_strings(options)
    _check_numbers(options)
    _check_choices(options)
    _check_session(options)
    _check_env(options.env)
    if options.system_prompt is not None and options.append_system_prompt is not None:
        raise OptionError(
            "append_system_prompt", options.append_system_prompt, "system_prompt replaces the prompt",
            remedy="put both texts into one of the two",
        )  # fmt: skip
    if options.thinking == "disabled" and options.max_thinking_tokens:
        raise OptionError(
            "max_thinking_tokens", options.max_thinking_tokens, "thinking is disabled",
            remedy="leave one of the two out",
        )  # fmt: skip
    for name in ("settings", "managed_settings", "output_schema", "agents"):
        value = getattr(options, name)
        if value is not None and not isinstance(value, Mapping):
            raise OptionError(name, value, "must be a mapping")
        try:
            msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(name, value, f"has no JSON form: {error}") from None
    if options.worktree is not None and not _NAME.match(options.worktree):
        raise OptionError("worktree", options.worktree, "must be a plain name, not a path")


_TOKENS = (
    "model", "agent", "session_id", "resume", "resume_at", "title", "worktree",
)  # fmt: skip
_TEXTS = ("system_prompt", "append_system_prompt", "plan_mode_instructions")
_LISTS = (
    "fallback_models", "betas", "tools", "allow", "deny", "add_dirs", "setting_sources",
    "plugin_dirs", "skills",
)  # fmt: skip
_PATHS = ("cwd", "executable", "config_dir", "debug_file")


def _check_strings(options: LaunchOptions) -> None:
    for name in _TOKENS + _PATHS:
        _check_text(name, getattr(options, name), one_line=True)
    for name in _TEXTS:
        _check_text(name, getattr(options, name), one_line=False)
    for name in _LISTS:
        values = getattr(options, name)
        if values is None and name in ("tools", "skills"):
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise OptionError(name, values, "must be a list of strings", remedy=f"use [{values!r}]")
        for value in values:
            _check_text(name, value, one_line=True)
            if value is None:
                raise OptionError(name, value, "must not hold None")
    for name in ("tools", "allow", "deny"):
        for rule in getattr(options, name) or ():
            _check_rule(name, rule)


def _check_text(name: str, value: Any, *, one_line: bool) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise OptionError(name, value, "must be a string")
    if "\x00" in value or (one_line and any(ord(c) < 32 or ord(c) == 127 for c in value)):
        raise OptionError(name, value, "must not hold control characters")
    if one_line and not value.strip():
        raise OptionError(name, value, "must not be empty", remedy="leave it out")
    if name in _TOKENS and value.startswith("-"):
        raise OptionError(name, value, "must not begin with a dash, it would become a flag")


def _check_rule(name: str, rule: str) -> None:
    head, opened, rest = rule.partition("(")
    if opened and not rest.endswith(")"):
        raise OptionError(name, rule, "the parenthesis is not closed", remedy="write Tool(pattern)")
    if not re.fullmatch(r"[A-Za-z0-9_*.:/-]+", head) or head.startswith("-"):
        raise OptionError(name, rule, "not a tool rule", remedy="write Tool or Tool(pattern)")
    if name == "tools" and opened:
        raise OptionError(name, rule, "takes names only", remedy="put patterns into allow or deny")


_POSITIVE = (
    "max_turns", "max_budget_usd", "task_budget", "turn_timeout", "request_timeout", "start_timeout",
    "control_timeout", "settle_timeout", "permission_timeout", "max_line_bytes", "queue_events",
    "queue_bytes", "max_queued_prompts", "max_result_bytes",
)  # fmt: skip
_WHOLE = frozenset(
    {
        "max_turns", "task_budget", "max_line_bytes", "queue_events", "queue_bytes",
        "max_queued_prompts", "max_result_bytes", "max_thinking_tokens", "max_retries",
    }
)  # fmt: skip


def _check_numbers(options: LaunchOptions) -> None:
    for name in (*_POSITIVE, "max_thinking_tokens", "max_retries"):
        value = getattr(options, name)
        if value is None:
            continue
        wanted = int if name in _WHOLE else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise OptionError(
                name, value, "must be a number" if name not in _WHOLE else "must be whole"
            )
        if not math.isfinite(value) or value < 0 or (value == 0 and name in _POSITIVE):
            raise OptionError(
                name, value, "must be a finite number over 0", remedy="leave it out for no limit"
            )


def _check_choices(options: LaunchOptions) -> None:
    choices: dict[str, tuple[str, ...]] = {
        "effort": EFFORTS,
        "permission_mode": PERMISSION_MODES,
        "thinking": ("enabled", "adaptive", "disabled"),
        "thinking_display": ("summarized", "omitted"),
        "trigger": ("init", "init-only", "maintenance"),
    }
    for name, allowed in choices.items():
        value = getattr(options, name)
        if value is not None and value not in allowed:
            raise OptionError(
                name, value, "not one of the choices", remedy="use " + ", ".join(allowed)
            )
    for source in options.setting_sources:
        if source not in SETTING_SOURCES:
            raise OptionError(
                "setting_sources", source, "no such source", remedy="use user, project, local"
            )
    for item in fields(options):
        if item.type == "bool" and not isinstance(getattr(options, item.name), bool):
            raise OptionError(item.name, getattr(options, item.name), "must be true or false")
    if options.sandbox is not None:
        if not isinstance(options.sandbox, SandboxSettings):
            raise OptionError("sandbox", options.sandbox, "must be SandboxSettings")
        options.sandbox.to_settings()
    if not isinstance(options.auth, Subscription | Gateway):
        raise OptionError("auth", options.auth, "must be Subscription() or Gateway(url, token)")


def _check_session(options: LaunchOptions) -> None:
    for name in ("session_id", "resume", "resume_at"):
        value = getattr(options, name)
        if value is not None and not _UUID.match(value):
            raise OptionError(name, value, "must be a UUID", remedy="see `quarterdeck list`")
    resuming = options.resume is not None or options.continue_last
    if options.resume is not None and options.continue_last:
        raise OptionError("continue_last", True, "resume is set too", remedy="use one of the two")
    if options.session_id is not None and resuming and not options.fork:
        raise OptionError(
            "session_id", options.session_id, "a resumed session keeps its id",
            remedy="set fork=True to go on under a new id",
        )  # fmt: skip
    if options.fork and not resuming:
        raise OptionError("fork", True, "there is nothing to fork", remedy="set resume")
    if options.worktree is not None and set(options.setting_sources) & {"project", "local"}:
        raise OptionError(
            "worktree", options.worktree, "its settings files cannot be checked before it exists",
            remedy="make the worktree yourself and pass it as cwd, or leave out project settings",
        )  # fmt: skip
    if options.resume_at is not None and not resuming:
        raise OptionError("resume_at", options.resume_at, "needs resume")
    if options.title is not None and len(options.title) > 200:
        raise OptionError("title", options.title, "longer than 200 characters")


def _check_env(env: Mapping[str, str]) -> None:
    if not isinstance(env, Mapping):
        raise OptionError("env", env, "must be a mapping of names to strings")
    for name, value in env.items():
        if not isinstance(name, str) or not _ENV_NAME.match(name):
            raise OptionError("env", name, "not a variable name")
        if not isinstance(value, str) or "\x00" in value:
            raise OptionError(f"env[{name}]", "...", "must be a string without NUL")


def is_uuid(text: str) -> bool:
    """Whether the text has the form of a UUID."""
    return bool(_UUID.match(text))
