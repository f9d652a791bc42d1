"""`repl` as a person has it: the real engine, a scripted model, and a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Agent

pytestmark = pytest.mark.live
MakeAgent = Callable[..., Agent]
_FORWARD = re.compile(r"(\x08*)\x1b\[(\d*)C")
_STYLES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>()][0-9A-B]?)")


class Terminal:
    """A process on a terminal of its own: type, and wait for what it shows."""

    def __init__(self, run: Agent, *words: str) -> None:
        self.fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self.process = subprocess.Popen(
            run.cli.argv(*words, *run.flags),
            cwd=run.cli.cwd,
            env={**run.cli.env, **run.env, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(child)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, timeout: float = 8) -> str:
        """What was shown up to and with `text`; the next wait begins behind it."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            try:
                data = os.read(self.fd, 65536) if ready else b""
            except OSError:
                data = b""
            assert data, f"{text!r} did not come; there is:\n{self.seen}"
            self.seen += _plain(data)
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def end(self) -> int:
        """Read to the end; the exit code."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 65536):
                pass
        return self.process.wait(20)


def _plain(data: bytes) -> str:
    """What a person reads; spaces at a line's end are drawn as movements of the cursor."""
    text = _FORWARD.sub(
        lambda m: " " * (int(m[2] or 1) - len(m[1])), data.decode("utf-8", "replace")
    )
    return _STYLES.sub("", text)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(run: Agent, *words: str) -> Terminal:
        made.append(Terminal(run, *words))
        made[-1].wait_for("> ")
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        os.close(one.fd)


MakeTerminal = Callable[..., Terminal]


def test_talking_and_exit(agent: MakeAgent, terminal: MakeTerminal) -> None:
    run = agent({"text": "Good morning."}, {"text": "Good evening."})
    screen = terminal(run, "repl")
    screen.type("hello\r")
    screen.wait_for("Good morning.")
    screen.wait_for("— completed")
    screen.wait_for("> ")
    screen.type(":cost\r")
    screen.wait_for("1 turns")
    screen.type(":nonsense\r")
    screen.wait_for("no such command")
    screen.wait_for("> ")
    screen.type("again\x1b\rmore\r")
    screen.wait_for("Good evening.")
    screen.wait_for("> ")
    screen.type("exit\r")
    assert screen.end() == 0
    history = run.cli.home / ".local/state/quarterdeck/repl_history"
    assert "hello" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600
    session = run.cli("list", "-o", "json").json()[0]["engine_session_id"]
    messages = run.cli("history", session, "-o", "json").json()["messages"]
    assert [m["text"] for m in messages if m["role"] == "user"] == ["hello", "again\nmore"]


def test_permission_is_asked_with_the_change(agent: MakeAgent, terminal: MakeTerminal) -> None:
    def write(name: str) -> dict[str, object]:
        tool = {"name": "Write", "input": {"file_path": name, "content": "one\ntwo\n"}}
        return {"tools": [tool]}

    bash = {"tools": [{"name": "Bash", "input": {"command": "touch made", "description": "make"}}]}
    run = agent(write("yes.txt"), write("no.txt"), bash, {"text": "That is all."})
    screen = terminal(run, "repl")
    screen.type("write\r")
    shown = screen.wait_for("[n]o: ")
    assert "yes.txt" in shown
    assert "+one" in shown
    screen.type("what\r")
    screen.wait_for("answer y, n or a")
    screen.wait_for("[n]o: ")
    screen.type("y\r")
    screen.wait_for("no.txt")
    screen.wait_for("[n]o: ")
    screen.type("n\r")
    screen.wait_for("reason")
    screen.type("not this one\r")
    screen.wait_for("$ touch made")
    screen.wait_for("[n]o: ")
    screen.type("y\r")
    screen.wait_for("That is all.")
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.end() == 0
    assert (run.cli.cwd / "yes.txt").read_text() == "one\ntwo\n"
    assert not (run.cli.cwd / "no.txt").exists()
    assert (run.cli.cwd / "made").exists()


def test_what_was_typed_before_the_question_does_not_answer_it(
    agent: MakeAgent, terminal: MakeTerminal
) -> None:
    bash = {"tools": [{"name": "Bash", "input": {"command": "touch made"}}], "first_delay": 1}
    run = agent(bash, {"text": "That is all."})
    screen = terminal(run, "repl")
    screen.type("make\r")
    time.sleep(0.5)  # the turn runs, the question is not there yet
    screen.type("y\ry\ry\r")
    screen.wait_for("$ touch made")
    screen.wait_for("[n]o: ")
    screen.type("n\r")
    screen.wait_for("reason")
    screen.type("\r")
    screen.wait_for("That is all.")
    screen.wait_for("> ")
    screen.type("exit\r")
    assert screen.end() == 0
    assert not (run.cli.cwd / "made").exists()


