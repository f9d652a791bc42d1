"""Commands about the sessions on disk: list, history, search, import and changes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from quarterdeck.cli import exit_codes
from quarterdeck.cli.engine_options import existing_catalog, open_catalog
from quarterdeck.cli.exporting import NOTHING_READABLE
from quarterdeck.cli.output import Screen, age, plain, size, table
from quarterdeck.cli.sanitize import one_line
from quarterdeck.engine import events as ev
from quarterdeck.errors import OptionError, UsageError

if TYPE_CHECKING:
    from quarterdeck.session.catalog import Catalog, SessionInfo, TranscriptMessage

Form = Literal["text", "json"]
Output = Annotated[Form, Parameter(name=("--output", "-o"))]
SHORT_ID = 8  # characters of an id that are shown
MAX_WALL_OF_TEXT = 20_000  # characters of one message that `history` shows


def list_sessions(
    *,
    all: bool = False,
    limit: int = 30,
    cwd: Path | None = None,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """List sessions, newest first: those of this directory and its git
    worktrees.

    Parameters
    ----------
    all: bool
        Those of every directory.
    limit: int
        How many.
    cwd: Path
        Those of this directory.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    _check(limit=limit, cwd=cwd)
    catalog = existing_catalog(config_dir)
    place = None if all else cwd or Path.cwd()
    infos = catalog.list(cwd=place, limit=limit)
    screen = Screen()
    _warn(catalog, screen)
    if output == "json":
        screen.json([_info(i) for i in infos])
    elif not infos:
        screen.line("(no sessions)")
    else:
        _show_list(infos, screen, with_cwd=all)
    return exit_codes.OK


def _show_list(infos: list[SessionInfo], screen: Screen, *, with_cwd: bool) -> None:
    now = time.time()
    rows, header = [], ["ID", "AGE", "SIZE", "TITLE"]
    widths = [SHORT_ID, 5, 9, 60 if with_cwd else 100]
    for info in infos:
        title = f"{info.title}  #{info.tag}" if info.tag else info.title
        when = age(max(0.0, now - info.last_modified))
        row = [info.engine_session_id[:SHORT_ID], when, size(info.file_size), title]
        rows.append([*row, info.cwd] if with_cwd else row)
    if with_cwd:
        header, widths = [*header, "DIRECTORY"], [*widths, 200]
    for number, line in enumerate(table(rows, header, widths)):
        screen.line(line, "dim" if number == 0 else "")


