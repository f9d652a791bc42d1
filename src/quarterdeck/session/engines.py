"""Finding the engines' programs and their versions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from quarterdeck.engine.claude.launch import parse_version
from quarterdeck.errors import EngineNotFound, EngineVersionError
from quarterdeck.session.credentials import child_environment

CLAUDE_FLOOR = (2, 0, 0)
CLAUDE_TESTED = "2.1.197"
CLAUDE_PACKAGE = "@anthropic-ai/claude-code"
_VERSION_TIMEOUT = 20.0  # seconds; 0.1 s is usual


class Program(msgspec.Struct, frozen=True):
    """An engine's program on this machine."""

    engine: str
    path: str
    version: str

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The version as numbers."""
        return parse_version(self.version) or (0, 0, 0)


def find_claude(executable: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """The path of Claude Code's program.

    Looks at `executable`, then QUARTERDECK_CLAUDE, PATH and the installer's usual places; never into
    the working directory, whose content is not trusted. Raises EngineNotFound.
    """
    env = os.environ if env is None else env
    # An empty or relative entry of PATH means the working directory.
    search = os.pathsep.join(
        d for d in env.get("PATH", "").split(os.pathsep) if Path(d).is_absolute()
    )
    wanted = executable or env.get("QUARTERDECK_CLAUDE")
    if wanted:
        found = shutil.which(wanted, path=search)
        if found is None:
            raise EngineNotFound(
                f"Claude Code is not at {wanted!r}, or it cannot be executed",
                remedy="correct the path, or leave it out to search PATH",
            )
        return str(Path(found).absolute())
    home = Path(env.get("HOME") or Path.home())
    places = [shutil.which("claude", path=search)]
    places += [str(home / ".local/bin/claude"), str(home / ".claude/local/claude")]
    for place in places:
        if place and os.access(place, os.X_OK) and Path(place).is_file():
            return str(Path(place).absolute())
    raise EngineNotFound(
        "Claude Code was not found on PATH", remedy=f"install it: npm install -g {CLAUDE_PACKAGE}"
    )


def claude_program(executable: str | None = None, env: Mapping[str, str] | None = None) -> Program:
    """Claude Code's program and version, the version cached by the file's identity.

    Blocking; about 0.1 s when the file is new. Raises EngineNotFound, EngineVersionError when it is
    older than 2.0 or is not Claude Code.
    """
    env = os.environ if env is None else env
    path = find_claude(executable, env)
    version = cached_version(path, env)
    numbers = parse_version(version)
    if numbers is None:
        raise EngineVersionError(
            f"{path} did not say its version but {version[:80]!r}",
            remedy=f"is it Claude Code? install it: npm install -g {CLAUDE_PACKAGE}",
        )
    if not CLAUDE_FLOOR <= numbers < (3, 0, 0):
        raise EngineVersionError(
            f"Claude Code {version} at {path}; Quarterdeck drives 2.x",
            remedy=f"npm install -g {CLAUDE_PACKAGE}@{CLAUDE_TESTED}",
        )
    return Program("claude-code", path, ".".join(map(str, numbers)))


def cached_version(path: str, env: Mapping[str, str]) -> str:
    """What `PROGRAM --version` says first, remembered while the file stays the same."""
    real = Path(path).resolve()
    stat = real.stat()
    key = f"{real}:{stat.st_size}:{stat.st_mtime_ns}"
    cache = _cache_file(env)
    known = _read_cache(cache)
    if key in known:
        return known[key]
    version = _ask_version(path, env)
    if parse_version(version) is not None:
        _write_cache(cache, {**dict(list(known.items())[-15:]), key: version})
    return version


def _ask_version(path: str, env: Mapping[str, str]) -> str:
    child = {**child_environment(env), "DISABLE_AUTOUPDATER": "1"}
    try:
        done = subprocess.run(
            [path, "--version"],
            env=child,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineVersionError(
            f"{path} --version did not answer in {_VERSION_TIMEOUT:.0f} s"
        ) from None
    except OSError as error:
        raise EngineNotFound(f"{path} cannot be executed: {error.strerror}") from None
    out = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return (out[0] if out else done.stderr.decode("utf-8", "replace").strip())[:200]


def _cache_file(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or Path.home()) / ".cache")
    return Path(base) / "quarterdeck" / "versions.json"


def _read_cache(path: Path) -> dict[str, str]:
    try:
        value = json.loads(path.read_bytes()[:65536])
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, str)}


def _write_cache(path: Path, value: Mapping[str, str]) -> None:
    """A cache that cannot be written costs only time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(fd, "w") as file:
            json.dump(value, file)
        Path(name).replace(path)
