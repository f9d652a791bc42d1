"""The command line as a program of its own, with a home directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.gateway.server import ModelServer

ROOT = Path(__file__).resolve().parents[2]
CLAUDE = ROOT / "node_modules" / ".bin" / "claude"


@dataclass(frozen=True)
class Done:
    """What one call of the command line gave."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Cli:
    """Calls `quarterdeck` with an environment made from scratch."""

    home: Path
    cwd: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            **{k: os.environ[k] for k in ("PYTHONPATH",) if k in os.environ},
        }

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "quarterdeck", *words]

    def __call__(
        self, *words: str, stdin: str | bytes = "", env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Done:  # fmt: skip
        done = subprocess.run(
            self.argv(*words),
            cwd=self.cwd,
            env={**self.env, **(env or {})},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    return Cli(tmp_path / "home", tmp_path / "work")


class Agent:
    """The command line with the real engine and a scripted model."""

    def __init__(self, cli: Cli, url: str, token: str) -> None:
        self.cli = cli
        self.url = url
        self.env = {"QUARTERDECK_GATEWAY_TOKEN": token}
        self.flags = ["--gateway-url", url, "--engine-path", str(CLAUDE)]

    def __call__(self, command: str, *words: str, **more: Any) -> Done:
        return self.cli(command, *words, *self.flags, env=self.env, **more)


@contextlib.contextmanager
def serving(script: Sequence[dict[str, Any]]) -> Iterator[ModelServer]:
    """A scripted model in a thread of its own."""
    server = ModelServer(list(script))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.aclose(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def agent(cli: Cli) -> Iterator[Callable[..., Agent]]:
    """Makes an Agent whose model says the given replies."""
    if not CLAUDE.exists():
        pytest.skip(f"{CLAUDE} is not installed: make setup")
    with contextlib.ExitStack() as stack:

        def make(*script: dict[str, Any]) -> Agent:
            server = stack.enter_context(serving(script))
            return Agent(cli, server.url, server.token)

        yield make
