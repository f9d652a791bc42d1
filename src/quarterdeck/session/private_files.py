"""Files for one engine process that nobody else may read: its settings, its MCP servers.

They stand in Quarterdeck's state directory under the process that made them. What a killed process
left behind is removed by the next one that starts a session.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from quarterdeck.errors import SessionError
from quarterdeck.session.lock import process_start, state_dir


def make_directory(env: Mapping[str, str] | None = None) -> Path:
    """A new directory of mode 0700. Raises SessionError when there is none to be had."""
    parent = state_dir(env) / "run"
    pid = os.getpid()
    path = parent / f"{pid}-{process_start(pid) or 0}-{secrets.token_hex(8)}"
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(parent)
        path.mkdir(mode=0o700)
    except OSError as error:
        raise _unwritable(parent, error) from None
    return path


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files of mode 0600. Raises SessionError; the directory then has to be removed."""
    for name, content in files.items():
        path = directory / name
        try:
            path.touch(mode=0o600)
            path.write_bytes(content)
        except OSError as error:
            raise _unwritable(path, error) from None


def remove(directory: Path | None) -> None:
    """Remove a directory with what is in it; nothing when there is none."""
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what processes left that are no more."""
    for entry in parent.iterdir():
        pid, _, rest = entry.name.partition("-")
        start = rest.partition("-")[0]
        if not pid.isdigit() or len(pid) > 9 or _lives(int(pid), start):
            continue
        with contextlib.suppress(OSError):
            remove(entry)


def _lives(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return start == "0" or process_start(pid) in ("", start)


def _unwritable(path: Path, error: OSError) -> SessionError:
    return SessionError(
        f"{path} cannot be written: {error.strerror}",
        remedy="free space there, or set XDG_STATE_HOME to a directory that can be written",
    )
