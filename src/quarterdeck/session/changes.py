"""Changes to session files: names, tags, copies and removal. The engine reads all of them back."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from quarterdeck.engine.claude.branches import Entry, Tree
from quarterdeck.engine.claude.digest import SessionInfo
from quarterdeck.engine.claude.transcripts import (
    MAX_TITLE,
    is_uuid,
    read_record,
    rewrite,
    tag_line,
    title_line,
)
from quarterdeck.errors import OptionError, TranscriptError
from quarterdeck.session import lock
from quarterdeck.session.transcript_files import TranscriptFile, append, publish

_FORK = " (fork)"
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def rename(info: SessionInfo, title: str) -> SessionInfo:
    """Append a title. Raises OptionError, TranscriptError."""
    append(info.path, title_line(info.engine_session_id, _checked("title", title)))
    return info


def tag(info: SessionInfo, value: str | None) -> SessionInfo:
    """Append a tag; None takes it away. Raises OptionError, TranscriptError."""
    checked = None if value is None else _checked("tag", value)
    append(info.path, tag_line(info.engine_session_id, checked))
    return info


def delete(info: SessionInfo, config_dir: Path, env: Mapping[str, str]) -> None:
    """Remove a session that nobody owns. Raises SessionBusy, TranscriptError."""
    held = lock.acquire("claude-code", info.engine_session_id, env)
    try:
        lock.check_engine_registry(config_dir, info.engine_session_id)
        path = Path(info.path)
        folder = path.with_suffix("")
        try:
            path.unlink()
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        except OSError as error:
            raise TranscriptError(
                f"{error.filename or path} cannot be removed: {error.strerror}",
                remedy="check who owns it",
            ) from error
    finally:
        held.release()


def fork(info: SessionInfo, title: str | None, at_message: str | None) -> str:
    """Write a copy beside the original; returns its id. Raises OptionError, TranscriptError."""
    name = _checked(
        "title", info.title[: MAX_TITLE - len(_FORK)] + _FORK if title is None else title
    )
    new_id = str(uuid.uuid4())
    with TranscriptFile(info.path) as file:
        tree = Tree()
        for _ in file.grow(tree, stepwise=False):
            pass
        last = tree.get(at_message) if at_message is not None else None
        if at_message is not None and (last is None or not last.shown(meta=True)):
            raise OptionError("at_message", at_message, f"is no message of {info.id}")
        chosen = tree.select(tip=at_message).entries
        kept = [e for e in chosen if e.kind != "progress" and not e.sidechain]
        if not kept:
            raise TranscriptError(f"{info.path} holds no message, so there is nothing to fork")
        lines = _forked(file, tree, kept, info.engine_session_id, new_id)
        publish(
            Path(info.path).with_name(f"{new_id}.jsonl"),
            itertools.chain(lines, [title_line(new_id, name)]),
        )
    return new_id


def _forked(
    file: TranscriptFile, tree: Tree, kept: Sequence[Entry], old_id: str, new_id: str
) -> Iterator[bytes]:
    ids = {entry.uuid: str(uuid.uuid4()) for entry in kept}
    for entry in kept:
        parent = tree.kept_parent(entry, ids)
        line = rewrite(
            file.line(entry.offset, entry.offset + entry.length),
            session_id=new_id,
            ids=ids,
            parent=ids[parent] if parent is not None else None,
            forked_from=old_id,
        )
        if line is not None:
            yield line
    for raw in file.forward():
        if raw.startswith(b'{"type":"content-replacement"'):
            yield rewrite(raw, session_id=new_id) or b""


def take_in(path: Path, folder: Path, cwd: str, exists: Callable[[str], bool]) -> str:
    """Copy a foreign file into a project folder; returns its id. Raises TranscriptError."""
    with TranscriptFile(path, follow=True) as file:
        session_id = _named_in(file)
        if not is_uuid(session_id) or exists(session_id):
            session_id = str(uuid.uuid4())
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TranscriptError(f"{folder} cannot be made: {error.strerror}") from error
        lines = (rewrite(line, session_id=session_id, cwd=cwd) for line in file.forward())
        publish(folder / f"{session_id}.jsonl", filter(None, lines))
    return session_id


def _named_in(file: TranscriptFile) -> str:
    """The session id of the first message."""
    with contextlib.closing(file.forward()) as lines:
        for line in lines:
            record = read_record(line)
            if record is not None and record.uuid and record.type in ("user", "assistant"):
                return (record.sessionId or "").lower()
    raise TranscriptError(f"{file.path} holds no message of Claude Code")


def _checked(field: str, value: str) -> str:
    text = value.strip()
    if not text:
        raise OptionError(field, value, "is empty")
    if len(text) > MAX_TITLE:
        raise OptionError(field, value, f"is longer than {MAX_TITLE} characters")
    if _UNFIT.search(text):
        raise OptionError(field, value, "must be one line without control characters")
    return text
