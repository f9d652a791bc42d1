"""The front of the command line: which commands there are, how errors look, what it exits with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from quarterdeck.cli import exit_codes
from quarterdeck.cli.writing import writing
from quarterdeck.errors import QuarterdeckError, UsageError

if TYPE_CHECKING:
    from cyclopts import App


class Command(NamedTuple):
    """A subcommand: `target` is imported when it is called; `examples` end its `--help`."""

    name: str
    target: str
    help: str
    examples: tuple[str, ...]


GROUPS: dict[str, tuple[Command, ...]] = {
    "Start": (
        Command("demo", "demo:demo", "See the main job done, offline, with a scripted model.",
                ("quarterdeck demo", "quarterdeck demo --keep")),
        Command("doctor", "doctor:doctor", "Find the engines; say what is missing and how to fix it.",
                ("quarterdeck doctor", "quarterdeck doctor --json")),
    ),
    "Work": (
        Command("run", "run:run", "One prompt, one turn.",
                ("quarterdeck run 'fix the failing test' --allow Edit,Bash",
                 "git diff | quarterdeck run --tools '' --json",
                 "quarterdeck run --resume 'login bug' 'now add a test' --timeout 600")),
        Command("repl", "repl:repl", "Talk with the agent at the keyboard.",
                ("quarterdeck repl", "quarterdeck repl --continue --permission-mode acceptEdits")),
        Command("resume", "run:resume", "Go on with an earlier session.",
                ("quarterdeck resume 'login bug'", "quarterdeck resume 3f2a 'and now the docs'")),
    ),
    "Sessions": (
        Command("list", "sessions:list_sessions", "Sessions of this directory, or all of them.",
                ("quarterdeck list", "quarterdeck list --all --limit 50 -o json")),
        Command("history", "sessions:history", "What was said in a session.",
                ("quarterdeck history 3f2a", "quarterdeck history 'login bug' -o json")),
        Command("search", "sessions:search", "Find text in sessions.",
                ("quarterdeck search 'race condition'", "quarterdeck search flaky --all -o json")),
        Command("export", "exporting:export", "A session as Markdown, JSON or HTML.",
                ("quarterdeck export 3f2a --format html > session.html",)),
        Command("import", "sessions:import_session", "Take in a session file from elsewhere.",
                ("quarterdeck import session.jsonl --cwd .",)),
        Command("fork", "sessions:fork", "Copy a session; prints the new id.",
                ("quarterdeck fork 3f2a --title 'second try'",)),
        Command("rename", "sessions:rename", "Give a session a title.",
                ("quarterdeck rename 3f2a 'login bug'",)),
        Command("tag", "sessions:tag", "Put a tag on a session, or take it away.",
                ("quarterdeck tag 3f2a release", "quarterdeck tag 3f2a --clear")),
        Command("delete", "sessions:delete", "Delete a session and its files.",
                ("quarterdeck delete 3f2a", "quarterdeck delete 3f2a --yes")),
    ),
    "Tools": (
        Command("model", "model:model", "Serve a scripted model for the real engines.",
                ("quarterdeck model --script replies.yaml",
                 "quarterdeck model --script replies.yaml --port 8123 --set name=world")),
        Command("replay", "replay:replay", "Put a recorded run through the protocol core.",
                ("quarterdeck replay run.ndjson", "quarterdeck replay - < run.ndjson")),
        Command("completion", "completion:completion", "Print shell completion.",
                ("quarterdeck completion bash >> ~/.bash_completion",
                 "quarterdeck completion zsh > ~/.zfunc/_quarterdeck",
                 "quarterdeck completion fish > ~/.config/fish/completions/quarterdeck.fish")),
    ),
}  # fmt: skip

_SHOWS_MORE = (["run"], ["resume"])  # for these --verbose has a meaning of its own as well

_RUNS_TURNS = ("run", "resume")

SUMMARY = "Run real coding agents dependably."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; prints errors, raises nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in words
    try:
        code = _dispatch(words if words[:1] in _SHOWS_MORE else _without_verbose(words))
        with writing("standard output"):
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return exit_codes.BROKEN_PIPE
    except QuarterdeckError as error:
        return _report(error, verbose)
    except OSError as error:
        return _report_os_error(error, verbose)
    except Exception as error:
        return _report_unknown(error, verbose)


def build() -> App:
    """The parser, with all commands; their modules load when they are called."""
    from cyclopts import App, Parameter

    quiet = Parameter(negative_bool="", negative_iterable="", consume_multiple=False)
    app = App(
        name="quarterdeck",
        help=SUMMARY,
        help_format="plaintext",
        help_formatter="plain",
        version=_version,
        default_parameter=quiet,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for group, commands in GROUPS.items():
        for command in commands:
            app.command(
                f"quarterdeck.cli.{command.target}",
                name=command.name,
                group=group,
                help_epilogue=_epilogue(command),
            )
    return app


def _dispatch(words: list[str]) -> int:
    if words in ([], ["--help"], ["-h"]):
        sys.stdout.write(overview())
        return exit_codes.OK if words else exit_codes.USAGE
    if words == ["--version"]:
        sys.stdout.write(_version() + "\n")
        return exit_codes.OK
    from cyclopts import CycloptsError

    try:
        value: Any = build()(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(
            " ".join(str(error).split()), remedy=f"see `{_help_line(words)}`"
        ) from None
    return value if isinstance(value, int) else exit_codes.OK


def _without_verbose(words: list[str]) -> list[str]:
    end = words.index("--") if "--" in words else len(words)
    return [w for w in words[:end] if w != "--verbose"] + words[end:]


def overview() -> str:
    """`quarterdeck --help`, made without the parser: it is asked for often and has to be quick."""
    lines = ["Usage: quarterdeck COMMAND [ARGS] [OPTIONS]", "", SUMMARY]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {c.name:<12}{c.help}" for c in commands)]
    lines += [
        "",
        "Every command has --help with examples, and --verbose for tracebacks.",
        "",
        "Exit codes:",
        exit_codes.table(),
    ]
    return "\n".join(lines) + "\n"


def _epilogue(command: Command) -> str:
    examples = "\n".join(f"  {line}" for line in command.examples)
    codes = f"Exit codes:\n{exit_codes.table()}"
    if command.name not in _RUNS_TURNS:
        codes = "Exit codes: see `quarterdeck --help`"
    return f"Examples:\n{examples}\n\n{codes}"


def _help_line(words: list[str]) -> str:
    names = {c.name for commands in GROUPS.values() for c in commands}
    return f"quarterdeck {words[0]} --help" if words[0] in names else "quarterdeck --help"


def _version() -> str:
    from quarterdeck import __version__

    return f"quarterdeck {__version__}"


def _report(error: QuarterdeckError, verbose: bool) -> int:
    from quarterdeck.cli.failures import lines
    from quarterdeck.cli.sanitize import sanitize

    _say_error(sanitize("\n".join(lines(error))), verbose)
    return error.exit_code


def _report_os_error(error: OSError, verbose: bool) -> int:
    from quarterdeck.cli.failures import CANNOT_WRITE, cannot_write
    from quarterdeck.cli.sanitize import sanitize

    if error.errno not in CANNOT_WRITE:
        return _report_unknown(error, verbose)
    _drop_stdout()
    _say_error(sanitize("\n".join(cannot_write(error))), verbose)
    return exit_codes.FAILED


def _report_unknown(error: Exception, verbose: bool) -> int:
    from quarterdeck.cli.sanitize import one_line

    text = f"error: {type(error).__name__}: {one_line(str(error), 400)}"
    hint = "" if verbose else "\n  add --verbose to see where; please report it"
    _say_error(text + hint, verbose)
    return exit_codes.FAILED


def _say_error(text: str, verbose: bool) -> None:
    if verbose:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):  # nobody is left to be told
        _write(sys.stderr, text + "\n")


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _drop_stdout() -> None:
    """Keep the interpreter from complaining at its end about what it cannot flush."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
