"""Sessions found, read and searched on disk."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.session.transcript_writer import Writer, simple, texts, titles

from quarterdeck.engine.claude.transcripts import encode_directory
from quarterdeck.errors import OptionError, SessionAmbiguous, SessionNotFound, TranscriptError
from quarterdeck.session.catalog import Catalog

GOLDEN = Path(__file__).parents[1] / "golden" / "claude"
ROCKET = chr(0x1F680)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root reads everything, so for once not as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


@pytest.fixture
def catalog(config: Path, tmp_path: Path) -> Catalog:
    home = str(tmp_path)
    return Catalog(config_dir=config, env={"HOME": home, "PATH": os.environ["PATH"]})


# -- finding ----------------------------------------------------------------------------------------


def test_nothing_there(catalog: Catalog, tmp_path: Path) -> None:
    assert catalog.list() == []
    assert catalog.latest(tmp_path) is None
    assert catalog.problems == ()


def test_where_the_sessions_are(tmp_path: Path) -> None:
    assert Catalog(env={"CLAUDE_CONFIG_DIR": "/c", "HOME": "/h"}).config_dir == Path("/c")
    assert Catalog(env={"HOME": "/h"}).config_dir == Path("/h/.claude")
    assert Catalog(config_dir=tmp_path, env={"CLAUDE_CONFIG_DIR": "/c"}).config_dir == tmp_path


def test_the_newest_come_first(catalog: Catalog, config: Path) -> None:
    for age, cwd in ((30, "/a"), (10, "/b"), (20, "/a"), (40, "/b")):
        simple(config, f"age {age}", age=age, cwd=cwd)
    assert titles(catalog) == ["age 10", "age 20", "age 30", "age 40"]
    assert titles(catalog, limit=2) == ["age 10", "age 20"]
    assert titles(catalog, limit=0) == []
    assert titles(catalog, cwd=Path("/a")) == ["age 20", "age 30"]
    latest = catalog.latest(Path("/b"))
    assert latest is not None
    assert latest.title == "age 10"


def test_what_is_known_of_a_session(catalog: Catalog, config: Path) -> None:
    path = simple(config, "fix the test", cwd="/home/user/p").save(config, age=1)
    (info,) = catalog.list()
    assert info.id == f"claude:{path.stem}"
    assert (info.engine, info.engine_session_id, info.path) == ("claude-code", path.stem, str(path))
    assert (info.title, info.first_prompt, info.custom_title) == ("fix the test",) * 2 + ("",)
    assert (info.cwd, info.git_branch, info.tag) == ("/home/user/p", "main", "")
    assert info.last_modified == 1_780_000_000 - 1
    assert info.created_at == 1772359200.0
    assert info.file_size == path.stat().st_size


def test_what_is_no_session_is_left_out(catalog: Catalog, config: Path) -> None:
    kept = simple(config).save(config)
    folder = kept.parent
    data = kept.read_bytes()
    (folder / "notes.jsonl").write_bytes(data)
    (folder / f"agent-{uuid.uuid4()}.jsonl").write_bytes(data)
    (folder / f"{uuid.uuid4()}.json").write_bytes(data)
    (folder / f"{uuid.uuid4()}.jsonl").mkdir()
    (folder / f"{uuid.uuid4()}.jsonl").symlink_to(kept)
    os.mkfifo(folder / f"{uuid.uuid4()}.jsonl")
    (folder / f"{uuid.uuid4()}.jsonl").write_bytes(b"")
    (folder / f"{uuid.uuid4()}.jsonl").write_bytes(b"junk\n")
    for field in ({"isSidechain": True}, {"teamName": "t"}):
        hidden = Writer()
        hidden.user("sub-agent", **field)
        hidden.save(config)
    (config / "projects" / "file").write_text("no folder")
    assert [i.path for i in catalog.list()] == [str(kept)]
    assert catalog.problems == ()


def test_a_copied_session_is_listed_once(catalog: Catalog, config: Path) -> None:
    session = simple(config, "old", age=100)
    session.cwd = "/elsewhere"
    session.assistant("more")
    newer = session.save(config, age=1)
    assert [i.path for i in catalog.list()] == [str(newer)]
    assert catalog.get(session.session_id).path == str(newer)


@pytest.mark.parametrize("name", ["plain", "rocket " + ROCKET, "d" * 120 + "/" + "e" * 120])
def test_directories_of_any_name(catalog: Catalog, config: Path, tmp_path: Path, name: str) -> None:
    real = tmp_path / name
    real.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(real)
    simple(config, "here", cwd=str(real))
    assert titles(catalog, cwd=real) == titles(catalog, cwd=link) == ["here"]


def test_a_first_prompt_that_does_not_fit_the_window(catalog: Catalog, config: Path) -> None:
    session = Writer()
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 200_000}}
    session.user([image, {"type": "text", "text": "what is this?"}])
    session.assistant("a cat " * 40_000)
    session.save(config)
    assert titles(catalog) == ["what is this?"]


def test_files_may_vanish(catalog: Catalog, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = simple(config, "gone", age=5).save(config, age=5)
    simple(config, "here", age=10)
    found = list(catalog._newest_first(catalog._folders(None, worktrees=False)))
    gone.unlink()
    monkeypatch.setattr(catalog, "_newest_first", lambda folders: iter(found))
    assert titles(catalog) == ["here"]
    assert [h.info.title for h in catalog.search("answer")] == ["here"]
    assert catalog.problems == ()


def test_unreadable_files_are_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # pytest's own folder is closed to others
        config = Path(name) / "config"
        catalog = Catalog(config_dir=config, env={"HOME": name, "PATH": os.environ["PATH"]})
        locked = simple(config, "locked").save(config)
        simple(config, "open", age=10)
        locked.chmod(0)
        with as_nobody():
            assert titles(catalog) == ["open"]
            assert [p.path for p in catalog.problems] == [str(locked)]
            with pytest.raises(TranscriptError, match="cannot be read"):
                catalog.get(locked.stem)
            assert [h.info.title for h in catalog.search("answer")] == ["open"]
            assert len(catalog.problems) == 1
        locked.chmod(0o600)
        locked.parent.chmod(0)
        with as_nobody():
            assert catalog.list() == []
            assert [p.path for p in catalog.problems] == [str(locked.parent)]
        locked.parent.chmod(0o700)


def test_a_refused_file_is_named(
    catalog: Catalog, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as any user, root too: the operating system refuses."""
    locked = simple(config, "locked").save(config)
    simple(config, "open", age=10)
    really = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied")
        return really(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert titles(catalog) == ["open"]
    (problem,) = catalog.problems
    assert problem.path == str(locked)
    assert "Permission denied" in problem.reason
    with pytest.raises(TranscriptError, match="Permission denied"):
        catalog.messages(f"claude:{locked.stem}")


def test_worktrees_belong_together(catalog: Catalog, config: Path, tmp_path: Path) -> None:
    main, side = tmp_path / "main", tmp_path / "side tree"
    main.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(
            ["git", *identity, *arguments], cwd=main, env=env, check=True, capture_output=True
        )

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("worktree", "add", "-q", "-b", "side", str(side))
    simple(config, "in main", cwd=str(main), age=1)
    simple(config, "in side", cwd=str(side), age=2)
    simple(config, "elsewhere", cwd=str(tmp_path))
    assert titles(catalog, cwd=main) == titles(catalog, cwd=side) == ["in main", "in side"]
    assert titles(catalog, cwd=side, worktrees=False) == ["in side"]
    latest = catalog.latest(side)
    assert latest is not None
    assert latest.title == "in side"


def test_limits_are_checked(catalog: Catalog) -> None:
    for call in (catalog.list, lambda limit: catalog.search("x", limit=limit)):
        with pytest.raises(OptionError, match="negative"):
            call(limit=-1)
    with pytest.raises(OptionError, match="nothing to look for"):
        catalog.search("  ")


# -- names ------------------------------------------------------------------------------------------


def test_names(catalog: Catalog, config: Path) -> None:
    one = Writer("abcd0000-0000-4000-8000-000000000001")
    two = Writer("abcd0000-0000-4000-8000-000000000002", cwd="/other")
    for session, prompt in ((one, "first thing"), (two, "second thing")):
        session.user(prompt)
        session.save(config)
    for name in (one.session_id, one.session_id.upper(), f"claude:{one.session_id}", "first thing"):
        assert catalog.get(name).engine_session_id == one.session_id
    assert catalog.get(one.session_id[:-1] + "2").engine_session_id == two.session_id
    assert catalog.get("abcd0000", cwd=Path("/other")).engine_session_id == two.session_id
    with pytest.raises(SessionAmbiguous) as caught:
        catalog.get("abcd")
    assert {c.split()[0] for c in caught.value.candidates} == {
        f"claude:{s.session_id}" for s in (one, two)
    }
    for name in ("abc", "first", "", "claude:first thing", str(uuid.uuid4()), "opencode:abcd0000"):
        with pytest.raises(SessionNotFound):
            catalog.get(name)


def test_a_title_that_looks_like_the_beginning_of_an_id(catalog: Catalog, config: Path) -> None:
    one = Writer("feed0000-0000-4000-8000-000000000001")
    one.user("x")
    one.save(config)
    simple(config, "feed")
    with pytest.raises(SessionAmbiguous):
        catalog.get("feed")
    assert catalog.get("claude:feed").engine_session_id == one.session_id


# -- reading ----------------------------------------------------------------------------------------


def test_the_recorded_session(catalog: Catalog, config: Path) -> None:
    folder = config / "projects" / "-workspace"
    folder.mkdir(parents=True)
    name = "a6e771ed-90de-4152-85bc-8ed2cc7467e9"
    data = (GOLDEN / "transcript-rich-session.jsonl").read_bytes()
    (folder / f"{name}.jsonl").write_bytes(data)
    info = catalog.get("My renamed session")
    assert info.engine_session_id == name
    messages = catalog.messages(info)
    assert texts(messages)[:1] == ["do things"]
    assert texts(messages)[-2:] == ["still there?", "after compact"]
    calls = [b.id for m in messages for b in m.blocks if b.__class__.__name__ == "ToolUseBlock"]  # type: ignore[union-attr]
    assert calls == [f"toolu_fake_000{n}" for n in range(1, 5)]
    answers = [
        b.tool_use_id  # type: ignore[union-attr]
        for m in messages
        for b in m.blocks
        if b.__class__.__name__ == "ToolResultBlock"
    ]
    assert answers == calls
    assert sum(m.is_compact_summary for m in messages) == 1
    assert not any(m.is_meta for m in messages)
    with_meta = catalog.messages(info, include_meta=True)
    assert len(with_meta) > len(messages)
    assert "compact_boundary" in [m.subtype for m in with_meta]
    for limit in range(1, 30):
        assert catalog.messages(info, limit=limit) == messages[-limit:]
        assert catalog.messages(info, limit=limit, include_meta=True) == with_meta[-limit:]
    assert catalog.messages(info, limit=0) == []


@pytest.mark.parametrize("chunk", [64, 1000, 1024 * 1024])
def test_the_end_is_read_without_the_rest(
    catalog: Catalog, config: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("quarterdeck.session.transcript_files.CHUNK", chunk)
    session = Writer()
    for number in range(150):
        session.user(f"question {number} " + "x" * (number % 7) * 50)
        session.progress({"uuid": "inner", "text": "y" * (number % 5) * 8000})
        session.assistant(f"answer {number}", toolUseResult="z" * (number % 3) * 3000)
    session.save(config)
    every = catalog.messages(session.session_id)
    assert len(every) == 300
    assert [m.text.split()[1] for m in every[::2]] == [str(n) for n in range(150)]
    for limit in (1, 2, 13, 14, 200, 300, 500):
        assert catalog.messages(session.session_id, limit=limit) == every[-limit:]


@pytest.mark.parametrize(
    "tail",
    [
        b'{"parentUuid":"x","type":"user","uuid":"torn","message":{"content":"to',
        b"\xff\xfe\x00\n",
        b'{"type":"user"}\n[1]\nnull\n\n\n',
        b'{"type":"user","uuid":"u","isSidechain":true,"message":{"content":"side"}}\n',
        b'{"type":["user"],"uuid":{"a":1}}\n',
        b"{" * 100_000,
    ],
)
def test_bad_lines_cost_only_themselves(catalog: Catalog, config: Path, tail: bytes) -> None:
    session = Writer()
    session.user("one")
    session.lines.append(tail.rstrip(b"\n") + b"\n")
    session.assistant("two")
    session.save(config, tail=tail)
    assert texts(catalog.messages(session.session_id)) == ["one", "two"]
    assert texts(catalog.messages(session.session_id, limit=1)) == ["two"]
    assert titles(catalog) == ["one"]


def test_a_session_that_went_away(catalog: Catalog, config: Path) -> None:
    path = simple(config).save(config)
    (info,) = catalog.list()
    path.unlink()
    with pytest.raises(TranscriptError, match="cannot be read"):
        catalog.messages(info)
    with pytest.raises(SessionNotFound):
        catalog.messages(info.id)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_no_file_raises_anything_else(catalog: Catalog, config: Path, data: st.DataObject) -> None:
    """Good sessions with bytes changed, lines shuffled, and junk between."""
    good = (GOLDEN / "transcript-rich-session.jsonl").read_bytes().splitlines(keepends=True)
    lines = data.draw(st.lists(st.sampled_from(good), max_size=15) | st.permutations(good))
    junk = data.draw(
        st.lists(st.tuples(st.integers(0, len(lines)), st.binary(max_size=40)), max_size=4)
    )
    for place, extra in junk:
        lines.insert(place, extra)
    content = bytearray(b"".join(lines))
    for at in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=5)):
        if content:
            content[at] = data.draw(st.integers(0, 255))
    session = Writer("abcdef00-0000-4000-8000-000000000001")
    session.lines = [bytes(content[: data.draw(st.integers(0, len(content)))])]
    session.save(config)
    catalog.list()
    info = catalog.get(session.session_id)
    every = catalog.messages(info)
    catalog.messages(info, limit=3, include_meta=True)
    list(catalog.search("do", limit=50))
    try:
        fork = catalog.fork(info)
    except TranscriptError:
        assert every == []
    else:
        assert texts(catalog.messages(fork)) == texts(every)
        catalog.delete(fork)


