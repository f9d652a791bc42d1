"""The git worktrees that a directory belongs to; nothing when there is no git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_TIMEOUT = 5.0  # seconds
_MAX_WORKTREES = 1000
_PASSED = ("PATH", "HOME", "XDG_CONFIG_HOME", "LANG", "TMPDIR")


def worktrees(directory: Path, env: Mapping[str, str]) -> list[Path]:
    """All worktrees of the repository that `directory` is in, at most 1,000. Blocks up to 5 s.

    Empty when git is absent, slow or refuses, or when there is no repository. The repository's own
    configuration starts no program, and variables that steer git (GIT_DIR, ...) do not reach it.
    """
    child = {name: env[name] for name in _PASSED if name in env}
    child |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    command = [
        "git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
        "worktree", "list", "--porcelain",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=child,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    lines = done.stdout.split(b"\n")
    found = [line[9:] for line in lines if line.startswith(b"worktree /")]
    return [Path(os.fsdecode(path)) for path in found[:_MAX_WORKTREES]]
