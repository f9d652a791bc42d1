"""Lines to the CLI: what may be sent, and what is refused before a byte is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quarterdeck.engine.claude import control
from quarterdeck.errors import InvalidCommand

WEDGING: list[tuple[str, dict[str, Any]]] = [
    ("apply_flag_settings", {}),
    ("mcp_set_servers", {}),
    ("set_model", {"model": 7}),
    ("mcp_call", {"arguments": {}}),
    ("rewind_conversation", {}),
    ("initialize", {"hooks": {"Stop": [{"matcher": None}]}}),
    ("initialize", {"hooks": {"Stop": {}}}),
    ("initialize", {"hooks": {"Stop": [{"hookCallbackIds": ["a"]}]}}),
]


@pytest.mark.parametrize(("subtype", "fields"), WEDGING)
def test_what_wedges_the_cli_is_refused(subtype: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidCommand, match=subtype):
        control.control_request("r", subtype, fields)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("novelty", {}),
    ("interrupt", {"extra": 1}),
    ("set_permission_mode", {"mode": "yolo"}),
    ("set_permission_mode", {}),
    ("set_max_thinking_tokens", {"max_thinking_tokens": True}),
    ("mcp_toggle", {"serverName": "x", "enabled": 1}),
    ("rename_session", {"title": ""}),
    ("apply_flag_settings", {"settings": {"a": object()}}),
]


@pytest.mark.parametrize(("subtype", "fields"), REFUSED)
def test_malformed_requests_are_refused(subtype: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidCommand):
        control.control_request("r", subtype, fields)


def test_a_request_is_one_line() -> None:
    line = control.control_request("r1", "set_model", {"model": "a\nb"})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "type": "control_request",
        "request_id": "r1",
        "request": {"subtype": "set_model", "model": "a\nb"},
    }


def test_empty_settings_and_servers_are_not_empty_requests() -> None:
    assert control.control_request("r", "mcp_set_servers", {"servers": {}})
    assert control.control_request("r", "apply_flag_settings", {"settings": {}})


def test_a_prompt_carries_its_id_and_no_nul() -> None:
    message = json.loads(
        control.user_message("a\x00b", uuid="u", priority="now", should_query=False)
    )
    assert message["message"] == {"role": "user", "content": "ab"}
    assert (message["uuid"], message["priority"], message["shouldQuery"]) == ("u", "now", False)


@pytest.mark.parametrize("prompt", ["", "  \n", [], [{"type": "novelty"}], ["text"], None, 3])
def test_prompts_without_content_are_refused(prompt: Any) -> None:
    with pytest.raises(InvalidCommand):
        control.user_message(prompt, uuid="u")


def test_unknown_priorities_are_refused() -> None:
    with pytest.raises(InvalidCommand, match="priority"):
        control.user_message("x", uuid="u", priority="soon")
