"""`run` and `resume`: one prompt, one turn."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from quarterdeck.cli import exit_codes, failures, results
from quarterdeck.cli.engine_options import EngineOptions, to_options
from quarterdeck.cli.output import Screen
from quarterdeck.cli.turn_printer import TurnPrinter
from quarterdeck.engine import events as ev
from quarterdeck.errors import OptionError, QuarterdeckError, UsageError

if TYPE_CHECKING:
    from quarterdeck.session.client import Client
    from quarterdeck.session.handle import TurnHandle
    from quarterdeck.session.options import Options
    from quarterdeck.session.turns import TurnResult

Form = Literal["text", "json", "stream-json"]
MAX_PROMPT = 16 * 1024 * 1024  # bytes


def run(
    prompt: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    engine: EngineOptions | None = None,
    file: Path | None = None,
    attach: list[Path] | None = None,
    json: bool = False,
    stream_json: bool = False,
    verbose: bool = False,
) -> int:
    """Give the agent one prompt and wait for the end of its turn.

    The answer goes to standard output as it comes, what the agent does to
    standard error. Nobody is asked for permission: what the options do not allow
    is denied, and a turn with denied calls exits with 4. A prompt that begins
    with a dash goes behind `--`.

    Parameters
    ----------
    prompt: str
        What to do; without it standard input is read.
    file: Path
        Read the prompt from this file.
    attach: Path
        Give the agent this file: text, PNG, JPEG, GIF, WebP or PDF. Repeatable.
    json: bool
        Print the turn's result as one JSON object.
    stream_json: bool
        Print every event as a line of JSON, and the turn's result last.
    verbose: bool
        Show tool lines also when standard error is no terminal; tracebacks for errors.
    """
    form = _form(json, stream_json)
    engine = engine or EngineOptions()
    text = read_prompt(prompt, file)
    return execute(to_options(engine), text, attach or (), form, verbose)


def resume(
    name: str,
    prompt: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    engine: EngineOptions | None = None,
    json: bool = False,
    stream_json: bool = False,
    verbose: bool = False,
) -> int:
    """Go on with a session: one turn with a prompt, at the keyboard without.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    prompt: str
        What to do.
    json: bool
        Print the turn's result as one JSON object.
    stream_json: bool
        Print every event as a line of JSON, and the turn's result last.
    verbose: bool
        Show tool lines also when standard error is no terminal; tracebacks for errors.
    """
    form = _form(json, stream_json)
    engine = engine or EngineOptions()
    if engine.resume is not None or engine.continue_last:
        raise UsageError(
            "resume names its session already", remedy="leave --resume and --continue out"
        )
    engine = replace(engine, resume=name)
    if prompt is None:
        if form != "text":
            raise UsageError(f"--{form} needs a prompt")
        from quarterdeck.cli.repl import repl

        return repl(engine=engine)
    return execute(to_options(engine), prompt, (), form, verbose)


def _form(json: bool, stream_json: bool) -> Form:
    if json and stream_json:
        raise UsageError("--json and --stream-json exclude each other", remedy="use one of the two")
    return "json" if json else "stream-json" if stream_json else "text"


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from the argument, the file, or standard input. Raises UsageError, OptionError."""
    if prompt is not None and file is not None:
        raise UsageError("a prompt and --file exclude each other", remedy="use one of the two")
    if prompt is None:
        if file is None and sys.stdin.isatty():
            raise UsageError(
                "there is no prompt",
                remedy="quarterdeck run 'PROMPT', --file FILE, or standard input",
            )
        prompt = _read_text(file)
    if not prompt.strip():
        raise UsageError("the prompt is empty")
    return prompt


