"""This machine as a host: every program runs under a guard of its own (see `guard.py`).

The program's standard streams are pipes that end here; the guard sees none of the bytes. What the
guard tells comes over a control channel: when that ends without a record of the end, the guard was
killed, and the tree is found by its mark.

Linux gives the full promise. macOS has neither subreapers nor signals on a parent's death, so there
a daemon that left the program's process group before the program ended is not found.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

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

READ_SIZE = 1 << 20
PIPE_SIZE = 1 << 20
TAIL_BYTES = 64 << 10
STDERR_LINE_BYTES = 8 << 10
# The guard stops trying to kill after `guard.SWEEP_SECONDS`; one that says nothing for this long
# after it was told to end is stuck, and is killed itself.
GUARD_SECONDS = 2 * guard.SWEEP_SECONDS
_TURNS = 8
_MAX_REPORT = 64 << 10


class LocalHost:
    """This machine."""

    @property
    def name(self) -> str:
        return "local"

    async def spawn(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], mark: str = ""
    ) -> LocalProcess:
        """Start `argv` with exactly `env` and QUARTERDECK_MARK, in `cwd`, under a guard.

        A bare name is looked for in the absolute directories of env's PATH. `mark` should be of this
        one process tree: when the guard is lost, whatever carries the mark is killed. Without one, a
        new one is made.

        Raises OptionError (`argv`, `cwd`, `env`, `mark`), EngineNotFound, EngineStartError and
        PlatformUnsupported. When cancelled, nothing is left running.
        """
        if sys.platform == "win32":
            raise PlatformUnsupported(
                "Windows has no way here to end an agent with all its descendants",
                remedy="run Quarterdeck inside WSL 2",
            )
        mark = _checked_mark(mark or new_id())
        request = _request(argv, cwd, {guard.MARK: mark, **_without_mark(env)})
        process = LocalProcess(mark)
        try:
            await process._start(request, argv[0])
        except BaseException:
            await process.aclose()
            raise
        return process


class LocalProcess:
    """One program under its guard; made by `LocalHost.spawn`.

    `on_stderr_line`, when set, is called in the event loop with each line of standard error without
    its end; lines over 8 KiB come in pieces. Set it right after `spawn` returned to miss none.
    """

    def __init__(self, mark: str) -> None:
        self.on_stderr_line: Callable[[str], None] | None = None
        self._mark = mark
        self._pid = 0
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[int] = self._loop.create_future()
        self._stderr = _StderrTail()
        self._killed = ""
        self._over = False
        self._turns = 0
        self._deadline: asyncio.TimerHandle | None = None
        stdin, self._in = _pipe(ours_writes=True)
        stdout, self._out = _pipe(ours_writes=False)
        stderr, self._err = _pipe(ours_writes=False)
        self._control, theirs = socket.socketpair()
        try:
            self._guard = _start_guard(theirs, stdin, stdout, stderr)
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            for fd in (stdin, stdout, stderr):
                os.close(fd)
        self._control.setblocking(False)
        self._supervisor = self._loop.create_task(self._supervise())

    async def _start(self, request: bytes, program: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._loop.sock_sendall(self._control, request)
        self._pid = await asyncio.shield(self._started)
