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
from typing import TYPE_CHECKING

from quarterdeck import guard
from quarterdeck.errors import (
    EngineError,
    EngineNotFound,
    EngineStartError,
    OptionError,
    PlatformUnsupported,
)
from quarterdeck.model import Exit, new_id

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
        cwd = _checked_cwd(cwd)
        marked = {guard.MARK: _checked_mark(mark or new_id())}
        marked.update((key, value) for key, value in _checked_env(env).items() if key != guard.MARK)
        program = _find(_checked_argv(argv), cwd, marked.get("PATH", os.defpath))
        process = LocalProcess(marked[guard.MARK])
        try:
            await process._start(_request(program, argv, cwd, marked))
        except _StartFailed as failed:
            await process.aclose()
            raise _start_error(program, cwd, failed, process.stderr_tail) from None
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
        self._tail = _StderrTail()
        self._killed = ""
        self._over = False
        self._in_a_row = 0
        self._deadline: asyncio.TimerHandle | None = None
        try:
            self._guard, self._control, fds = _start_guard()
        except OSError as error:
            raise EngineStartError(
                f"the guard could not be started: {error.strerror or error}",
                remedy="raise the limit of open files or of processes (ulimit -n, -u)",
            ) from error
        self._stdin, self._stdout, self._stderr = (
            _Pipe(fd, self._loop, write=number == 0) for number, fd in enumerate(fds)
        )
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
        while self._stdout.fd >= 0:
            # Whatever was written is in the pipe before the tree is known to be over.
            over = self._over
            try:
                return os.read(self._stdout.fd, READ_SIZE)
            except BlockingIOError:
                if over:
                    break
            self._in_a_row = 0
            await self._stdout.ready()
        return b""

    async def write(self, data: bytes) -> None:
        """As `host.Process.write`; BrokenPipeError also after `close_stdin` and `aclose`."""
        rest = memoryview(data)
        while rest:
            await self._give_way()
            if self._stdin.fd < 0:
                raise BrokenPipeError(errno.EPIPE, "standard input is closed")
            over = self._over
            try:
                rest = rest[os.write(self._stdin.fd, rest) :]
            except BlockingIOError:
                if over:
                    raise BrokenPipeError(errno.EPIPE, "the program has ended") from None
                self._in_a_row = 0
                await self._stdin.ready()

    async def _give_way(self) -> None:
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    async def close_stdin(self) -> None:
        self._stdin.close()

    async def signal(self, number: int) -> None:
        """As `host.Process.signal`. Raises OptionError when there is no such signal."""
        if number not in signal.valid_signals():
            raise OptionError("signal", number, "is not a signal of this system")
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._control, b"signal %d\n" % number)

    async def kill(self, reason: str) -> Exit:
        self._end(reason or "killed")
        return await self.wait()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._supervisor)

    async def aclose(self) -> None:
        self._end("closed")
        try:
            await asyncio.shield(self._supervisor)
        finally:
            self._close()

    # ---------------------------------------------------------------------------- inside

    async def _start(self, request: bytes) -> None:
        """Hand the guard its request. Raises _StartFailed."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._loop.sock_sendall(self._control, request)
        await self._answered.wait()
        if not self._report.pid:
            await asyncio.shield(self._supervisor)
            raise _StartFailed(*(self._report.failed or ("guard", 0)))

    def _end(self, reason: str) -> None:
        """Tell the guard to kill the tree; only the first reason counts."""
        if self._deadline is not None or self._supervisor.done():
            return
        self._killed = reason
        self._deadline = self._loop.call_later(GUARD_SECONDS, self._guard.kill)
        with contextlib.suppress(OSError):
            # Unlike a close this reaches the guard even while a fork of ours holds the socket too.
            self._control.shutdown(socket.SHUT_WR)

    async def _supervise(self) -> Exit:
        """From the guard's start to its verified end."""
        self._loop.add_reader(self._stderr.fd, self._read_stderr)
        alone = await self._listen()
        if self._report.exit is None and not self._report.failed:
            self._guard.kill()
        delay = 0.0005
        while self._guard.poll() is None:
            await asyncio.sleep(delay)
            delay = min(2 * delay, 0.05)
        if self._deadline is not None:
            self._deadline.cancel()
        end = self._report.exit
        if end is None:
            end = Exit() if self._report.failed else await self._sweep()
        elif end.killed:
            end = Exit(end.code, end.signal, self._killed or "closed", end.left, end.survivors)
        self._finish(alone)
        return end

    async def _listen(self) -> bool:
        """Take in the guard's report. True when the loop ends, and so nobody will call `aclose`."""
        alone = False
        while True:
            try:
                data = await self._loop.sock_recv(self._control, _MAX_REPORT)
            except asyncio.CancelledError:
                alone = True
                self._end("closed")
                continue
            except ConnectionResetError:
                data = b""
            intact = self._report.feed(data)
            if self._report.pid or not data:
                self._answered.set()
            if not data or not intact:
                return alone

    async def _sweep(self) -> Exit:
        search = partial(guard.sweep_marked, self._mark, program=self._report.pid)
        left, survivors = await self._loop.run_in_executor(None, search)
        return Exit(killed="guard lost", left=left, survivors=survivors)

    def _finish(self, alone: bool) -> None:
        self._over = True
        self._answered.set()
        self._read_stderr()
        if self._stderr.fd >= 0:
            self._loop.remove_reader(self._stderr.fd)
        self._say(self._tail.rest())
        self._stdin.wake()
        self._stdout.wake()
        if alone:
            self._close()

    def _read_stderr(self) -> None:
        data = b""
        with contextlib.suppress(BlockingIOError):
            # At most what the pipe holds, so this ends.
            while self._stderr.fd >= 0 and (data := os.read(self._stderr.fd, STDERR_TAIL)):
                self._say(self._tail.feed(data, lines=self.on_stderr_line is not None))
                if not self._over:
                    return
        if not data and not self._over:
            self._loop.remove_reader(self._stderr.fd)

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            if self.on_stderr_line is None:
                return
            try:
                self.on_stderr_line(line)
            except Exception as error:
                self._loop.call_exception_handler(
                    {"message": "on_stderr_line failed", "exception": error}
                )

    def _close(self) -> None:
        self._control.close()
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
