"""One owner for each engine session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quarterdeck.errors import OptionError, SessionBusy
from quarterdeck.session import lock

HOLDER = """
import sys
from quarterdeck.session import lock
held = lock.acquire("claude-code", "abc")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    held = lock.acquire("claude-code", "abc", env)
    with pytest.raises(SessionBusy, match=str(os.getpid())):
        lock.acquire("claude-code", "abc", env)
    lock.acquire("claude-code", "other", env).release()
    held.release()
    held.release()
    lock.acquire("claude-code", "abc", env).release()
    assert list((tmp_path / "quarterdeck" / "locks").iterdir()) == []


def test_there_is_one_owner_however_many_come_and_go(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    inside, most, errors = [0], [0], []

    def work() -> None:
        try:
            for _ in range(300):
                try:
                    held = lock.acquire("claude-code", "abc", env)
                except SessionBusy:
                    continue
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                held.release()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most == [1]


def test_the_lock_falls_with_its_process(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SessionBusy, match=str(holder.pid)):
            lock.acquire("claude-code", "abc", env)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock.acquire("claude-code", "abc", env).release()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 200])
def test_ids_are_no_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        lock.acquire("claude-code", name, {"XDG_STATE_HOME": str(tmp_path)})


def test_a_session_of_a_running_engine_is_refused(tmp_path: Path) -> None:
    registry = tmp_path / "sessions"
    registry.mkdir()
    me, start = os.getpid(), lock.process_start(os.getpid())
    (registry / "1.json").write_text("not json")
    (registry / f"{me}.json").write_text(
        json.dumps({"pid": me, "sessionId": "abc", "procStart": start})
    )
    with pytest.raises(SessionBusy, match=str(me)):
        lock.check_engine_registry(tmp_path, "abc")
    lock.check_engine_registry(tmp_path, "other")


def test_a_file_left_by_a_dead_engine_does_not_count(tmp_path: Path) -> None:
    registry = tmp_path / "sessions"
    registry.mkdir()
    for number, pid in enumerate([os.getpid(), 2**40, -1, "1"]):
        record = {"pid": pid, "sessionId": "abc", "procStart": "1"}
        (registry / f"{number}.json").write_text(json.dumps(record))
    lock.check_engine_registry(tmp_path, "abc")
    lock.check_engine_registry(tmp_path / "missing", "abc")
