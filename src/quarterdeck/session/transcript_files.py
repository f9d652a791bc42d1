"""Reading and writing session files: from the end, in bounded memory, and never through a link.

All functions block. Whatever the operating system refuses becomes TranscriptError.
"""

from __future__ import annotations

import io
import os
import stat
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from quarterdeck.engine.claude.branches import Tree, entry_of
from quarterdeck.engine.claude.transcripts import Record, read_record, record_from_ends
from quarterdeck.errors import TranscriptError

CHUNK = 1024 * 1024  # bytes read at once; a longer line is looked at by its ends
MAX_LINE = 64 * 1024 * 1024  # bytes; a longer line counts as corrupt
_ENDS = 4096  # bytes read at each end of a long line
_TRUSTED_LINES = 64  # lines of the tree that must be seen before its last leaf is believed


class Batch(msgspec.Struct, frozen=True):
    """Whole lines from `start` to `end`; `data` is None for a single line that is over CHUNK."""

    start: int
    end: int
    data: bytes | None


class TranscriptFile:
    """A session file, open for reading. Only what it held when it was opened is read."""

    def __init__(self, path: str | Path, *, follow: bool = False) -> None:
        """Open. `follow` allows a symbolic link. Raises TranscriptError."""
        self.path = str(path)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        try:
            fd = os.open(self.path, flags)
            found = os.fstat(fd)
        except (OSError, ValueError) as error:
            raise _refused("read", self.path, error) from error
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise TranscriptError(f"{self.path} is not a regular file, so it is no session")
        self._file = os.fdopen(fd, "rb", buffering=0)
        self.size = found.st_size
        self.modified = found.st_mtime

    def __enter__(self) -> TranscriptFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range; fewer when the file has become shorter."""
        parts: list[bytes] = []
        try:
            while start < end and (data := os.pread(self._file.fileno(), end - start, start)):
                parts.append(data)
                start += len(data)
        except OSError as error:
            raise _refused("read", self.path, error) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fill(self, view: memoryview, start: int) -> int:
        done = 0
        try:
            self._file.seek(start)
            while done < len(view):
                got = self._file.readinto(view[done:])
                if not got:
                    break
                done += got
        except OSError as error:
            raise _refused("read", self.path, error) from error
        return done

    def batches(self) -> Iterator[Batch]:
        """All lines, the last of the file first; lines within a batch are in their order."""
        buffer = bytearray(min(CHUNK, self.size))
        view = memoryview(buffer)
        end = self.size
        while end > 0:
            start = max(0, end - CHUNK)
            got = self._fill(view[: end - start], start)
            first = 0 if start == 0 else buffer.find(b"\n", 0, got) + 1
            if start == 0 or 0 < first < got:
                yield Batch(start + first, end, bytes(view[first:got]))
                end = start + first
            else:
                begin = self._line_start(buffer, start)
                yield Batch(begin, end, None)
                end = begin

    def _line_start(self, buffer: bytearray, before: int) -> int:
        """Where the line begins that holds the byte at `before`."""
        view = memoryview(buffer)
        while before > 0:
            start = max(0, before - CHUNK)
            got = self._fill(view[: before - start], start)
            at = buffer.rfind(b"\n", 0, got)
            if at >= 0:
                return start + at + 1
            before = start
        return 0

    def record(self, start: int, end: int) -> Record | None:
        """The facts of one line of any length."""
        if end - start > 4 * _ENDS:
            ends = self.read(start, start + _ENDS), self.read(end - _ENDS, end)
            record = record_from_ends(*ends)
            if record is not None:
                return record
        line = self.line(start, end)
        return read_record(line) if line else None

    def line(self, start: int, end: int) -> bytes:
        """One line; empty when it is too long to be one."""
        return self.read(start, end) if end - start <= MAX_LINE else b""

    def grow(self, tree: Tree, *, stepwise: bool) -> Iterator[Tree]:
        """Read lines into the tree, from the end of the file.

        `stepwise` yields the tree whenever it may be enough, at growing distances, so that the caller
        can stop; else only when the whole file is in it.
        """
        pause = 1
        for number, batch in enumerate(self.batches(), 1):
            for start, end, line in self._lines(batch):
                record = self.record(start, end) if line is None else read_record(line)
                entry = entry_of(record, start, end - start) if record is not None else None
                if entry is not None:
                    tree.add(entry)
            if stepwise and number >= pause and len(tree) >= _TRUSTED_LINES:
                pause = number * 2
                yield tree
        yield tree

    @staticmethod
    def _lines(batch: Batch) -> Iterator[tuple[int, int, bytes | None]]:
        """Start, end and bytes of each line in a batch, last line first."""
        if batch.data is None:
            yield batch.start, batch.end, None
            return
        end = batch.end
        lines = batch.data.split(b"\n")
        if not lines[-1]:
            lines.pop()
            end -= 1
        for line in reversed(lines):
            yield end - len(line), end, line
            end -= len(line) + 1

    def lines(self, wanted: Callable[[bytes], bool]) -> Iterator[tuple[int, int, bytes | None]]:
        """Start, end and bytes (None: over CHUNK) of lines, the last first.

        `wanted` sees about a megabyte at a time and may refuse all of its lines at once.
        """
        for batch in self.batches():
            if batch.data is None or wanted(batch.data):
                yield from self._lines(batch)

    def content(self) -> Iterator[bytes]:
        """The file as it is, about a megabyte at a time."""
        for start in range(0, self.size, CHUNK):
            yield self.read(start, min(self.size, start + CHUNK))

    def forward(self) -> Generator[bytes, None, None]:
        """Every line from the first; lines over MAX_LINE are left out."""
        reader = io.BufferedReader(self._file, CHUNK)
        whole = True
        try:
            reader.seek(0)
            while line := reader.readline(MAX_LINE):
                ended = line.endswith(b"\n")
                if whole and (ended or len(line) < MAX_LINE):
                    yield line
                whole = ended
        except OSError as error:
            raise _refused("read", self.path, error) from error
        finally:
            reader.detach()


def append(path: str | Path, record: bytes) -> None:
    """Add a line to an existing file. A torn last line is ended first, so the two stay apart.

    Never creates a file. Raises TranscriptError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise _refused("written", str(path), error) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise TranscriptError(f"{path} is not a regular file, so it is no session")
        torn = found.st_size > 0 and os.pread(fd, 1, found.st_size - 1) != b"\n"
        data = b"\n" + record if torn else record
        if os.write(fd, data) != len(data):
            raise TranscriptError(
                f"{path}: only part of a line could be written", remedy="is the disk full?"
            )
        os.fsync(fd)
    except OSError as error:
        raise _refused("written", str(path), error) from error
    finally:
        os.close(fd)


def publish(path: Path, lines: Iterable[bytes]) -> None:
    """Write a new file that appears whole or not at all, readable by its owner only.

    Raises TranscriptError, also when the file exists already.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb", buffering=CHUNK) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            temporary.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _refused("written", str(path), error) from error


def _refused(what: Literal["read", "written"], path: str, error: Exception) -> TranscriptError:
    reason = getattr(error, "strerror", None) or str(error)
    remedy = "check who owns it" if isinstance(error, PermissionError) else ""
    return TranscriptError(f"{path} cannot be {what}: {reason}", remedy=remedy)
