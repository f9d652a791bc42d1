"""PURE. What a permission question looks like, and what an answer means."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quarterdeck.engine.tools import display_label, file_path

MAX_LINES = 60  # of a diff or command; the rest is counted
ReadFile = Callable[[str], str | None]
"""The text of a file, or None when there is none that can be shown."""


def describe(tool_name: str, tool_input: Mapping[str, Any], read_file: ReadFile) -> list[str]:
    """What a person has to see before deciding: the command, or the change as a diff.

    The first line names tool and target in full; nothing of a command is left out before its
    MAX_LINES-th line.
    """
    path = file_path(tool_name, tool_input)
    match tool_name:
        case "Bash":
            lines = [f"$ {_text(tool_input, 'command')}"]
            if _text(tool_input, "description"):
                lines.append(f"# {_text(tool_input, 'description')}")
            if tool_input.get("dangerouslyDisableSandbox"):
                lines.append("! outside the sandbox")
        case "Edit":
            edit = (_text(tool_input, "old_string"), _text(tool_input, "new_string"))
            lines = _diff(path, [edit])
            if tool_input.get("replace_all"):
                lines.append("(every occurrence)")
        case "MultiEdit":
            edits = tool_input.get("edits")
            pairs = [e for e in edits if isinstance(e, dict)] if isinstance(edits, list) else []
            lines = _diff(path, [(_text(e, "old_string"), _text(e, "new_string")) for e in pairs])
        case "Write":
            before = read_file(path) if path else None
            lines = _diff(path, [(before or "", _text(tool_input, "content"))])
        case _:
            shown = json.dumps(tool_input, indent=2, ensure_ascii=False, default=str)
            lines = shown.splitlines() if tool_input else []
    lines = "\n".join(lines).splitlines()
    label = f"{tool_name} {path}" if path else display_label(tool_name, tool_input)
    if tool_name == "Bash":
        label = tool_name  # the command itself stands below
    return [label, *_clip(lines)]


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _diff(path: str | None, edits: Sequence[tuple[str, str]]) -> list[str]:
    lines: list[str] = []
    for old, new in edits:
        made = difflib.unified_diff(
            old.splitlines(), new.splitlines(), path or "", path or "", lineterm="", n=3
        )
        lines += list(made)[2:] or ["(nothing changes)"]
    return lines


def _clip(lines: list[str]) -> list[str]:
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[:MAX_LINES], f"... {len(lines) - MAX_LINES} more lines"]


def style_of(line: str) -> str:
    """How a line of `describe` is coloured."""
    if line.startswith("@@"):
        return "cyan"
    if line.startswith("+"):
        return "green"
    return "red" if line.startswith("-") else ""


def describe_update(wire: Mapping[str, Any]) -> str:
    """What `always` would change, in words."""
    rules = wire.get("rules")
    names = [
        f"{r.get('toolName')}({r['ruleContent']})"
        if r.get("ruleContent")
        else str(r.get("toolName"))
        for r in (rules if isinstance(rules, list) else [])
        if isinstance(r, dict)
    ]
    directories = wire.get("directories")
    parts = names or [str(d) for d in directories or ()] or [str(wire.get("mode") or "")]
    where = {
        "session": "for this session",
        "localSettings": "in the project's local settings",
        "projectSettings": "in the project's settings",
        "userSettings": "in your settings",
    }.get(str(wire.get("destination")), str(wire.get("destination")))
    verb = {"setMode": "mode", "addDirectories": "directory"}.get(
        str(wire.get("type")), str(wire.get("behavior") or wire.get("type"))
    )
    return f"{verb} {', '.join(parts)} {where}"


def question_lines(question: Mapping[str, Any]) -> list[str]:
    """A question of AskUserQuestion with numbered options."""
    several = question.get("multiSelect") is True
    lines = [str(question.get("question", ""))]
    for number, (label, description) in enumerate(_options(question), 1):
        lines.append(f"  {number}  {label}" + (f": {description}" if description else ""))
    hint = "numbers by comma" if several else "a number"
    lines.append(f"  ({hint}, or your own words)")
    return lines


def choose(question: Mapping[str, Any], typed: str) -> list[str] | None:
    """The labels that an answer means; None when it has to be asked again.

    Numbers stand for options, several only where several may be chosen; other text is the answer.
    """
    typed = typed.strip()
    labels = [label for label, _ in _options(question)]
    if not typed:
        return None
    parts = [p.strip() for p in typed.split(",") if p.strip()]
    if not all(p.isascii() and p.isdigit() for p in parts):
        return [typed]
    numbers = list(dict.fromkeys(int(p) for p in parts))
    if not all(1 <= n <= len(labels) for n in numbers):
        return None
    if len(numbers) > 1 and question.get("multiSelect") is not True:
        return None
    return [labels[n - 1] for n in numbers] or None


def _options(question: Mapping[str, Any]) -> list[tuple[str, str]]:
    options = question.get("options")
    found = [o for o in options if isinstance(o, dict)] if isinstance(options, list) else []
    return [(str(o.get("label", "")), str(o.get("description") or "")) for o in found]
