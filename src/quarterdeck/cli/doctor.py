"""`doctor`: what is there, what is missing, and the exact fix."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from quarterdeck.cli import exit_codes
from quarterdeck.cli.output import Screen, plain
from quarterdeck.errors import EngineError, QuarterdeckError

Status = Literal["ok", "info", "warn", "fail"]
_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok  ", "green"),
    "info": ("info", "dim"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
}
_VERSION_TIMEOUT = 20.0  # seconds


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. `fix` is what to do, a command where there is one."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def doctor(
    *,
    json: bool = False,
    output: Annotated[Literal["text", "json"], Parameter(name=("--output", "-o"))] = "text",
    engine_path: str | None = None,
    config_dir: Path | None = None,
) -> int:
    """Look at everything that Quarterdeck needs. Starts no agent and changes
    nothing.

    Exits with 3 when Claude Code is missing or too old, else with 0.

    Parameters
    ----------
    json: bool
        The same as `-o json`.
    output: str
        Form of the output.
    engine_path: str
        Claude Code's program.
    config_dir: Path
        Claude Code's configuration directory.
    """
    checks = list(run_checks(dict(os.environ), engine_path, config_dir))
    screen = Screen()
    missing = any(c.name == "claude" and c.status == "fail" for c in checks)
    if json or output == "json":
        screen.json({"v": 1, "ok": not missing, "checks": plain(checks)})
    else:
        for check in checks:
            mark, style = _MARKS[check.status]
            head = screen.paint(mark, style, screen.out)
            screen.out.write(head)
            screen.line(f"  {check.name:<12}  {check.detail}")
            if check.fix:
                screen.line(f"      {'':<12}  fix: {check.fix}")
    return exit_codes.NO_ENGINE if missing else exit_codes.OK


def run_checks(
    env: Mapping[str, str], engine_path: str | None = None, config_dir: Path | None = None
) -> Iterator[Check]:
    """All checks, in order. A check that breaks is a warning itself."""
    from quarterdeck.session.credentials import config_dir as default_dir
    from quarterdeck.session.options import Options

    directory = config_dir or default_dir(Options(), env)
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("platform", _platform),
        ("guard", _guard),
        ("claude", lambda: _claude(engine_path, env)),
        ("opencode", lambda: _opencode(env)),
        ("git", lambda: _tool("git", "worktrees and the demo need it", "git", env)),
        (
            "ripgrep",
            lambda: _tool("rg", "a system ripgrep; Claude Code brings its own", "ripgrep", env),
        ),
        ("config", lambda: _config(directory)),
        ("credentials", lambda: _credentials(env)),
        ("locks", lambda: _locks(env)),
        ("sessions", lambda: _sessions(directory, env)),
    ]
    for name, step in steps:
        try:
            yield step()
        except (OSError, QuarterdeckError) as error:
            yield Check(name, "warn", f"could not be looked at: {error}")


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _platform() -> Check:
    detail = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() == "Linux":
        return Check("platform", "ok", detail)
    if platform.system() == "Darwin":
        return Check(
            "platform", "ok", f"{detail}; daemons that leave their process group may escape"
        )
    return Check("platform", "fail", detail, "use Linux (also under WSL 2) or macOS")


def _guard() -> Check:
    """The guard as it is used: a child that forks twice must be found and ended."""
    from quarterdeck.localhost import LocalHost

    async def tree() -> str:
        process = await LocalHost().spawn(
            ["/bin/sh", "-c", "(sleep 60 >/dev/null 2>&1 &); exit 0"],
            cwd="/", env={"PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
        try:
            await process.close_stdin()
            exit = await process.wait()
            return "ended what was left behind" if exit.clean and exit.left else f"saw {exit}"
        finally:
            await process.aclose()

    import asyncio

    said = asyncio.run(tree())
    if said.startswith("ended"):
        return Check("guard", "ok", "a process that was left behind was found and ended")
    status: Status = "fail" if sys.platform == "linux" else "warn"
    return Check(
        "guard", status, f"a process that was left behind was not found ({said})",
        "look for what forbids prctl(PR_SET_CHILD_SUBREAPER), such as a seccomp profile",
    )  # fmt: skip


def _claude(engine_path: str | None, env: Mapping[str, str]) -> Check:
    from quarterdeck.session import engines

    try:
        program = engines.claude_program(engine_path, env)
    except EngineError as error:
        return Check("claude", "fail", error.message, error.remedy)
    version = program.version
    detail = f"Claude Code {version} at {program.path}"
    if version != engines.CLAUDE_TESTED:
        detail += f" (tested with {engines.CLAUDE_TESTED})"
    return Check("claude", "ok", detail)


def _opencode(env: Mapping[str, str]) -> Check:
    path = shutil.which("opencode", path=env.get("PATH", ""))
    if path is None:
        return Check("opencode", "info", "not found; not needed yet")
    return Check(
        "opencode", "info", f"{_first_line([path, '--version'], env)} at {path}; not used yet"
    )


def _tool(program: str, why: str, package: str, env: Mapping[str, str]) -> Check:
    name = "ripgrep" if program == "rg" else program
    path = shutil.which(program, path=env.get("PATH", ""))
    if path is None:
        status: Status = "warn" if program == "git" else "info"
        fix = (
            f"brew install {package}" if sys.platform == "darwin" else f"apt-get install {package}"
        )
        return Check(name, status, f"not found ({why})", fix)
    return Check(name, "ok", f"{_first_line([path, '--version'], env)} at {path}")


def _first_line(argv: list[str], env: Mapping[str, str]) -> str:
    from quarterdeck.session.credentials import child_environment

    try:
        done = subprocess.run(
            argv, env=child_environment(env), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_VERSION_TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "(did not say its version)"
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:100] if lines else "(did not say its version)"


def _config(directory: Path) -> Check:
    if not directory.exists():
        parent = next(p for p in directory.parents if p.exists())
        if os.access(parent, os.W_OK):
            return Check("config", "ok", f"{directory} will be made by the engine")
        return Check(
            "config", "fail", f"{parent} cannot be written", f"chown it, or chmod u+w {parent}"
        )
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        fix = f"chmod u+rwx {directory}, as its owner"
        return Check("config", "fail", f"{directory} cannot be written: {error.strerror}", fix)
    return Check("config", "ok", f"{directory} can be written")


def _credentials(env: Mapping[str, str]) -> Check:
    from quarterdeck.session.credentials import inherited_credentials

    names = inherited_credentials(env)
    if not names:
        return Check("credentials", "ok", "none in the environment")
    return Check("credentials", "info", f"not passed on to agents: {', '.join(names)}")


def _locks(env: Mapping[str, str]) -> Check:
    from quarterdeck.session.lock import state_dir

    directory = state_dir(env) / "locks"
    held = sum(_is_held(path) for path in directory.glob("*.lock")) if directory.is_dir() else 0
    return Check("locks", "ok", f"{held} sessions are open" if held != 1 else "1 session is open")


def _is_held(path: Path) -> bool:
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _sessions(directory: Path, env: Mapping[str, str]) -> Check:
    root = directory / "projects"
    count = sum(1 for _ in root.glob("*/*.jsonl")) if root.is_dir() else 0
    return Check("sessions", "ok", f"{count} session files below {root}")
