"""Sessions as documents."""

from __future__ import annotations

import html.parser
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from quarterdeck.session.export import Format, render, visible

FORMATS: tuple[Format, ...] = ("md", "json", "html")
ESC, CSI, BIDI, DEL = chr(27), chr(0x9B), chr(0x202E), chr(127)
HOSTILE = f"<script>alert(1)</script>{ESC}[2J{CSI}2J{BIDI}{DEL}\"'&`" + chr(0xD83D)
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TEXT = st.text() | st.just(HOSTILE) | st.sampled_from(["```", "````\n# x", "</pre>", "]]>"])


def info_of(**fields: Any) -> SessionInfo:
    known = {
        "id": "claude:1", "engine": "claude-code", "engine_session_id": "1", "title": "A title",
        "custom_title": "", "first_prompt": "", "tag": "", "cwd": "/w", "git_branch": "main",
        "created_at": 0.0, "last_modified": 3600.0, "file_size": 1, "path": "/p",
    }  # fmt: skip
    return SessionInfo(**{**known, **fields})


def said(role: str, *blocks: Block, **more: Any) -> TranscriptMessage:
    return TranscriptMessage(role, blocks, "u", timestamp=60.0, **more)


BLOCKS = (
    st.builds(TextBlock, TEXT)
    | st.builds(ThinkingBlock, TEXT, TEXT, st.booleans())
    | st.builds(ToolUseBlock, TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers(), max_size=3))
    | st.builds(
        ToolResultBlock,
        TEXT,
        TEXT
        | st.none()
        | st.lists(st.fixed_dictionaries({"type": TEXT, "text": TEXT}) | st.integers()),
        st.booleans(),
    )
    | st.builds(
        ImageBlock, TEXT | st.just("image/png"), TEXT | st.just("base64"), TEXT | st.just("AAAA")
    )
    | st.builds(UnknownBlock, TEXT, st.dictionaries(TEXT, TEXT, max_size=3))
)
MESSAGES = st.lists(
    st.builds(
        TranscriptMessage,
        st.sampled_from(["user", "assistant", "system", "other"]),
        st.lists(BLOCKS, max_size=3).map(tuple),
        TEXT,
        timestamp=st.none() | st.floats(),
        is_compact_summary=st.booleans(),
    ),
    max_size=4,
)


class Tags(html.parser.HTMLParser):
    """Every element with its attributes; closing tags must fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "dl", "dt", "dd", "section", "time",
    "p", "pre", "details", "summary", "img",
}  # fmt: skip


@given(MESSAGES, TEXT, TEXT)
def test_content_never_becomes_markup(
    messages: list[TranscriptMessage], title: str, cwd: str
) -> None:
    text = render(info_of(title=title, cwd=cwd), messages, "html")
    tags = Tags(text).found
    assert {tag for tag, _ in tags} <= ALLOWED
    for tag, attributes in tags:
        assert set(attributes) <= {
            "lang", "charset", "http-equiv", "content", "name", "class", "src", "alt",
        }  # fmt: skip
        if tag == "img":
            assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", attributes["src"] or "")
    assert sum(tag == "section" for tag, _ in tags) == len(messages)


@given(MESSAGES, TEXT)
def test_nothing_acts_on_a_terminal(messages: list[TranscriptMessage], title: str) -> None:
    for form in FORMATS:
        text = render(info_of(title=title), messages, form)
        assert not ACTING.search(text)
        text.encode()


@given(MESSAGES, TEXT)
def test_json_is_exact(messages: list[TranscriptMessage], title: str) -> None:
    info = info_of(title=title)
    value = json.loads(render(info, messages, "json"))
    assert value["v"] == 1
    assert value["session"]["title"] == title
    want = msgspec.to_builtins(messages)
    assert json.dumps(value["messages"]) == json.dumps(json.loads(json.dumps(want)))


def test_html_forbids_what_it_does_not_need() -> None:
    text = render(info_of(), [], "html")
    policy = next(a["content"] for t, a in Tags(text).found if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http:" not in text
    assert "https:" not in text


def test_markdown_reads_well() -> None:
    messages = [
        said("user", TextBlock("Run it")),
        said("assistant", ThinkingBlock("hm"), TextBlock("Sure.")),
        said("assistant", ToolUseBlock("t", "Bash", {"command": "ls"})),
        said("user", ToolResultBlock("t", "a ``` b", is_error=True)),
        said("user", TextBlock("before"), is_compact_summary=True),
    ]
    text = render(info_of(title="A *title*", tag="x"), messages, "md")
    assert text.startswith("# A \\*title\\*\n\n- Session: `claude:1`\n- Directory: `/w`\n")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    when = " \u00b7 1970-01-01 00:01:00 UTC"
    assert headings == [
        f"## {name}{when}" for name in ("User", "Assistant", "Tool", "Summary of what came before")
    ]
    assert "> *Thinking*\n> hm\n" in text
    assert '**Bash: ls**\n\n```json\n{\n  "command": "ls"\n}\n```' in text
    assert "**Failed**\n\n````\na ``` b\n````" in text


def test_controls_can_be_seen() -> None:
    assert visible(f"a{ESC}[1m\tb\r\nc{DEL}{CSI}{BIDI}") == ("a\u241b[1m\tb\nc\u2421\\u009b\\u202e")


def test_another_format() -> None:
    with pytest.raises(OptionError, match="md, json, html"):
        render(info_of(), [], "pdf")  # type: ignore[arg-type]
