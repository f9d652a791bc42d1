"""The guard: a small process between a host and one program, which ends the program's whole tree.

`LocalHost` starts one guard for each program: `python -I -S -E guard.py FD`. Standard library only, no
asyncio, and no import from the rest of the package, so that it starts fast and stays small. The
program inherits the guard's standard streams as they are: no byte of them passes through the guard.

FD is one end of a stream socket pair; whoever holds the other end is the owner.

=================================  ==================================================================
from the owner
``spawn SIZE`` + SIZE bytes        first, once: what to run, see `pack_request`
``signal NUMBER``                  to the program itself; no effect once it has ended
end of file                        kill the tree. The owner's death, however it dies, reads the same
from the guard
``started PID``                    the program runs
``failed STAGE ERRNO``             it could not be started; STAGE is guard, cwd or exec; the last line
``left NAME``, ``survivor NAME``   what had outlived the program, and what outlives the guard as well
``exit CODE SIGNAL KILLED``        the last line; ``-`` for unknown; KILLED is 1 if the owner ended it
=================================  ==================================================================

On Linux the guard is a child subreaper: what forks twice or makes its own session comes back to it
when its parent ends, so "no children" means that nothing is left. The program dies with the guard
(PR_SET_PDEATHSIG; not for a set-user-id program, for which the kernel clears it). On macOS there is
neither: the guard ends the program's process group and what `ps` shows below the program, and a
daemon that left both before the program ended escapes it.
"""

# Each import counts here, in memory and in start time: hence no pathlib, contextlib or typing, and
# `_signal`, which is `signal` without its enums (0.8 MB and 4 ms).
# ruff: noqa: PTH110, PTH208, SIM105

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any
else:
    import _signal as signal

MARK = "QUARTERDECK_MARK"
SWEEP_SECONDS = 5.0
NAMED = 64
NAME_BYTES = 120
MAX_REQUEST = 16 << 20
_MAX_LINE = 4096
_MAX_ENVIRON = 8 << 20

# Set by Linux's <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def pack_request(path: str, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> bytes:
    """The `spawn` message. No string may hold a NUL; UnicodeEncodeError for what no path can hold."""
    fields = [cwd, path, str(len(argv)), *argv, *(f"{key}={value}" for key, value in env.items())]
    body = b"\0".join(os.fsencode(field) for field in fields)
    return b"spawn %d\n" % len(body) + body


# ------------------------------------------------------------------------------ looking at processes


def describe(pid: int) -> str:
    """`PID command line`, shortened and printable; "" when it no longer runs (a zombie neither)."""
    if sys.platform == "linux":
        state, _ = _stat(pid)
        if state in ("", "Z", "X"):
            return ""
        text = _read(f"/proc/{pid}/cmdline", 4 * NAME_BYTES) or _read(f"/proc/{pid}/comm", 64)
    else:
        text = _ps("-o", "command=", "-p", str(pid))[: 4 * NAME_BYTES]
        if not text:
            return ""
    shown = text.replace(b"\0", b" ").decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else " " for c in shown).strip()
    shown = shown.encode("utf-8", "replace")[:NAME_BYTES].decode("utf-8", "ignore")
    return f"{pid} {shown}"


def marked(mark: str) -> Iterator[tuple[int, str]]:
    """Each process (pid, start time) whose environment had exactly this mark when it began. Linux."""
    wanted = os.fsencode(f"{MARK}={mark}")
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            pid = int(entry)
            started = _stat(pid)[1]
            environ = _read(f"/proc/{pid}/environ", _MAX_ENVIRON)
            if wanted in environ.split(b"\0") and started:
                yield pid, started