# -- searching --------------------------------------------------------------------------------------


def test_search(catalog: Catalog, config: Path) -> None:
    old = simple(config, "The Zebra crossed", age=10)
    new = Writer()
    asked = new.user("no such animal here")
    new.user("zebra for the model only", isMeta=True)
    new.user("a sub-agent's zebra", isSidechain=True, parent=asked)
    new.assistant({"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls ZEBRA"}})
    new.add(type="custom-title", customTitle="About a zebra", sessionId=new.session_id)
    new.add(type="custom-title", customTitle="About a zebra!", sessionId=new.session_id)
    new.save(config)
    hits = list(catalog.search("zebra"))
    assert [(h.info.engine_session_id, h.role) for h in hits] == [
        (new.session_id, "title"),
        (new.session_id, "assistant"),
        (old.session_id, "assistant"),
        (old.session_id, "user"),
    ]
    assert [h.snippet for h in hits] == [
        "About a zebra!", "ls ZEBRA", "answer to The Zebra crossed", "The Zebra crossed",
    ]  # fmt: skip
    assert hits[3].message_uuid == json.loads(old.lines[0])["uuid"]
    assert list(catalog.search("zebra", limit=2)) == hits[:2]
    assert list(catalog.search("zebra", cwd=Path("/home/user/p"))) == hits[2:]
    assert list(catalog.search("uuid")) == []  # only what was said, not how it is stored


