"""The guard by itself, spoken to over its control channel, and the parts it is made of."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quarterdeck import guard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the full promise is Linux's")

SRC = Path(guard.__file__).parent

# Four processes: deaf to the polite signals, one in a session of its own, one twice forked.
NASTY = """
import os, signal, sys, time
for number in (signal.SIGHUP, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
def sleeper():
    print("up", flush=True)
    time.sleep(300)
    os._exit(0)
if not os.fork(): sleeper()
if not os.fork():
    os.setsid()
    sleeper()
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    sleeper()
if sys.argv[1:]:
    while sys.stdin.buffer.read(1): pass
    os._exit(int(sys.argv[1]))
time.sleep(300)
"""


class Owner:
    """A guard and our end of its control channel."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str]) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", guard.__file__, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
            )
        self.control.settimeout(20)
        self.control.sendall(guard.pack_request(argv[0], argv, cwd, env))
        self.lines = self.control.makefile("r", encoding="utf-8")

    def line(self) -> str:
        return self.lines.readline().rstrip("\n")

    def rest(self) -> list[str]:
        return [line.rstrip("\n") for line in self.lines]

    def output(self, count: int) -> bytes:
        assert self.process.stdout is not None
        return b"".join(self.process.stdout.readline() for _ in range(count))

    def close(self) -> None:
        self.lines.close()
        self.control.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process.wait(20)


@contextmanager
def owning(*argv: str, cwd: str = "/", env: dict[str, str] | None = None) -> Iterator[Owner]:
    owner = Owner(list(argv), cwd, env or {})
    try:
        yield owner
    finally:
        owner.close()


def carrying(mark: str) -> set[int]:
    """The processes whose environment holds the mark, found without the code under test."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environ = (directory / "environ").read_bytes()
        except OSError:
            continue
        if f"QUARTERDECK_MARK={mark}".encode() in environ.split(b"\0"):
            found.add(int(directory.name))
    return found


def test_tells_start_and_exit_code_and_closes_its_own_streams() -> None:
    with owning("/bin/sh", "-c", "echo out; echo err >&2; exit 7") as owner:
        assert owner.process.stdout is not None
        assert owner.process.stderr is not None
        word, pid = owner.line().split()
        assert (word, int(pid) != owner.process.pid) == ("started", True)
        assert owner.rest() == ["exit 7 - 0"]
        assert owner.process.stdout.read() == b"out\n"
        assert owner.process.stderr.read() == b"err\n"


def test_tells_the_signal_that_ended_the_program() -> None:
    with owning("/bin/sleep", "100") as owner:
        owner.line()
        owner.control.sendall(b"signal 10\n")
        assert owner.rest() == ["exit - 10 0"]


@pytest.mark.parametrize(
    ("program", "cwd", "answer"),
    [
        ("/nonexistent/program", "/", f"failed exec {errno.ENOENT}"),
        ("/etc", "/", f"failed exec {errno.EACCES}"),
        ("/bin/true", "/nonexistent", f"failed cwd {errno.ENOENT}"),
    ],
)
def test_tells_why_nothing_was_started(program: str, cwd: str, answer: str) -> None:
    with owning(program, cwd=cwd) as owner:
        assert owner.rest() == [answer]
        assert owner.process.wait(20) == 0


def test_signals_are_at_their_defaults_in_the_program() -> None:
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, 40)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        with owning("/bin/cat", "/proc/self/status") as owner:
            assert owner.process.stdout is not None
            status = dict(line.split(b":\t") for line in owner.process.stdout.read().splitlines())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        for number, handler in ignored.items():
            signal.signal(number, handler)
    libc = 0b11 << 31  # 32 and 33 belong to the C library, which lets nobody change them
    assert {int(status[key], 16) & ~libc for key in (b"SigBlk", b"SigIgn", b"SigCgt")} == {0}


def test_program_has_a_session_of_its_own_below_the_guard() -> None:
    with owning("/bin/sleep", "100") as owner:
        pid = int(owner.line().split()[1])
        assert os.getsid(pid) == pid
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(stat[1]) == owner.process.pid


def test_end_of_the_channel_kills_a_nasty_tree() -> None:
    mark = f"guard-{os.getpid()}-eof"
    with owning(sys.executable, "-c", NASTY, env={guard.MARK: mark}) as owner:
        owner.line()
        assert owner.output(3) == b"up\n" * 3
        assert len(carrying(mark)) == 4
        owner.control.shutdown(socket.SHUT_WR)
        *left, end = owner.rest()
        assert not carrying(mark)
        assert end == "exit - 9 1"
        assert len(left) == 3
        assert all(line.startswith("left ") and sys.executable in line for line in left)


def test_ordinary_end_sweeps_a_nasty_tree_and_names_it() -> None:
    mark = f"guard-{os.getpid()}-end"
    with owning(sys.executable, "-c", NASTY, "5", env={guard.MARK: mark}) as owner:
        owner.line()
        assert owner.output(3) == b"up\n" * 3
        assert owner.process.stdin is not None
        owner.process.stdin.close()
        *left, end = owner.rest()
        assert not carrying(mark)
        assert (len(left), end) == (3, "exit 5 - 0")


def test_program_dies_with_the_guard() -> None:
    with owning("/bin/sleep", "100") as owner:
        pid = int(owner.line().split()[1])
        owner.process.kill()
        deadline = time.monotonic() + 10
        while guard.describe(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not guard.describe(pid)


def test_signals_to_the_guard_do_not_end_it() -> None:
    with owning("/bin/cat") as owner:
        owner.line()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            owner.process.send_signal(number)
        assert owner.process.stdin is not None
        owner.process.stdin.write(b"still here\n")
        owner.process.stdin.flush()
        assert owner.output(1) == b"still here\n"


def test_collects_orphans_while_the_program_runs() -> None:
    with owning("/bin/sh", "-c", "(sleep 0 & ) ; (sleep 0 & ); sleep 0.3; echo; cat") as owner:
        owner.line()
        owner.output(1)
        children = Path(f"/proc/{owner.process.pid}/task/{owner.process.pid}/children")
        assert len(children.read_text().split()) == 1


@pytest.mark.parametrize("noise", [b"x" * 10_000, b"signal x\n", b"signal 999\n"])
def test_nonsense_from_the_owner_ends_the_program(noise: bytes) -> None:
    with owning("/bin/sleep", "100") as owner:
        pid = int(owner.line().split()[1])
        owner.control.sendall(noise)
        assert owner.line() == "exit - 9 1"
        assert not Path(f"/proc/{pid}").exists()


def test_refuses_a_request_over_its_limit() -> None:
    control, theirs = socket.socketpair()
    with control, theirs:
        argv = [sys.executable, "-I", "-S", "-E", guard.__file__, str(theirs.fileno())]
        process = subprocess.Popen(argv, pass_fds=(theirs.fileno(),))
        control.sendall(b"spawn %d\n" % (guard.MAX_REQUEST + 1))
        assert process.wait(20) == 0


FORK_BOMB = """
import os, time
for _ in range(3):
    if not os.fork():
        os.setsid()
        while True:
            if os.fork(): os._exit(0)
