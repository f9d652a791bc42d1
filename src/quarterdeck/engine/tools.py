"""PURE. What a tool call is about, told to a person in one line.

The input of a tool call comes from a model: every value may be of any type, of any length and hold
any character. Nothing here raises because of it, and nothing shown can break out of its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

ARGUMENT_LIMIT = 50  # characters of a command, a query or a description
LABEL_LIMIT = 200  # characters of a whole label

_FILE_KEYS: dict[str, tuple[str, ...]] = {
    "read": ("file_path", "filePath"),
    "write": ("file_path", "filePath"),
    "edit": ("file_path", "filePath"),
    "multiedit": ("file_path", "filePath"),
    "notebookedit": ("notebook_path", "file_path"),
}

# Controls, surrogates, line separators and the marks that reorder or hide text in a terminal.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_SPACE = re.compile(r"[ \t\r\n\v\f]+")


def file_path(name: str, input: object) -> str | None:
    """The file that Read, Write, Edit, MultiEdit or NotebookEdit names, as it was given; else None."""
    return _first(input, _FILE_KEYS.get(name.lower(), ()))


def display_label(name: str, input: object, server: str | None = None) -> str:
    """One line, at most 200 characters: `Read lib/foo.rb`, `Bash: git status`, `calculator/add`.

    A path is shown by its last two parts, a web address by its host, a command, query or description
    by its first 50 characters. A tool of a server is `server/tool`. Control characters are replaced.
    """
    shown = _tool_name(name, server)
    if server is not None or shown != _clean(name):
        return _clip(shown, LABEL_LIMIT)
    path = file_path(name, input)
    if path is not None:
        return _clip(f"{shown} {_tail(path)}", LABEL_LIMIT)
    describe = _ARGUMENTS.get(name.lower())
    argument = describe(input) if describe else ""
    return _clip(f"{shown}: {argument}" if argument else shown, LABEL_LIMIT)


def summary(name: str, input: object, server: str | None = None, limit: int = 60) -> str:
    """The label and what is counted, at most `limit` characters.

    `Write a/b.py (12 lines)`, `Edit a/b.py replacing 5 line(s)`. When it is too long, the label is
    cut and the count stays, as long as there is room for both.
    """
    label = display_label(name, input, server)
    count = "" if server is not None else _count(name, input)
    room = limit - len(count)
    if count and room >= len(name) + 8:
        return _clip(label, room) + count
    return _clip(label + count, limit)


def _tool_name(name: str, server: str | None) -> str:
    if server is not None:
        return f"{_clean(server)}/{_clean(name)}"
    prefix, _, rest = name.partition("__")
    owner, _, tool = rest.partition("__")
    if prefix == "mcp" and owner and tool:
        return f"{_clean(owner)}/{_clean(tool)}"
    return _clean(name)


def _count(name: str, input: object) -> str:
    match name.lower():
        case "write":
            content = _get(input, "content")
            lines = _lines(content) if isinstance(content, str) else None
            return "" if lines is None else f" ({lines} {'line' if lines == 1 else 'lines'})"
        case "edit":
            old = _get(input, "old_string")
            old = _get(input, "oldString") if old is None else old
            return f" replacing {_lines(old)} line(s)" if isinstance(old, str) else ""
        case "multiedit":
            edits = _get(input, "edits")
            return f" ({len(edits)} edits)" if isinstance(edits, list) else ""
    return ""


def _lines(text: str) -> int:
    return text.count("\n") + (1 if text and not text.endswith("\n") else 0)


def _get(input: object, key: str) -> object:
    return input.get(key) if isinstance(input, Mapping) else None


def _first(input: object, keys: tuple[str, ...]) -> str | None:
    """The first of these values that is a text with something in it."""
    for key in keys:
        value = _get(input, key)
        if isinstance(value, str) and value:
            return value
    return None


def _text(*keys: str) -> Callable[[object], str]:
    def describe(input: object) -> str:
        return _clip(_clean(_first(input, keys) or ""), ARGUMENT_LIMIT)

    return describe


def _path(*keys: str) -> Callable[[object], str]:
    def describe(input: object) -> str:
        return _tail(_first(input, keys) or "")

    return describe


def _host(input: object) -> str:
    """Only the host: an address may carry a password."""
    url = (_first(input, ("url",)) or "").strip()
    try:
        host = urlsplit(url if "://" in url else f"//{url}").hostname
    except ValueError:
        return ""
    return _clip(_clean(host or ""), ARGUMENT_LIMIT)


def _question(input: object) -> str:
    questions: Any = _get(input, "questions")
    first = questions[0] if isinstance(questions, list) and questions else None
    return _text("question", "header")(first)


_ARGUMENTS: dict[str, Callable[[object], str]] = {
    "bash": _text("command"),
    "grep": _text("pattern"),
    "glob": _text("pattern"),
    "websearch": _text("query"),
    "toolsearch": _text("query"),
    "webfetch": _host,
    "task": _text("description", "prompt"),
    "agent": _text("description", "prompt"),
    "skill": _text("skill", "command", "name"),
    "ls": _path("path"),
    "list": _path("path"),
    "askuserquestion": _question,
    "question": _question,
}


def _tail(path: str) -> str:
    parts = [part for part in path[-4096:].split("/") if part]
    return _clean("/".join(parts[-2:]) or path[:1])


def _clean(text: str) -> str:
    """One line without control characters; what is longer than any label is left out first."""
    return _UNSAFE.sub("\ufffd", _SPACE.sub(" ", text[: 4 * LABEL_LIMIT]).strip())


def _clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1].rstrip() + "…" if limit > 0 else ""
