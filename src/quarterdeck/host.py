"""Where things run: the one big seam.

A Host spawns processes and ends them with all their descendants. Your machine is a host; sandboxes
and other machines come to be hosts too, so nothing above this seam assumes a shared loopback, file
system or clock. `LocalHost` (in `localhost.py`) runs each process under the guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from quarterdeck.model import Exit


class Process(Protocol):
    """One process tree with pipes.

    Not for use from several tasks at once, except that `write`, `signal`, `kill` and `wait` may be
    called while a `read` waits.
    """

    on_stderr_line: Callable[[str], None] | None
    """Called with each line of standard error (cut at 8 KiB), in the event loop; must not block."""

    @property
    def pid(self) -> int:
        """The process id of the program itself, on its host."""
        ...

    @property
    def stderr_tail(self) -> str:
        """The last 64 KiB of standard error, undecodable bytes replaced."""
        ...

    async def read(self) -> bytes:
        """The next bytes of standard output, at most 1 MiB; b"" at its end.

        While nobody reads, the pipe fills and the program waits: that is the back-pressure.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Write to standard input and wait until the pipe took it all.

        Raises BrokenPipeError when the program no longer reads. Cancelling may leave a part written.
        """
        ...

    async def close_stdin(self) -> None:
        """End of standard input. Idempotent."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the program itself; no effect once it has ended."""
        ...

    async def kill(self, reason: str) -> Exit:
        """End the whole tree at once (SIGKILL to every descendant) and return what was verified."""
        ...

    async def wait(self) -> Exit:
        """Wait until the program has ended and every descendant is gone.

        Descendants that outlive the program are killed and named in `Exit.left`. Cancelling stops
        the waiting only.
        """
        ...

    async def aclose(self) -> None:
        """Kill what still runs and release every descriptor. Idempotent."""
        ...


class Host(Protocol):
    """Spawns processes."""

    @property
    def name(self) -> str:
        """`local`, or what the sandbox is called."""
        ...

    async def spawn(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], mark: str = ""
    ) -> Process:
        """Start `argv` (never a shell) with exactly `env`, in `cwd`, with pipes on 0, 1 and 2.

        `mark` is put into the environment as QUARTERDECK_MARK, so that stray descendants can be
        found even when the guard itself was killed. Raises EngineNotFound when the program does not
        exist, EngineStartError when it cannot be started, PlatformUnsupported on Windows. No
        descriptor of ours is inherited.
        """
        ...
