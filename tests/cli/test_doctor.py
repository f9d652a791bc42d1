from __future__ import annotations

from pathlib import Path
from typing import Any

from .conftest import Cli


def engine(folder: Path, version: str = "2.1.197 (Claude Code)") -> str:
    folder.mkdir()
    program = folder / "claude"
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def checks(report: Any) -> dict[str, Any]:
    return {c["name"]: c for c in report["checks"]}


def test_all_well(cli: Cli, tmp_path: Path) -> None:
    path = engine(tmp_path / "bin")
    done = cli("doctor", "-o", "json", env={"PATH": path})
    assert done.code == 0
    report = done.json()
    assert report["ok"] is True
    found = checks(report)
    assert found["claude"]["status"] == "ok"
    assert "2.1.197" in found["claude"]["detail"]
    assert found["guard"]["status"] == "ok"
    assert found["sessions"]["detail"].startswith("0 ")
    assert not (cli.home / ".claude").exists()
    assert cli("doctor", "--json", env={"PATH": path}).json() == report


def test_a_missing_engine_is_3_with_the_fix(cli: Cli) -> None:
    done = cli("doctor", env={"PATH": "/usr/bin:/bin"})
    assert done.code == 3
    assert "FAIL  claude" in done.out
    assert "fix: install it: npm install -g @anthropic-ai/claude-code" in done.out


def test_an_old_engine_is_3_with_the_fix(cli: Cli, tmp_path: Path) -> None:
    path = engine(tmp_path / "bin", "1.0.3 (Claude Code)")
    done = cli("doctor", "--json", env={"PATH": path})
    assert done.code == 3
    assert checks(done.json())["claude"]["fix"].startswith("npm install -g")


def test_credentials_are_named_and_never_shown(cli: Cli, tmp_path: Path) -> None:
    secret = {"ANTHROPIC_API_KEY": "sk-secret", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    done = cli("doctor", env={"PATH": engine(tmp_path / "bin"), **secret})
    assert "ANTHROPIC_API_KEY, AWS_SECRET_ACCESS_KEY" in done.out
    assert "secret" not in done.out.lower().replace("aws_secret_access_key", "")


def test_a_directory_that_cannot_be_made_has_a_fix(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("doctor", "--json", "--config-dir", str(tmp_path / "file"), env={"PATH": "/bin"})
    assert checks(done.json())["config"]["status"] == "fail"
