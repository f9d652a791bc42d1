from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.errors import ScriptError
from quarterdeck.gateway.reply import FIELDS, Place, Reply, parse_reply

HERE = Place("demo.yaml: reply 2")

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"txt": "a"}, "txt = 'a': a reply has no such field", "did you mean text?"),
    ({"zzzzz": 1}, "zzzzz = 1: a reply has no such field", "it can have: text"),
    ({"text": 5}, "text = 5: not a text", "quote what looks like a number"),
    ({"thinking": None}, "thinking = None: not a text", "write a text"),
    ({"empty": False}, "empty = False: can only be true", "leave the field out"),
    ({"tools": []}, "tools = []: not a list, or empty", "at least one item"),
    ({"tools": "Bash"}, "tools = 'Bash': not a list", "at least one item"),
    ({"tools": [{"input": {}}]}, "tools[0] = {'input': {}}: has no name", "add `name:`"),
    ({"tools": [{"name": "A"}, {"nme": "B"}]}, "tools[1].nme = 'B': a tool call", "mean name"),
    ({"tools": [["Bash", {}]]}, "tools[0] = ['Bash', {}]: not a mapping", "name: value"),
    ({"tools": [{"name": "A", "input": "x"}]}, "tools[0].input = 'x': not a mapping", "pairs"),
    ({"tools": [{"name": "A", "id": "a b"}]}, "tools[0].id = 'a b': not an id", "letters"),
    (
        {"tools": [{"name": "A", "id": "toolu_scripted_0001"}]},
        "tools[0].id = 'toolu_scripted_0001': not an id",
        "not beginning with toolu_scripted_",
    ),
    ({"blocks": [{"text": "a"}]}, "blocks[0].type = None", "write at least one character"),
    ({"blocks": [{"type": "text"}]}, "blocks[0].text = None: not a text", "write a text"),
    ({"blocks": [{"type": "tool_use", "name": "A"}]}, "blocks[0].input = None", "pairs"),
    ({"text": "a", "usage": {"tokens": 1}}, "usage.tokens = 1: usage has no", "input_tokens"),
    ({"text": "a", "usage": {"output_tokens": -1}}, "usage.output_tokens = -1", "from 0"),
    ({"text": "a", "delay": "1s"}, "delay = '1s': not a time", "write seconds from 0"),
    ({"text": "a", "delay": -1}, "delay = -1: not a time", "write seconds"),
    ({"text": "a", "delay": True}, "delay = True: not a time", "write seconds"),
    ({"text": "a", "step_delay": float("nan")}, "step_delay = nan: not a time", "seconds"),
    ({"text": "a", "chunk": 0}, "chunk = 0: not a whole number in range", "from 1"),
    ({"text": "a", "pings": 1.5}, "pings = 1.5: not a whole number", "from 0"),
    ({"status": 200}, "status = 200: not a whole number in range", "from 400 to 599"),
    ({"status": 429, "text": "a"}, "text = 'a': cannot stand beside status", "leave out one"),
    ({"status": 429, "first_delay": 1}, "first_delay = 1: cannot stand beside status", "one"),
    ({"status": 429, "hang": 1}, "hang = 1: cannot stand beside status", "leave out one"),
    ({"hang": 1, "text": "a"}, "text = 'a': cannot stand beside hang", "leave out one"),
    (
        {"text": "a", "drop_after": 1, "truncate_after": 2},
        "truncate_after = 2: cannot stand beside drop_after",
        "leave out one of them",
    ),
    ({"text": "a", "blocks": [{"type": "x"}]}, "text = 'a': cannot stand beside blocks", "one"),
    ({"empty": True, "text": "a"}, "text = 'a': cannot stand beside empty", "leave out one"),
    ({"text": "a", "error": {"type": "x"}}, "error = {'type': 'x'}: an error without", "status"),
    ({"status": 400, "error": "no"}, "error = 'no': not a mapping", "pairs"),
    ({"status": 400, "error": {"kind": "x"}}, "error.kind = 'x': an error has no", "message"),
    ({"text": "a", "headers": {"a b": "c"}}, "headers.a b = 'c': not a header", "leave it out"),
    ({"text": "a", "headers": {"Content-Length": "1"}}, "not a header that a script", "leave"),
    ({"text": "a", "headers": {"x": "a\r\nb: c"}}, "not a header value", "on one line"),
    ({"text": "a", "headers": {"x": True}}, "headers.x = True: not a header value", "ASCII"),
    ({"text": "a", "when_text": ""}, "when_text = '': not a text, or empty", "leave it out"),
    ({"text": "a", "when_tools": "yes"}, "when_tools = 'yes': neither", "true or false"),
    ({"text": "a", "repeat": 0}, "repeat = 0: not a number of uses", "forever"),
    ({"text": "a", "repeat": "always"}, "repeat = 'always': not a number", "forever"),
    ({"stop_reason": "end_turn"}, "a reply that says nothing", "empty: true"),
    ({"drop_after": 3}, "a reply that says nothing", "add text"),
]


@pytest.mark.parametrize(("written", "message", "remedy"), WRONG, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_named(written: dict[str, Any], message: str, remedy: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_reply(HERE, written)
    assert caught.value.message.startswith("demo.yaml: reply 2: ")
    assert message in caught.value.message
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("value", [None, "text", 3, ["text"], {1: "a"}])
def test_a_reply_is_a_mapping(value: Any) -> None:
    with pytest.raises(ScriptError, match="not a mapping"):
        parse_reply(HERE, value)


def test_every_field_is_taken() -> None:
    shared = {"text": "a", "usage": {"input_tokens": 3}, "headers": {"Retry-After": 2}}
    reply = parse_reply(HERE, {**shared, "repeat": "forever", "when_tools": True, "delay": 1})
    assert (reply.text, reply.usage, reply.headers) == (
        "a",
        {"input_tokens": 3},
        {"retry-after": "2"},
    )
    assert (reply.repeat, reply.when_tools, reply.delay) == (None, True, 1.0)
    assert reply.conditional
    assert not parse_reply(HERE, {"text": "a"}).conditional
    assert set(FIELDS) == set(Reply.__struct_fields__) - {"written"}


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ScriptError) as caught:
        parse_reply(HERE, {"text": ["x" * 10_000]})
    assert len(caught.value.message) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), json_values, max_size=4) | json_values)
def test_anything_is_a_reply_or_a_script_error(value: Any) -> None:
    try:
        reply = parse_reply(HERE, value)
    except ScriptError:
        return
    assert reply.written == value
