"""LocalHost with real programs: streams, ends, and what must never be left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.test_guard import NASTY, carrying

from quarterdeck import localhost
from quarterdeck.errors import (
    EngineNotFound,
    EngineStartError,
    OptionError,
    PlatformUnsupported,
)
from quarterdeck.localhost import LocalHost, LocalProcess
from quarterdeck.model import Exit, new_id

linux = pytest.mark.skipif(sys.platform != "linux", reason="the full promise is Linux's")
ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
SRC = str(Path(localhost.__file__).parent.parent)


class Spawner:
    """LocalHost.spawn with the defaults of these tests; closes everything at the end."""

    def __init__(self) -> None:
        self.processes: list[LocalProcess] = []

    async def __call__(
        self, *argv: str, env: dict[str, str] | None = None, mark: str = ""
    ) -> LocalProcess:
        process = await LocalHost().spawn(argv, cwd="/", env=ENV if env is None else env, mark=mark)
        self.processes.append(process)
        return process


@pytest.fixture
async def spawn() -> AsyncIterator[Spawner]:
    spawner = Spawner()
    yield spawner
    for process in spawner.processes:
        await process.aclose()


async def everything(process: LocalProcess) -> bytes:
    chunks = []
    while data := await process.read():
        chunks.append(data)
    return b"".join(chunks)


async def output(process: LocalProcess, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := await process.read()):
        data += more
    return data


async def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def open_files() -> list[str]:
    found = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            found.append(f"{entry.name} {Path(entry.path).readlink()}")
        except OSError:
            continue
    return found


# ------------------------------------------------------------------------------------ streams


async def test_streams_and_exit_code(spawn: Spawner) -> None:
    process = await spawn("sh", "-c", "echo out; echo err >&2; cat; exit 3")
    await process.write(b"in\n")
    await process.close_stdin()
    await process.close_stdin()
    assert await everything(process) == b"out\nin\n"
    assert await process.wait() == Exit(code=3)
    assert process.stderr_tail == "err\n"
    assert await process.read() == b""


async def test_echo_of_eight_megabytes_both_ways_at_once(spawn: Spawner) -> None:
    process = await spawn("cat")
    sent = os.urandom(1 << 20) * 8

    async def feed() -> None:
        await process.write(sent)
        await process.close_stdin()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        got = await everything(process)
    assert got == sent


async def test_big_write_waits_for_a_program_that_reads_late(spawn: Spawner) -> None:
    late = "import sys, time; time.sleep(0.3); print(len(sys.stdin.buffer.read()))"
    process = await spawn(sys.executable, "-c", late)
    await process.write(b"x" * (8 << 20))
    await process.close_stdin()
    assert await everything(process) == b"8388608\n"


@linux
async def test_output_nobody_reads_stays_with_the_program(spawn: Spawner) -> None:
    process = await spawn("head", "-c", "50000000", "/dev/zero")
    io = Path(f"/proc/{process.pid}/io")

    def written() -> int:
        return int(dict(line.split(": ") for line in io.read_text().splitlines())["wchar"])

    before = -1
    while before != (before := written()) or not before:
        await asyncio.sleep(0.1)
    assert before <= localhost.PIPE_SIZE + 65536
    assert len(await everything(process)) == 50_000_000


async def test_a_fast_writer_does_not_starve_the_loop(spawn: Spawner) -> None:
    process = await spawn("head", "-c", "200000000", "/dev/zero")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    reads = 0
    while await process.read():
        reads += 1
    task.cancel()
    assert turns >= reads / 10


async def test_cancelled_read_loses_nothing(spawn: Spawner) -> None:
    process = await spawn("cat")
    for number in range(50):
        reading = asyncio.ensure_future(process.read())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await process.write(b"%02d" % number)
        assert await output(process, 2) == b"%02d" % number


async def test_two_readers_are_refused(spawn: Spawner) -> None:
    process = await spawn("cat")
    first = asyncio.ensure_future(process.read())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already"):
        await process.read()
    await process.write(b"x")
    assert await first == b"x"


async def test_write_to_a_program_that_does_not_read_breaks(spawn: Spawner) -> None:
    process = await spawn("sh", "-c", "exec <&-; echo; sleep 100")
    await process.read()
    with pytest.raises(BrokenPipeError):
        await process.write(b"x" * (1 << 20))
    await process.close_stdin()
    with pytest.raises(BrokenPipeError):
        await process.write(b"x")


async def test_waiting_write_breaks_when_the_program_ends(spawn: Spawner) -> None:
    process = await spawn("sleep", "100")
    writing = asyncio.ensure_future(process.write(b"x" * (1 << 20)))
    await asyncio.sleep(0.05)
    assert not writing.done()
    await process.kill("test")
    with pytest.raises(BrokenPipeError):
        await writing


@linux
async def test_output_ends_although_a_stranger_holds_the_pipe(spawn: Spawner) -> None:
    process = await spawn("sh", "-c", "echo; read line; echo last")
    await process.read()
    stranger = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY)
    try:
        await process.write(b"\n")
        async with asyncio.timeout(20):
            assert await everything(process) == b"last\n"
    finally:
        os.close(stranger)


async def test_stderr_keeps_a_bounded_tail(spawn: Spawner) -> None:
    process = await spawn(
        "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; printf '\\377end' >&2"
    )
    await process.wait()
    assert len(process.stderr_tail.encode()) <= localhost.STDERR_TAIL + 3
    assert process.stderr_tail.endswith("xx\ufffdend")


@pytest.mark.parametrize("linger", ["", "; sleep 100"])
async def test_stderr_lines_as_they_come(spawn: Spawner, linger: str) -> None:
    lines: list[str] = []
    script = f"printf 'a\\n\\n' >&2; head -c 20000 /dev/zero | tr '\\0' y >&2; printf '\\nlast' >&2{linger}"
    process = await spawn("sh", "-c", script)
    process.on_stderr_line = lines.append
    await (process.wait() if not linger else until(lambda: len(lines) == 5))
    await process.kill("done")
    assert lines == ["a", "", "y" * 8192, "y" * 8192, "y" * 3616, "last"]


async def test_failing_stderr_callback_does_not_stop_the_draining(spawn: Spawner) -> None:
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    process = await spawn("sh", "-c", "echo one >&2; echo two >&2")
    process.on_stderr_line = lambda line: [][len(line)]
    await process.wait()
    assert process.stderr_tail == "one\ntwo\n"
    assert len(failures) == 2


# ------------------------------------------------------------------------------------ start


@linux
async def test_program_sees_three_descriptors_and_exactly_its_environment(spawn: Spawner) -> None:
    others = [await spawn("sleep", "100") for _ in range(3)]
    shown = await spawn(
        "/usr/bin/env", "-0", env={"A": "1", "B": "x\ny", "QUARTERDECK_MARK": "old"}, mark="new"
    )
    pairs = (await everything(shown)).decode().rstrip("\0").split("\0")
    assert sorted(pairs) == ["A=1", "B=x\ny", "QUARTERDECK_MARK=new"]
    # Each control channel is open in two processes only: here, and in its own guard.
    for other in others:
        assert sorted(os.listdir(f"/proc/{other.pid}/fd")) == ["0", "1", "2"]  # noqa: PTH208
        held = [str(entry.readlink()) for entry in Path(f"/proc/{other.guard_pid}/fd").iterdir()]
        assert len([name for name in held if name.startswith("socket:")]) == 1
        environ = Path(f"/proc/{other.guard_pid}/environ").read_bytes()
        assert b"PATH=" not in environ
        assert b"QUARTERDECK" not in environ


async def test_working_directory_and_relative_program(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\npwd; echo $0 $1\n")
    program.chmod(0o755)
    process = await LocalHost().spawn(["./tool", "a b"], cwd=str(tmp_path), env=ENV)
    assert await everything(process) == f"{tmp_path}\n./tool a b\n".encode()
    await process.aclose()


async def test_bare_name_is_never_taken_from_the_working_directory(tmp_path: Path) -> None:
    program = tmp_path / "claude-here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in ("", ".", ":/bin", "relative:."):
        with pytest.raises(EngineNotFound):
            await LocalHost().spawn(["claude-here"], cwd=str(tmp_path), env={"PATH": path})
    found = await LocalHost().spawn(["claude-here"], cwd="/", env={"PATH": f"/nowhere:{tmp_path}"})
    assert await found.wait() == Exit(code=0)
    await found.aclose()


async def test_failures_to_start_are_typed(tmp_path: Path) -> None:
    no_interpreter, no_format, no_right = (tmp_path / name for name in "abc")
    no_interpreter.write_text("#!/nonexistent/interpreter\n")
    no_format.write_bytes(b"\x01\x02\x03\n")
    no_right.write_text("#!/bin/sh\n")
    for file in (no_interpreter, no_format):
        file.chmod(0o755)
    before = len(open_files())
    for argv, error, words in (
        (["/nonexistent/claude"], EngineNotFound, "does not exist"),
        (["./claude"], EngineNotFound, "does not exist"),
        ([f"{no_right}/claude"], EngineNotFound, "does not exist"),
        (["claude-nowhere"], EngineNotFound, "PATH"),
        ([str(no_interpreter)], EngineStartError, "interpreter"),
        ([str(no_format)], EngineStartError, "format"),
        ([str(no_right)], EngineStartError, "denied"),
        ([str(tmp_path)], EngineStartError, "denied"),
        (["true", "x" * (1 << 20)], EngineStartError, "too long"),
    ):
        with pytest.raises(error, match=words) as caught:
            await LocalHost().spawn(argv, cwd=str(tmp_path), env=ENV)
        assert caught.value.remedy
    assert len(open_files()) == before


async def test_a_guard_that_cannot_start_is_a_typed_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = len(open_files())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineStartError, match="guard"):
        await LocalHost().spawn(["true"], cwd="/", env=ENV)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(EngineStartError, match="guard"):
        await LocalHost().spawn(["true"], cwd="/", env=ENV)
    assert len(open_files()) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"argv": []}, "argv"),
        ({"argv": "true"}, "argv"),
        ({"argv": [""]}, "argv"),
        ({"argv": ["true", "a\0b"]}, "argv"),
        ({"argv": ["true", 1]}, "argv"),
        ({"argv": ["true", "\ud800"]}, "argv"),
        ({"argv": ["true", "x" * (17 << 20)]}, "argv"),
        ({"cwd": "/nonexistent"}, "cwd"),
        ({"cwd": "/etc/passwd"}, "cwd"),
        ({"cwd": "/\0"}, "cwd"),
        ({"cwd": ""}, "cwd"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A\0": "x"}}, "env"),
        ({"env": {"A": "x\0"}}, "env"),
        ({"env": {"A": 1}}, "env"),
        ({"mark": "a\0b"}, "mark"),
    ],
)
async def test_what_no_program_can_be_given_is_refused(
    change: dict[str, object], field: str
) -> None:
    arguments: dict[str, object] = {"argv": ["true"], "cwd": "/", "env": ENV, "mark": "m", **change}
    with pytest.raises(OptionError) as caught:
        await LocalHost().spawn(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_errors_do_not_show_secrets() -> None:
    for arguments in (
        {"argv": ["true", "sk-secret\0"], "env": ENV},
        {"argv": ["true"], "env": {"KEY": "sk-secret\0"}},
    ):
        with pytest.raises(OptionError) as caught:
            await LocalHost().spawn(cwd="/", **arguments)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)


async def test_the_mark_of_this_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTERDECK_MARK", "mine")
    with pytest.raises(OptionError, match="this very process"):
        await LocalHost().spawn(["true"], cwd="/", env=ENV, mark="mine")


async def test_windows_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(PlatformUnsupported, match="WSL"):
        await LocalHost().spawn(["true"], cwd="/", env=ENV)


# ------------------------------------------------------------------------------------ ends


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("exit 0", Exit(code=0)),
        ("exit 255", Exit(code=255)),
        ("kill -SEGV $$", Exit(signal=signal.SIGSEGV)),
        ("kill -KILL $$", Exit(signal=signal.SIGKILL)),
        ("trap 'exit 143' TERM; kill -TERM $$; sleep 1", Exit(code=143)),
    ],
)
async def test_exit_codes_and_signals_are_exact(spawn: Spawner, script: str, end: Exit) -> None:
    process = await spawn("sh", "-c", script)
    assert await process.wait() == end
    assert await process.kill("too late") == end


async def test_signal_reaches_the_program_only(spawn: Spawner) -> None:
    process = await spawn(
        "sh", "-c", "trap 'echo got; exit 9' INT; echo; while :; do sleep 0.01; done"
    )
    await process.read()
    with pytest.raises(OptionError):
        await process.signal(0)
    await process.signal(signal.SIGINT)
    assert await everything(process) == b"got\n"
    assert (await process.wait()).code == 9
    await process.signal(signal.SIGINT)


@linux
async def test_ordinary_end_sweeps_a_nasty_tree_and_names_it(spawn: Spawner) -> None:
    mark = new_id()
    process = await spawn(sys.executable, "-c", NASTY, "4", mark=mark)
    assert await output(process, 9) == b"up\n" * 3
    assert len(carrying(mark)) == 4
    await process.close_stdin()
    end = await process.wait()
    assert not carrying(mark)
    assert (end.code, len(end.left), end.survivors, end.killed) == (4, 3, (), "")
    assert all(sys.executable in name for name in end.left)


@linux
async def test_kill_ends_a_nasty_tree(spawn: Spawner) -> None:
    mark = new_id()
    process = await spawn(sys.executable, "-c", NASTY, mark=mark)
    assert await output(process, 9) == b"up\n" * 3
    ends = await asyncio.gather(process.kill("time limit"), process.kill("second"), process.wait())
    assert not carrying(mark)
    assert ends[0] == ends[1] == ends[2]
    assert (ends[0].signal, ends[0].killed, ends[0].survivors) == (9, "time limit", ())
    assert not Path(f"/proc/{process.guard_pid}").exists()


@linux
async def test_close_ends_a_nasty_tree_and_wakes_a_reader(spawn: Spawner) -> None:
    mark = new_id()
    process = await spawn(sys.executable, "-c", NASTY, mark=mark)
    assert await output(process, 9) == b"up\n" * 3
    reading = asyncio.ensure_future(process.read())
    await asyncio.sleep(0)
    await asyncio.gather(process.aclose(), process.aclose())
    assert not carrying(mark)
    assert await reading == b""
    assert (await process.wait()).killed == "closed"


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_lost_guard(spawn: Spawner, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localhost, "GUARD_SECONDS", 0.2)
    mark = new_id()
    process = await spawn(sys.executable, "-c", NASTY, mark=mark)
    bystander = await spawn("sleep", "100")
    assert await output(process, 9) == b"up\n" * 3
    os.kill(process.guard_pid, number)
    end = await (process.wait() if number == signal.SIGKILL else process.kill("stuck"))
    assert not carrying(mark)
    assert (end.code, end.signal, end.killed, end.survivors) == (None, None, "guard lost", ())
    assert len(end.left) == 3
    assert await process.read() == b""
    assert Path(f"/proc/{bystander.pid}").exists()


async def test_cancelled_wait_stops_the_waiting_only(spawn: Spawner) -> None:
    process = await spawn("cat")
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await process.write(b"alive")
    assert await process.read() == b"alive"


# ------------------------------------------------------------------------------------ leaks


@linux
async def test_thirty_processes_leave_nothing() -> None:
    mark = new_id()
    host = LocalHost()
    before = sorted(open_files())
    tasks = asyncio.all_tasks()

    async def once(number: int) -> int | None:
        process = await host.spawn(
            ["sh", "-c", f"echo x >&2; exit {number}"], cwd="/", env=ENV, mark=mark
        )
        try:
            if number % 3:
                await process.wait()
            return (await process.wait()).code if number % 2 else None
        finally:
            await process.aclose()
            assert not Path(f"/proc/{process.guard_pid}").exists()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in range(0, 30, 6):
            codes = await asyncio.gather(*(once(n) for n in range(start, start + 6)))
            assert [code for code in codes if code is not None] == [start + 1, start + 3, start + 5]
        gc.collect()
    assert sorted(open_files()) == before
    assert asyncio.all_tasks() == tasks
    assert not carrying(mark)


@linux
@pytest.mark.parametrize("delay", [0, 0.005, 0.01, 0.015, 0.02, 0.03])
async def test_spawn_cancelled_halfway_leaves_nothing(delay: float) -> None:
    mark = new_id()
    before = sorted(open_files())
    tasks = asyncio.all_tasks()
    spawning = asyncio.ensure_future(
        LocalHost().spawn(["sleep", "100"], cwd="/", env=ENV, mark=mark)
    )
    await asyncio.sleep(delay)
    spawning.cancel()
    try:
        process = await spawning
    except asyncio.CancelledError:
        pass
    else:
        await process.aclose()
    assert not carrying(mark)
    assert sorted(open_files()) == before
    assert asyncio.all_tasks() == tasks


@linux
def test_a_loop_that_shuts_down_ends_what_was_not_closed() -> None:
    mark = new_id()
    before = sorted(open_files())

    async def forgetful() -> int:
        process = await LocalHost().spawn(
            [sys.executable, "-c", NASTY], cwd="/", env=ENV, mark=mark
        )
        assert await output(process, 9) == b"up\n" * 3
        return process.guard_pid

    guard_pid = asyncio.run(forgetful())
    assert not carrying(mark)
    assert not Path(f"/proc/{guard_pid}").exists()
    gc.collect()
    assert sorted(open_files()) == before


OWNER = """
import asyncio, os, sys, time
from quarterdeck.localhost import LocalHost

