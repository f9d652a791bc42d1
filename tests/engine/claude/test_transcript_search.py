"""Finding a text: the test on raw bytes must never miss what the decoded text holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quarterdeck.engine.claude.transcript_search import Needle
from quarterdeck.engine.claude.transcripts import TranscriptMessage
from quarterdeck.engine.events import (
    Block,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

KELVIN, DOTTED_I = chr(0x212A), chr(0x130)
SIGMAS = chr(0x3C3) + chr(0x3C2) + chr(0x3A3)
E_ACUTE, SHARP_S = chr(0xE9), chr(0xDF)
AWKWARD = 'kKiIsS"\\/\n' + KELVIN + DOTTED_I + SIGMAS + E_ACUTE + SHARP_S
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(AWKWARD))


def raw(text: str, escaped: bool) -> bytes:
    return json.dumps({"x": text}, ensure_ascii=escaped).encode()


@given(TEXT, TEXT, st.data(), st.booleans())
def test_bytes_never_miss(before: str, after: str, data: st.DataObject, escaped: bool) -> None:
    middle = data.draw(TEXT.filter(bool))
    needle = Needle(data.draw(st.sampled_from([middle, middle.lower(), middle.upper()])))
    text = before + middle + after
    if needle.snippet(text) is not None:
        assert needle.may_hold(raw(text, escaped))
        assert needle.may_hold(raw(text, escaped).replace(b"/", b"\\/"))


@pytest.mark.parametrize(
    "needle", ["hello", "caf" + E_ACUTE, chr(0x6F22) + chr(0x5B57), "sq/p", 'qz"wj', "qz\nwj", "Qz"]
)
def test_bytes_that_cannot_hold_it_are_refused(needle: str) -> None:
    color = chr(27) + "[31m"
    assert not Needle(needle).may_hold(raw("not of that kind " + color, escaped=False))
    assert Needle(needle).may_hold(raw(f"with {needle} inside", escaped=False))
    assert Needle(needle).may_hold(raw(f"with {needle} inside", escaped=True))


def test_letters_written_as_escapes_are_found() -> None:
    assert Needle("hello").may_hold(b'{"x":"h\\u0065llo"}')
    assert Needle("kelvin").may_hold(raw(KELVIN + "elvin", escaped=False))
    assert Needle("kelvin").snippet("0 " + KELVIN + "ELVIN") is not None


@given(TEXT, TEXT.filter(str.strip))
def test_a_snippet_is_one_short_line(around: str, text: str) -> None:
    assume(DOTTED_I not in around + text)  # it is two characters in lower case
    shown = Needle(text).snippet(around * 50 + text + around * 50)
    if shown is not None:
        assert len(shown) <= 2 * 70 + len(text.lower()) + 2
        assert shown.splitlines() in ([shown], [])


def message(*blocks: Block) -> TranscriptMessage:
    return TranscriptMessage("assistant", blocks, "u")


@pytest.mark.parametrize(
    "block",
    [
        TextBlock("the NEEDLE here"),
        ThinkingBlock("a needle"),
        ToolUseBlock("t", "Bash", {"deep": [{"er": "needle"}]}),
        ToolUseBlock("t", "NeedleTool", {}),
        ToolResultBlock("t", [{"type": "text", "text": "needle"}]),
    ],
)
def test_every_kind_of_text_is_looked_at(block: Block) -> None:
    found = Needle("nEEdle").find(message(TextBlock("hay"), block))
    assert found is not None
    assert "needle" in found.lower()
    assert Needle("thread").find(message(block)) is None


def test_long_texts_are_cut_around_the_hit() -> None:
    dots = chr(0x2026)
    assert Needle("x").snippet("a" * 100 + "x" + "b" * 100) == f"{dots}{'a' * 70}x{'b' * 70}{dots}"
