"""What a session is called, from the ends of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.engine.claude.digest import UNTITLED, digest, wants_more

GOLDEN = Path(__file__).parents[2] / "golden" / "claude"


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in records)


def prompt(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "user", "uuid": "u", "message": {"content": text}, **more}


CUSTOM = {"type": "custom-title", "customTitle": "custom"}
AI = {"type": "ai-title", "aiTitle": "ai"}
LAST = {"type": "last-prompt", "lastPrompt": "last"}
SUMMARY = {"type": "summary", "summary": "summary"}
FIRST = prompt("first")


def test_the_recorded_session() -> None:
    data = (GOLDEN / "transcript-rich-session.jsonl").read_bytes()
    found = digest(data, data)
    assert found.title == found.custom_title == "My renamed session"
    assert found.first_prompt == "do things"
    assert (found.cwd, found.git_branch) == ("/workspace", "trunk")
    assert found.created_at == pytest.approx(1795220443.172)
    assert not found.hidden
    assert not found.empty


def test_a_sub_agents_file_is_hidden() -> None:
    data = (GOLDEN / "transcript-subagent.jsonl").read_bytes()
    assert digest(data, data).hidden
    team = lines(prompt("x", teamName="t"))
    assert digest(team, team).hidden


@pytest.mark.parametrize(
    ("records", "title"),
    [
        ((FIRST, SUMMARY, LAST, AI, CUSTOM), "custom"),
        ((CUSTOM, AI, LAST, SUMMARY, FIRST), "custom"),
        ((FIRST, SUMMARY, LAST, AI), "ai"),
        ((FIRST, SUMMARY, LAST), "last"),
        ((FIRST, SUMMARY), "summary"),
        ((FIRST,), "first"),
        ((FIRST, CUSTOM, {**CUSTOM, "customTitle": "newer"}), "newer"),
        ((FIRST, CUSTOM, {**CUSTOM, "customTitle": ""}), "first"),
        ((FIRST, CUSTOM, {**CUSTOM, "customTitle": 5}), "custom"),
        # Somebody talks about titles: only a line of that type names a session.
        ((FIRST, prompt('{"customTitle":"fake"}')), "first"),
        ((FIRST, {"type": "user", "uuid": "v", "x": {"customTitle": "fake"}}), "first"),
        ((FIRST, {"type": "user", "uuid": "v", "customTitle": "fake"}), "first"),
        ((prompt("", isMeta=True),), UNTITLED),
    ],
)
def test_titles(records: tuple[dict[str, Any], ...], title: str) -> None:
    data = lines(*records)
    assert digest(data, data).title == title


def test_the_tail_comes_before_the_head() -> None:
    head, tail = lines(FIRST, CUSTOM), b'torn"}\n' + lines({**CUSTOM, "customTitle": "late"})
    assert digest(head, tail).title == "late"
    assert digest(head, b"torn").title == "custom"


def test_an_empty_tag_takes_the_tag_away() -> None:
    tag, gone = {"type": "tag", "tag": "x"}, {"type": "tag", "tag": ""}
    assert digest(d := lines(FIRST, tag), d).tag == "x"
    assert digest(d := lines(FIRST, tag, gone), d).tag == ""
    assert digest(lines(FIRST, tag), lines(gone)).tag == ""


def test_a_command_is_the_prompt_when_there_is_no_other() -> None:
    command = prompt("<command-name>/review</command-name><command-args>7</command-args>")
    assert digest(d := lines(command), d).first_prompt == "/review 7"
    assert digest(d := lines(command, FIRST), d).first_prompt == "first"


def test_nothing_to_show() -> None:
    for data in (b"", b"\n\n", b"not json\n", lines({"type": "queue-operation"})):
        assert digest(data, data).empty
    assert not digest(d := lines(CUSTOM), d).empty
    assert not digest(d := lines({"type": "assistant", "uuid": "u"}), d).empty


def test_a_cut_prompt_is_worth_another_look() -> None:
    whole = lines(FIRST)
    cut = whole[:20]
    assert wants_more(cut, digest(cut, b""))
    assert not wants_more(whole, digest(whole, b""))
    assert not wants_more(whole + cut, digest(whole + cut, b""))


@given(st.binary(), st.binary())
def test_no_content_raises(head: bytes, tail: bytes) -> None:
    digest(head, tail)


@given(st.data())
def test_cut_anywhere(data: st.DataObject) -> None:
    whole = lines(FIRST, SUMMARY, CUSTOM, LAST)
    head = whole[: data.draw(st.integers(0, len(whole)))]
    tail = whole[data.draw(st.integers(0, len(whole))) :]
    assert digest(head, tail).title in {"custom", "last", "summary", "first", UNTITLED}
