"""`demo`: the main job, offline. The real agent repairs a real repository; only its model is scripted."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from quarterdeck.cli import asking, exit_codes, results
from quarterdeck.cli.output import Screen
from quarterdeck.cli.turn_printer import TurnPrinter
from quarterdeck.errors import QuarterdeckError, UsageError

if TYPE_CHECKING:
    from quarterdeck.model import Exit
    from quarterdeck.session.client import Client
    from quarterdeck.session.decisions import Allow, Defer, Deny, PermissionContext
    from quarterdeck.session.turns import TurnResult

PROMPT = "The test fails. Find out why, repair the code, and run the test again."
SCRIPT = Path(__file__).with_name("demo.yaml")
TEST = ("python3", "-m", "unittest", "-q")
ALLOWED = ("Read", "Edit", "Bash(python3 -m unittest:*)")
DENIED = ("Bash(curl:*)",)
FILES = {
    "prices.py": "def discounted(price, percent):\n    return price + price * percent / 100\n",
    "test_prices.py": (
        "import unittest\n\nfrom prices import discounted\n\n\n"
        "class Prices(unittest.TestCase):\n"
        "    def test_discount(self):\n"
        "        self.assertEqual(discounted(200, 10), 180)\n"
    ),
    ".gitignore": "__pycache__/\n",
}
_STEP_TIMEOUT = 30.0  # seconds for git or the test
_TURN_TIMEOUT = 120.0  # seconds


def demo(
    *,
    keep: bool = False,
    color: Annotated[bool | None, Parameter(negative="--no-color")] = None,
    engine_path: str | None = None,
) -> int:
    """Show the main job, offline and without an account: the real Claude Code
    repairs a failing test in a scratch repository, under a permission policy.
    Only the model is scripted. At the end everything is checked; exits with 0
    only if all of it holds.

    Nothing of yours is touched: home and configuration are throw-away
    directories.

    Parameters
    ----------
    keep: bool
        Keep the scratch directory.
    color: bool
        Colours or none, whatever the terminal is.
    engine_path: str
        Claude Code's program.
    """
    screen = Screen(color=color)
    scratch = Path(tempfile.mkdtemp(prefix="quarterdeck-demo-"))
    try:
        return asyncio.run(_Demo(scratch, screen, engine_path).show())
    finally:
        if keep:
            screen.line(f"kept: {scratch}", "dim")
        else:
            shutil.rmtree(scratch, ignore_errors=True)


class _Demo:
    def __init__(self, scratch: Path, screen: Screen, engine_path: str | None) -> None:
        self._screen = screen
        self._engine_path = engine_path
        self._home = scratch / "home"
        self._config = scratch / "config"
        self._repository = scratch / "repository"
        self._env = _environment(self._home)
        self._decisions: list[tuple[str, bool]] = []

    async def show(self) -> int:
        """The five steps; returns the exit code."""
        from quarterdeck.gateway.server import ModelServer
        from quarterdeck.session.engines import claude_program

        program = await asyncio.to_thread(claude_program, self._engine_path)
        self._screen.line("Quarterdeck demo: an agent repairs a failing test, offline", "bold")
        self._explain(
            "REAL",
            f"Claude Code {program.version} and its tools; git; the test; the policy",
        )
        self._explain("SCRIPTED", "the model: what it says is written in demo.yaml")
        self._prepare()
        self._step("The scripted model", "SCRIPTED")
        server = ModelServer(SCRIPT, variables={"repository": str(self._repository)})
        async with server:
            self._screen.line(f"   listens on {server.url}; nothing leaves this machine")
            result, ended = await self._work(server.url, server.token, program.path)
        self._show_result(result)
        return self._verify(result, ended)

    # -- steps --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._step("A repository with a failing test", "REAL")
        for directory in (self._home, self._config, self._repository):
            directory.mkdir(mode=0o700)
        for name, text in FILES.items():
            (self._repository / name).write_text(text)
        self._git("init", "-q", "-b", "main")
        self._git("add", "-A")
        self._git("commit", "-q", "-m", "A discount that is none")
        passed, said = self._test()
        self._screen.line(
            f"   $ {' '.join(TEST)}   {'passes?!' if passed else 'fails, as it should'}"
        )
        self._screen.line("   " + next((x for x in said.splitlines() if "Error:" in x), ""), "dim")
        if passed:
            raise UsageError("the demo's test passes before anything was repaired")

    async def _work(self, url: str, token: str, program: str) -> tuple[TurnResult, Exit | None]:
        from quarterdeck.engine.options import Gateway
        from quarterdeck.session.client import Client

        self._step("The agent at work", "REAL")
        self._screen.line(
            f"   policy: allow {', '.join(ALLOWED)}; deny {', '.join(DENIED)} and the rest"
        )
        self._screen.line(f"   prompt: {PROMPT}")
        self._screen.line(
            "   below: plain lines are the scripted model; ● ✓ ✗ ? are the real agent", "dim"
        )
        started = time.monotonic()
        client = Client(
            cwd=str(self._repository),
            executable=program,
            config_dir=str(self._config),
            env=self._agent_env(),
            auth=Gateway(url, token),
            can_use_tool=self._decide_with(_policy()),
            turn_timeout=_TURN_TIMEOUT,
        )
        async with client:
            self._screen.line(f"   ready after {time.monotonic() - started:.1f} s")
            self._screen.line()
            result = await self._turn(client)
        return result, client.exit

    async def _turn(self, client: Client) -> TurnResult:
        handle = await client.send(PROMPT)
        printer = TurnPrinter(self._screen, lines=True, inline=True, permissions=False)
        async for event in client.follow(handle):
            printer.show(event)
        result = await handle
        printer.finish(result)
        return result

    def _agent_env(self) -> dict[str, str]:
        names = ("HOME", "PATH", "TMPDIR", "PYTHONDONTWRITEBYTECODE")
        return {name: self._env[name] for name in names}

    def _decide_with(self, policy: Any) -> Any:
        """The policy as it is, told aloud."""

        async def decide(
            tool_name: str, tool_input: dict[str, Any], context: PermissionContext
        ) -> Allow | Deny | Defer:
            from quarterdeck.session.decisions import Allow

            decision: Allow | Deny | Defer = policy(tool_name, tool_input, context)
            allowed = isinstance(decision, Allow)
            lines = asking.describe(tool_name, tool_input, lambda _: None)
            self._decisions.append((" ".join(lines), allowed))
            self._screen.line(f"? permission: {lines[0]}", "yellow")
            for line in lines[1:]:
                self._screen.line(f"    {line}", asking.style_of(line))
            word = "allowed by the policy" if allowed else "DENIED by the policy"
            self._screen.line(f"  {word}", "green" if allowed else "red")
            return decision

        return decide

    def _show_result(self, result: TurnResult) -> None:
        self._step("The result", "REAL")
        self._screen.line(
            f"   {results.summary(result)} (cost as the engine reckons it; nobody was paid)"
        )
        self._screen.line("   tools:")
        begin = min((t.started_at for t in result.tool_executions), default=0.0)
        for tool in result.tool_executions:
            took = f"{tool.duration:5.2f} s" if tool.duration is not None else "      ?"
            mark, style = ("✗", "red") if tool.is_error else ("✓", "green")
            line = f"     +{tool.started_at - begin:5.2f} s  {took}  {mark} {tool.summary(70)}"
            self._screen.line(line, style)
        self._screen.line("   changed files:")
        for name in result.files_changed:
            self._screen.line(f"     {name}")
        for line in self._git("diff", "--no-color").splitlines():
            self._screen.line(f"     {line}", asking.style_of(line))

    def _verify(self, result: TurnResult, ended: Exit | None) -> int:
        self._step("Checked, not believed", "REAL")
        passed, _ = self._test()
        changed = self._git("diff", "--name-only").split()
        denied = [label for label, allowed in self._decisions if not allowed]
        checks = {
            "the engine's own record says that the turn completed": result.ok,
            "the test passes, run by Quarterdeck itself": passed,
            "git sees a change in prices.py and nowhere else": changed == ["prices.py"],
            "the policy denied the download, and only that": len(denied) == 1
            and "curl" in denied[0],
            "the agent's whole process tree is gone": ended is not None and ended.clean,
        }
        for what, holds in checks.items():
            self._screen.line(f"   {'✓' if holds else '✗'} {what}", "green" if holds else "red")
        good = all(checks.values())
        text = (
            "All of it holds."
            if good
            else "Not all of it holds; please report this with `quarterdeck doctor`."
        )
        self._screen.line(f"\n{text}", "bold")
        return exit_codes.OK if good else exit_codes.FAILED

    # -- little helpers -----------------------------------------------------------------------------

    def _step(self, title: str, kind: str) -> None:
        self._screen.line()
        self._explain(kind, title)

    def _explain(self, kind: str, text: str) -> None:
        head = self._screen.paint(
            f"{kind:<8}", "cyan" if kind == "REAL" else "yellow", self._screen.out
        )
        self._screen.out.write(head + "  ")
        self._screen.line(text, "bold")

    def _git(self, *words: str) -> str:
        code, out = self._run(("git", *words))
        if code:
            raise QuarterdeckError(
                f"git {words[0]} failed: {out.strip()[:500]}", remedy="is git installed?"
            )
        return out

    def _test(self) -> tuple[bool, str]:
        code, out = self._run(TEST)
        return code == 0, out

    def _run(self, argv: tuple[str, ...]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                argv, cwd=self._repository, env=dict(self._env), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_STEP_TIMEOUT, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise UsageError(f"{argv[0]} was not found", remedy=f"install {argv[0]}") from None
        return done.returncode, done.stdout.decode("utf-8", "replace")


def _policy() -> Any:
    from quarterdeck.session.permissions import Policy

    return Policy(allow=ALLOWED, deny=DENIED, default="deny")


def _environment(home: Path) -> Mapping[str, str]:
    """For git and the test: nothing of the person's own settings, and the Python that runs this."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LC_ALL": "C",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "Quarterdeck demo" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "demo@localhost" for who in ("AUTHOR", "COMMITTER")},
    }
