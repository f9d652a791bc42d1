"""PURE. A session as a document: Markdown to read, JSON for programs, HTML to hand on.

A transcript's content is not trusted. No document carries terminal control or text-direction
characters as such; the HTML is one file without scripts or outside references, and forbids both.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, assert_never

import msgspec

from quarterdeck.engine.claude.digest import SessionInfo
from quarterdeck.engine.claude.transcripts import TranscriptMessage
from quarterdeck.engine.events import (
    Block,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
)
from quarterdeck.errors import OptionError

Format = Literal["md", "json", "html"]

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BACKTICKS = re.compile(r"`{3,}")
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_NAMES = {"user": "User", "assistant": "Assistant", "system": "System"}


def render(info: SessionInfo, messages: Sequence[TranscriptMessage], format: Format) -> str:
    """The document. Raises OptionError for another format."""
    match format:
        case "md":
            return _markdown(info, messages)
        case "json":
            return _json(info, messages)
        case "html":
            return _html(info, messages)
    raise OptionError("format", format, "must be one of md, json, html")


def visible(text: str) -> str:
    """Text whose control and direction characters can be seen, and no longer act. Tab and newline stay."""
    return _CONTROL.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\u{code:04x}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return ""


def _facts(info: SessionInfo) -> Iterator[tuple[str, str]]:
    values = (
        ("Session", info.id),
        ("Directory", info.cwd),
        ("Branch", info.git_branch),
        ("Tag", info.tag),
        ("Begun", _time(info.created_at)),
        ("Last change", _time(info.last_modified)),
    )
    return ((name, visible(value)) for name, value in values if value)


def _heading(message: TranscriptMessage) -> str:
    """Who speaks: a tool's result comes as a user's message, but no user wrote it."""
    results = [isinstance(b, ToolResultBlock) for b in message.blocks]
    if message.role == "user" and results and all(results):
        return "Tool"
    if message.is_compact_summary:
        return "Summary of what came before"
    return _NAMES.get(message.role, "System")


def _pretty(value: Any) -> str:
    return visible(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def _result(block: ToolResultBlock) -> str:
    """A tool's answer as text; what is not text is named."""
    if not isinstance(block.content, list):
        return visible(block.content or "")
    parts = []
    for part in block.content:
        text = part.get("text") if isinstance(part, dict) else None
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        parts.append(text if isinstance(text, str) else f"({kind})")
    return visible("\n".join(parts))


# -- JSON -------------------------------------------------------------------------------------------


def _json(info: SessionInfo, messages: Sequence[TranscriptMessage]) -> str:
    """Values are exact: what `visible` would replace is written as an escape."""
    value = {"v": 1, "session": info, "messages": messages}
    text = json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False)
    return _CONTROL.sub(lambda m: f"\\u{ord(m[0]):04x}", text) + "\n"


# -- Markdown ---------------------------------------------------------------------------------------


def _markdown(info: SessionInfo, messages: Sequence[TranscriptMessage]) -> str:
    lines = [f"# {_inline(info.title)}", ""]
    lines += [f"- {name}: {_code(value)}" for name, value in _facts(info)]
    previous = ""
    for message in messages:
        heading = _heading(message)
        if heading != previous:
            when = _time(message.timestamp)
            lines += ["", "---", "", f"## {heading}" + (f" · {when}" if when else "")]
            previous = heading
        for block in message.blocks:
            lines += ["", _markdown_block(block)]
    return "\n".join(lines) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case TextBlock():
            return visible(block.text)
        case ThinkingBlock():
            text = "(redacted)" if block.redacted else visible(block.thinking)
            return "\n".join(f"> {line}" for line in ["*Thinking*", *text.split("\n")])
        case ToolUseBlock():
            return f"**{_inline(block.display_label)}**\n\n{_fence(_pretty(block.input), 'json')}"
        case ToolResultBlock():
            return ("**Failed**\n\n" if block.is_error else "") + _fence(_result(block))
        case ImageBlock():
            return f"*(image, {_inline(block.media_type or 'unknown')})*"
        case UnknownBlock():
            return _fence(_pretty(block.fields), "json")
        case _:
            assert_never(block)


def _fence(text: str, language: str = "") -> str:
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=2)
    mark = "`" * (longest + 1)
    return f"{mark}{language}\n{text}\n{mark}"


def _inline(text: str) -> str:
    flat = " ".join(visible(text).split())
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", flat)


def _code(text: str) -> str:
    flat = " ".join(text.split()).replace("`", "'")
    return f"`{flat}`"


# -- HTML -------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: .8rem; text-transform: uppercase; letter-spacing: .06em; opacity: .7; }
h2 time { float: right; text-transform: none; letter-spacing: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dd { margin: 0; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); padding: .2rem 0 .8rem; }
section.user { background: var(--soft); padding-inline: 1rem; border-radius: .4rem; }
p, pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
pre { font: 13px/1.45 ui-monospace, monospace; background: var(--soft); padding: .6rem;
  max-height: 30rem; overflow: auto; }
summary { cursor: pointer; }
.failed { color: #c33; }
img { max-width: 100%; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _html(info: SessionInfo, messages: Sequence[TranscriptMessage]) -> str:
    title = _escape(info.title)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
        '<meta name="viewport" content="width=device-width">\n',
        '<meta name="referrer" content="no-referrer">\n',
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<dl>\n",
        *(f"<dt>{name}</dt><dd>{_escape(value)}</dd>\n" for name, value in _facts(info)),
        "</dl>\n",
    ]
    for message in messages:
        heading = _heading(message)
        kind = "user" if heading == "User" else "other"
        when = f"<time>{_time(message.timestamp)}</time>" if message.timestamp is not None else ""
        parts.append(f'<section class="{kind}">\n<h2>{heading}{when}</h2>\n')
        parts += (f"{_html_block(block)}\n" for block in message.blocks)
        parts.append("</section>\n")
    parts.append("</body>\n</html>\n")
    return "".join(parts)


def _escape(text: str) -> str:
    return html.escape(visible(text), quote=True)


def _html_block(block: Block) -> str:
    match block:
        case TextBlock():
            return f"<p>{_escape(block.text)}</p>"
        case ThinkingBlock():
            text = "(redacted)" if block.redacted else block.thinking
            return f"<details><summary>Thinking</summary><p>{_escape(text)}</p></details>"
        case ToolUseBlock():
            label, given = _escape(block.display_label), _escape(_pretty(block.input))
            return f"<details><summary>{label}</summary><pre>{given}</pre></details>"
        case ToolResultBlock():
            failed = ' class="failed"' if block.is_error else ""
            label = "Failed" if block.is_error else "Result"
            return (
                f"<details><summary{failed}>{label}</summary>"
                f"<pre>{_escape(_result(block))}</pre></details>"
            )
        case ImageBlock():
            return _html_image(block)
        case UnknownBlock():
            kind = _escape(block.kind or "unknown")
            return (
                f"<details><summary>{kind}</summary>"
                f"<pre>{_escape(_pretty(block.fields))}</pre></details>"
            )
        case _:
            assert_never(block)


def _html_image(block: ImageBlock) -> str:
    """Only a raster image that the document itself holds is shown; addresses are not followed."""
    if block.source_type == "base64" and block.media_type in _IMAGES:
        try:
            data = base64.b64encode(base64.b64decode(block.data, validate=True)).decode()
        except (ValueError, binascii.Error):
            data = ""
        if data:
            return f'<img alt="image" src="data:{block.media_type};base64,{data}">'
    return f"<p>(image, {_escape(block.media_type or 'unknown')})</p>"
