"""The demo is the first thing that somebody sees: it runs as it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .conftest import CLAUDE, Cli

pytestmark = pytest.mark.live


def test_the_demo_does_what_it_says(cli: Cli, tmp_path: Path) -> None:
    if not CLAUDE.exists():
        pytest.skip(f"{CLAUDE} is not installed: make setup")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    start = time.monotonic()
    done = cli("demo", "--engine-path", str(CLAUDE), env={"TMPDIR": str(scratch)})
    took = time.monotonic() - start
    assert done.code == 0, done.out + done.err
    assert "All of it holds." in done.out
    assert done.out.count("   ✓ ") == 5
    for word in ("REAL", "SCRIPTED", "allowed by the policy", "DENIED by the policy", "offline"):
        assert word in done.out
    assert "-    return price + price * percent / 100" in done.out
    assert "\x1b" not in done.out
    assert list(scratch.iterdir()) == []
    assert not (cli.home / ".claude").exists()
    assert took < 20


def test_the_demo_needs_the_engine(cli: Cli) -> None:
    done = cli("demo", env={"PATH": "/usr/bin:/bin"})
    assert done.code == 3
    assert "npm install" in done.err


def test_keep_keeps_the_repository(cli: Cli, tmp_path: Path) -> None:
    if not CLAUDE.exists():
        pytest.skip(f"{CLAUDE} is not installed: make setup")
    words = ["--keep", "--color", "--engine-path", str(CLAUDE)]
    done = cli("demo", *words, env={"TMPDIR": str(tmp_path)})
    assert done.code == 0
    assert "\x1b[32m" in done.out
    (kept,) = tmp_path.glob("quarterdeck-demo-*")
    assert "price - price" in (kept / "repository" / "prices.py").read_text()
