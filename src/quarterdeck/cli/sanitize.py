"""PURE. Text of models, tools and files made safe for a terminal.

Escape sequences can move the cursor, write the clipboard (OSC 52), lie about links (OSC 8) or change
the title; bidirectional overrides make code look different from what runs. Both are made visible
instead of being dropped, so that a reader sees that something was there.
"""

from __future__ import annotations

_VISIBLE: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"<{code:02X}>" for code in range(0x80, 0xA0)},
    **{
        code: f"<U+{code:04X}>"
        for code in (
            0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A),
            0xFEFF,
        )
    },
    **dict.fromkeys(range(55296, 57344), "�"),
}  # fmt: skip


def sanitize(text: str) -> str:
    r"""The text with control and bidirectional characters made visible; newline and tab stay.

    `\r\n` becomes a newline: programs on other systems end lines so, and nothing is hidden by it.
    Works on pieces of a stream as well as on the whole, for each character is judged alone.
    """
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def one_line(text: str, limit: int = 200) -> str:
    """Sanitized, whitespace joined, at most `limit` characters."""
    joined = sanitize(" ".join(text[: limit * 8].split()))
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
