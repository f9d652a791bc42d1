"""The rules of the repository itself: nothing of one machine, exact locks, documents that hold together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

# What must not be in any file. Written so that this file does not match itself.
NOWHERE = {
    "registry address": re.compile(
        r"pypi\.or[g]|pythonhoste[d]|registry\.npmj[s]|[-]-(?:extra-)?index-url|[-]-find-links"
    ),
    "path of one machine": re.compile(
        r"(?<![\w.$-])/(?:work|root|opt/pypi|opt/wheels|tmp/pip[\w-]*)/"
    ),
}
# What must not be in a file that tells a package manager where to get things.
LOCKS = (
    "package.json",
    "package-lock.json",
    "pyproject.toml",
    "Makefile",
    ".npmrc",
    "requirements/",
)
IN_LOCKS = {"file address": re.compile(r"file:/"), "resolved address": re.compile(r'"resolved"')}


def tracked() -> list[str]:
    """Files of the repository: known to git, or new and not ignored."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return []
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    names = done.stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def _lines(name: str) -> Iterator[tuple[int, str]]:
    data = (ROOT / name).read_bytes()
    if b"\0" not in data[:8192]:
        yield from enumerate(data.decode("utf-8", "replace").splitlines(), 1)


def test_nothing_of_one_machine() -> None:
    names = tracked()
    if not names:
        pytest.skip("not a git checkout")
    found = []
    for name in names:
        rules = NOWHERE | (IN_LOCKS if name.startswith(LOCKS) else {})
        for number, line in _lines(name):
            found += [
                f"{name}:{number}: {what}" for what, rule in rules.items() if rule.search(line)
            ]
    assert not found, "\n".join(found)


def test_python_packages_are_locked_with_hashes() -> None:
    text = (ROOT / "requirements" / "dev.txt").read_text().replace("\\\n", " ")
    entries = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(entries) > 10
    loose = [e for e in entries if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", e)]
    assert not loose


def test_engines_are_exact_and_locked() -> None:
    wanted: dict[str, str] = json.loads((ROOT / "package.json").read_text())["dependencies"]
    packages: dict[str, dict[str, Any]] = json.loads((ROOT / "package-lock.json").read_text())[
        "packages"
    ]
    assert "@anthropic-ai/claude-code" in wanted
    for name, exact in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", exact), f"{name} is not pinned: {exact}"
        assert packages[f"node_modules/{name}"]["version"] == exact
    unhashed = [
        n for n, p in packages.items() if n and not p.get("integrity", "").startswith("sha512-")
    ]
    assert not unhashed


def test_version_and_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version("quarterdeck") == project["version"], "run `make setup`"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "\n## [Unreleased]\n" in changelog


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(item)


def test_every_page_is_in_nav_and_exists() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    docs = ROOT / "docs"
    there = {file.relative_to(docs).as_posix() for file in docs.rglob("*.md")}
    assert set(_pages(config["nav"])) == there


def test_links_between_documents_hold() -> None:
    documents = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
    ]
    broken = [
        f"{file.relative_to(ROOT)}: {target}"
        for file in documents
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text())
        if ":" not in target and not (file.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def test_every_make_target_is_in_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    assert phony == set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))


def test_ci_runs_check_and_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make check", "make test"} <= set(script.read_text().splitlines())


def test_nothing_is_left_for_later_in_the_source() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
    files = (ROOT / "src").rglob("*.py")
    left = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not left


def test_recordings_hold_no_texts_of_the_engines_maker() -> None:
    files = [f for f in GOLDEN.rglob("*") if f.suffix in {".ndjson", ".jsonl", ".raw"}]
    assert len(files) > 100
    assert sum(f.stat().st_size for f in files) < 1_500_000
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            assert b"chars]" not in line, f"{file.name}:{number}: a text that was only shortened"
            for text in _descriptions(line):
                assert text in {"", "(description)", "(hint)", "(name)"}, f"{file.name}:{number}"


def _descriptions(line: bytes) -> Iterator[str]:
    """How the engine describes its own commands, agents, models and skills in one recorded line."""
    try:
        record = json.loads(line)
    except ValueError:
        return
    message = record.get("msg") if record.get("dir") == "out" else None
    for holder in (message, ((message or {}).get("response") or {}).get("response")):
        for listing in ("commands", "agents", "models", "skills"):
            items = holder.get(listing) if isinstance(holder, dict) else None
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict):
                    yield from (
                        str(item.get(k, "")) for k in ("description", "argumentHint", "displayName")
                    )
