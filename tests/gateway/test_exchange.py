from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.errors import ProtocolError
from quarterdeck.gateway.exchange import (
    RESET_GRACE,
    End,
    Frame,
    Ids,
    ModelRequest,
    Pause,
    Send,
    Step,
    chunks,
    deliver,
    deliver_whole,
    make_answer,
    messages_of,
    newest,
    text_of,
    tool_names,
)
from quarterdeck.gateway.reply import Place, Reply, parse_reply

ASKED = ModelRequest("m", True, "", "hi", "", ("Bash",), 1)
FRAMES = [
    Frame("head", b"head"),
    Frame("ping", b"ping"),
    Frame("block", b"open"),
    Frame("delta", b"d1"),
    Frame("delta", b"d2"),
    Frame("block", b"close"),
    Frame("end", b"stop"),
]
ERROR = b"error"


def reply(**fields: Any) -> Reply:
    return parse_reply(Place("test"), {"text": "x", **fields})


def steps(**fields: Any) -> list[Step]:
    return list(deliver(reply(**fields), FRAMES, ERROR))


def sent(found: list[Step]) -> list[bytes]:
    return [step.data for step in found if isinstance(step, Send)]


def test_a_plain_stream_has_no_pause() -> None:
    assert steps() == [*(Send(f.data) for f in FRAMES), End("complete")]


def test_pauses_stand_where_the_script_says() -> None:
    found = steps(first_delay=2, step_delay=0.5)
    assert found == [
        Send(b"head"),
        Pause(0.5),
        Send(b"ping"),
        Pause(2.0),
        Send(b"open"),
        Pause(0.5),
        Send(b"d1"),
        Pause(0.5),
        Send(b"d2"),
        Send(b"close"),
        Send(b"stop"),
        End("complete"),
    ]


@pytest.mark.parametrize(
    ("field", "ending"),
    [
        ("error_after", [Send(ERROR), End("complete")]),
        ("drop_after", [Pause(RESET_GRACE), End("reset")]),
        ("truncate_after", [End("closed")]),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 4, 6, 7, 1000])
def test_a_fault_comes_after_so_many_events(field: str, ending: list[Step], count: int) -> None:
    found = steps(**{field: count})
    before = min(count, len(FRAMES) - 1)
    assert found[: -len(ending)] == [Send(f.data) for f in FRAMES[:before]]
    assert found[-len(ending) :] == ending


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_a_malformed_event_is_one_more(count: int) -> None:
    found = sent(steps(malformed_after=count))
    broken = found.pop(min(count, len(FRAMES) - 1))
    assert broken.startswith(b"event: ")
    assert broken.endswith(b"\n\n")
    assert found == [f.data for f in FRAMES]


def test_an_answer_that_is_not_streamed_breaks_in_the_middle() -> None:
    body = b"0123456789"
    assert list(deliver_whole(reply(), body)) == [Send(body), End("complete")]
    assert list(deliver_whole(reply(truncate_after=1), body)) == [Send(b"01234"), End("cut")]
    dropped = [Send(b"01234"), Pause(RESET_GRACE), End("reset")]
    assert list(deliver_whole(reply(drop_after=1), body)) == dropped
    (broken, end) = deliver_whole(reply(malformed_after=1), body)
    assert broken == Send(b"01234" + bytes(5))
    assert end == End("complete")


@settings(deadline=None)
@given(st.text(), st.none() | st.integers(1, 50))
def test_chunks_are_the_text(text: str, size: int | None) -> None:
    found = list(chunks(text, size))
    assert "".join(found) == text
    assert all(found)
    assert size is None or all(len(piece) <= size for piece in found)


def test_ids_are_the_same_for_the_same_script() -> None:
    def run() -> list[Any]:
        ids = Ids()
        two = reply(tools=[{"name": "A"}, {"name": "B", "input": {"x": 1}, "id": "mine"}])
        raw = parse_reply(Place("t"), {"blocks": [{"type": "tool_use", "name": "C", "input": {}}]})
        return [make_answer(each, ASKED, ids, 5) for each in (two, raw, two)]

    first, raw, second = run()
    assert [first, raw, second] == run()
    assert [b["id"] for b in first.blocks if "id" in b] == ["toolu_scripted_0001", "mine"]
    assert raw.blocks[0]["id"] == "toolu_scripted_0002"
    assert second.blocks[1]["id"] == "toolu_scripted_0003"
    assert (first.number, raw.number, second.number) == (1, 2, 3)


def test_the_stop_reason_follows_from_the_blocks() -> None:
    def reason(**fields: Any) -> str:
        return make_answer(parse_reply(Place("t"), fields), ASKED, Ids(), 0).stop_reason

    assert reason(text="a") == "end_turn"
    assert reason(empty=True) == "end_turn"
    assert reason(text="a", tools=[{"name": "A"}]) == "tool_use"
    assert reason(blocks=[{"type": "server_tool_use", "name": "s", "input": {}}]) == "end_turn"
    assert reason(text="a", stop_reason="max_tokens") == "max_tokens"


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": {}}, {"messages": ["a"]}])
def test_messages_are_required(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="messages"):
        messages_of(body)


def test_the_newest_messages_follow_the_assistants_last() -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}

    def roles(text: str) -> list[str]:
        return [m["role"][0] for m in newest([{"role": names[c]} for c in text])]

    assert roles("u") == ["u"]
    assert roles("uaus") == ["u", "s"]
    assert roles("uau") == ["u"]
    assert roles("uaua") == ["u"]
    assert roles("a") == []


def test_odd_contents_are_empty_texts() -> None:
    assert text_of([{"text": "a"}, 5, {"text": 6}, {"type": "image"}, {"text": "b"}]) == "a\nb"
    assert text_of(None) == ""
    odd = [{"name": "A"}, {"function": {"name": "B"}}, 5, {"function": 5}, {}]
    assert tool_names({"tools": odd}) == ("A", "B", "", "", "")
    assert tool_names({"tools": 5}) == ()
