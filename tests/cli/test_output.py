from __future__ import annotations

import io

import pytest

from quarterdeck.cli.output import Screen, age, size, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (59, "now"), (60, "1m"), (3600, "1h"), (86400 * 3, "3d"), (86400 * 14, "2w")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1400, "1.4 KB"), (3e6, "3.0 MB")]
)
def test_size(count: int, text: str) -> None:
    assert size(int(count)) == text


def test_a_table_has_columns() -> None:
    lines = table([["a", "long title"], ["bbb", "x"]], ["ID", "TITLE"], [8, 6])
    assert lines == ["ID   TITLE", "a    long …", "bbb  x"]


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err)
    screen.text("\x1b]0;owned\x07")
    screen.line("\x1b[2J", "red")
    screen.note("\x9b2J")
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert "\x9b" not in err.getvalue()


def test_colours_only_where_wanted() -> None:
    out = io.StringIO()
    Screen(out, io.StringIO(), color=True).line("x", "red")
    Screen(out, io.StringIO()).line("y", "red")
    assert out.getvalue() == "\x1b[31mx\x1b[0m\ny\n"


def test_running_text_is_closed_before_a_line() -> None:
    out = io.StringIO()
    screen = Screen(out, io.StringIO())
    screen.text("half")
    screen.line("next")
    screen.text("whole\n")
    screen.end_line()
    assert out.getvalue() == "half\nnext\nwhole\n"


def test_text_that_the_terminal_cannot_say_is_replaced() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Screen(out, io.StringIO()).line("héllo ●")
    assert raw.getvalue() == b"h?llo ?\n"
