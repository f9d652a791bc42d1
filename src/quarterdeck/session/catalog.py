"""The sessions that Claude Code left on disk: found, read, searched and changed without starting it.

Everything blocks and is quick; asynchronous callers use a thread. Files may be torn, corrupt, huge,
or vanish at any time. What cannot be read is left out of lists and named in `Catalog.problems`;
asked for by name it raises TranscriptError. Nothing else comes out of a transcript's content.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from quarterdeck.engine.claude.branches import Entry, Tree
from quarterdeck.engine.claude.digest import (
    WINDOW,
    SessionInfo,
    digest,
    wants_more,
)
from quarterdeck.engine.claude.transcript_search import Needle
from quarterdeck.engine.claude.transcripts import (
    TranscriptMessage,
    encode_directory,
    is_uuid,
    read_message,
    read_record,
)
from quarterdeck.errors import OptionError, SessionAmbiguous, SessionNotFound, TranscriptError
from quarterdeck.session import changes
from quarterdeck.session.transcript_files import TranscriptFile, publish
from quarterdeck.session.worktrees import worktrees as git_worktrees

__all__ = ["Catalog", "Problem", "SearchHit", "SessionInfo", "TranscriptMessage"]

ENGINE = "claude-code"
_PREFIX = "claude:"
_MAX_HEAD = 4 * 1024 * 1024  # bytes read for a first prompt that does not fit the first 64 KiB
_MAX_PROBLEMS = 100
_FILE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.jsonl").fullmatch
_ABBREVIATION = re.compile(r"[0-9a-fA-F-]{4,36}\Z")
_BAD_IN_NAMES = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_Files: TypeAlias = "list[tuple[float, str, str]]"  # changed, name, folder
_Finds: TypeAlias = "list[_Found]"
Infos: TypeAlias = list[SessionInfo]
Messages: TypeAlias = list[TranscriptMessage]


class Problem(msgspec.Struct, frozen=True):
    """A file or folder that was left out of a list, and why."""

    path: str
    reason: str


class SearchHit(msgspec.Struct, frozen=True):
    """A message that holds the text. For a hit in the title `role` is `title` and there is no uuid."""

    info: SessionInfo
    message_uuid: str
    role: str
    snippet: str


class _Found(msgspec.Struct, frozen=True, order=True):
    modified: float
    session_id: str
    path: str


class Catalog:
    """The sessions below one configuration directory of Claude Code.

    `config_dir` defaults to CLAUDE_CONFIG_DIR, then `~/.claude`; `env` defaults to this process's
    environment. `problems` belongs to the last list or search.
    """

    def __init__(
        self, *, config_dir: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._env = os.environ if env is None else env
        chosen = config_dir or self._env.get("CLAUDE_CONFIG_DIR")
        home = Path(self._env.get("HOME") or Path.home())
        self.config_dir = Path(chosen) if chosen else home / ".claude"
        self.problems: tuple[Problem, ...] = ()

    # -- finding --

    def list(
        self, *, cwd: Path | None = None, worktrees: bool = True, limit: int | None = None
    ) -> Infos:
        """Sessions, newest first, each id once; at most `limit`.

        With `cwd` only those of that directory and, with `worktrees`, of its git worktrees. Sessions of
        sub-agents and teams are left out, and files that hold nothing.
        """
        _check_limit(limit)
        self.problems = ()
        infos: Infos = []
        seen: set[str] = set()
        for found in self._newest_first(self._folders(cwd, worktrees)):
            if limit is not None and len(infos) >= limit:
                break
            info = self._listed(found)
            if info is not None and info.engine_session_id not in seen:
                seen.add(info.engine_session_id)
                infos.append(info)
        return infos

    def latest(self, cwd: Path) -> SessionInfo | None:
        """The newest session of exactly this directory; None when there is none."""
        return next(iter(self.list(cwd=cwd, worktrees=False, limit=1)), None)

    def get(self, name: str, *, cwd: Path | None = None) -> SessionInfo:
        """The session of that name: an id (`claude:<uuid>` or the bare uuid), the beginning of one (at
        least 4 characters), or an exact title. With `cwd` titles and beginnings count only there.

        Raises SessionNotFound, SessionAmbiguous (with candidates), TranscriptError.
        """
        wanted = name.removeprefix(_PREFIX)
        if is_uuid(wanted):
            return self._by_id(wanted.lower())
        infos: dict[str, SessionInfo] = {}
        folders = self._folders(cwd, worktrees=True)
        if _ABBREVIATION.match(wanted):
            for found in self._newest_first(folders):
                if found.session_id.startswith(wanted.lower()):
                    infos.setdefault(found.session_id, self._info(found)[0])
        if name and wanted == name:
            for info in self.list(cwd=cwd):
                if name in (info.title, info.custom_title):
                    infos[info.engine_session_id] = info
        if not infos:
            raise SessionNotFound(f"no session is called {name!r}", remedy="see `quarterdeck list`")
        if len(infos) > 1:
            raise SessionAmbiguous(name, [f"{i.id} ({i.title})" for i in infos.values()])
        return next(iter(infos.values()))

    def _by_id(self, session_id: str) -> SessionInfo:
        newest = self._newest_copy(session_id)
        if newest is None:
            raise SessionNotFound(
                f"there is no session {session_id} below {self.config_dir}",
                remedy="see `quarterdeck list`",
            )
        return self._info(newest)[0]

    def _newest_copy(self, session_id: str) -> _Found | None:
        copies: _Finds = []
        for folder in self._folders(None, worktrees=False):
            path = f"{folder}/{session_id}.jsonl"
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    copies.append(_Found(status.st_mtime, session_id, path))
        return max(copies, default=None)

    def _folders(self, cwd: Path | None, worktrees: bool) -> Sequence[str]:
        root = self.config_dir / "projects"
        if cwd is not None:
            places = [Path(cwd)]
            if worktrees:
                places += git_worktrees(places[0], self._env)
            names = (encode_directory(os.path.realpath(place)) for place in places)
            return [str(root / name) for name in dict.fromkeys(names)]
        try:
            with os.scandir(root) as entries:
                return [entry.path for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._problem(str(root), error.strerror or str(error))
            return []

    def _newest_first(self, folders: Iterable[str]) -> Iterator[_Found]:
        """Every session file in these folders. The loop runs for thousands of files: plain tuples."""
        files: _Files = []
        for folder in folders:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if _FILE(entry.name) and entry.is_file(follow_symlinks=False):
                            try:
                                modified = entry.stat(follow_symlinks=False).st_mtime
                            except FileNotFoundError:
                                continue
                            files.append((modified, entry.name, folder))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._problem(folder, error.strerror or str(error))
        files.sort(reverse=True)
        for modified, name, folder in files:
            yield _Found(modified, name[:36], f"{folder}/{name}")

    # -- reading --

    def messages(
        self, session: SessionInfo | str, *, limit: int | None = None, include_meta: bool = False
    ) -> Messages:
        """The conversation, oldest first; with `limit` only its last messages.

        It is the branch written last, goes back behind compactions, and holds parallel tool calls
        whole. `include_meta` adds what the engine wrote for itself. With a limit only the end of the
        file is decoded, and memory stays within a few times its longest line plus what is returned.
        Raises TranscriptError, and what `get` raises.
        """
        _check_limit(limit)
        if limit == 0:
            return []
        with TranscriptFile(self._resolve(session).path) as file:
            entries: tuple[Entry, ...] = ()
            for tree in file.grow(Tree(), stepwise=limit is not None):
                selection = tree.select(want=limit, meta=include_meta)
                entries = selection.entries
                if limit is not None and selection.complete:
                    break
            shown = [e for e in entries if e.shown(meta=include_meta)]
            out: Messages = []
            for entry in shown[-limit:] if limit is not None else shown:
                message = read_message(file.line(entry.offset, entry.offset + entry.length))
                if message is not None:
                    out.append(message)
            return out

    def search(self, text: str, *, limit: int = 20, cwd: Path | None = None) -> Iterator[SearchHit]:
        """Messages and titles that hold the text, whatever the case; newest sessions and messages first.

        Looks at what people, models and tools said and at the input of tool calls, on all branches.
        Yields as it reads. Raises OptionError for an empty text.
        """
        if not text.strip():
            raise OptionError("text", text, "there is nothing to look for")
        _check_limit(limit)
        return itertools.islice(self._search(Needle(text), cwd), limit)

    def _search(self, needle: Needle, cwd: Path | None) -> Iterator[SearchHit]:
        self.problems = ()
        seen: set[str] = set()
        for found in self._newest_first(self._folders(cwd, worktrees=True)):
            if found.session_id in seen:
                continue
            try:
                with TranscriptFile(found.path) as file:
                    yield from self._search_file(file, found, needle)
                seen.add(found.session_id)
            except TranscriptError as error:
                self._unreadable(found.path, error)

    def _search_file(
        self, file: TranscriptFile, found: _Found, needle: Needle
    ) -> Iterator[SearchHit]:
        info: SessionInfo | None = None
        titled = False
        for start, end, line in file.lines(needle.may_hold):
            data = file.line(start, end) if line is None else line
            record = read_record(data) if needle.may_hold(data) else None
            if record is None or record.isSidechain or record.isMeta:
                continue
            if info is None:
                info, listed = self._info(found)
                if not listed:
                    return
            if record.type in ("custom-title", "ai-title"):
                snippet = None if titled else needle.snippet(info.title)
                titled = titled or snippet is not None
                if snippet is not None:
                    yield SearchHit(info, "", "title", snippet)
            elif record.type in ("user", "assistant"):
                message = read_message(data)
                snippet = needle.find(message) if message is not None else None
                if message is not None and snippet is not None:
                    yield SearchHit(info, message.uuid, message.role, snippet)

    def _info(self, found: _Found) -> tuple[SessionInfo, bool]:
        """What the ends of a file say, and whether it belongs into lists. Raises TranscriptError."""
        with TranscriptFile(found.path) as file:
            if file.size <= 2 * WINDOW:
                head = tail = file.read(0, file.size)
            else:
                head = file.read(0, WINDOW)
                tail = file.read(file.size - WINDOW, file.size)
            ends = digest(head, tail)
            if len(head) < file.size and wants_more(head, ends):
                ends = digest(file.read(0, min(file.size, _MAX_HEAD)), tail)
            info = SessionInfo(
                id=_PREFIX + found.session_id,
                engine=ENGINE,
                engine_session_id=found.session_id,
                title=ends.title,
                custom_title=ends.custom_title,
                first_prompt=ends.first_prompt,
                tag=ends.tag,
                cwd=ends.cwd,
                git_branch=ends.git_branch,
                created_at=ends.created_at,
                last_modified=file.modified,
                file_size=file.size,
                path=found.path,
            )
        return info, not (ends.hidden or ends.empty)

    def _listed(self, found: _Found) -> SessionInfo | None:
        try:
            info, listed = self._info(found)
        except TranscriptError as error:
            self._unreadable(found.path, error)
            return None
        return info if listed else None

    def _resolve(self, session: SessionInfo | str) -> SessionInfo:
        return session if isinstance(session, SessionInfo) else self.get(session)

    def _unreadable(self, path: str, error: TranscriptError) -> None:
        if not isinstance(error.__cause__, FileNotFoundError):
            self._problem(path, error.message)

    def _problem(self, path: str, reason: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems = (*self.problems, Problem(path, reason))

    # -- changing --

    def rename(self, session: SessionInfo | str, title: str) -> SessionInfo:
        """Name a session. A running engine may write its own title over it when it ends.

        Raises OptionError unless the title is one line of 1 to 200 characters without control
        characters; TranscriptError, and what `get` raises.
        """
        return self._again(changes.rename(self._resolve(session), title))

    def tag(self, session: SessionInfo | str, tag: str | None) -> SessionInfo:
        """Tag a session; None takes the tag away. Raises as `rename` does."""
        return self._again(changes.tag(self._resolve(session), tag))

    def delete(self, session: SessionInfo | str) -> None:
        """Remove a session's file and the folder of its sub-agents and tool outputs, for good.

        Raises SessionBusy when a running engine or another Quarterdeck owns it, TranscriptError, and
        what `get` raises.
        """
        changes.delete(self._resolve(session), self.config_dir, self._env)

    def fork(
        self, session: SessionInfo | str, *, title: str | None = None, at_message: str | None = None
    ) -> SessionInfo:
        """Copy a session's conversation under a new id, as far as `at_message` (a message's uuid).

        The copy has the branch written last, without progress and undo records; its title defaults to
        the old one and "(fork)". The original may be in use. Raises OptionError for a bad title or an
        `at_message` that the session does not have, TranscriptError, and what `get` raises.
        """
        current = self._again(self._resolve(session))
        return self._by_id(changes.fork(current, title, at_message))

    def export_raw(self, session: SessionInfo | str, path: Path) -> None:
        """Copy a session's file as it is to a new file. What sub-agents said is not in it.

        Raises TranscriptError, also when `path` exists; and what `get` raises.
        """
        with TranscriptFile(self._resolve(session).path) as file:
            publish(Path(path), file.content())

    def import_file(self, path: Path, cwd: Path) -> SessionInfo:
        """Take in a session file from elsewhere as a session of `cwd`, to be resumed there.

        It keeps its id unless that exists here. Lines that are no JSON objects are dropped. Raises
        TranscriptError when it holds no message.
        """
        place = os.path.realpath(cwd)
        folder = self.config_dir / "projects" / encode_directory(place)
        return self._by_id(changes.take_in(Path(path), folder, place, self._exists))

    def _exists(self, session_id: str) -> bool:
        return self._newest_copy(session_id) is not None

    def _again(self, info: SessionInfo) -> SessionInfo:
        return self._info(_Found(0.0, info.engine_session_id, info.path))[0]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise OptionError("limit", limit, "must not be negative")