def _read_text(file: Path | None) -> str:
    name = "standard input" if file is None else str(file)
    try:
        if file is None:
            data = sys.stdin.buffer.read(MAX_PROMPT + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_PROMPT + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise OptionError("file", name, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(
            "file", name, "is not UTF-8 text", remedy="use --attach for files"
        ) from None
    if len(data) > MAX_PROMPT:
        raise OptionError("file", name, f"is larger than {MAX_PROMPT} bytes")
    return text


def execute(
    options: Options, prompt: str, attach: Sequence[Path], form: Form, verbose: bool = False
) -> int:
    """Run one turn and return the exit code. Raises what Client.connect and Client.send raise."""
    from quarterdeck.session.prompts import with_attachments

    with_attachments(prompt, attach)  # wrong files are told before anything starts
    screen = Screen()
    return asyncio.run(_Run(options, prompt, attach, form, screen, verbose).go())


class _Run:
    """One turn with its signals: the first Ctrl-C interrupts the turn, the second ends the agent."""

    def __init__(
        self,
        options: Options,
        prompt: str,
        attach: Sequence[Path],
        form: Form,
        screen: Screen,
        verbose: bool,
    ) -> None:
        self._options = options
        self._prompt = prompt
        self._attach = attach
        self._form = form
        self._screen = screen
        self._lines = verbose or screen.err_is_tty
        self._handle: TurnHandle | None = None
        self._printer: TurnPrinter | None = None
        self._signals = 0
        self._terminated = False
        self._interrupting: asyncio.Task[object] | None = None

    async def go(self) -> int:
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt, main)
        loop.add_signal_handler(signal.SIGTERM, self._on_terminate, main)
        try:
            return await self._session()
        except asyncio.CancelledError:
            self._screen.end_line()
            if self._terminated:
                return exit_codes.TERMINATED
            if self._signals:
                return exit_codes.INTERRUPTED
            raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)

    async def _session(self) -> int:
        from quarterdeck.session.client import Client

        client = Client(self._options)
        try:
            async with client:
                result = await self._turn(client)
        except UsageError:
            raise
        except QuarterdeckError as error:
            self._screen.end_line()
            failures.name_the_session(error, client.engine_session_id)
            self._report_error(error)
            raise
        self._report(result)
        if self._options.persist and result.num_turns and not client.is_saved():
            self._screen.note(
                "! the session was not saved: the engine wrote no transcript (is the disk full, is its "
                "configuration directory writable?); it cannot be resumed",
                "yellow",
            )
        return results.exit_code(result)

    def _report_error(self, error: QuarterdeckError) -> None:
        """For programs; what a person reads is said where all errors are."""
        if self._form == "json":
            self._screen.json(failures.to_json(error))
        elif self._form == "stream-json":
            self._screen.data(failures.to_line(error))

    async def _turn(self, client: Client) -> TurnResult:
        keep = self._form != "text"
        handle = await client.send(self._prompt, attachments=self._attach, keep=keep)
        self._handle = handle
        printer = TurnPrinter(self._screen, lines=self._lines, timeout=self._options.turn_timeout)
        self._printer = printer
        shown = self._form != "json"
        async for event in client.follow(handle):
            if self._form == "stream-json":
                self._screen.data(ev.to_line(event))
            elif shown:
                printer.show(event)
        result = await handle
        if self._form == "text":
            printer.finish(result)
        return result

    def _report(self, result: TurnResult) -> None:
        if self._form == "json":
            self._screen.json(results.to_json(result))
        elif self._form == "stream-json":
            self._screen.data(results.to_line(result))
        else:
            if result.structured_output is not None:
                self._screen.json(result.structured_output)
            for denial in result.permission_denials:
                label = ev.ToolUseBlock("", denial.tool_name, denial.tool_input).summary(100)
                self._screen.note(f"! denied: {label}", "yellow")
            if self._lines:
                self._screen.note(results.summary(result), "dim")

    def _on_interrupt(self, main: asyncio.Task[object]) -> None:
        self._signals += 1
        if self._signals == 1 and self._handle is not None and not self._handle.done:
            self._screen.note("interrupting the turn; once more ends the agent", "yellow")
            if self._printer is not None:
                self._printer.interrupted = True
            self._interrupting = asyncio.ensure_future(self._interrupt(self._handle))
        else:
            main.cancel()

    async def _interrupt(self, handle: TurnHandle) -> None:
        with contextlib.suppress(QuarterdeckError):  # the turn itself raises it as well
            await handle.interrupt()

    def _on_terminate(self, main: asyncio.Task[object]) -> None:
        self._terminated = True
        main.cancel()