@pytest.mark.parametrize("ascii_only", [True, False])
def test_search_in_any_spelling(catalog: Catalog, config: Path, ascii_only: bool) -> None:
    session = Writer()
    accent, word = chr(0xC9), chr(0x6F22) + chr(0x5B57)
    text = f'C:\\path "quoted" caf{accent} {word} {ROCKET} tab\there'
    session.user("x")
    fields = json.loads(session.lines[0]) | {"message": {"content": text}}
    session.lines = [json.dumps(fields, ensure_ascii=ascii_only).encode() + b"\n"]
    session.save(config)
    for needle in ('\\path "quo', "CAF" + accent.lower(), word, ROCKET, "b\th", "c:\\"):
        assert len(list(catalog.search(needle))) == 1, needle
    assert list(catalog.search("cafe")) == []


# -- size -------------------------------------------------------------------------------------------

_MEASURED = """
import sys
from pathlib import Path
from quarterdeck.session.catalog import Catalog
catalog = Catalog(config_dir=Path(sys.argv[1]))
assert len(catalog.messages(sys.argv[2], limit=14)) == 14
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_hundred_megabytes_are_read_in_little_memory(config: Path) -> None:
    session = Writer()
    for number in range(14):
        for _ in range(5):
            session.progress({"normalizedMessages": ["some text " * 100] * 1400})
        session.user(f"question {number}")
    path = session.save(config)
    assert path.stat().st_size > 95_000_000
    source = str(Path(__file__).parents[2] / "src")
    out = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(config), session.session_id],
        env={"PYTHONPATH": source, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(out.stdout) < 80_000, "resident KiB"


def test_the_folder_name_is_the_engines(config: Path) -> None:
    path = simple(config, cwd="/home/user/p").save(config)
    assert path.parent.name == encode_directory("/home/user/p") == "-home-user-p"
