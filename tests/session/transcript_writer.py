"""Session files for tests: as the engine writes them, and as it never should."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quarterdeck.engine.claude.transcripts import encode_directory
from quarterdeck.session.catalog import Catalog

WHEN = "2026-03-01T10:00:{:02d}.000Z"


class Writer:
    """One session file in the making. Every method returns the uuid of its line."""

    def __init__(self, session_id: str | None = None, cwd: str = "/home/user/project") -> None:
        self.session_id = session_id or str(uuid.uuid4())
        self.cwd = cwd
        self.lines: list[bytes] = []
        self.last: str | None = None

    def add(self, **fields: Any) -> None:
        self.lines.append(json.dumps(fields, separators=(",", ":")).encode() + b"\n")

    def _message(self, own: str, parent: str | None, **fields: Any) -> str:
        self.last = own
        self.add(
            **{"parentUuid": parent, "isSidechain": False, **fields},
            uuid=own, timestamp=WHEN.format(len(self.lines) % 60), cwd=self.cwd,
            sessionId=self.session_id, version="2.1.197", gitBranch="main",
        )  # fmt: skip
        return own

    def user(self, content: Any, *, parent: str | None = None, **more: Any) -> str:
        message = {"role": "user", "content": content}
        return self._message(
            str(uuid.uuid4()), parent or self.last, type="user", message=message, **more
        )

    def assistant(
        self, *blocks: Any, parent: str | None = None, call: str = "", **more: Any
    ) -> str:
        own = str(uuid.uuid4())
        content = [{"type": "text", "text": b} if isinstance(b, str) else b for b in blocks]
        message = {"id": call or f"msg_{own[:8]}", "role": "assistant", "model": "m"}
        return self._message(
            own, parent or self.last, message={**message, "content": content}, type="assistant", **more
        )  # fmt: skip

    def progress(self, data: Any) -> str:
        return self._message(str(uuid.uuid4()), self.last, type="progress", data=data)

    def save(self, config: Path, *, age: float = 0.0, tail: bytes = b"") -> Path:
        folder = config / "projects" / encode_directory(os.path.realpath(self.cwd))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.session_id}.jsonl"
        path.write_bytes(b"".join(self.lines) + tail)
        when = 1_780_000_000 - age
        os.utime(path, (when, when))
        return path


def simple(
    config: Path, prompt: str = "hello", *, age: float = 0.0, cwd: str = "/home/user/p"
) -> Writer:
    """A saved session of one prompt and one answer."""
    writer = Writer(cwd=cwd)
    writer.user(prompt)
    writer.assistant(f"answer to {prompt}")
    writer.save(config, age=age)
    return writer


def titles(catalog: Catalog, **options: Any) -> list[str]:
    return [info.title for info in catalog.list(**options)]


def texts(messages: Iterable[Any]) -> list[str]:
    return [m.text for m in messages]
