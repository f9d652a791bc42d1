"""This machine as a host: every program runs under a guard of its own (see `guard.py`).

The program's standard streams are pipes that end here; the guard sees none of the bytes. What the
guard tells comes over a control channel: when that ends without a record of the end, the guard was
killed, and the rest of the tree is found by its mark.

Linux gives the full promise. macOS has neither subreapers nor a signal on the parent's death, so
there a daemon that had left the program's process group before the program ended is not found.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from quarterdeck import guard
from quarterdeck.errors import (
    EngineError,
    EngineNotFound,
    EngineStartError,
    OptionError,
    PlatformUnsupported,
)
from quarterdeck.host import Host, Process
from quarterdeck.model import Exit, new_id

if sys.platform != "win32":
    import fcntl

READ_SIZE = 1 << 20
PIPE_SIZE = 1 << 20
STDERR_TAIL = 64 << 10
STDERR_LINE = 8 << 10
# A guard gives up on what it cannot kill after `guard.SWEEP_SECONDS`. One that says nothing for this
# long after it was told to end is stuck (stopped, say), and is killed itself.
GUARD_SECONDS = 2 * guard.SWEEP_SECONDS
_MAX_REPORT = 128 << 10
# So many reads or writes in a row that did not have to wait, and the other tasks get their turn.
_IN_A_ROW = 8


class LocalHost:
    """This machine."""

    @property
    def name(self) -> str:
        return "local"

    async def spawn(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], mark: str = ""
    ) -> LocalProcess:
        """Start `argv` with exactly `env` and QUARTERDECK_MARK, in `cwd`, under a guard.

        A bare name is looked for in the absolute directories of env's PATH. `mark` must belong to
        this one process tree: when the guard is lost, everything that carries it is killed. Without
        a mark a new one is made.

        Raises OptionError (argv, cwd, env or mark), EngineNotFound, EngineStartError, and
        PlatformUnsupported on Windows. When cancelled, nothing is left running.
        """
        if sys.platform == "win32":
            raise PlatformUnsupported(
                "Windows offers no way here to end an agent with all its descendants",
                remedy="run Quarterdeck inside WSL 2",
            )
        mark = mark or new_id()
        cwd = _check(argv, cwd, env, mark)
        program = _find(argv[0], env.get("PATH", os.defpath))
        request = _request(program, argv, cwd, {**env, guard.MARK: mark})
        process = LocalProcess(mark)
        try:
            failed = await process._start(request)
            if failed is not None:
                raise _start_error(program, cwd, failed, process.stderr_tail)
        except BaseException:
            await process.aclose()
            raise
        return process


class LocalProcess:
    """One program under its guard; made by `LocalHost.spawn`, see `host.Process`.

    `on_stderr_line`, when set, is called in the event loop with each line of standard error, without
    its end; a line of over 8 KiB comes in pieces. Set it before the next await to miss none.
    """

    def __init__(self, mark: str) -> None:
        """Start the guard. Raises EngineStartError."""
        self.on_stderr_line: Callable[[str], None] | None = None
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self._report = _Report()
        self._answered = asyncio.Event()
        self._returned = asyncio.Event()
        self._tail = _StderrTail()
        self._killed = ""
        self._over = False
        self._in_a_row = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._guard, self._control, fds = _start_guard()
        self._stdin = _Pipe(fds[0], self._loop.add_writer, self._loop.remove_writer)
        self._stdout = _Pipe(fds[1], self._loop.add_reader, self._loop.remove_reader)
        self._stderr = _Pipe(fds[2], self._loop.add_reader, self._loop.remove_reader)
        self._supervisor = self._loop.create_task(self._supervise())

    @property
    def pid(self) -> int:
        return self._report.pid

    @property
    def guard_pid(self) -> int:
        """The process id of the guard, for diagnosis."""
        return self._guard.pid

    @property
    def stderr_tail(self) -> str:
        return self._tail.text

    async def read(self) -> bytes:
        """As `host.Process.read`. After `aclose` it returns b""."""
        await self._give_way()
        while True:
            # Once the tree is over, everything that was ever written is in the pipe.
            over = self._over
            data = self._stdout.take(READ_SIZE)
            if data is not None or over:
                return data or b""
            self._in_a_row = 0
            await self._stdout.ready()

    async def write(self, data: bytes) -> None:
        """As `host.Process.write`; BrokenPipeError also after `close_stdin` and `aclose`."""
        rest = memoryview(data)
        while rest:
            await self._give_way()
            over = self._over
            count = self._stdin.put(rest)
            if not count and over:
                raise BrokenPipeError(errno.EPIPE, "the program has ended")
            rest = rest[count:]
            if not count:
                self._in_a_row = 0
                await self._stdin.ready()

    async def _give_way(self) -> None:
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    async def close_stdin(self) -> None:
        """As `host.Process.close_stdin`; a `write` that waits raises BrokenPipeError."""
        self._stdin.close()

    async def signal(self, number: int) -> None:
        """As `host.Process.signal`. Raises OptionError when this system has no such signal."""
        if number not in signal.valid_signals():
            raise OptionError("signal", number, "is not a signal of this system")
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._control, b"signal %d\n" % number)

    async def kill(self, reason: str) -> Exit:
        """As `host.Process.kill`. `reason` becomes `Exit.killed`, unless there was one before."""
        self._end(reason or "killed")
        return await self.wait()

    async def wait(self) -> Exit:
        """As `host.Process.wait`."""
        return await asyncio.shield(self._supervisor)

    async def aclose(self) -> None:
        """As `host.Process.aclose`. When cancelled, the rest is done in the background."""
        self._end("closed")
        try:
            await asyncio.shield(self._supervisor)
        finally:
            self._close_pipes()

    async def _start(self, request: bytes) -> _Failure | None:
        """Hand the guard its request; None once the program runs."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._loop.sock_sendall(self._control, request)
        await self._answered.wait()
        # From here to the caller of `spawn` nothing yields to the loop, so its `on_stderr_line` is
        # set before the first line is read.
        self._returned.set()
        if self._report.pid:
            self._loop.add_reader(self._stderr.fd, self._read_stderr)
            return None
        await self.wait()
        return _Failure(*(self._report.failed or ("guard", 0)))

    def _end(self, reason: str) -> None:
        """Tell the guard to kill the tree; only the first reason counts."""
        if self._deadline is not None or self._supervisor.done():
            return
        self._killed = reason
        self._returned.set()
        self._deadline = self._loop.call_later(GUARD_SECONDS, self._guard.kill)
        with contextlib.suppress(OSError):
            # Unlike a close, this reaches the guard while a fork of ours holds the socket too.
            self._control.shutdown(socket.SHUT_WR)

    async def _supervise(self) -> Exit:
        """From the guard's start to the verified end of the tree."""
        deserted = await self._listen()
        await self._returned.wait()
        await self._reap()
        end = self._report.exit
        if end is None:
            end = Exit() if self._report.failed else await self._sweep()
        elif end.killed:
            end = msgspec.structs.replace(end, killed=self._killed or "closed")
        self._finish()
        if deserted:
            self._close_pipes()
        return end

    async def _listen(self) -> bool:
        """Take in the guard's report. True when the loop shut down: then nobody calls `aclose`."""
        deserted = False
        while True:
            try:
                data = await self._loop.sock_recv(self._control, _MAX_REPORT)
            except asyncio.CancelledError:
                deserted = True
                self._end("closed")
                continue
            except ConnectionResetError:
                data = b""
            intact = self._report.feed(data)
            if self._report.pid or not intact:
                self._answered.set()
            if not intact:
                return deserted

    async def _reap(self) -> None:
        if self._report.exit is None and not self._report.failed:
            self._guard.kill()
        delay = 0.0005
        while self._guard.poll() is None:
            await asyncio.sleep(delay)
            delay = min(2 * delay, 0.05)
        self._control.close()
        if self._deadline is not None:
            self._deadline.cancel()

    async def _sweep(self) -> Exit:
        search = partial(guard.sweep_marked, self._mark, program=self._report.pid)
        left, survivors = await self._loop.run_in_executor(None, search)
        return Exit(killed="guard lost", left=left, survivors=survivors)

    def _finish(self) -> None:
        self._over = True
        # What is in the pipe; a survivor that goes on writing does not hold us up.
        for _ in range(PIPE_SIZE // STDERR_TAIL):
            self._read_stderr()
        self._say(self._tail.rest())
        if self._stderr.fd >= 0:
            self._loop.remove_reader(self._stderr.fd)
        self._stdin.wake()
        self._stdout.wake()

    def _read_stderr(self) -> None:
        data = self._stderr.take(STDERR_TAIL)
        if data:
            self._say(self._tail.feed(data))
        elif data is not None and self._stderr.fd >= 0:
            self._loop.remove_reader(self._stderr.fd)

    def _say(self, lines: list[bytes]) -> None:
        for line in lines:
            if self.on_stderr_line is None:
                return
            try:
                self.on_stderr_line(line.decode("utf-8", "replace"))
            except Exception as error:
                context = {"message": "on_stderr_line failed", "exception": error}
                self._loop.call_exception_handler(context)

    def _close_pipes(self) -> None:
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()


if TYPE_CHECKING:
    _host: type[Host] = LocalHost
    _process: type[Process] = LocalProcess


class _Pipe:
    """Our end of one pipe: non-blocking, with at most one task that waits for it."""

    def __init__(self, fd: int, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        self.fd = fd
        self._add = add
        self._remove = remove
        self._waiter: asyncio.Future[None] | None = None

    def take(self, size: int) -> bytes | None:
        """Some bytes; None when there are none now, b"" at the end or when closed."""
        if self.fd < 0:
            return b""
        try:
            return os.read(self.fd, size)
        except BlockingIOError:
            return None

    def put(self, data: memoryview) -> int:
        """How many bytes the pipe took. Raises BrokenPipeError at the end or when closed."""
        if self.fd < 0:
            raise BrokenPipeError(errno.EPIPE, "standard input is closed")
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0

    async def ready(self) -> None:
        """Wait until it is worth trying again."""
        if self._waiter is not None:
            raise RuntimeError("another task waits for this pipe already")
        self._waiter = asyncio.get_running_loop().create_future()
        self._add(self.fd, self.wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self.fd >= 0:
                self._remove(self.fd)

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        if self.fd >= 0:
            if self._waiter is not None:
                # Now, for the number may belong to another file when the waiter runs.
                self._remove(self.fd)
            os.close(self.fd)
            self.fd = -1
            self.wake()


class _StderrTail:
    """The last bytes of a stream, and its lines as they come."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._line = b""

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends, the long ones in pieces."""
        self._kept += data
        del self._kept[:-STDERR_TAIL]
        *lines, self._line = (self._line + data).split(b"\n")
        pieces = [line[i : i + STDERR_LINE] for line in lines for i in _starts(line)]
        while len(self._line) > STDERR_LINE:
            pieces.append(self._line[:STDERR_LINE])
            self._line = self._line[STDERR_LINE:]
        return pieces

    def rest(self) -> list[bytes]:
        line, self._line = self._line, b""
        return [line] if line else []


def _starts(line: bytes) -> range:
    return range(0, max(1, len(line)), STDERR_LINE)


class _Report:
    """What the guard has told, line by line."""

    def __init__(self) -> None:
        self.pid = 0
        self.failed: tuple[str, int] | None = None
        self.exit: Exit | None = None
        self._names: dict[str, list[str]] = {"left": [], "survivor": []}
        self._pending = b""
        self._size = 0

    def feed(self, data: bytes) -> bool:
        """False at the end, or when it is longer than a guard's report can be."""
        self._size += len(data)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            match word:
                case "started":
                    self.pid = int(rest)
                case "failed":
                    stage, number = rest.split()
                    self.failed = (stage, int(number))
                case "left" | "survivor":
                    self._names[word].append(rest)
                case "exit":
                    code, ended_by, killed = rest.split()
                    self.exit = Exit(
                        code=None if code == "-" else int(code),
                        signal=None if ended_by == "-" else int(ended_by),
                        killed="yes" if killed == "1" else "",
                        left=tuple(self._names["left"]),
                        survivors=tuple(self._names["survivor"]),
                    )
        return bool(data) and self._size <= _MAX_REPORT


# -------------------------------------------------------------------------------- starting


class _Failure(NamedTuple):
    """Where the start of the program stopped, and the error number there."""

    stage: str
    number: int


def _guard_program() -> str:
    """The guard as the interpreter starts it fastest: compiled, when our import left that behind."""
    compiled: str | None = getattr(guard, "__cached__", None)
    return compiled if compiled and Path(compiled).exists() else guard.__file__


def _start_guard() -> tuple[subprocess.Popen[bytes], socket.socket, tuple[int, int, int]]:
    """The guard, our end of its control channel, our ends of the pipes on 0, 1 and 2."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        try:
            control, far = socket.socketpair()
            ours.callback(control.close)
            theirs.callback(far.close)
            streams = []
            fds = []
            for number in range(3):
                reading, writing = os.pipe()
                kept, given = (writing, reading) if number == 0 else (reading, writing)
                ours.callback(os.close, kept)
                theirs.callback(os.close, given)
                os.set_blocking(kept, False)
                streams.append(given)
                fds.append(kept)
            _enlarge(fds[1])
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", _guard_program(), str(far.fileno())],
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                cwd="/",
                # The program's environment is no business of the guard's own interpreter.
                env={key: os.environ[key] for key in _LOADER if key in os.environ},
                pass_fds=(far.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            raise EngineStartError(
                f"the guard could not be started: {error.strerror or error}",
                remedy="check the limits of open files and processes (ulimit -n, -u) and that "
                f"{sys.executable or 'sys.executable'} is a Python",
            ) from error
        control.setblocking(False)
        ours.pop_all()
        return process, control, (fds[0], fds[1], fds[2])


_LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def _enlarge(fd: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


def _start_error(program: str, cwd: str, failed: _Failure, stderr: str) -> EngineError:
    reason = os.strerror(failed.number) if failed.number else "its process ended"
    if failed.stage == "guard":
        return EngineStartError(
            f"the guard of {program} could not do its work: {reason}",
            stderr_tail=stderr,
            remedy=f"check that {sys.executable} runs and that prctl is not forbidden here",
        )
    if failed.stage == "cwd":
        return EngineStartError(
            f"{program} was not started: {cwd} cannot be entered: {reason}",
            remedy="give a working directory that exists and that you may enter",
        )
    missing = failed.number in (errno.ENOENT, errno.ENOTDIR)
    if missing and not Path(cwd, program).exists():
        return _not_found(f"the program {program} does not exist")
    if missing:
        reason = "the interpreter or loader that it names does not exist"
    return EngineStartError(
        f"{program} was not started: {reason}",
        remedy="check that it is an executable program for this machine, and its arguments short",
    )


def _not_found(message: str) -> EngineNotFound:
    return EngineNotFound(message, remedy="install it, or give its full path")


def _find(name: str, path: str) -> str:
    if "/" in name:
        return name
    # Never the working directory: a repository must not decide which program `claude` is.
    for directory in path.split(os.pathsep):
        candidate = Path(directory, name)
        if candidate.is_absolute() and os.access(candidate, os.X_OK) and candidate.is_file():
            return str(candidate)
    raise _not_found(f"no program {name} in PATH ({path})")


def _request(program: str, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> bytes:
    try:
        request = guard.pack_request(program, argv, cwd, env)
    except UnicodeEncodeError:
        raise OptionError("argv", argv[0], "arguments or env hold lone surrogates") from None
    if len(request) > guard.MAX_REQUEST:
        raise OptionError("argv", argv[0], "arguments and env together are over 16 MiB")
    return request


def _check(argv: Sequence[str], cwd: str, env: Mapping[str, str], mark: str) -> str:
    """The absolute `cwd`, when all of it can be handed to a program. Raises OptionError."""
    if isinstance(argv, str) or not argv or not argv[0]:
        raise OptionError("argv", argv, "must be a list that begins with a program")
    for number, argument in enumerate(argv):
        # Arguments and values can hold secrets, so an error names their place only.
        if not isinstance(argument, str) or "\0" in argument:
            raise OptionError("argv", f"argument {number}", "must be text without NUL")
    for key, value in env.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise OptionError("env", key, "is not a name for a variable")
        if not isinstance(value, str) or "\0" in value:
            raise OptionError("env", key, "must have text without NUL as its value")
    if not isinstance(mark, str) or "\0" in mark:
        raise OptionError("mark", mark, "must be text without NUL")
    if mark == os.environ.get(guard.MARK):
        raise OptionError("mark", mark, "is the mark of this very process")
    if not isinstance(cwd, str) or not os.path.isdir(cwd):  # noqa: PTH112 (never raises)
        raise OptionError("cwd", cwd, "is not a directory that exists")
    return str(Path(cwd).absolute())