for _ in range(3):
    if not os.fork():
        while True:
            if not os.fork():
                time.sleep(0.02)
                os._exit(0)
            os.waitpid(-1, os.WNOHANG)
print("up", flush=True)
time.sleep(0.2)
"""


def test_beats_a_tree_that_forks_as_fast_as_it_can() -> None:
    mark = f"guard-{os.getpid()}-race"
    with owning(sys.executable, "-c", FORK_BOMB, env={guard.MARK: mark}) as owner:
        owner.line()
        owner.output(1)
        *left, end = owner.rest()
        assert not carrying(mark)
        assert end == "exit 0 - 0"
        assert left
        assert len(left) <= guard.NAMED + 1


UNKILLABLE = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import guard
guard.send = lambda pid, number: None
child = subprocess.Popen(["sleep", "100"])
print(guard.Tree(0).sweep(time.sleep, 0.2))
child.kill()
child.wait()
print(guard.Tree(0).sweep(time.sleep, 0.2))
"""


def test_what_does_not_die_is_reported_and_never_claimed_gone() -> None:
    argv = [sys.executable, "-c", UNKILLABLE, str(SRC)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    first, second = run.stdout.splitlines()
    assert "sleep 100" in first
    assert second == "[]"


def test_sweep_marked_kills_exactly_the_marked() -> None:
    mark = f"sweep-{os.getpid()}"
    with (
        subprocess.Popen(["sleep", "100"], env={guard.MARK: mark}) as ours,
        subprocess.Popen(["sleep", "101"], env={guard.MARK: mark + "x"}) as other,
        subprocess.Popen(["sleep", "102"], env={"X" + guard.MARK: mark}) as third,
    ):
        try:
            while len(carrying(mark) | carrying(mark + "x")) < 2:  # exec is not quite over yet
                time.sleep(0.001)
            left, survivors = guard.sweep_marked(mark)
            assert left == (f"{ours.pid} sleep 100",)
            assert survivors == ()
            assert ours.wait(10) == -signal.SIGKILL
            assert (other.poll(), third.poll()) == (None, None)
            assert [pid for pid, _ in guard.marked(mark + "x")] == [other.pid]
        finally:
            other.kill()
            third.kill()


def test_a_process_is_described_in_one_short_printable_line() -> None:
    program = "print(flush=True); import time; time.sleep(100)"
    argv = [sys.executable, "-c", program, "\n\x1b[31mleft\r\n" + "é" * 500]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            shown = guard.describe(process.pid)
            assert shown.startswith(f"{process.pid} {sys.executable} -c {program}")
            assert shown.isprintable()
            assert len(shown.encode()) <= guard.NAME_BYTES + 12
        finally:
            process.kill()
    assert guard.describe(process.pid) == ""


def test_descendants_are_the_same_by_proc_and_by_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["sh", "-c", "sleep 100 & sleep 100 & echo; wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            by_proc = list(guard.descendants(process.pid))
            monkeypatch.setattr(guard, "_has_children_files", lambda: False)
            assert sorted(guard.descendants(process.pid)) == sorted(by_proc)
            assert len(by_proc) == 2
            group = set(guard.descendants(-1, process.pid))
            assert group == {process.pid, *by_proc}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
