"""PURE. What a session is called, read from the first and last 64 KiB of its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from quarterdeck.engine.claude.transcripts import (
    MAX_TITLE,
    Record,
    one_line,
    parse_time,
    prompt_of,
    read_record,
)

WINDOW = 64 * 1024  # bytes read at each end of a file
UNTITLED = "(session)"


class SessionInfo(msgspec.Struct, frozen=True):
    """A session found on disk.

    `id` is `claude:<engine_session_id>`. `title` is what the person named it, else the engine's title
    for it, else its last prompt or summary, else its first prompt, else `(session)`; always one line
    of at most 200 characters without control characters. Times are Unix seconds.
    """

    id: str
    engine: str
    engine_session_id: str
    title: str
    custom_title: str
    first_prompt: str
    tag: str
    cwd: str
    git_branch: str
    created_at: float | None
    last_modified: float
    file_size: int
    path: str


class Digest(msgspec.Struct, frozen=True):
    """What the ends of a file say. `hidden`: a sub-agent's or a team's; `empty`: nothing to show."""

    title: str = UNTITLED
    custom_title: str = ""
    first_prompt: str = ""
    tag: str = ""
    cwd: str = ""
    git_branch: str = ""
    created_at: float | None = None
    hidden: bool = False
    empty: bool = True


# What is looked for: the words that a line must contain, its type (None: any), and the field.
_Wanted = tuple[bytes, str | None, Callable[[Record], str | None]]
_CUSTOM_TITLE: _Wanted = (b'"customTitle"', "custom-title", lambda r: r.customTitle)
_AI_TITLE: _Wanted = (b'"aiTitle"', "ai-title", lambda r: r.aiTitle)
_LAST_PROMPT: _Wanted = (b'"lastPrompt"', "last-prompt", lambda r: r.lastPrompt)
_SUMMARY: _Wanted = (b'"summary"', "summary", lambda r: r.summary)
_TAG: _Wanted = (b'"tag"', "tag", lambda r: r.tag)
_BRANCH: _Wanted = (b'"gitBranch"', None, lambda r: r.gitBranch)


def digest(head: bytes, tail: bytes) -> Digest:
    """Read the ends of a file. For a short file both are the whole of it (and the same object).

    `tail` may begin within a line, and either may end within one. Never raises on content.
    """
    hidden = known = False
    cwd = prompt = command = ""
    created: float | None = None
    for record in _records(head):
        created = parse_time(record.timestamp) if created is None else created
        cwd = cwd or one_line(record.cwd or "", 4096)
        if record.uuid is not None and not known:
            known, hidden = True, bool(record.isSidechain or record.teamName)
        prompt, ran = prompt_of(record)
        command = command or ran
        if prompt:
            break
    custom, ai = (_last(wanted, head, tail) for wanted in (_CUSTOM_TITLE, _AI_TITLE))
    first = prompt or command
    titles = (custom, ai, _last(_LAST_PROMPT, head, tail), _last(_SUMMARY, head, tail), first)
    title = next(filter(None, titles), "")
    return Digest(
        title=title or UNTITLED,
        custom_title=custom,
        first_prompt=first,
        tag=_last(_TAG, head, tail),
        cwd=cwd,
        git_branch=_last(_BRANCH, head, tail),
        created_at=created,
        hidden=hidden,
        empty=not title and (tail is head or not tail) and not known,
    )


def wants_more(head: bytes, found: Digest) -> bool:
    """Whether the first prompt may be in the line that the head was cut in."""
    return not found.first_prompt and not found.hidden and not head.endswith(b"\n")


def _records(window: bytes) -> Iterator[Record]:
    at = 0
    while at < len(window):
        end = window.find(b"\n", at)
        end = len(window) if end < 0 else end
        record = read_record(window[at:end]) if end > at else None
        if record is not None:
            yield record
        at = end + 1


def _last(wanted: _Wanted, head: bytes, tail: bytes) -> str:
    """The last value in the tail, else in the head; an empty value says that there is none."""
    found = _last_in(wanted, tail)
    if found is None and head is not tail:
        found = _last_in(wanted, head)
    return one_line(found or "", MAX_TITLE)


def _last_in(wanted: _Wanted, window: bytes) -> str | None:
    words, kind, field = wanted
    end = len(window)
    while (at := window.rfind(words, 0, end)) >= 0:
        start = window.rfind(b"\n", 0, at) + 1
        stop = window.find(b"\n", at)
        record = read_record(window[start : len(window) if stop < 0 else stop])
        if record is not None and kind in (None, record.type):
            value = field(record)
            if value is not None:
                return value
        end = start
    return None
