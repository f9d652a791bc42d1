"""What the scripted model was asked: the newest requests in memory, one line each in a log file."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from quarterdeck.clock import Clock
from quarterdeck.errors import OptionError
from quarterdeck.gateway.exchange import RecordedRequest, Source
from quarterdeck.gateway.http import Request

MAX_RECORDS = 1000
MAX_BYTES = 64 * 1024 * 1024

_REDACTED = "[redacted]"
_SECRET_HEADERS = frozenset({"x-api-key", "authorization", "proxy-authorization", "cookie"})


class Recorder:
    """Keeps requests without the token in them. `add` is for the server's loop, the rest for any thread."""

    def __init__(self, token: str, clock: Clock, log: Path | None) -> None:
        self._token = token
        self._clock = clock
        self._path = log
        self._log: TextIO | None = None
        self._lock = threading.Lock()
        self._held: deque[tuple[RecordedRequest, int]] = deque()
        self._bytes = 0

    def open(self) -> None:
        """Open the log, if there is to be one. Raises OptionError when it cannot be written."""
        if self._path is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._log = os.fdopen(os.open(self._path, flags, 0o600), "a", encoding="utf-8")
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
            remedy = "name a file in a folder of your own"
            raise OptionError("log", str(self._path), reason, remedy=remedy) from None

    def close(self) -> None:
        """Close the log. Idempotent."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def all(self) -> tuple[RecordedRequest, ...]:
        """The requests that are kept, oldest first."""
        with self._lock:
            return tuple(record for record, _ in self._held)

    def clear(self) -> None:
        """Forget them; the log stays as it is."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

    def scrub(self, value: Any) -> Any:
        """The decoded JSON value with the token gone from every text in it."""
        if isinstance(value, str):
            return value.replace(self._token, _REDACTED)
        if isinstance(value, list):
            return [self.scrub(item) for item in value]
        if isinstance(value, dict):
            return {self.scrub(key): self.scrub(item) for key, item in value.items()}
        return value

    def add(
        self,
        request: Request,
        body: dict[str, Any],
        size: int,
        status: int,
        source: Source = "",
        reply: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a request whose body was scrubbed; `size` is the body's size in bytes."""
        headers = {
            name: _REDACTED if name in _SECRET_HEADERS else self.scrub(value)
            for name, value in request.headers.items()
        }
        record = RecordedRequest(
            time=self._clock.now(),
            method=request.method,
            path=self.scrub(request.path),
            model=str(body.get("model", "")),
            headers=headers,
            body=body,
            reply=dict(reply or {}),
            source=source,
            status=status,
        )
        with self._lock:
            self._held.append((record, size))
            self._bytes += size
            while len(self._held) > MAX_RECORDS or self._bytes > MAX_BYTES:
                self._bytes -= self._held.popleft()[1]
        if self._log is not None:
            self._log.write(json.dumps(_line(record)) + "\n")
            self._log.flush()


def _line(record: RecordedRequest) -> dict[str, Any]:
    messages, tools = record.body.get("messages"), record.body.get("tools")
    return {
        "time": round(record.time, 3),
        "method": record.method,
        "path": record.path[:200],
        "status": record.status,
        "model": record.model[:200],
        "stream": record.body.get("stream") is True,
        "messages": len(messages) if isinstance(messages, list) else 0,
        "tools": len(tools) if isinstance(tools, list) else 0,
        "source": record.source,
        "reply": json.dumps(record.reply)[:500],
    }
