"""Renaming, tagging, copying and removing sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.session.transcript_writer import Writer, simple, texts, titles

from quarterdeck.engine.claude.transcripts import encode_directory
from quarterdeck.errors import OptionError, SessionBusy, SessionNotFound, TranscriptError
from quarterdeck.session import lock
from quarterdeck.session.catalog import Catalog


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}


@pytest.fixture
def catalog(config: Path, env: dict[str, str]) -> Catalog:
    return Catalog(config_dir=config, env=env)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def records(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


# -- titles and tags --------------------------------------------------------------------------------


def test_rename_and_tag(catalog: Catalog, config: Path) -> None:
    session = simple(config, "hello")
    info = catalog.rename(session.session_id, "  A better name ")
    assert (info.title, info.custom_title, info.first_prompt) == ("A better name",) * 2 + ("hello",)
    assert catalog.get("A better name") == info
    assert catalog.tag(info, "urgent").tag == "urgent"
    assert catalog.tag(info, None).tag == ""
    assert [r["type"] for r in records(info.path)][2:] == ["custom-title", "tag", "tag"]
    assert texts(catalog.messages(info)) == ["hello", "answer to hello"]


def test_a_new_line_is_not_glued_to_a_torn_one(catalog: Catalog, config: Path) -> None:
    session = simple(config)
    path = session.save(config, tail=b'{"type":"user","uuid":"torn')
    catalog.rename(session.session_id, "whole")
    assert path.read_bytes().splitlines()[-2] == b'{"type":"user","uuid":"torn'
    assert titles(catalog) == ["whole"]
    assert texts(catalog.messages("whole")) == ["hello", "answer to hello"]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "  ",
        "two\nlines",
        "x" * 201,
        "bell" + chr(7),
        chr(0x202E) + "x",
        "a" + chr(0x2028) + "b",
        chr(0x9B),
    ],
)
def test_names_are_checked(catalog: Catalog, config: Path, bad: str) -> None:
    info = catalog.get(simple(config).session_id)
    before = Path(info.path).read_bytes()
    with pytest.raises(OptionError):
        catalog.rename(info, bad)
    with pytest.raises(OptionError):
        catalog.tag(info, bad)
    with pytest.raises(OptionError):
        catalog.fork(info, title=bad)
    assert Path(info.path).read_bytes() == before
    assert len(catalog.list()) == 1


def test_a_vanished_file_is_not_made_anew(catalog: Catalog, config: Path) -> None:
    info = catalog.get(simple(config).session_id)
    Path(info.path).unlink()
    with pytest.raises(TranscriptError, match="cannot be written"):
        catalog.rename(info, "ghost")
    assert not Path(info.path).exists()


def test_nothing_is_written_through_a_link(catalog: Catalog, config: Path, tmp_path: Path) -> None:
    info = catalog.get(simple(config).session_id)
    target = tmp_path / "precious"
    Path(info.path).rename(target)
    Path(info.path).symlink_to(target)
    before = target.read_bytes()
    with pytest.raises(TranscriptError):
        catalog.rename(info, "x")
    assert target.read_bytes() == before


# -- delete -----------------------------------------------------------------------------------------


def test_delete(catalog: Catalog, config: Path) -> None:
    kept = simple(config, "kept", age=5)
    info = catalog.get(simple(config, "gone").session_id)
    folder = Path(info.path).with_suffix("")
    (folder / "subagents").mkdir(parents=True)
    (folder / "subagents" / "agent-1.jsonl").write_text("{}\n")
    catalog.delete(info)
    assert not folder.exists()
    assert [i.engine_session_id for i in catalog.list()] == [kept.session_id]
    with pytest.raises(SessionNotFound):
        catalog.delete(info.id)
    with pytest.raises(TranscriptError):
        catalog.delete(info)


def test_delete_does_not_follow_links(catalog: Catalog, config: Path, tmp_path: Path) -> None:
    info = catalog.get(simple(config).session_id)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    Path(info.path).with_suffix("").symlink_to(tmp_path / "precious")
    catalog.delete(info)
    assert (tmp_path / "precious" / "file").exists()


def registered(config: Path, session_id: str, pid: int, start: str) -> None:
    (config / "sessions").mkdir(exist_ok=True)
    record = {"pid": pid, "sessionId": session_id, "procStart": start}
    (config / "sessions" / f"{pid}.json").write_text(json.dumps(record))


def test_a_session_in_use_is_not_deleted(
    catalog: Catalog, config: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    info = catalog.get(simple(config).session_id)
    registered(config, info.engine_session_id, sleeper.pid, lock.process_start(sleeper.pid))
    with pytest.raises(SessionBusy, match=str(sleeper.pid)):
        catalog.delete(info)
    assert Path(info.path).exists()
    assert catalog.fork(info)  # reading is no harm
    sleeper.kill()
    sleeper.wait()
    catalog.delete(info)


def test_a_stale_or_broken_registration_does_not_matter(
    catalog: Catalog, config: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    info = catalog.get(simple(config).session_id)
    registered(config, info.engine_session_id, sleeper.pid, "1")  # another process had that number
    (config / "sessions" / "1.json").write_text("{")
    catalog.delete(info)
    assert not Path(info.path).exists()


def test_a_session_that_quarterdeck_holds_is_not_deleted(
    catalog: Catalog, config: Path, env: dict[str, str]
) -> None:
    info = catalog.get(simple(config).session_id)
    held = lock.acquire("claude-code", info.engine_session_id, env)
    with pytest.raises(SessionBusy):
        catalog.delete(info)
    held.release()
    catalog.delete(info)


# -- fork -------------------------------------------------------------------------------------------


def branched() -> Writer:
    """Two branches, parallel calls, progress in the chain, a note aside."""
    session = Writer()
    start = session.user("start")
    session.assistant("abandoned", parent=start)
    session.user("never mind")
    session.progress({"x": 1})
    session.last = start
    session.progress({"x": 2})
    calls = [{"type": "tool_use", "id": f"t{n}", "name": "Read", "input": {}} for n in (1, 2)]
    first = session.assistant(calls[0], call="m")
    second = session.assistant(calls[1], call="m")
    for n, caller in ((1, first), (2, second)):
        result = [{"type": "tool_result", "tool_use_id": f"t{n}", "content": f"r{n}"}]
        session.user(result, parent=caller, sourceToolAssistantUUID=caller)
    session.assistant("end")
    session.add(type="content-replacement", sessionId=session.session_id, replacements=[])
    session.add(type="file-history-snapshot", messageId=start)
    return session


def test_fork(catalog: Catalog, config: Path) -> None:
    session = branched()
    session.save(config)
    original = catalog.get(session.session_id)
    before = Path(original.path).read_bytes()
    fork = catalog.fork(original)
    assert fork.title == "start (fork)"
    assert fork.engine_session_id != original.engine_session_id
    assert Path(fork.path).parent == Path(original.path).parent
    assert Path(fork.path).stat().st_mode & 0o777 == 0o600
    assert Path(original.path).read_bytes() == before

    def said(messages: Any) -> list[Any]:
        return [(m.role, m.blocks, m.message_id) for m in messages]

    assert said(catalog.messages(fork)) == said(catalog.messages(original))
    lines = records(fork.path)
    kinds = [r["type"] for r in lines]
    answers = ["assistant"] * 2 + ["user"] * 2
    assert kinds == ["user", *answers, "assistant", "content-replacement", "custom-title"]
    assert {r["sessionId"] for r in lines} == {fork.engine_session_id}
    old = {r["uuid"]: r for r in records(original.path) if "uuid" in r}
    new = {r["uuid"]: r for r in lines if "uuid" in r}
    assert not old.keys() & new.keys()
    assert all(r["forkedFrom"]["sessionId"] == original.engine_session_id for r in new.values())
    assert all(r["forkedFrom"]["messageUuid"] in old for r in new.values())
    assert {r["parentUuid"] for r in new.values()} <= {None, *new}
    assert [r["parentUuid"] is None for r in new.values()] == [True] + [False] * 5
    assert {r.get("sourceToolAssistantUUID") for r in new.values()} <= {None, *new}


def test_fork_as_far_as_a_message(catalog: Catalog, config: Path) -> None:
    session = branched()
    session.save(config)
    uuids = {m.text: m.uuid for m in catalog.messages(session.session_id)}
    fork = catalog.fork(session.session_id, at_message=uuids["start"], title="Short")
    assert texts(catalog.messages(fork)) == ["start"]
    assert catalog.get("Short").id == fork.id
    abandoned = next(r["uuid"] for r in map(json.loads, session.lines) if "never mind" in str(r))
    fork = catalog.fork(session.session_id, at_message=abandoned)
    assert texts(catalog.messages(fork)) == ["start", "abandoned", "never mind"]
    for bad in ("nope", str(uuid.uuid4())):
        with pytest.raises(OptionError, match="is no message"):
            catalog.fork(session.session_id, at_message=bad)


def test_fork_of_nothing(catalog: Catalog, config: Path) -> None:
    session = Writer()
    session.add(type="custom-title", customTitle="empty", sessionId=session.session_id)
    path = session.save(config)
    with pytest.raises(TranscriptError, match="no message"):
        catalog.fork("empty")
    assert list(path.parent.iterdir()) == [path]


def test_a_fork_has_the_newest_title(catalog: Catalog, config: Path) -> None:
    info = catalog.get(simple(config).session_id)
    catalog.rename(info, "n" * 200)
    assert catalog.fork(info).title == "n" * 193 + " (fork)"


def test_nothing_is_left_of_a_failed_write(
    catalog: Catalog, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = catalog.get(simple(config).session_id)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TranscriptError, match="No space left"):
        catalog.fork(info)
    assert [p.name for p in Path(info.path).parent.iterdir()] == [Path(info.path).name]


# -- export and import ------------------------------------------------------------------------------


def test_a_session_moves_to_another_directory(
    catalog: Catalog, config: Path, tmp_path: Path
) -> None:
    session = branched()
    session.lines.append(b"junk\n")
    session.save(config)
    original = catalog.get(session.session_id)
    file = tmp_path / "out.jsonl"
    catalog.export_raw(original, file)
    assert file.read_bytes() == Path(original.path).read_bytes()
    with pytest.raises(TranscriptError, match="exists"):
        catalog.export_raw(original, file)

    place = tmp_path / "place"
    place.mkdir()
    copy = catalog.import_file(file, place)
    assert copy.id != original.id
    assert copy.cwd == str(place)
    assert Path(copy.path).parent.name == encode_directory(os.path.realpath(place))
    assert catalog.messages(copy) == catalog.messages(original)
    assert {r.get("sessionId", copy.engine_session_id) for r in records(copy.path)} == {
        copy.engine_session_id
    }
    catalog.delete(original)
    assert catalog.import_file(file, place).id == original.id  # its own id is free again


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"type":"user"}\n', b"{}\n" * 1000])
def test_what_is_no_session_is_not_imported(
    catalog: Catalog, config: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(content)
    with pytest.raises(TranscriptError, match="no message"):
        catalog.import_file(file, tmp_path)
    assert catalog.list() == []


def test_an_id_in_a_file_cannot_choose_a_path(
    catalog: Catalog, config: Path, tmp_path: Path
) -> None:
    session = Writer("../../../evil")
    session.user("hi")
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"".join(session.lines))
    info = catalog.import_file(file, tmp_path)
    assert Path(info.path).parent.parent == config / "projects"
    with pytest.raises(TranscriptError, match="regular file"):
        catalog.import_file(tmp_path, tmp_path)
