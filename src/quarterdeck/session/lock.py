"""One owner for each engine session: two writers would fork its transcript without a word."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from quarterdeck.errors import OptionError, SessionBusy, SessionError

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_MAX_REGISTRY = 64 * 1024  # bytes of one live-process file


class SessionLock:
    """A held lock. It falls with the process, whatever ends that."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def release(self) -> None:
        """Let go, and remove the file. Idempotent."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()  # while it is ours: `acquire` looks whether it still is the file
            os.close(self._fd)
            self._fd = -1


def acquire(
    engine: str, engine_session_id: str, env: Mapping[str, str] | None = None
) -> SessionLock:
    """Take the lock of an engine's session.

    Raises SessionBusy naming pid and start of the holder, OptionError for an id that is no file name,
    SessionError when the state directory cannot be used.
    """
    if not _SAFE.match(engine_session_id) or not _SAFE.match(engine):
        raise OptionError("session_id", engine_session_id, "not an id")
    directory = state_dir(env) / "locks"
    path = directory / f"{engine}-{engine_session_id}.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            fd = _locked(path, engine_session_id)
            if _is_the_file(fd, path):
                break
            os.close(fd)  # its owner removed it in the meantime
        record = {"pid": os.getpid(), "start": process_start(os.getpid()), "boot": _boot_id()}
        os.ftruncate(fd, 0)
        with contextlib.suppress(OSError):  # who holds it is for people; a full disk may lose that
            os.pwrite(fd, json.dumps(record).encode(), 0)
    except OSError as error:
        raise SessionError(
            f"the lock {path} cannot be taken: {error.strerror}",
            remedy="let XDG_STATE_HOME name a directory that can be written",
        ) from None
    return SessionLock(fd, path)


def _locked(path: Path, engine_session_id: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(fd)
        os.close(fd)
        raise SessionBusy(engine_session_id, holder) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_the_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def check_engine_registry(config_dir: Path, engine_session_id: str) -> None:
    """Refuse a session that a running engine process has registered as its own.

    Claude Code writes `sessions/<pid>.json` while it lives and leaves it behind when killed, so the
    process must exist and have the start time of the file. Raises SessionBusy.
    """
    try:
        files = list((config_dir / "sessions").glob("*.json"))
    except OSError:
        return
    for file in files:
        try:
            with file.open("rb") as opened:
                value = json.loads(opened.read(_MAX_REGISTRY))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(value, dict) or value.get("sessionId") != engine_session_id:
            continue
        pid, start = value.get("pid"), value.get("procStart")
        if isinstance(pid, int) and pid > 0 and _is_alive(pid, start):
            raise SessionBusy(engine_session_id, f"the engine's process {pid}")


def _is_alive(pid: int, start: object) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    seen = process_start(pid)
    return not seen or start is None or str(start) == seen


def process_start(pid: int) -> str:
    """When a process started, in kernel ticks; empty where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _holder(fd: int) -> str:
    try:
        record = json.loads(os.pread(fd, 4096, 0))
        return f"process {int(record['pid'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def state_dir(env: Mapping[str, str] | None = None) -> Path:
    """Quarterdeck's own state: `$XDG_STATE_HOME/quarterdeck`, else `~/.local/state/quarterdeck`."""
    env = os.environ if env is None else env
    base = env.get("XDG_STATE_HOME")
    home = Path(env.get("HOME") or Path.home())
    return (Path(base) if base else home / ".local" / "state") / "quarterdeck"
