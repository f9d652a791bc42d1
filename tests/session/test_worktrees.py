"""Asking git for worktrees: a stranger's repository must not be able to do anything with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from quarterdeck.session import worktrees as module
from quarterdeck.session.worktrees import worktrees


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}


def repository(path: Path, env: dict[str, str]) -> Path:
    path.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=path, env=env, check=True)
    return path


def test_a_repository_is_its_own_worktree(tmp_path: Path, env: dict[str, str]) -> None:
    repo = repository(tmp_path / "repo", env)
    (repo / "deep").mkdir()
    assert worktrees(repo, env) == worktrees(repo / "deep", env) == [repo.resolve()]


def test_no_repository_no_directory_no_git(tmp_path: Path, env: dict[str, str]) -> None:
    assert worktrees(tmp_path, env) == []
    assert worktrees(tmp_path / "gone", env) == []
    repo = repository(tmp_path / "repo", env)
    assert worktrees(repo, {"PATH": str(tmp_path)}) == []


def test_variables_do_not_steer_it(tmp_path: Path, env: dict[str, str]) -> None:
    repo, other = (repository(tmp_path / name, env) for name in ("repo", "other"))
    steered = {**env, "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    assert worktrees(repo, steered) == [repo.resolve()]


def test_the_repository_starts_nothing(tmp_path: Path, env: dict[str, str]) -> None:
    repo = repository(tmp_path / "repo", env)
    trap = tmp_path / "sprung"
    with (repo / ".git" / "config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = "touch {trap}"\n\tpager = touch {trap}\n')
    assert worktrees(repo, env) == [repo.resolve()]
    assert not trap.exists()


def test_a_slow_git_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    assert worktrees(tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}) == []
