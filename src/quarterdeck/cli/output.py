"""Writing to the terminal. Everything that is shown to a person goes through the sanitizer here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import msgspec

from quarterdeck.cli.sanitize import one_line, sanitize
from quarterdeck.cli.writing import writing

_STDOUT = "standard output"
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Screen:
    """Standard output for results, standard error for everything said beside them.

    `color` None = as the terminal and NO_COLOR say. Raises BrokenPipeError when the reader is gone, and
    OSError, named after the stream, when it takes no more.
    """

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, color: bool | None = None
    ) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self._color = color
        self._fresh = True

    @property
    def err_is_tty(self) -> bool:
        """Whether a person reads standard error."""
        return self.err.isatty()

    def text(self, text: str) -> None:
        """A piece of running text on standard output, as it comes."""
        if text:
            self._out(_writable(sanitize(text), self.out))
            self._fresh = text.endswith("\n")

    def line(self, text: str = "", style: str = "") -> None:
        """Lines on standard output."""
        self.end_line()
        self._out(_writable(self.paint(sanitize(text), style, self.out), self.out) + "\n")

    def end_line(self) -> None:
        """Close a line that running text left open."""
        if not self._fresh:
            self._out("\n")
            self._fresh = True

    def _out(self, text: str) -> None:
        with writing(_STDOUT):
            self.out.write(text)
            self.out.flush()

    def note(self, text: str, style: str = "") -> None:
        """Lines on standard error. Text left open on the same terminal is closed first."""
        if not self._fresh and self.err.isatty() and self.out.isatty():
            self.end_line()
        with writing("standard error"):
            self.err.write(_writable(self.paint(sanitize(text), style, self.err), self.err) + "\n")
            self.err.flush()

    def data(self, line: bytes) -> None:
        """Bytes for a program, as they are."""
        with writing(_STDOUT):
            self.out.flush()
            buffer = getattr(self.out, "buffer", None)
            if buffer is None:
                self.out.write(line.decode("utf-8"))
            else:
                buffer.write(line)
                buffer.flush()

    def json(self, value: Any) -> None:
        """One JSON value, readable."""
        self.data(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")

    def paint(self, text: str, style: str, where: TextIO) -> str:
        """The text in a style, when `where` is to be coloured."""
        code = _CODES.get(style)
        if code is None or not text or not self._colored(where):
            return text
        return f"\x1b[{code}m{text}\x1b[0m"

    def _colored(self, where: TextIO) -> bool:
        if self._color is not None:
            return self._color
        return (
            where.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )


def _writable(text: str, where: TextIO) -> str:
    """What the stream's encoding cannot say is replaced, not fatal."""
    encoding = getattr(where, "encoding", None) or "utf-8"
    if encoding.lower().replace("-", "") == "utf8":
        return text.encode("utf-8", "replace").decode("utf-8")
    return text.encode(encoding, "replace").decode(encoding)


def table(rows: Iterable[Sequence[str]], header: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Lines of columns; a column is cut at its width, the last one is not padded."""
    shown = [
        [one_line(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows
    ]
    shown.insert(0, list(header))
    real = [max(len(row[i]) for row in shown) for i in range(len(header))]
    return ["  ".join(cell.ljust(real[i]) for i, cell in enumerate(row)).rstrip() for row in shown]


def age(seconds: float) -> str:
    """`now`, `5m`, `3h`, `2d`, `7w`."""
    for size, unit in ((604800 * 2, "w"), (86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // (604800 if unit == 'w' else size))}{unit}"
    return "now"


def size(count: int) -> str:
    """`812 B`, `1.4 KB`, `3.0 MB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("KB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.1f} {unit}"


def plain(value: Any) -> Any:
    """Structs and tuples as JSON-safe values; what has no JSON form as text."""
    return msgspec.to_builtins(value, enc_hook=_as_text)


def _as_text(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
