"""The pure core of the control protocol, on recorded runs and on made-up input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.engine import events as ev
from quarterdeck.engine.claude.protocol import (
    Cancelled,
    ClaudeProtocol,
    ControlReply,
    HookCalled,
    McpCalled,
    UnknownRequest,
)
from quarterdeck.errors import LineTooLong

GOLDEN = Path(__file__).parents[2] / "golden" / "claude"
RUNS = sorted(GOLDEN.glob("*.ndjson"))


def printed(path: Path) -> list[bytes]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [json.dumps(r["msg"]).encode() for r in records if r["dir"] == "out"]


def run(name: str) -> tuple[list[ev.Event], list[Any]]:
    protocol = ClaudeProtocol("s")
    events, calls = [], []
    for line in printed(GOLDEN / f"{name}.ndjson"):
        received = protocol.receive(line + b"\n", 1.0)
        events += received.events
        calls += received.calls
    return events, calls


def of(events: list[ev.Event], kind: type[Any]) -> list[Any]:
    return [e for e in events if isinstance(e, kind)]


def test_there_are_recorded_runs() -> None:
    assert len(RUNS) > 100


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_every_recorded_line_is_understood(path: Path) -> None:
    protocol = ClaudeProtocol("s")
    seq = 0
    for line in printed(path):
        received = protocol.receive(line + b"\n", 1.0)
        for event in received.events:
            seq += 1
            assert event.seq == seq
            assert event.session == "s"
            assert not isinstance(event, ev.Unknown), event
            assert json.loads(ev.to_line(event))["type"] == event.type
        for call in received.calls:
            assert not isinstance(call, UnknownRequest), call
    results = sum(json.loads(line).get("type") == "result" for line in printed(path))
    assert protocol.mapper.turn >= results


@pytest.mark.parametrize("path", RUNS[::7], ids=lambda p: p.stem)
def test_chunks_do_not_matter(path: Path) -> None:
    data = b"".join(line + b"\n" for line in printed(path))
    whole = ClaudeProtocol("s").receive(data, 1.0)
    protocol, events = ClaudeProtocol("s"), []
    for at in range(0, len(data), 977):
        events += protocol.receive(data[at : at + 977], 1.0).events
    assert events == whole.events


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_the_shortcut_says_what_the_mapping_says(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"".join(line + b"\n" for line in printed(path))
    quick = ClaudeProtocol("s").receive(data, 1.0)
    thorough = ClaudeProtocol("s")
    monkeypatch.setattr(thorough.mapper, "hot", lambda *_: None)
    assert thorough.receive(data, 1.0) == quick


BOUNDARIES = [
    ("01-basic-turn-partial", ["completed"]),
    ("04-can-use-tool-deny-interrupt", ["interrupted"]),
    ("08-interrupt-while-permission-pending", ["interrupted", "completed"]),
    ("13-priority-now-message", ["interrupted", "completed"]),
    ("15-slash-commands", ["completed"] * 7),
    ("17-hook-pre-defer", ["completed"]),
    ("26-json-schema-structured-output", ["completed"]),
    ("27-json-schema-retries-exhausted", ["errored(structured_output)"]),
    ("30-api-529-then-ok", ["errored(rate_limit)", "errored(server_error)", "errored(overloaded)"]),
    ("31-api-401", ["errored(authentication_failed)"]),
    ("31-api-404-model", ["errored(model_not_found)"]),
    ("31-api-413", ["errored(invalid_request)"]),
    ("31-api-500-retries-exhausted", ["errored(server_error)"]),
    ("31-api-credit", ["errored(billing_error)"]),
    ("31-api-prompt-too-long", ["limit(tokens)"]),
    ("32-stream-dropped-mid-tool-use", ["errored(truncated)"]),
    ("33-stop-reason-pause-turn", ["completed"]),
    ("44-eof-during-turn", ["completed"]),
    ("61-refusal-with-fallback-model", ["errored(refusal)"]),
]


@pytest.mark.parametrize(("name", "expected"), BOUNDARIES, ids=[b[0] for b in BOUNDARIES])
def test_boundaries(name: str, expected: list[str]) -> None:
    ended = [str(e.boundary) for e in of(run(name)[0], ev.TurnEnded)]
    if name == "30-api-529-then-ok":
        assert len(ended) == 1
        assert ended[0] in expected
    else:
        assert ended == expected


def test_a_basic_turn_reads_as_a_story() -> None:
    events, _ = run("01-basic-turn-partial")
    assert [e.type for e in events] == [
        "session_ready",
        "turn_started",
        "state_changed",
        "usage_updated",
        "text_delta",
        "message",
        "usage_updated",
        "turn_ended",
    ]
    ready, end = events[0], events[-1]
    assert isinstance(ready, ev.SessionReady)
    assert isinstance(end, ev.TurnEnded)
    assert ready.model.startswith("claude-")
    assert "Bash" in ready.tools
    assert (end.text, end.num_turns, end.usage.output_tokens) == ("Hello there.", 1, 9)


def test_text_of_an_abandoned_stream_is_withdrawn() -> None:
    events, _ = run("32-stream-dropped-mid-text")
    (withdrawn,) = of(events, ev.TextWithdrawn)
    streamed = [d for d in of(events, ev.TextDelta) if d.message_id == withdrawn.message_id]
    assert withdrawn.characters == sum(len(d.text) for d in streamed)
    (end,) = of(events, ev.TurnEnded)
    assert end.text == "recovered"


def test_a_tool_call_has_one_start_one_input_and_one_end() -> None:
    events, _ = run("20-subagent-foreground")
    started = of(events, ev.ToolStarted)
    assert [t.name for t in started] == ["Agent", "Bash"]
    inputs = [t for t in of(events, ev.ToolInput) if t.input is not None]
    assert [t.tool_use_id for t in inputs] == [t.tool_use_id for t in started]
    ended = {t.tool_use_id: t for t in of(events, ev.ToolEnded)}
    assert set(ended) == {t.tool_use_id for t in started}
    assert started[1].parent == started[0].tool_use_id
    assert ended[started[1].tool_use_id].content == "sub"


def test_parallel_permission_requests_both_ask() -> None:
    _, calls = run("56-parallel-permission-requests")
    asked = [c for c in calls if isinstance(c, ev.PermissionAsked)]
    assert len(asked) >= 2
    assert len({a.request_id for a in asked}) == len(asked)


def test_a_question_is_told_from_a_permission() -> None:
    _, calls = run("05-ask-user-question-answered")
    (asked,) = [c for c in calls if isinstance(c, ev.QuestionAsked)]
    assert asked.questions[0]["question"]


def test_cancelled_requests_hooks_and_servers_are_calls() -> None:
    assert any(isinstance(c, Cancelled) for c in run("08-interrupt-while-permission-pending")[1])
    hooks = [c for c in run("16-hooks-all-events")[1] if isinstance(c, HookCalled)]
    assert {h.input["hook_event_name"] for h in hooks} >= {"PreToolUse", "PostToolUse", "Stop"}
    calls = [c for c in run("18-sdk-mcp-server")[1] if isinstance(c, McpCalled)]
    assert {c.message["method"] for c in calls} >= {"initialize", "tools/list", "tools/call"}


def test_clear_changes_the_engine_session() -> None:
    ready = of(run("16b-hooks-compact-clear-subagent")[0], ev.SessionReady)
    assert len({r.engine_session_id for r in ready}) == 2


def test_sigterm_leaves_no_record() -> None:
    events, _ = run("42-sigterm-streaming")
    assert of(events, ev.TurnEnded) == []


# -- made-up input ----------------------------------------------------------------------------------


def receive(line: bytes) -> tuple[list[ev.Event], list[Any]]:
    received = ClaudeProtocol("s").receive(line + b"\n", 1.0)
    return received.events, received.calls


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"warming up...", "not_json"),
        (b"[1,2]", "not_json"),
        (b'{"type":"novelty","x":1}', "novelty"),
        (b'{"type":"system","subtype":"novelty"}', "system/novelty"),
        (b'{"no":"type"}', ""),
        (b'{"type":7}', ""),
        (b'{"type":"stream_event","event":{"type":"novelty"}}', "stream_event"),
    ],
)
def test_the_unknown_is_kept_with_its_line(line: bytes, kind: str) -> None:
    (event,), _ = receive(line)
    assert isinstance(event, ev.Unknown)
    assert (event.kind, event.raw) == (kind, line)


@pytest.mark.parametrize("line", [b"", b"  ", b"\r"])
def test_blank_lines_are_nothing(line: bytes) -> None:
    assert receive(line) == ([], [])


def test_odd_fields_do_not_cost_the_result() -> None:
    odd = b'"duration_ms":1.5,"num_turns":"x","usage":[]'
    line = b'{"type":"result","subtype":"success","is_error":false,' + odd + b"}"
    end = receive(line)[0][-1]
    assert isinstance(end, ev.TurnEnded)
    assert (end.duration_ms, end.num_turns) == (1, 0)


def test_invalid_utf8_does_not_cost_the_line() -> None:
    line = b'{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"a\xff"}]}}'
    (message,) = of(receive(line)[0], ev.Message)
    assert message.text == "a\ufffd"


def test_unknown_blocks_are_kept() -> None:
    content = [
        {"type": "novelty", "x": 1},
        {"type": "image", "source": {"type": "base64", "data": "QQ=="}},
    ]
    line = json.dumps({"type": "assistant", "message": {"id": "m", "content": content}}).encode()
    (message,) = of(receive(line)[0], ev.Message)
    unknown, image = message.blocks
    assert isinstance(unknown, ev.UnknownBlock)
    assert unknown["x"] == 1
    assert isinstance(image, ev.ImageBlock)
    assert image.data == "QQ=="


def test_unknown_requests_can_be_answered() -> None:
    (call,) = receive(
        b'{"type":"control_request","request_id":"r","request":{"subtype":"novelty"}}'
    )[1]
    assert call == UnknownRequest("r", "novelty")


def test_a_reply_with_odd_fields_is_still_a_reply() -> None:
    line = b'{"type":"control_response","response":{"subtype":"success","request_id":"r","response":[]}}'
    assert receive(line)[1] == [ControlReply("r", True, {}, "")]


def test_a_rate_limit_says_when_to_come_back() -> None:
    info = {
        "status": "rejected",
        "resetsAt": 1795219965,
        "rateLimitType": "five_hour",
        "utilization": 1.0,
    }
    lines = [
        {"type": "rate_limit_event", "rate_limit_info": info},
        {"type": "result", "subtype": "success", "is_error": True, "api_error_status": 429},
    ]
    protocol = ClaudeProtocol("s")
    events = protocol.receive(b"".join(json.dumps(m).encode() + b"\n" for m in lines), 1.0).events
    (limited,), (end,) = of(events, ev.RateLimited), of(events, ev.TurnEnded)
    assert (limited.limit.status, limited.limit.limit_type) == ("rejected", "five_hour")
    assert (str(end.boundary), end.boundary.retry_at) == ("limit(rate)", 1795219965)


def test_lines_have_a_limit() -> None:
    protocol = ClaudeProtocol("s", max_line=1000)
    with pytest.raises(LineTooLong):
        for _ in range(3):
            protocol.receive(b"x" * 400, 1.0)
    with pytest.raises(LineTooLong):
        ClaudeProtocol("s", max_line=1000).receive(b"x" * 1001 + b"\n", 1.0)


def test_a_line_cut_by_the_end_is_told() -> None:
    protocol = ClaudeProtocol("s")
    protocol.receive(b'{"type":"resu', 1.0)
    (event,) = protocol.eof(2.0).events
    assert isinstance(event, ev.Unknown)
    assert (event.kind, event.raw) == ("cut_line", b'{"type":"resu')


def lines_of_all_runs() -> Iterator[bytes]:
    for path in RUNS:
        yield from printed(path)


SOME_LINES = sorted(set(lines_of_all_runs()), key=len)[:400:5]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


def swallow(data: bytes) -> None:
    """No input raises, and every event has a public form."""
    protocol = ClaudeProtocol("s")
    for event in protocol.receive(data, 1.0).events + protocol.eof(1.0).events:
        ev.to_line(event)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_fuzz_bytes(data: bytes) -> None:
    swallow(data + b"\n")


@given(st.sampled_from(SOME_LINES), st.data())
@settings(max_examples=300, deadline=None)
def test_fuzz_damaged_lines(line: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(line)))
    size = data.draw(st.integers(0, 8))
    swallow(line[:at] + data.draw(st.binary(max_size=8)) + line[at + size :] + b"\n")


@given(st.sampled_from(SOME_LINES), st.data())
@settings(max_examples=400, deadline=None)
def test_fuzz_fields_of_any_type(line: bytes, data: st.DataObject) -> None:
    value = json.loads(line)
    target = value
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [v for v in target.values() if isinstance(v, dict) and v]
        if not inner:
            break
        target = data.draw(st.sampled_from(inner))
    if target:
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(VALUES)
    swallow(json.dumps(value).encode() + b"\n")
