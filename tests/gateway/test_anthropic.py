from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.gateway_client import anthropic_events, fold_anthropic

from quarterdeck.gateway import anthropic
from quarterdeck.gateway.exchange import DEFAULT_USAGE, Answer

texts = st.text(max_size=40)
inputs = st.dictionaries(texts, st.integers() | texts | st.lists(texts, max_size=2), max_size=3)
names = st.sampled_from(["Bash", "Edit"])
blocks = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, texts),
    st.builds(lambda t, s: {"type": "thinking", "thinking": t, "signature": s}, texts, texts),
    st.builds(lambda n, i: {"type": "tool_use", "id": "t1", "name": n, "input": i}, names, inputs),
    st.builds(lambda t: {"type": "redacted_thinking", "data": t}, texts),
)


def answer(*content: dict[str, Any], **fields: Any) -> Answer:
    start: dict[str, Any] = {"number": 7, "model": "m-1", "stop_reason": "end_turn", "created": 0}
    usage = {**DEFAULT_USAGE, "output_tokens": 33}
    return Answer(**{**start, "blocks": content, "stop_details": None, "usage": usage, **fields})


def stream(said: Answer, chunk: int | None = None, pings: int = 0) -> list[dict[str, Any]]:
    frames = anthropic.frames(said, chunk=chunk, pings=pings, include_usage=False)
    return anthropic_events(b"".join(frame.data for frame in frames))


@settings(deadline=None)
@given(st.lists(blocks, max_size=4), st.none() | st.integers(1, 5), st.integers(0, 2))
def test_a_stream_folds_to_the_message(
    content: list[dict[str, Any]], chunk: int | None, pings: int
) -> None:
    said = answer(*content)
    assert fold_anthropic(stream(said, chunk, pings)) == anthropic.message(said) | {
        "content": content
    }
    assert json.loads(json.dumps(anthropic.message(said)))["content"] == content


def test_the_events_of_a_stream() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"a": 1}}
    said = answer({"type": "text", "text": "abc"}, call, stop_details={"category": "x"})
    found = stream(said, chunk=2, pings=1)
    assert [event["type"].removeprefix("content_block_") for event in found] == [
        "message_start",
        "ping",
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "delta", "delta", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    assert found[0]["message"] == {
        "id": "msg_scripted_0007",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**DEFAULT_USAGE, "output_tokens": 1},
    }
    assert found[6]["content_block"] == {**call, "input": {}}
    assert found[-2]["delta"]["stop_details"] == {"category": "x"}
    assert found[-2]["usage"]["output_tokens"] == 33


def test_what_matters_of_a_request() -> None:
    result = {
        "type": "tool_result",
        "content": [{"type": "text", "text": "out"}, {"type": "image"}],
    }
    body = {
        "model": "m-1",
        "stream": True,
        "system": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        "tools": [{"name": "Bash"}, {"type": "web_search", "name": "web_search"}],
        "messages": [
            {"role": "user", "content": "old"},
            {"role": "assistant", "content": "said"},
            {"role": "user", "content": [result, {"type": "text", "text": "note"}]},
            {"role": "user", "content": [{"type": "tool_result", "content": "more"}, 5]},
            {"role": "system", "content": "not the user"},
        ],
    }
    asked = anthropic.read_request(body)
    assert (asked.model, asked.stream, asked.system) == ("m-1", True, "one\ntwo")
    assert (asked.text, asked.tool_result) == ("note", "out\nmore")
    assert (asked.tools, asked.messages) == (("Bash", "web_search"), 5)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "authentication_error"), (429, "rate_limit_error"), (418, "api_error")],
)
def test_errors_follow_the_status(status: int, kind: str) -> None:
    assert anthropic.error_body(status, {})["error"]["type"] == kind
    given_type = anthropic.error_body(status, {"type": "own", "message": "m"})
    assert given_type == {"type": "error", "error": {"type": "own", "message": "m"}}


def test_an_error_in_a_stream() -> None:
    (event,) = anthropic_events(anthropic.error_frame({"message": "busy"}))
    assert event == {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
