"""Prompts with attachments: files to content blocks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quarterdeck.errors import OptionError

MAX_ATTACHMENT = 32 * 1024 * 1024  # bytes of one file
MAX_IMAGES = 20

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)

Prompt = str | Sequence[dict[str, Any]]


def with_attachments(prompt: Prompt, attachments: Sequence[str | Path] = ()) -> Prompt:
    """The prompt with files behind it: text as named blocks, images and PDF as they are.

    Behind it, because the engine names a session after its first block.

    The kind of a file is told by its content, not its name. Raises OptionError for files that cannot
    be read, are larger than 32 MiB, are neither text nor a known kind, or more than 20 images.
    """
    if isinstance(attachments, str | Path):
        raise OptionError("attach", str(attachments), "must be a list of files")
    if not attachments:
        return prompt
    blocks = [_block(Path(path)) for path in attachments]
    if sum(b["type"] == "image" for b in blocks) > MAX_IMAGES:
        raise OptionError("attach", len(blocks), f"more than {MAX_IMAGES} images")
    said = [{"type": "text", "text": prompt}] if isinstance(prompt, str) else list(prompt)
    return [*said, *blocks]


def _block(path: Path) -> dict[str, Any]:
    data = _read(path)
    media_type = _media_type(data)
    if media_type is not None:
        kind = "document" if media_type == "application/pdf" else "image"
        encoded = base64.b64encode(data).decode("ascii")
        source = {"type": "base64", "media_type": media_type, "data": encoded}
        return {"type": kind, "source": source}
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        raise OptionError(
            "attach", str(path), "is neither text nor PNG, JPEG, GIF, WebP or PDF",
            remedy="convert it, or name its path in the prompt",
        )  # fmt: skip
    return {"type": "text", "text": f"File {path.name!r}:\n```\n{text}\n```"}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ATTACHMENT + 1)
    except OSError as error:
        raise OptionError("attach", str(path), f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_ATTACHMENT:
        raise OptionError("attach", str(path), "is larger than 32 MiB")
    if not data:
        raise OptionError("attach", str(path), "is empty")
    return data


def _media_type(data: bytes) -> str | None:
    for magic, media_type in _MAGIC:
        if data.startswith(magic):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None
