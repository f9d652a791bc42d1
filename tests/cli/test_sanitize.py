"""Attack: what a model, a tool or a file says must not steer the terminal that shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.cli.sanitize import one_line, sanitize

DANGEROUS = (
    {chr(c) for c in range(0x20)} - {"\n", "\t"}
    | {chr(c) for c in range(0x7F, 0xA0)}
    | {chr(c) for c in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
)  # fmt: skip


@pytest.mark.parametrize(
    "attack",
    [
        "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",  # OSC 8, a link that lies
        "\x1b]52;c;cm0gLXJmIH4K\x07",  # OSC 52, the clipboard
        "\x1b]0;title\x07",
        "\x1b[2J\x1b[H\x1b[31m",  # CSI
        "\x9b2J",  # CSI as one 8-bit character
        "\x9d52;c;eA==\x9c",  # OSC as one 8-bit character
        "\x1bP+q544e\x1b\\",  # DCS
        "\x1bc",  # reset
        "safe\rrm -rf /",  # overwrites the line
        "abc\x08\x08\x08xyz",
        "access \u202e\u2066// admins only\u2069",  # code that reads differently
        "\x00\x7f",
    ],
)
def test_known_attacks_lose_their_teeth(attack: str) -> None:
    shown = sanitize(attack)
    assert not set(shown) & DANGEROUS
    assert shown != attack


@given(st.text(st.characters(codec=None), max_size=200))
def test_nothing_dangerous_is_left(text: str) -> None:
    shown = sanitize(text)
    assert not set(shown) & DANGEROUS
    shown.encode("utf-8")


@given(st.text(max_size=100), st.text(max_size=100))
def test_pieces_of_a_stream_are_as_safe_as_the_whole(a: str, b: str) -> None:
    if not (a.endswith("\r") and b.startswith("\n")):
        assert sanitize(a) + sanitize(b) == sanitize(a + b)
    assert not set(sanitize(a) + sanitize(b)) & DANGEROUS


@given(
    st.text(
        st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="\xa0"), max_size=100
    )
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert sanitize(f"{text}\n\t{text}") == f"{text}\n\t{text}"


def test_line_ends_of_other_systems_are_line_ends() -> None:
    assert sanitize("a\r\nb") == "a\nb"
    assert sanitize("a\rb") == "a␍b"


@given(st.text(max_size=500), st.integers(5, 80))
def test_one_line_is_one_line_of_limited_length(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert "\n" not in shown
    assert len(shown) <= limit
