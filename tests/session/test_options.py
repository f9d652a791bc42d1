"""Options with callbacks: what is no callback, server, host, clock or schema is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quarterdeck import Client, Conversation
from quarterdeck.errors import OptionError
from quarterdeck.session.prompts import with_attachments

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("can_use_tool", {"can_use_tool": 5}),
    ("permission_queue", {"permission_queue": True}),
    ("mcp_servers", {"mcp_servers": "x"}),
    ("mcp_servers[x]", {"mcp_servers": {"x": {"command": "y"}}}),
    ("hooks", {"hooks": "x"}),
    ("host", {"host": 3}),
    ("clock", {"clock": 3}),
    ("output_schema", {"output_schema": {"type": "nonsense"}}),
    ("options", {"novelty": 1}),
]


@pytest.mark.parametrize("kind", [Client, Conversation])
@pytest.mark.parametrize(("field", "changes"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_options_are_refused(kind: Any, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        kind(**changes)
    assert caught.value.field == field


def test_a_sound_schema_passes() -> None:
    Client(output_schema={"type": "object", "properties": {"n": {"type": "integer"}}})


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02\xff"])
def test_files_that_cannot_be_attached(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="attach"):
        with_attachments("look", [path])
    with pytest.raises(OptionError, match="attach"):
        with_attachments("look", [tmp_path / "missing"])
    with pytest.raises(OptionError, match="attach"):
        with_attachments("look", str(path))


def test_the_prompt_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("remember")
    blocks = with_attachments("look", [path])
    assert isinstance(blocks, list)
    assert blocks[0] == {"type": "text", "text": "look"}
    assert "remember" in blocks[1]["text"]
