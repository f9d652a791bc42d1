"""The command line from outside: help, errors and exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quarterdeck.cli.main import GROUPS

from .conftest import ROOT, Cli

COMMANDS = [c.name for commands in GROUPS.values() for c in commands]


def test_help_names_every_command_and_exit_code(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(f"\n  {name}" in done.out for name in COMMANDS)
    assert " 75  " in done.out
    assert cli("-h") == done
    assert cli() == type(done)(2, done.out, "")


def test_help_is_quick(cli: Cli) -> None:
    best = 9.0
    for _ in range(3):
        start = time.monotonic()
        cli("--help")
        best = min(best, time.monotonic() - start)
    assert best < 0.3


@pytest.mark.parametrize(
    "command", GROUPS["Start"] + GROUPS["Work"] + GROUPS["Sessions"] + GROUPS["Tools"]
)
def test_every_command_has_help_with_examples(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    from quarterdeck.cli.main import Command, main

    assert isinstance(command, Command)
    assert main([command.name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: quarterdeck {command.name}" in out
    assert all(f"\n  {example}\n" in out for example in command.examples)
    assert "Exit codes:" in out
    assert "--no-" not in out.replace("--no-color", "")


def test_version(cli: Cli) -> None:
    from quarterdeck import __version__

    assert cli("--version").out == f"quarterdeck {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run", "--nonsense"],
        ["run", "x", "--json", "--stream-json"],
        ["run", "x", "--max-turns", "many"],
        ["run", "x", "--permission-mode", "yolo"],
        ["run", "x", "--timeout", "-1"],
        ["run", "x", "--file", "y"],
        ["run", "--file", "/nonexistent"],
        ["run", " "],
        ["run", "x", "--gateway-url", "https://example.com", "--gateway-token-file", "/nonexistent"],
        ["run", "x", "--resume", "nobody"],
        ["run", "x", "--schema", "/nonexistent"],
        ["run", "x", "--attach", "/nonexistent", "--engine-path", sys.executable],
        ["resume", "nobody", "x"],
        ["history", "nobody"],
        ["export", "nobody"],
        ["fork", "nobody"],
        ["delete", "nobody", "--yes"],
        ["tag", "nobody"],
        ["search", " "],
        ["list", "--limit", "-1"],
        ["list", "-o", "xml"],
        ["import", "/nonexistent"],
        ["replay", "/nonexistent"],
        ["replay"],
        ["model", "--script", "/nonexistent"],
        ["model", "--script", "/dev/null", "--set", "x"],
        ["repl", "other"],
        ["completion", "tcsh"],
        ["demo", "--keep", "extra"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_told_in_two_lines_and_exits_with_2(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    from quarterdeck.cli.main import main

    monkeypatch.setenv("HOME", str(cli.home))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        code = main(words)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert code == 2, err


def test_a_missing_engine_is_3_with_the_fix(cli: Cli) -> None:
    done = cli("run", "hello", env={"PATH": "/nonexistent"})
    assert done.code == 3
    assert "npm install -g" in done.err
    assert done.out == ""


def test_verbose_adds_the_traceback(cli: Cli) -> None:
    done = cli("history", "nobody", "--verbose")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.count("error: ") == 1


def test_a_reader_that_leaves_is_no_error(cli: Cli) -> None:
    run = ROOT / "tests/golden/claude/02-control-requests-idle.ndjson"
    big = cli.cwd / "big.ndjson"
    big.write_bytes(b'{"type":"later"}\n' * 20000)
    assert run.exists()
    process = subprocess.Popen(
        cli.argv("replay", str(big)), env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_the_commands(shell: str, cli: Cli) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    assert all(name in done.out for name in COMMANDS)
    assert "--max-budget-usd" in done.out or "max-budget-usd" in done.out
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    check = subprocess.run(
        [program, "-n"], input=done.out.encode(), capture_output=True, check=False
    )
    assert check.returncode == 0, check.stderr
