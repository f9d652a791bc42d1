"""`replay`: a recorded run through the pure core, for bug reports and golden tests."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
from cyclopts import Parameter

from quarterdeck.cli import exit_codes, results
from quarterdeck.cli.output import Screen
from quarterdeck.cli.writing import writing
from quarterdeck.engine import events as ev
from quarterdeck.engine.claude.protocol import MAX_LINE, ClaudeProtocol
from quarterdeck.errors import LineTooLong, OptionError, UsageError
from quarterdeck.model import Boundary
from quarterdeck.session.turns import Totals, TurnFold, TurnResult

SESSION = "replay"
MAX_TURN = 32 * 1024 * 1024  # bytes that one turn result keeps
MAX_PROMPTS = 1000  # prompts of which no turn has been seen yet
_IN_MEMORY = 8 * 1024 * 1024  # bytes of results before they go to a file


class Piece(msgspec.Struct, frozen=True):
    """One line of a recording: what the engine printed, or (`prompt`) what it was told. Neither: a note."""

    time: float
    line: bytes = b""
    prompt: str | None = None


def replay(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
) -> int:
    """Print the events of a recorded run as lines of JSON, and the results of
    its turns last.

    The recording is what the engine printed (NDJSON), the `dir`/`msg` form of
    recorded runs, or an SSE stream whose data lines are such lines; the first
    line tells. A line that cannot be read becomes an `unknown` event; a file of
    nothing else is refused with 2. The exit
    code says whether the file could be replayed, not how its turns went.

    Parameters
    ----------
    file: str
        The recording; `-` for standard input.
    """
    screen = Screen()
    if file == "-":
        return _replay(sys.stdin.buffer, "standard input", screen)
    try:
        with Path(file).open("rb") as opened:
            return _replay(opened, file, screen)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise OptionError("file", file, f"cannot be read: {error.strerror}") from None


def _replay(source: IO[bytes], name: str, screen: Screen) -> int:
    player, known = Player(), False
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as held:
        for piece in pieces(source):
            events = player.play(piece)
            # Answers to control calls are no events, but nothing unknown either.
            known = known or not events or not all(isinstance(e, ev.Unknown) for e in events)
            for event in events:
                screen.data(ev.to_line(event))
            for result in player.results():
                held.write(results.to_line(result))
        for event in player.end():
            screen.data(ev.to_line(event))
        for result in player.results():
            held.write(results.to_line(result))
        held.seek(0)
        with writing("standard output"):
            sys.stdout.flush()
            shutil.copyfileobj(held, sys.stdout.buffer)
            sys.stdout.flush()
    if not known:
        raise UsageError(
            f"nothing in {name} looks like a recorded run",
            remedy="give what an engine printed with --output-format stream-json",
        )
    return exit_codes.OK


class Player:
    """Takes the pieces of a recording in order; gives events and turn results. Does no I/O."""

    def __init__(self) -> None:
        self._protocol = ClaudeProtocol(SESSION)
        self._totals = Totals()
        self._prompts: deque[str] = deque(maxlen=MAX_PROMPTS)
        self._done: list[TurnResult] = []
        self._index = 0
        self._fold = self._next_fold()
        self._open = False
        self._now = 0.0

    def play(self, piece: Piece) -> list[ev.Event]:
        """The events of one piece. Raises LineTooLong."""
        self._now = piece.time
        if piece.prompt is not None:
            self._prompts.append(piece.prompt)
        if not piece.line:
            return []
        events = self._protocol.receive(piece.line + b"\n", piece.time).events
        for event in events:
            self._take(event)
        return events

    def end(self) -> list[ev.Event]:
        """The recording is over. A turn without its record ends as errored."""
        events = self._protocol.eof(self._now).events
        if self._open:
            self._fold.prompt = self._prompts.popleft() if self._prompts else ""
            boundary = Boundary(
                "errored", code="no_result", reason="the recording ends in the turn"
            )
            self._done.append(self._fold.partial(boundary, self._totals))
        return events

    def results(self) -> list[TurnResult]:
        """The results since the last call."""
        done, self._done = self._done, []
        return done

    def _take(self, event: ev.Event) -> None:
        if isinstance(event, ev.TurnStarted):
            self._open = True
        if not isinstance(event, ev.TurnEnded):
            self._fold.add(event)
            return
        if not event.origin and self._prompts:
            self._fold.prompt = self._prompts.popleft()
        self._done.append(self._fold.result(event, self._totals))
        engine_id = self._fold.engine_session_id
        self._fold = self._next_fold()
        self._fold.engine_session_id = engine_id
        self._open = False

    def _next_fold(self) -> TurnFold:
        self._index += 1
        return TurnFold(prompt="", index=self._index, session=SESSION, max_bytes=MAX_TURN)


def pieces(source: IO[bytes]) -> Iterator[Piece]:
    """The pieces of a recording in any of its three forms. Raises LineTooLong."""
    lines = _lines(source)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        return
    read = _reader(first)
    for line in _chain(first, lines):
        piece = read(line)
        if piece is not None:
            yield piece


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    while line := source.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise LineTooLong(len(line), MAX_LINE)
        yield line.rstrip(b"\r\n")


def _reader(first: bytes) -> Any:
    if first.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        return _from_sse
    value = _decode(first)
    if isinstance(value, dict) and isinstance(value.get("dir"), str):
        return _from_recording
    return _from_plain


def _from_plain(line: bytes) -> Piece | None:
    return Piece(0.0, line) if line.strip() else None


def _from_sse(line: bytes) -> Piece | None:
    data = line[5:].strip() if line.startswith(b"data:") else b""
    return Piece(0.0, data) if data else None


def _from_recording(line: bytes) -> Piece | None:
    value = _decode(line)
    if not isinstance(value, dict) or not isinstance(value.get("dir"), str):
        return _from_plain(line)
    raw_time = value.get("t")
    time = float(raw_time) if isinstance(raw_time, int | float) else 0.0
    message = value.get("msg")
    if value["dir"] == "out":
        return Piece(time, msgspec.json.encode(message))
    if value["dir"] == "in" and isinstance(message, dict) and message.get("type") == "user":
        return Piece(time, prompt=_prompt(message))
    return Piece(time)


def _prompt(message: dict[str, Any]) -> str:
    inner = message.get("message")
    content = inner.get("content") if isinstance(inner, dict) else None
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [b.get("text") for b in blocks if isinstance(b, dict)]
    return "\n".join(t for t in texts if isinstance(t, str))


def _decode(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
