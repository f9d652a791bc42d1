"""PURE. Finding a text in transcripts: a test on raw bytes that never misses, then the decoded text."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from quarterdeck.engine.claude.transcripts import TranscriptMessage, one_line
from quarterdeck.engine.events import TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock

_AROUND = 70  # characters of a snippet before and after the hit
_MIN_PLAIN = 3  # characters of plain ASCII that are worth a search of their own
_MAX_NESTING = 20_000  # values of a tool's input that are looked at
# JSON may write other characters than these in two ways.
_PLAIN = re.compile(r"[^\x00-\x1f\"\\/\x7f\u0307\ud800-\udfff]+")
_PLAIN_ASCII = re.compile(r"[ !#-.0-\[\]-~]+")
_ESCAPED = re.compile(rb"\\u(?!00[01])")  # but for control characters, which are common
_TO_ASCII = (b"\xe2\x84\xaa", b"\xc4\xb0")  # Kelvin sign, dotted capital I: ASCII in lower case


def _written_elsewise(data: bytes) -> bool:
    """Whether characters may stand here in a form that a search for their bytes misses."""
    if b"\\u" in data and _ESCAPED.search(data):
        return True
    return any(form in data for form in _TO_ASCII)


class Needle:
    """One text to look for, without regard to case (Unicode lower case, character by character)."""

    def __init__(self, text: str) -> None:
        self._lower = text.lower()
        plain = max(_PLAIN_ASCII.findall(self._lower), key=len, default="")
        self._bytes = plain.encode()
        self._pattern: re.Pattern[bytes] | None = None
        if len(plain) < _MIN_PLAIN:
            self._bytes = b""
            run = max(_PLAIN.findall(self._lower), key=len, default="")
            self._pattern = _byte_pattern(run) if run else None

    def may_hold(self, data: bytes) -> bool:
        """Whether JSON in `data` may hold the text: False is certain, True is not."""
        if self._bytes:
            hit = self._bytes in data.lower()
        else:
            hit = self._pattern is None or self._pattern.search(data) is not None
        return hit or _written_elsewise(data)

    def snippet(self, text: str) -> str | None:
        """One line around the first hit in `text`; None when there is none."""
        at = text.lower().find(self._lower)
        if at < 0:
            return None
        start, stop = max(0, at - _AROUND), at + len(self._lower) + _AROUND
        shown = one_line(text[start:stop], stop - start)
        return ("…" if start else "") + shown + ("…" if stop < len(text) else "")

    def find(self, message: TranscriptMessage) -> str | None:
        """A snippet of the first place in a message that holds the text; None when none does."""
        for text in texts_of(message):
            found = self.snippet(text)
            if found is not None:
                return found
        return None


@functools.cache
def _cases() -> dict[str, tuple[str, ...]]:
    """Lower-case character -> the characters that become it. Built once, in about 20 ms."""
    out: dict[str, list[str]] = {
        "\u03c2": ["\u03a3"]
    }  # sigma has a second form at the end of a word
    for code in range(0x1F000):
        char = chr(code)
        for lower in char.lower():
            if lower != char:
                out.setdefault(lower, []).append(char)
    return {lower: tuple(chars) for lower, chars in out.items()}


def _variants(char: str) -> tuple[str, ...]:
    return (char, *_cases().get(char, ()))


def _byte_pattern(run: str) -> re.Pattern[bytes]:
    parts = [b"|".join(re.escape(v.encode()) for v in _variants(c)) for c in run]
    return re.compile(b"".join(b"(?:%s)" % part for part in parts))


def texts_of(message: TranscriptMessage) -> Iterator[str]:
    """Every text of a message that a person could look for."""
    for block in message.blocks:
        match block:
            case TextBlock():
                yield block.text
            case ThinkingBlock():
                yield block.thinking
            case ToolUseBlock():
                yield block.name
                yield from _strings(block.input)
            case ToolResultBlock():
                yield block.text


def _strings(value: Any) -> Iterator[str]:
    todo = [value]
    for _ in range(_MAX_NESTING):
        if not todo:
            return
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += reversed(item.values())
        elif isinstance(item, list):
            todo += reversed(item)