def sweep_marked(
    mark: str, *, program: int = 0, seconds: float = SWEEP_SECONDS
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kill what carries the mark, when its guard is gone; returns (left, survivors).

    Blocks for at most about `seconds`. `program` is not named in `left`. A process that has written
    over its own environment is not found. Elsewhere than on Linux: the process group of `program`.
    """
    names: dict[int, str] = {}
    deadline = time.monotonic() + seconds
    clean = 0
    while True:
        alive = 0
        for pid, started in _strays(mark, program):
            alive += 1
            name = describe(pid)
            if pid != program and name and len(names) < NAMED:
                names.setdefault(pid, name)
            # The number may have gone to another process since its environment was read.
            if not started or _stat(pid)[1] == started:
                send(pid, signal.SIGKILL)
        # Between fork and exec a process can show no environment, so one empty look is not enough.
        clean = 0 if alive else clean + 1
        if clean == 2 or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    survivors = [describe(pid) for pid, _ in _strays(mark, program)] if clean < 2 else []
    return tuple(names.values()), tuple(name for name in survivors if name)


def _strays(mark: str, program: int) -> Iterator[tuple[int, str]]:
    if sys.platform == "linux":
        yield from ((pid, started) for pid, started in marked(mark) if pid != os.getpid())
    elif program:
        yield from ((pid, "") for pid, _, group in _table() if group == program)


def _stat(pid: int) -> tuple[str, str]:
    """(state, start time) from /proc; ("", "") when there is no such process."""
    # The command name, in parentheses, may hold anything, so count from the last one.
    fields = _read(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()
    return (fields[0].decode(), fields[19].decode()) if len(fields) > 19 else ("", "")


def _read(path: str, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return _read_all(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read_all(fd: int, limit: int) -> bytes:
    data = b""
    while len(data) < limit and (more := os.read(fd, limit - len(data))):
        data += more
    return data


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    lists = (_read(f"/proc/{pid}/task/{thread}/children", 1 << 20) for thread in threads)
    return [int(child) for listed in lists for child in listed.split()]


def _has_children_files() -> bool:
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def descendants(root: int, group: int = 0) -> Iterator[int]:
    """The processes below `root`, parents first, and (without /proc) those in the process group.

    While they fork and die the list can miss some: repeat it.
    """
    if _has_children_files():
        queue = _children(root)
        for pid in queue:
            queue.extend(_children(pid))
            yield pid
        return
    below = {root}
    for pid, parent, pgid in _table():
        if parent in below or pgid == group > 0:
            below.add(pid)
            yield pid


def _table() -> list[tuple[int, int, int]]:
    """(pid, parent, process group) of every process, by `ps`; oldest first."""
    rows = [line.split() for line in _ps("-A", "-o", "pid=,ppid=,pgid=").splitlines()]
    return sorted((int(row[0]), int(row[1]), int(row[2])) for row in rows if len(row) == 3)


def _ps(*arguments: str) -> bytes:
    reading, writing = os.pipe()
    to_us = [(os.POSIX_SPAWN_DUP2, writing, 1)]
    pid = os.posix_spawn("/bin/ps", ["ps", *arguments], {}, file_actions=to_us)
    os.close(writing)
    text = _read_all(reading, 16 << 20)
    os.close(reading)
    os.waitpid(pid, 0)
    own = str(pid).encode()
    return b"\n".join(line for line in text.splitlines() if line.split()[:1] != [own])


def send(pid: int, number: int) -> None:
    """Send a signal; no error when the process is gone or not ours."""
    if pid <= 1:  # 0 and -1 would reach whole groups, or everything
        return
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


# ------------------------------------------------------------------------------ ending the tree


class Tree:
    """The program and everything below this process, the guard."""

    def __init__(self, program: int) -> None:
        self.program = program
        self.status: int | None = None  # of the program, as waitpid gave it
        self.left: dict[int, str] = {}
        self.more = 0

    def reap(self) -> bool:
        """Collect what has ended. True when this process has no children at all."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return False
                if pid == self.program:
                    self.status = status
        except ChildProcessError:
            return True

    def sweep(self, wait: Callable[[float], None], seconds: float = SWEEP_SECONDS) -> list[str]:
        """Kill everything; returns those that could not be killed within `seconds`.

        `wait` waits for the end of a child, at most the given seconds.
        """
        me = os.getpid()
        seen: set[int] = set()
        deadline = time.monotonic() + seconds
        while True:
            childless = self.reap()
            fresh = any_left = False
            for pid in descendants(me, self.program):
                any_left = True
                if pid not in seen:
                    fresh = True
                    seen.add(pid)
                    # A stopped process cannot fork or exit, so its name can be read in peace.
                    send(pid, signal.SIGSTOP)
                    self._name(pid)
                send(pid, signal.SIGKILL)
                if time.monotonic() > deadline:
                    break
            if childless and not any_left:
                return []
            if time.monotonic() > deadline:
                return self._survivors(me)
            if not fresh:
                wait(0.02)

    def _name(self, pid: int) -> None:
        if pid == self.program and self.status is None:
            return
        if len(self.left) >= NAMED:
            self.more += 1
        elif name := describe(pid):
            self.left[pid] = name

    def _survivors(self, me: int) -> list[str]:
        if self.reap():
            names = [describe(pid) for pid in descendants(me, self.program)]
            return [name for name in names if name][:NAMED]
        names = [describe(pid) for pid in descendants(me, self.program)]
        return [name for name in names if name][:NAMED] or ["a process that cannot be listed"]


# ------------------------------------------------------------------------------ the guard itself


def main(control: int) -> None:
    """Run one program under this process and end with it. Never returns to a caller that goes on."""
    try:
        _prepare(control)
        owner = _watch_owner()
        wakeup = _watch_children()
        path, argv, cwd, env = _read_request(control)
        pid = _start(path, argv, cwd, env)
    except EOFError:
        return
    except _Failed as failed:
        _tell(control, f"failed {failed.stage} {failed.errno}")
        return
    del path, argv, cwd, env
    _tell(control, f"started {pid}")
    tree = Tree(pid)
    killed = _serve(tree, control, wakeup, owner)
    survivors = tree.sweep(lambda seconds: _drain(wakeup, seconds))
    _report(tree, control, survivors, killed)


class _Failed(Exception):
    def __init__(self, stage: str, errno: int) -> None:
        super().__init__(stage, errno)
        self.stage = stage
        self.errno = errno


def _prepare(control: int) -> None:
    os.set_inheritable(control, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Only the end of the control channel ends a guard; a signal meant for the owner's process group
    # or service must not leave the tree without one.
    for name in (
        "HUP",
        "INT",
        "QUIT",
        "TERM",
        "PIPE",
        "ALRM",
        "USR1",
        "USR2",
        "TSTP",
        "TTIN",
        "TTOU",
    ):
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
    if sys.platform == "linux":
        try:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        except OSError as error:
            raise _Failed("guard", error.errno or 0) from None


def _prctl(option: int, value: int) -> None:
    # The bare extension: the package around it costs 3 ms and 1 MB, and all we need is one call.
    import _ctypes

    libc: Any = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # 2: RTLD_NOW, of this process
    address = _ctypes.dlsym(libc, "prctl")
    if _ctypes.call_function(address, (option, value, 0, 0, 0)):
        raise OSError(0, "prctl")


def _watch_owner() -> int:
    """A descriptor that becomes readable when the owner's process ends; -1 when there is none.

    The control channel says so too, unless the owner forked without exec and the copy holds it open.
    """
    try:
        if sys.platform == "linux":
            return os.pidfd_open(os.getppid())
    except (AttributeError, OSError):  # an old kernel, or a Python built for one
        pass
    return -1


def _watch_children() -> int:
    """A descriptor that becomes readable when a child ends."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _read_request(control: int) -> tuple[bytes, list[bytes], bytes, dict[bytes, bytes]]:
    header = b""
    while not header.endswith(b"\n"):
        more = os.read(control, 1)
        if not more or len(header) > 32:
            raise EOFError
        header += more
    size = int(header.removeprefix(b"spawn "))
    body = _read_all(control, size) if size <= MAX_REQUEST else b""
    if len(body) != size:
        raise EOFError
    cwd, path, count, *rest = body.split(b"\0")
    argc = int(count)
    pairs = (pair.partition(b"=") for pair in rest[argc:])
    return path, rest[:argc], cwd, {key: value for key, _, value in pairs}


def _start(path: bytes, argv: list[bytes], cwd: bytes, env: dict[bytes, bytes]) -> int:
    """Fork and exec; the program alone keeps our standard streams. Raises _Failed."""
    guard = os.getpid()
    failing, failed = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            stage = "guard"
            os.setsid()
            if sys.platform == "linux":
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != guard:
                    os._exit(127)
            _default_signals()
            stage = "cwd"
            os.chdir(cwd)
            stage = "exec"
            os.execve(path, argv, env)  # noqa: S606
        except BaseException as error:
            os.write(failed, f"{stage} {getattr(error, 'errno', 0)}".encode())
        finally:
            os._exit(127)
    os.close(failed)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    reason = _read_all(failing, 64)
    os.close(failing)
    if reason:
        os.waitpid(pid, 0)
        stage, errno = reason.decode().split()
        raise _Failed(stage, int(errno))
    return pid


def _default_signals() -> None:
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)


def _serve(tree: Tree, control: int, wakeup: int, owner: int) -> bool:
    """Until the program ends (False) or the owner wants or needs it ended (True)."""
    import select  # only now: the program has started in the meantime

    poll = select.poll()
    for fd in (control, wakeup, owner):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    pending = b""
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wakeup in ready:
            _drain(wakeup, 0)
        tree.reap()
        if tree.status is not None:
            return False
        if owner in ready:
            return True
        if control in ready:
            try:
                data = os.read(control, _MAX_LINE)
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    send(tree.program, int(line.removeprefix(b"signal ")))
            except (OSError, ValueError):  # an owner that talks nonsense is as good as gone
                return True
            if not data or len(pending) >= _MAX_LINE:
                return True


def _drain(wakeup: int, seconds: float) -> None:
    import select

    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    poll.poll(seconds * 1000)
    try:
        while os.read(wakeup, 4096):
            pass
    except BlockingIOError:
        pass


def _report(tree: Tree, control: int, survivors: list[str], killed: bool) -> None:
    code = ended_by = "-"
    if tree.status is not None:
        if os.WIFSIGNALED(tree.status):
            ended_by = str(os.WTERMSIG(tree.status))
        else:
            code = str(os.WEXITSTATUS(tree.status))
    lines = [f"left {name}" for name in tree.left.values()]
    if tree.more:
        lines.append(f"left and {tree.more} more")
    lines += [f"survivor {name}" for name in survivors]
    lines.append(f"exit {code} {ended_by} {int(killed)}")
    _tell(control, "\n".join(lines))


def _tell(control: int, text: str) -> None:
    data = f"{text}\n".encode()
    try:
        while data:
            data = data[os.write(control, data) :]
    except (BrokenPipeError, ConnectionResetError):
        pass


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)  # an interpreter's own shutdown would take some milliseconds