def test_always_is_asked_once(agent: MakeAgent, terminal: MakeTerminal) -> None:
    def write(name: str) -> dict[str, object]:
        return {"tools": [{"name": "Write", "input": {"file_path": name, "content": "x"}}]}

    run = agent(write("a.txt"), write("b.txt"), {"text": "Both are there."})
    screen = terminal(run, "repl")
    screen.type("write\r")
    assert "acceptEdits" in screen.wait_for("[n]o: ")
    screen.type("a\r")
    assert "? Write" not in screen.wait_for("Both are there.")
    screen.wait_for("> ")
    screen.type("exit\r")
    assert screen.end() == 0
    assert (run.cli.cwd / "b.txt").exists()


def test_a_question_is_answered_by_number(agent: MakeAgent, terminal: MakeTerminal) -> None:
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    question = {"question": "Which?", "header": "Colour", "options": options, "multiSelect": False}
    ask = {"tools": [{"name": "AskUserQuestion", "input": {"questions": [question]}}]}
    run = agent(ask, {"text": "Blue it is.", "when_tool_result": "Blue"}, {"text": "Wrong."})
    screen = terminal(run, "repl")
    screen.type("paint\r")
    assert "2  Blue: cold" in screen.wait_for("answer: ")
    screen.type("2\r")
    screen.wait_for("Blue it is.")
    screen.wait_for("> ")
    screen.type("exit\r")
    assert screen.end() == 0


def test_ctrl_c_interrupts_the_turn_only(agent: MakeAgent, terminal: MakeTerminal) -> None:
    slow = {"text": "Once upon a time in a far land", "chunk": 5, "step_delay": 0.5}
    bash = {"tools": [{"name": "Bash", "input": {"command": "touch made"}}]}
    run = agent(slow, bash, {"text": "Still here."})
    screen = terminal(run, "repl")
    screen.type("\x03")
    screen.wait_for("exit or Ctrl-D ends the session")
    screen.wait_for("> ")
    screen.type("tell\r")
    screen.wait_for("Once")
    screen.type("\x03")
    screen.wait_for("— interrupted")
    screen.wait_for("> ")
    screen.type("make\r")
    screen.wait_for("[n]o: ")
    screen.type("\x03")
    screen.wait_for("— interrupted")
    screen.wait_for("> ")
    screen.type("hello\r")
    screen.wait_for("Still here.")
    screen.wait_for("> ")
    screen.type("exit\r")
    assert screen.end() == 0
    assert not (run.cli.cwd / "made").exists()


def test_a_tool_that_ctrl_c_stopped_is_one_line(agent: MakeAgent, terminal: MakeTerminal) -> None:
    run = agent({"tools": [{"name": "Bash", "input": {"command": "sleep 40"}}]})
    screen = terminal(run, "repl", "--allow", "Bash(sleep:*)")
    screen.type("wait\r")
    screen.wait_for("● Bash: sleep 40")
    time.sleep(1)  # the command runs
    screen.type("\x03")
    shown = screen.wait_for("— interrupted")
    assert "✗ Bash: sleep 40 (interrupted)" in shown
    assert "doesn't want" not in shown
    assert "ede_diagnostic" not in shown
    screen.wait_for("> ")
    screen.type("exit\r")
    assert screen.end() == 0


def test_without_a_keyboard_lines_are_prompts_and_nothing_is_allowed(agent: MakeAgent) -> None:
    bash = {"tools": [{"name": "Bash", "input": {"command": "touch made"}}]}
    run = agent({"text": "One."}, bash, {"text": "Two."})
    done = run("repl", stdin="first\nsecond\nexit\nnever\n")
    assert done.code == 0, done.err
    assert "One." in done.out
    assert "Two." in done.out
    assert "denied, nobody can be asked: Bash" in done.err
    assert not (run.cli.cwd / "made").exists()


def test_term_ends_it_also_without_a_keyboard(agent: MakeAgent) -> None:
    run = agent()
    process = subprocess.Popen(
        run.cli.argv("repl", *run.flags), cwd=run.cli.cwd, env={**run.cli.env, **run.env},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert b"Claude Code" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 143
    process.communicate()


def test_term_ends_it(agent: MakeAgent, terminal: MakeTerminal) -> None:
    screen = terminal(agent(), "repl")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 143


def test_resume_without_a_prompt_is_the_keyboard(
    agent: MakeAgent, terminal: MakeTerminal, tmp_path: Path
) -> None:
    run = agent({"text": "one"}, {"text": "two"})
    session = run("run", "first", "--json").json()["engine_session_id"]
    screen = terminal(run, "resume", session[:8])
    screen.type("second\r")
    screen.wait_for("two")
    screen.wait_for("> ")
    screen.type("exit\r")
    assert session in screen.wait_for(session)
    assert screen.end() == 0