def history(
    name: str,
    /,
    *,
    limit: int | None = None,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """Print what was said in a session, with times and tool calls. Exits with 1
    when nothing in its file can be read.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    limit: int
        Only the last messages.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    _check(limit=limit)
    catalog = existing_catalog(config_dir)
    info = catalog.get(name)
    messages = catalog.messages(info, limit=limit)
    screen = Screen()
    code = exit_codes.OK
    if not messages:
        screen.note(NOTHING_READABLE, "yellow")
        code = exit_codes.FAILED
    if output == "json":
        screen.json({"session": _info(info), "messages": [_message(m) for m in messages]})
        return code
    screen.line(f"{info.title}  ({info.engine_session_id})", "bold")
    for message in messages:
        _show_message(message, screen)
    return code


def _show_message(message: TranscriptMessage, screen: Screen) -> None:
    text = message.text
    if message.is_compact_summary:
        screen.line("· the context was shortened here", "dim")
        return
    if text and message.role == "user":
        screen.line()
        screen.line(f"> {_clipped(text)}".replace("\n", "\n> ") + _when(message), "bold")
    elif text:
        screen.line(_clipped(text), "" if message.role == "assistant" else "dim")
    for block in message.blocks:
        if isinstance(block, ev.ToolUseBlock):
            screen.line(f"● {block.summary(100)}{_when(message)}", "cyan")
        elif isinstance(block, ev.ToolResultBlock) and block.is_error:
            screen.line(f"✗ {one_line(block.text, 160)}", "red")


def _clipped(text: str) -> str:
    if len(text) <= MAX_WALL_OF_TEXT:
        return text
    return f"{text[:MAX_WALL_OF_TEXT]}\n... {len(text) - MAX_WALL_OF_TEXT} more characters"


def _when(message: TranscriptMessage) -> str:
    if message.timestamp is None:
        return ""
    return time.strftime("  [%Y-%m-%d %H:%M:%S]", time.localtime(message.timestamp))


def search(
    text: str,
    /,
    *,
    all: bool = False,
    limit: int = 20,
    cwd: Path | None = None,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """Find text in the sessions of this directory, newest first. Exits with 1
    when there is none.

    Parameters
    ----------
    text: str
        What to look for, whatever the case.
    all: bool
        In the sessions of every directory.
    limit: int
        How many messages.
    cwd: Path
        In the sessions of this directory.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    _check(limit=limit, cwd=cwd)
    catalog = existing_catalog(config_dir)
    place = None if all else cwd or Path.cwd()
    screen = Screen()
    found = list(catalog.search(text, limit=limit, cwd=place))
    _warn(catalog, screen)
    if output == "json":
        screen.json(
            [
                {"session": _info(h.info), "message_uuid": h.message_uuid, "role": h.role,
                 "snippet": h.snippet}
                for h in found
            ]
        )  # fmt: skip
    for hit in found if output == "text" else ():
        head = f"{hit.info.engine_session_id[:SHORT_ID]}  {hit.role:<9}  "
        screen.line(head + one_line(hit.snippet, 200))
    if not found:
        screen.note("nothing found" + ("" if all else "; --all looks in every directory"))
    return exit_codes.OK if found else exit_codes.FAILED


def import_session(
    file: Path,
    /,
    *,
    cwd: Path | None = None,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """Take in a session file from elsewhere; prints its id.

    Parameters
    ----------
    file: Path
        A session file as the engine writes it.
    cwd: Path
        The directory that it shall belong to.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    if not file.is_file():
        raise OptionError("file", str(file), "is not a file")
    place = cwd or Path.cwd()
    if not place.is_dir():
        raise OptionError("cwd", str(place), "is not a directory")
    return _print(open_catalog(config_dir).import_file(file, place), output)


def fork(
    name: str,
    /,
    *,
    title: str | None = None,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """Copy a session under a new id and print that. The original stays as it is.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    title: str
        Title of the copy.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    return _print(open_catalog(config_dir).fork(name, title=title), output)


def rename(
    name: str,
    title: str,
    /,
    *,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """Give a session a title, by which it can be named from then on.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    title: str
        The new title: one line of at most 200 characters.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    return _print(open_catalog(config_dir).rename(name, title), output)


def tag(
    name: str,
    tag: str | None = None,
    /,
    *,
    clear: bool = False,
    output: Output = "text",
    config_dir: Path | None = None,
) -> int:
    """Put a tag on a session, or take it away.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    tag: str
        One word or line.
    clear: bool
        Take the tag away.
    output: str
        Form of the output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    if (tag is None) != clear:
        raise UsageError("tag needs a TAG, or --clear", remedy="give one of the two")
    return _print(open_catalog(config_dir).tag(name, tag), output)


def delete(name: str, /, *, yes: bool = False, config_dir: Path | None = None) -> int:
    """Delete a session for good, with what its sub-agents and tools left. Asks
    first.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    yes: bool
        Do not ask.
    config_dir: Path
        Claude Code's configuration directory.
    """
    catalog = open_catalog(config_dir)
    info = catalog.get(name)
    screen = Screen()
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked whether to delete it", remedy="add --yes")
        screen.note(
            f"delete {info.engine_session_id} ({info.title}, {size(info.file_size)})? [y/N]"
        )
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            screen.note("not deleted")
            return exit_codes.FAILED
    catalog.delete(info)
    screen.note(f"deleted {info.engine_session_id}")
    return exit_codes.OK


def _print(info: SessionInfo, output: Form) -> int:
    screen = Screen()
    if output == "json":
        screen.json(_info(info))
    else:
        screen.line(info.engine_session_id)
    return exit_codes.OK


def _info(info: SessionInfo) -> dict[str, Any]:
    made: dict[str, Any] = plain(info)
    return made


def _message(message: TranscriptMessage) -> dict[str, Any]:
    return {
        "role": message.role,
        "uuid": message.uuid,
        "timestamp": message.timestamp,
        "model": message.model,
        "text": message.text,
        "blocks": msgspec.to_builtins(message.blocks),
    }


def _check(*, limit: int | None = None, cwd: Path | None = None) -> None:
    if limit is not None and limit <= 0:
        raise OptionError("limit", limit, "must be over 0")
    if cwd is not None and not cwd.is_dir():
        raise OptionError("cwd", str(cwd), "is not a directory")


def _warn(catalog: Catalog, screen: Screen) -> None:
    for problem in catalog.problems[:5]:
        screen.note(f"! left out {problem.path}: {problem.reason}", "yellow")
    if len(catalog.problems) > 5:
        screen.note(f"! and {len(catalog.problems) - 5} more", "yellow")
