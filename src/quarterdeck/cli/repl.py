"""`repl`: talking with the agent at the keyboard."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from quarterdeck.cli import asking, exit_codes, failures, results
from quarterdeck.cli.engine_options import EngineOptions, to_options
from quarterdeck.cli.output import Screen
from quarterdeck.cli.sanitize import sanitize
from quarterdeck.cli.turn_printer import TurnPrinter
from quarterdeck.errors import (
    EngineDied,
    EngineWedged,
    QuarterdeckError,
    SessionClosed,
    UsageError,
)
from quarterdeck.model import PermissionMode

if TYPE_CHECKING:
    from quarterdeck.session.client import Client
    from quarterdeck.session.decisions import Allow, Deny, PermissionContext
    from quarterdeck.session.handle import TurnHandle

HELP = """\
:help             this text
:cost             what the session has cost
:model NAME       use another model from the next request on
:mode MODE        permission mode: default, acceptEdits, plan, dontAsk
:interrupt        interrupt what still runs (while a turn runs: Ctrl-C)
exit, Ctrl-D      end the session
Lines that begin with a slash go to the agent as its own commands.
Alt-Enter begins a new line."""
_MAX_FILE = 1024 * 1024  # bytes of a file that a diff is made with
_NOT_ASKED = "Nobody is at the keyboard to answer."

Ask = Callable[[str], Awaitable[str]]
"""Shows a question and gives the line that was typed. Raises EOFError, KeyboardInterrupt."""


def repl(
    profile: str | None = None,
    /,
    *,
    engine: EngineOptions | None = None,
) -> int:
    """Talk with the agent. The answer streams, tools show as lines, permission
    is asked for with the command or the change. Ctrl-C interrupts the turn,
    `exit` ends the session, `:help` tells the rest. Alt-Enter begins a new
    line.

    When standard input is no terminal, each line of it is a prompt and what
    needs permission is denied.

    Parameters
    ----------
    profile: str
        There is only the built-in one, `default`.
    """
    if profile not in (None, "default"):
        raise UsageError(
            f"there is no profile {profile!r}", remedy="leave it out, or use `default`"
        )

    async def session() -> int:
        return await _Repl(engine or EngineOptions(), Screen()).go()

    return asyncio.run(session())


class _Repl:
    def __init__(self, engine: EngineOptions, screen: Screen) -> None:
        self._screen = screen
        self._tty = sys.stdin.isatty()
        self._ask: Ask = _keyboard() if self._tty else _plain_lines()
        self._asking = asyncio.Lock()
        self._options = to_options(engine, can_use_tool=self._decide)
        self._cwd = Path(self._options.cwd or Path.cwd())
        self._handle: TurnHandle | None = None
        self._printer: TurnPrinter | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._shown_turns = 0

    async def go(self) -> int:
        from quarterdeck.session.client import Client

        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None
        terminated: list[bool] = []

        def terminate() -> None:
            terminated.append(True)
            main.cancel()

        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            client = Client(self._options)
            try:
                async with client:
                    self._banner(client)
                    await self._talk(client)
            except QuarterdeckError as error:
                self._screen.end_line()
                failures.name_the_session(error, client.engine_session_id)
                raise
            self._screen.note(f"session {client.engine_session_id}", "dim")
            return exit_codes.OK
        except asyncio.CancelledError:
            if terminated:
                return exit_codes.TERMINATED
            raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)

    def _banner(self, client: Client) -> None:
        version = client.program.version if client.program is not None else ""
        self._screen.line(f"Claude Code {version} in {self._cwd}; :help, exit", "dim")
        if not self._tty:
            self._screen.note("no keyboard: what needs permission will be denied", "yellow")

    async def _talk(self, client: Client) -> None:
        while True:
            self._show_strays(client)
            try:
                typed = (await self._ask("> ")).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._screen.line("(exit or Ctrl-D ends the session)", "dim")
                continue
            if typed in ("exit", "quit"):
                return
            try:
                if typed.startswith(":"):
                    await self._command(client, typed)
                elif typed:
                    await self._turn(client, typed)
            except (EngineDied, EngineWedged, SessionClosed):
                raise
            except QuarterdeckError as error:
                self._screen.note("\n".join(failures.lines(error)), "red")

    async def _turn(self, client: Client, prompt: str) -> None:
        self._handle = handle = await client.send(prompt, keep=False)
        printer = TurnPrinter(
            self._screen, lines=True, inline=True, permissions=False,
            timeout=self._options.turn_timeout,
        )  # fmt: skip
        self._printer = printer
        try:
            async for event in client.follow(handle):
                printer.show(event)
            result = await handle
        finally:
            self._handle = None
        printer.finish(result)
        self._shown_turns = len(client.turns)
        self._screen.line(f"— {results.summary(result)}", "dim")

    def _show_strays(self, client: Client) -> None:
        """Turns that the engine made by itself since the last one, when a background task was done."""
        for turn in client.turns[self._shown_turns :]:
            text = turn.text or turn.result_text
            if not turn.prompt and failures.said([text]):
                self._screen.line(f"· meanwhile: {text}", "dim")
        self._shown_turns = len(client.turns)

    def _interrupt(self) -> None:
        handle = self._handle
        if handle is None or handle.done:
            return
        self._screen.line("interrupting...", "yellow")
        self._mark_interrupted()
        task = asyncio.ensure_future(_quietly(handle.interrupt()))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _mark_interrupted(self) -> None:
        if self._printer is not None:
            self._printer.interrupted = True

    # -- commands of our own ------------------------------------------------------------------------

    async def _command(self, client: Client, typed: str) -> None:
        word, _, rest = typed.partition(" ")
        rest = rest.strip()
        match word:
            case ":help":
                self._screen.line(HELP)
            case ":cost":
                totals = client.totals
                self._screen.line(
                    f"${totals.cost_usd:.4f} · {totals.usage.total_tokens} tokens · {totals.turns} turns"
                )
            case ":model" if rest:
                await client.set_model(rest)
                self._screen.line(f"model {rest} from the next request on", "dim")
            case ":mode" if rest in get_args(PermissionMode):
                await client.set_permission_mode(rest)  # type: ignore[arg-type]
                self._screen.line(f"permission mode {rest}", "dim")
            case ":interrupt":
                await client.interrupt(drain=True)
            case _:
                self._screen.line(f"no such command: {typed}; see :help", "yellow")

    # -- permissions --------------------------------------------------------------------------------

    async def _decide(
        self, tool_name: str, tool_input: dict[str, Any], context: PermissionContext
    ) -> Allow | Deny:
        from quarterdeck.session.decisions import Deny

        if not self._tty:
            self._screen.note(f"! denied, nobody can be asked: {tool_name}", "yellow")
            return Deny(_NOT_ASKED)
        async with self._asking:
            _forget_typed_ahead()
            try:
                if tool_name == "AskUserQuestion":
                    return await self._question(tool_input)
                return await self._permission(tool_name, tool_input, context)
            except (EOFError, KeyboardInterrupt):
                self._mark_interrupted()
                return Deny("The user interrupted.", interrupt=True)

    async def _permission(
        self, tool_name: str, tool_input: dict[str, Any], context: PermissionContext
    ) -> Allow | Deny:
        from quarterdeck.session.decisions import Allow, Deny

        lines = asking.describe(tool_name, tool_input, self._read_file)
        self._screen.line(f"? {lines[0]}", "yellow")
        for line in lines[1:]:
            self._screen.line(f"    {line}", asking.style_of(line))
        if context.reason:
            self._screen.line(f"    {context.reason}", "dim")
        updates = context.updates
        choices = "[y]es  [n]o"
        if updates:
            meant = "; ".join(asking.describe_update(u.to_wire()) for u in updates)
            choices = f"[y]es  [a]lways ({meant})  [n]o"
        while True:
            match (await self._ask(f"  {choices}: ")).strip().lower():
                case "y" | "yes":
                    return Allow()
                case "a" | "always" if updates:
                    return Allow(updated_permissions=updates)
                case "n" | "no":
                    reason = (await self._ask("  reason (may be empty): ")).strip()
                    return Deny(reason) if reason else Deny("The user said no.")
            self._screen.line("  answer y, n" + (" or a" if updates else ""), "dim")

    async def _question(self, tool_input: dict[str, Any]) -> Allow | Deny:
        from quarterdeck.session.decisions import Allow, Deny

        questions = tool_input.get("questions")
        answers: dict[str, str] = {}
        for question in questions if isinstance(questions, list) else []:
            if not isinstance(question, dict) or not isinstance(question.get("question"), str):
                continue
            for number, line in enumerate(asking.question_lines(question)):
                self._screen.line(
                    f"? {line}" if number == 0 else f"  {line}", "yellow" if not number else ""
                )
            chosen = None
            while chosen is None:
                chosen = asking.choose(question, await self._ask("  answer: "))
            answers[question["question"]] = ", ".join(chosen)
        return (
            Allow({**tool_input, "answers": answers}) if answers else Deny("There was no question.")
        )

    def _read_file(self, path: str) -> str | None:
        try:
            with (self._cwd / path).open("rb") as file:
                return file.read(_MAX_FILE).decode("utf-8", "replace")
        except OSError:
            return None


async def _quietly(work: Awaitable[object]) -> None:
    """The turn raises the same error to whoever follows it."""
    with contextlib.suppress(QuarterdeckError):
        await work


def _plain_lines() -> Ask:
    """Lines of standard input. The thread may wait for ever: it must not hold up the program's end."""
    lines: asyncio.Queue[str] = asyncio.Queue(maxsize=1)
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(
            RuntimeError, concurrent.futures.CancelledError
        ):  # the loop is gone
            line = "start"
            while line:
                line = sys.stdin.readline()
                asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()

    reader = threading.Thread(target=read, daemon=True)

    async def ask(_: str) -> str:
        if reader.ident is None:
            reader.start()
        line = await lines.get()
        if not line:
            raise EOFError
        return line

    return ask


def _keyboard() -> Ask:
    """Lines with editing and history; questions stand outside the history."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")  # the same, typed before the prompt was there
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    path = history_file()
    history = FileHistory(str(path)) if path is not None else InMemoryHistory()
    prompts: PromptSession[str] = PromptSession(history=history, key_bindings=keys)
    answers: PromptSession[str] = PromptSession(history=InMemoryHistory())

    async def ask(question: str) -> str:
        session = prompts if question == "> " else answers
        typed: str = await session.prompt_async(sanitize(question), handle_sigint=False)
        return typed

    return ask


def _forget_typed_ahead() -> None:
    """What was typed before a question was shown must not answer it."""
    import termios

    from prompt_toolkit.input import create_input
    from prompt_toolkit.input.typeahead import clear_typeahead

    with contextlib.suppress(OSError, termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    clear_typeahead(create_input())


def history_file() -> Path | None:
    """The file of what was typed, for this user only; None when it cannot be made so."""
    from quarterdeck.session.lock import state_dir

    path = state_dir() / "repl_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        os.close(fd)
    except OSError:
        return None
    return path
