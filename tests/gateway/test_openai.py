from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.gateway_client import fold_openai, openai_events

from quarterdeck.errors import ScriptError
from quarterdeck.gateway import openai
from quarterdeck.gateway.exchange import Answer

texts = st.text(max_size=40)
inputs = st.dictionaries(texts, st.integers() | texts, max_size=3)
blocks = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, texts),
    st.builds(lambda t: {"type": "thinking", "thinking": t, "signature": "s"}, texts),
    st.builds(
        lambda i, n: {"type": "tool_use", "id": f"t{n}", "name": "Bash", "input": i},
        inputs,
        st.integers(),
    ),
)
USAGE = {
    "input_tokens": 10,
    "output_tokens": 4,
    "cache_read_input_tokens": 3,
    "cache_creation_input_tokens": 2,
}


def answer(*content: dict[str, Any], stop_reason: str = "end_turn") -> Answer:
    return Answer(7, "m-1", content, stop_reason, None, USAGE, 1_700_000_000)


def stream(
    said: Answer, chunk: int | None = None, pings: int = 0, usage: bool = False
) -> list[dict[str, Any]]:
    frames = openai.frames(said, chunk=chunk, pings=pings, include_usage=usage)
    return openai_events(b"".join(frame.data for frame in frames))


@settings(deadline=None)
@given(st.lists(blocks, max_size=4), st.none() | st.integers(1, 5), st.integers(0, 2))
def test_a_stream_folds_to_the_completion(
    content: list[dict[str, Any]], chunk: int | None, pings: int
) -> None:
    said = answer(*content)
    folded, whole = fold_openai(stream(said, chunk, pings, usage=True)), openai.message(said)
    (choice,) = whole["choices"]
    assert folded["usage"] == whole["usage"]
    assert folded["finish_reason"] == choice["finish_reason"]
    for name in ("content", "reasoning_content"):
        assert (folded["message"].get(name) or "") == (choice["message"].get(name) or "")
    calls = choice["message"].get("tool_calls", [])
    assert [{**c, "index": n} for n, c in enumerate(calls)] == folded["calls"]
    inputs = [json.loads(c["function"]["arguments"]) for c in calls]
    assert inputs == [b["input"] for b in content if b["type"] == "tool_use"]


def test_the_events_of_a_stream() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    found = stream(answer({"type": "text", "text": "abc"}, call, stop_reason="tool_use"), chunk=2)
    deltas = [event["choices"][0]["delta"] for event in found]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "ab"},
        {"content": "c"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [e["choices"][0]["finish_reason"] for e in found] == [None] * 5 + ["tool_calls"]
    assert all("usage" not in event for event in found)
    assert {(e["id"], e["created"], e["object"]) for e in found} == {
        ("chatcmpl-scripted-0007", 1_700_000_000, "chat.completion.chunk")
    }


def test_usage_is_streamed_when_asked_for() -> None:
    *others, last = stream(answer({"type": "text", "text": "a"}), usage=True)
    assert all(event["usage"] is None for event in others)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 4,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("max_tokens", "length"), ("refusal", "content_filter"), ("something_new", "something_new")],
)
def test_stop_reasons_are_translated(reason: str, finish: str) -> None:
    said = answer({"type": "text", "text": "a"}, stop_reason=reason)
    assert openai.message(said)["choices"][0]["finish_reason"] == finish


def test_a_block_that_the_format_lacks_is_an_error_before_the_stream() -> None:
    said = answer({"type": "redacted_thinking", "data": "x"})
    with pytest.raises(ScriptError, match="redacted_thinking"):
        openai.frames(said, chunk=None, pings=0, include_usage=False)
    with pytest.raises(ScriptError, match="redacted_thinking"):
        openai.message(said)


def test_what_matters_of_a_request() -> None:
    asked = openai.read_request(
        {
            "model": "m-1",
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [{"type": "function", "function": {"name": "bash"}}],
            "messages": [
                {"role": "system", "content": "You help."},
                {"role": "developer", "content": [{"type": "text", "text": "Briefly."}]},
                {"role": "user", "content": "old"},
                {"role": "assistant", "tool_calls": []},
                {"role": "tool", "tool_call_id": "t1", "content": "out"},
                {"role": "user", "content": [{"type": "text", "text": "new"}]},
            ],
        }
    )
    assert (asked.system, asked.text, asked.tool_result) == ("You help.\nBriefly.", "new", "out")
    assert (asked.tools, asked.stream, asked.include_usage) == (("bash",), True, True)


def test_errors() -> None:
    body = openai.error_body(429, {"message": "slow"})
    assert body["error"]["type"] == "rate_limit_error"
    frame = openai.error_frame({})
    assert json.loads(frame.removeprefix(b"data: "))["error"]["type"] == "server_error"