async def main(program, mark, how):
    argv = [sys.executable, "-c", program]
    spawned = [LocalHost().spawn(argv, cwd="/", env={}, mark=mark) for _ in range(3)]
    for process in await asyncio.gather(*spawned):
        output = b""
        while len(output) < 9: output += await process.read()
    clone = 0
    if how == "clone":
        clone = os.fork()
        if not clone: time.sleep(60)
    print(clone, flush=True)
    if how == "exit": sys.exit(5)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@linux
@pytest.mark.parametrize("how", ["kill", "exit", "clone"])
async def test_the_owners_death_ends_every_tree(how: str) -> None:
    mark = new_id()
    argv = [sys.executable, "-c", OWNER, NASTY, mark, how]
    with subprocess.Popen(  # noqa: ASYNC220
        argv, stdout=subprocess.PIPE, env={"PYTHONPATH": SRC}
    ) as owner:
        assert owner.stdout is not None
        clone = int(await asyncio.to_thread(owner.stdout.readline))
        if how != "exit":
            assert len(carrying(mark)) == 12
            owner.kill()
        try:
            assert await until(lambda: not carrying(mark))
            await asyncio.to_thread(owner.wait, 20)
        finally:
            if clone:
                os.kill(clone, signal.SIGKILL)
            owner.kill()
    assert owner.returncode == (5 if how == "exit" else -signal.SIGKILL)


@linux
async def test_guard_is_small(spawn: Spawner) -> None:
    process = await spawn("sleep", "100")
    rollup = Path(f"/proc/{process.guard_pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {words[0].rstrip(":"): int(words[1]) for words in map(str.split, rollup)}
    assert sizes["Rss"] < 12 * 1024
    assert sizes["Private_Clean"] + sizes["Private_Dirty"] < 6 * 1024
