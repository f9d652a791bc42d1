"""The commands about sessions on disk, on a transcript as the engine leaves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Cli

RICH = Path(__file__).resolve().parents[1] / "golden" / "claude" / "transcript-rich-session.jsonl"


@pytest.fixture
def session(cli: Cli) -> str:
    """A session of the working directory; its id."""
    done = cli("import", str(RICH))
    assert done.code == 0, done.err
    return done.out.strip()


def test_no_sessions(cli: Cli) -> None:
    assert cli("list").out == "(no sessions)\n"
    assert cli("list", "-o", "json").json() == []


def test_list_shows_those_of_the_directory(cli: Cli, session: str, tmp_path: Path) -> None:
    lines = cli("list").out.splitlines()
    assert lines[0].split() == ["ID", "AGE", "SIZE", "TITLE"]
    assert lines[1].startswith(session[:8])
    (info,) = cli("list", "--output", "json").json()
    assert info["engine_session_id"] == session
    assert info["id"] == f"claude:{session}"
    assert cli("list", "--cwd", str(tmp_path)).out == "(no sessions)\n"
    everywhere = cli("list", "--all").out
    assert str(cli.cwd) in everywhere
    assert "DIRECTORY" in everywhere


def test_rename_makes_a_name(cli: Cli, session: str) -> None:
    assert cli("rename", session[:8], "login bug").out == f"{session}\n"
    assert "login bug" in cli("list").out
    assert cli("fork", "login bug", "--title", "second").code == 0
    assert cli("history", "login bug", "-o", "json").json()["session"]["title"] == "login bug"
    assert cli("rename", session, "two\nlines").code == 2


def test_an_ambiguous_name_lists_the_candidates(cli: Cli, session: str) -> None:
    other = cli("fork", session, "--title", "same").out.strip()
    cli("rename", session, "same")
    done = cli("history", "same")
    assert done.code == 2
    assert session in done.err
    assert other in done.err


def test_tag_and_clear(cli: Cli, session: str) -> None:
    assert cli("tag", session, "release", "-o", "json").json()["tag"] == "release"
    assert "#release" in cli("list").out
    assert cli("tag", session, "--clear", "-o", "json").json()["tag"] == ""
    assert cli("tag", session).code == 2


def test_history_shows_prompts_answers_and_tools(cli: Cli, session: str) -> None:
    out = cli("history", session).out
    messages = cli("history", session, "-o", "json").json()["messages"]
    prompts = [m["text"] for m in messages if m["role"] == "user" and m["text"]]
    assert prompts
    assert f"> {prompts[0].splitlines()[0]}" in out
    assert "● " in out
    assert "[20" in out
    last = cli("history", session, "--limit", "1", "-o", "json").json()["messages"]
    assert last == messages[-1:]


def test_history_of_a_hostile_transcript_is_harmless(cli: Cli, tmp_path: Path) -> None:
    line = {
        "type": "user", "uuid": "6d6a3c3e-0000-4000-8000-000000000001", "parentUuid": None,
        "sessionId": "6d6a3c3e-0000-4000-8000-000000000002", "timestamp": "2026-01-01T00:00:00Z",
        "message": {"role": "user", "content": "hi\x1b]52;c;eA==\x07\u202e"},
    }  # fmt: skip
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(line) + "\n")
    session = cli("import", str(file)).out.strip()
    for done in (cli("history", session), cli("list"), cli("search", "hi"), cli("export", session)):
        assert "hi" in done.out
        assert "\x1b" not in done.out
        assert "\u202e" not in done.out


def test_search(cli: Cli, session: str) -> None:
    (prompt, *_) = [
        m["text"] for m in cli("history", session, "-o", "json").json()["messages"] if m["text"]
    ]
    word = max(prompt.split(), key=len)
    hits = cli("search", word.upper(), "-o", "json").json()
    assert hits[0]["session"]["engine_session_id"] == session
    assert cli("search", word).out.startswith(session[:8])
    nothing = cli("search", "qqqzzzqqq")
    assert (nothing.code, nothing.out) == (1, "")
    assert cli("search", "qqqzzzqqq", "-o", "json").out == "[]\n"


@pytest.mark.parametrize(("form", "begins"), [("md", "#"), ("json", "{"), ("html", "<!")])
def test_export(cli: Cli, session: str, form: str, begins: str, tmp_path: Path) -> None:
    done = cli("export", session, "--format", form)
    assert done.code == 0
    assert done.out.startswith(begins)
    target = tmp_path / "out"
    assert cli("export", session, "--format", form, "--to", str(target)).out == ""
    assert target.read_text() == done.out
    assert cli("export", session, "--format", form, "--to", str(target)).code == 2


def test_a_raw_export_can_be_imported(cli: Cli, session: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    assert cli("export", session, "--format", "raw").code == 2
    assert cli("export", session, "--format", "raw", "--to", str(raw)).code == 0
    again = cli("import", str(raw)).out.strip()
    assert again != session
    texts = [
        [m["text"] for m in cli("history", s, "-o", "json").json()["messages"]]
        for s in (session, again)
    ]
    assert texts[0] == texts[1]


def test_delete_asks_and_does_not_guess(cli: Cli, session: str) -> None:
    refused = cli("delete", session)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert cli("history", session).code == 0
    assert cli("delete", session, "--yes").code == 0
    assert cli("history", session).code == 2


def test_delete_at_a_terminal_takes_yes_only(cli: Cli, session: str) -> None:
    import pty
    import subprocess

    for typed, code in ((b"n\n", 1), (b"\n", 1), (b"y\n", 0)):
        primary, secondary = pty.openpty()
        process = subprocess.Popen(
            cli.argv("delete", session), cwd=cli.cwd, env=cli.env, stdin=secondary,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(secondary)
        os.write(primary, typed)
        assert process.wait(30) == code
        os.close(primary)


def test_what_cannot_be_read_is_told(cli: Cli, session: str) -> None:
    folder = next((cli.home / ".claude" / "projects").iterdir())
    bad = folder / "6d6a3c3e-0000-4000-8000-00000000000f.jsonl"
    bad.write_text("not json at all\n")
    done = cli("list")
    assert done.code == 0
    assert session[:8] in done.out


@pytest.mark.parametrize("command", ["list", "search x", "history x"])
@pytest.mark.parametrize("flag", ["--limit 0", "--limit -3", "--config-dir /nonexistent"])
def test_values_without_sense_name_their_flag(cli: Cli, command: str, flag: str) -> None:
    done = cli(*command.split(), *flag.split())
    assert done.code == 2
    assert done.err.startswith(f"error: {flag.split()[0]} = ")


@pytest.mark.parametrize("command", ["list", "search x"])
def test_a_directory_that_is_not_there_is_told(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--cwd", "/nonexistent")
    assert done.code == 2
    assert done.err.startswith("error: --cwd = ")


def test_a_file_with_nothing_readable_is_1(cli: Cli, session: str) -> None:
    folder = next((cli.home / ".claude" / "projects").iterdir())
    bad = "6d6a3c3e-0000-4000-8000-00000000000f"
    (folder / f"{bad}.jsonl").write_text("not json at all\n")
    for words in (("history", bad), ("export", bad), ("history", bad, "-o", "json")):
        done = cli(*words)
        assert done.code == 1
        assert done.err == "(nothing readable in this file)\n"


@pytest.mark.parametrize("form", ["md", "raw"])
def test_an_export_that_fails_leaves_no_file(
    cli: Cli, session: str, form: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    words = ["export", session, "--format", form, "--to", str(folder / "x")]
    small = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); {MAIN}"
    done = subprocess.run(
        [sys.executable, "-B", "-c", small, *words], cwd=cli.cwd, env=cli.env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot write {folder}/x: File too large\n")
    assert "report" not in done.stderr
    assert list(folder.iterdir()) == []


MAIN = "import sys; from quarterdeck.cli.main import main; sys.exit(main())"


def test_a_full_disk_behind_standard_output_is_told(cli: Cli, session: str) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full on this system")
    for words in (["list"], ["export", session], ["history", session, "-o", "json"], ["--help"]):
        with full.open("wb") as out:
            done = subprocess.run(
                cli.argv(*words), cwd=cli.cwd, env=cli.env, stdout=out,
                stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == (
            "error: cannot write standard output: No space left on device\n"
            "  make room there, or write elsewhere\n"
        )
