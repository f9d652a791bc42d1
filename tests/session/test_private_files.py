"""Private files: readable by nobody else, and not left behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from quarterdeck.errors import SessionError
from quarterdeck.session import private_files
from quarterdeck.session.lock import process_start


def test_only_we_can_read_them(tmp_path: Path) -> None:
    directory = private_files.make_directory({"XDG_STATE_HOME": str(tmp_path)})
    private_files.write(directory, {"mcp.json": b"{}"})
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "mcp.json").stat().st_mode & 0o777 == 0o600
    private_files.remove(directory)
    assert not directory.exists()
    private_files.remove(directory)
    private_files.remove(None)


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    run = tmp_path / "quarterdeck" / "run"
    gone = subprocess.Popen(["true"])
    gone.wait()
    mine = f"{os.getpid()}-{process_start(os.getpid())}-aa"
    left = [f"{gone.pid}-5-aa", f"{os.getpid()}-1-aa"]
    for name in (*left, mine, "notes", "x-1-a"):
        (run / name).mkdir(parents=True)
        (run / name / "settings.json").write_text("s3cret")
    private_files.make_directory(env)
    names = {entry.name for entry in run.iterdir()}
    assert names >= {mine, "notes", "x-1-a"}
    assert not names & set(left)


def test_no_place_for_them(tmp_path: Path) -> None:
    (tmp_path / "quarterdeck").write_text("a file")
    with pytest.raises(SessionError, match="XDG_STATE_HOME"):
        private_files.make_directory({"XDG_STATE_HOME": str(tmp_path)})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    directory = private_files.make_directory({"XDG_STATE_HOME": str(tmp_path)})
    (directory / "mcp.json").symlink_to("/dev/full")
    with pytest.raises(SessionError, match="No space left"):
        private_files.write(directory, {"mcp.json": b"{}"})
