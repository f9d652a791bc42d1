"""What may reach a child: an allow-list of variables, and the auth invariant.

The invariant: no credential reaches an agent that its session did not ask for by name. Inherited
variables pass only when listed here; what `Options.env`, settings or the engine's own settings files
set is refused when it is a credential or redirects the engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quarterdeck.engine.options import LaunchOptions
from quarterdeck.errors import CredentialRefused, OptionError

PASSED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM",
        "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME",
        "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "HTTP_PROXY",
        "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "CLAUDE_CONFIG_DIR",
        "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING", "DO_NOT_TRACK",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    }
)  # fmt: skip
"""Inherited variables that a child sees, besides LC_*."""

_REFUSED_PREFIXES = (
    "ANTHROPIC_", "AWS_", "CLAUDE_CODE_USE_", "VERTEX_", "GOOGLE_", "GCLOUD_", "CLOUD_ML_",
    "CLOUDSDK_", "AZURE_", "OPENAI_", "BEDROCK_", "FOUNDRY_", "CLAUDE_CODE_OAUTH_",
)  # fmt: skip
_REFUSED_NAMES = frozenset(
    {
        "CLAUDE_CODE_SKIP_BEDROCK_AUTH", "CLAUDE_CODE_SKIP_VERTEX_AUTH",
        "CLAUDE_CODE_SKIP_FOUNDRY_AUTH", "CLAUDE_CODE_API_KEY_HELPER_TTL_MS",
        "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR", "CLAUDE_API_KEY", "CLAUDECODE",
        "CLAUDE_CODE_SSE_PORT", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES",
        "NODE_OPTIONS", "BUN_OPTIONS", "CLAUDE_CODE_SESSION_ACCESS_TOKEN",
        "CLAUDE_CODE_HFI_BEARER_TOKEN", "CLAUDE_CODE_CLIENT_KEY", "CLAUDE_CODE_API_BASE_URL",
        "CLAUDE_CODE_PROXY_URL", "CLAUDE_CODE_CUSTOM_OAUTH_URL",
    }
)  # fmt: skip
_HARMLESS = frozenset({"ANTHROPIC_LOG", "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"})
_SETTINGS_KEYS = (
    "apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "gcpAuthRefresh", "otelHeadersHelper",
    "proxyAuthHelper",
)  # fmt: skip
_MAX_SETTINGS = 64 * 1024 * 1024  # bytes; the global state of the engine grows with its projects


def refused(name: str) -> bool:
    """Whether a variable is a credential, or makes the engine talk to somebody else."""
    upper = name.upper()
    if upper in _HARMLESS:
        return False
    return upper in _REFUSED_NAMES or upper.startswith(_REFUSED_PREFIXES)


def child_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The part of our environment that a child may see. Credentials are never in it."""
    return {
        name: value
        for name, value in inherited.items()
        if (name in PASSED or name.startswith("LC_")) and "\x00" not in value
    }


def inherited_credentials(inherited: Mapping[str, str]) -> list[str]:
    """Names of credentials in an environment; they are not passed on. For `doctor`."""
    return sorted(n for n in inherited if refused(n) and n.upper() != "CLAUDECODE")


def check_credentials(options: LaunchOptions, inherited: Mapping[str, str]) -> None:
    """The auth invariant. Raises CredentialRefused naming where and what; reads settings files."""
    for name in options.env:
        if refused(name):
            raise CredentialRefused("Options.env", name, remedy=_REMEDY)
    check_settings("Options.settings", options.settings)
    check_settings("Options.managed_settings", options.managed_settings)
    for path in _settings_files(options, inherited):
        check_settings(str(path), _read_settings(path))


_REMEDY = "remove it; to reach a model through a gateway use Options(auth=Gateway(url, token))"


def check_settings(where: str, settings: object) -> None:
    """Raise CredentialRefused when settings hold a credential or redirect the engine."""
    if not isinstance(settings, Mapping):
        return
    for key in _SETTINGS_KEYS:
        if settings.get(key):
            raise CredentialRefused(where, key, remedy=_REMEDY)
    env = settings.get("env")
    if isinstance(env, Mapping):
        for name in env:
            if isinstance(name, str) and refused(name):
                raise CredentialRefused(f"{where} (env)", name, remedy=_REMEDY)


def _settings_files(options: LaunchOptions, inherited: Mapping[str, str]) -> Iterator[Path]:
    directory = config_dir(options, inherited)
    # The engine takes `env` of its global state too, whatever the setting sources are.
    yield directory / ".config.json"
    chosen = _chosen_config_dir(options, inherited)
    yield (directory if chosen else directory.parent) / ".claude.json"
    if "user" in options.setting_sources:
        yield directory / "settings.json"
    root = Path(options.cwd or ".").absolute()
    if "project" in options.setting_sources:
        yield root / ".claude" / "settings.json"
    if "local" in options.setting_sources:
        yield root / ".claude" / "settings.local.json"


def config_dir(options: LaunchOptions, inherited: Mapping[str, str] | None = None) -> Path:
    """Claude Code's configuration directory for these options.

    As for the engine, a relative one begins at the session's working directory.
    """
    env = os.environ if inherited is None else inherited
    root = Path(options.cwd or ".").absolute()
    chosen = _chosen_config_dir(options, env)
    if chosen:
        return root / chosen
    home = options.env.get("HOME") or env.get("HOME")
    return (root / home if home else Path.home()) / ".claude"


def _chosen_config_dir(options: LaunchOptions, inherited: Mapping[str, str]) -> str | None:
    return (
        options.config_dir
        or options.env.get("CLAUDE_CONFIG_DIR")
        or inherited.get("CLAUDE_CONFIG_DIR")
    )


def _read_settings(path: Path) -> Mapping[str, Any]:
    """A settings file as the engine would see it; unreadable means refuse, absent means empty."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SETTINGS + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise OptionError("settings", str(path), f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_SETTINGS:
        raise OptionError("settings", str(path), "is larger than 64 MiB")
    try:
        value = json.loads(data.decode("utf-8-sig")) if data.strip() else {}
    except (ValueError, RecursionError):
        raise OptionError(
            "settings",
            str(path),
            "is not JSON, so nobody can tell what it sets",
            remedy="repair it",
        ) from None
    if not isinstance(value, dict):
        raise OptionError("settings", str(path), "must hold a JSON object", remedy="repair it")
    return value
