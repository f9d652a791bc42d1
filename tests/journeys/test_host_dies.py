"""The program that uses the library dies in the middle of a Bash call: nothing may be left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quarterdeck.testing import ScriptedModelThread

HOST = """
import asyncio, sys
from quarterdeck import Client, Gateway

async def main(url, token, home, engine):
    options = dict(auth=Gateway(url, token), cwd=home, config_dir=home, executable=engine)
    async with Client(allow=["Bash"], **options) as client:
        await client.turn("go")

asyncio.run(main(*sys.argv[1:]))
"""


def of_home(home: Path) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if command and str(home).encode() in environ:
                found[int(entry.name)] = command
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name
)
def test_no_process_outlives_the_host(tmp_path: Path, engine: str, how: signal.Signals) -> None:
    daemon = "(setsid sh -c 'trap \"\" TERM HUP; sleep 291' & ) ; setsid sleep 292 & sleep 293"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with ScriptedModelThread() as model:
        model.push({"tools": [{"name": "Bash", "input": {"command": daemon}}]})
        args = [sys.executable, "-c", HOST, model.url, model.token, str(tmp_path), engine]
        with subprocess.Popen(args, env=env, stderr=subprocess.DEVNULL) as host:
            wanted = {"sleep 291 ", "sleep 292 ", "sleep 293 "}
            deadline = time.monotonic() + 30
            while not wanted <= set(of_home(tmp_path).values()):
                assert time.monotonic() < deadline, of_home(tmp_path)
                time.sleep(0.05)
            host.send_signal(how)
        deadline = time.monotonic() + 5
        while of_home(tmp_path):
            assert time.monotonic() < deadline, of_home(tmp_path)
            time.sleep(0.05)
