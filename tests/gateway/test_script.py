from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.errors import OptionError, ScriptError
from quarterdeck.gateway.exchange import ModelRequest
from quarterdeck.gateway.script import (
    MAX_REPLIES,
    Replies,
    Script,
    directive,
    parse_replies,
    parse_script,
    parse_text,
)


def request(text: str = "hi", *, tools: bool = True, **fields: str) -> ModelRequest:
    return ModelRequest(
        model=fields.get("model", "opus"),
        stream=True,
        system=fields.get("system", "You help."),
        text=text,
        tool_result=fields.get("tool_result", ""),
        tools=("Bash",) if tools else (),
        messages=1,
    )


def queue(*replies: dict[str, Any], **rest: Any) -> Replies:
    return Replies(parse_script({"replies": list(replies), **rest}, "script"))


def answers(replies: Replies, *requests: ModelRequest) -> list[str]:
    chosen = [replies.choose(each) for each in requests]
    return [f"{c.source}:{c.reply.text}" for c in chosen]


# -- reading ------------------------------------------------------------------------------------------

YAML = """
aux_text: title
default: {text: nothing left}
replies:
  - text: hello ${name}
    tools:
      - {name: Bash, input: {command: 'echo $HOME $${x}', n: 1, list: ["${name}"]}}
  - {text: second, repeat: forever}
"""


def test_yaml_and_json_say_the_same() -> None:
    script = parse_text(YAML, "demo.yaml", {"name": "Ada"})
    assert (script.aux_text, script.default.text) == ("title", "nothing left")
    first, second = script.replies
    assert first.text == "hello Ada"
    assert first.tools[0]["input"] == {"command": "echo $HOME ${x}", "n": 1, "list": ["Ada"]}
    assert first.written["text"] == "hello Ada"
    assert second.repeat is None
    again = json.dumps({"aux_text": "title", "replies": [first.written | {"tools": []}]})
    with pytest.raises(ScriptError, match=r"demo\.json: reply 1: tools = \[\]"):
        parse_text(again, "demo.json")
    plain = '[{"text": "a"}, {"text": "b", "repeat": 2}]'
    assert parse_text(plain, "a.json") == parse_text(plain, "a.yaml")


BROKEN: list[tuple[str, str, str]] = [
    ("demo.yaml", "", "demo.yaml: None: not a script"),
    ("demo.yaml", "just words", "demo.yaml: 'just words': not a script"),
    ("demo.yaml", "- text: a\n- txt: b", "demo.yaml: reply 2: txt = 'b'"),
    ("demo.yaml", "reply: []", "demo.yaml: reply = []: a script has no such field"),
    ("demo.yaml", "replies: {text: a}", "demo.yaml: replies = {'text': 'a'}: not a list"),
    (
        "demo.yaml",
        "- text: a\n  text: b",
        "demo.yaml: not YAML at line 2, column 3: the field 'text'",
    ),
    ("demo.yaml", "- text: [a", "demo.yaml: not YAML at line 1"),
    ("demo.yaml", "- text: a\n\tb: c", "demo.yaml: not YAML at line 2"),
    ("demo.yaml", "- !!python/object:os.system {}", "demo.yaml: not YAML at line 1"),
    (
        "demo.yaml",
        "default: {text: a, repeat: 2}",
        "demo.yaml: default: repeat = 2: cannot stand here",
    ),
    ("demo.yaml", "default: {text: a, when_text: b}", "default: when_text = 'b': cannot stand"),
    ("demo.yaml", "aux_text: 5", "demo.yaml: aux_text = 5: not a text"),
    ("demo.yaml", "- text: ${nme}", "demo.yaml: reply 1: text = '${nme}': no such variable"),
    ("demo.yaml", "- text: 'x ${a-b} y'", "reply 1: text = '${a-b}': not a reference"),
    ("demo.yaml", "- text: 'x ${name'", "reply 1: text = '${name': not a reference"),
    ("demo.yaml", "default: {text: '${q}'}", "demo.yaml: default: text = '${q}': no such variable"),
    (
        "demo.yaml",
        "- {tools: [{name: A, input: {d: 2024-01-01}}]}",
        "tools[0].input.d = datetime.date",
    ),
    ("demo.yaml", "- {tools: [{name: A, input: {n: .inf}}]}", "tools[0].input.n = inf: a float"),
    (
        "demo.yaml",
        "- {tools: [{name: A, input: {on: 1}}]}",
        "True: a field's name that is not a text",
    ),
    ("demo.yaml", "- &a [*a]", "the script is too large: over 64 levels deep"),
    ("demo.yaml", "[" * 5000, "the script is too large: over 64 levels deep"),
    ("demo.json", "[" * 100_000, "the script is too large: over 64 levels deep"),
    ("demo.json", "{'text': 1}", "demo.json: not JSON: "),
    ("demo.json", '[{"text": "a", "text": "b"}]', "demo.json: the field 'text' stands twice"),
]


@pytest.mark.parametrize(("name", "text", "message"), BROKEN, ids=lambda v: str(v)[:30])
def test_what_is_wrong_in_a_file_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_text(text, name, {"name": "Ada"})
    assert message in caught.value.message
    assert caught.value.message.startswith(name)
    assert caught.value.remedy


def test_the_remedy_lists_the_variables() -> None:
    with pytest.raises(ScriptError) as caught:
        parse_text("- text: ${repo}", "demo.yaml", {"b": "1", "a": "2"})
    assert "--set repo=..." in caught.value.remedy
    assert "now set: a, b" in caught.value.remedy


def test_aliases_cannot_blow_a_script_up() -> None:
    lines = ["- text: a", "- tools: [{name: A, input: {x: &a0 [" + ",".join("0" * 10) + "]}}]"]
    lines += [f"- x: &a{n} [" + ",".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 9)]
    with pytest.raises(ScriptError, match="over 1000000 values"):
        parse_text("\n".join(lines), "demo.yaml")


def test_variables_cannot_blow_a_script_up() -> None:
    with pytest.raises(ScriptError, match="characters"):
        parse_script([{"text": "${a}" * 100}], "script", {"a": "x" * 1_000_000})


def test_a_value_is_not_read_again() -> None:
    reply = parse_replies([{"text": "${a}"}], "push", {"a": "${b}: [x"})[0]
    assert reply.text == "${b}: [x"


@pytest.mark.parametrize("variables", [{"a-b": "1"}, {"": "1"}, {"1a": "1"}, {"a": 1}])
def test_variables_are_checked(variables: Any) -> None:
    with pytest.raises(OptionError, match="variables"):
        parse_script([], "script", variables)


@settings(deadline=None)  # a busy machine, and yaml is imported late
@given(st.text(alphabet="-[]{}:&*!|>'\"#%@,? \nabtext01", max_size=60))
def test_any_text_is_a_script_or_a_script_error(text: str) -> None:
    for name in ("a.yaml", "a.json"):
        with contextlib.suppress(ScriptError):
            assert isinstance(parse_text(text, name), Script)


@settings(deadline=None)  # a busy machine, and yaml is imported late
@given(st.text())
def test_text_without_references_stays_as_it_is(text: str) -> None:
    escaped = text.replace("${", "$${")
    assert parse_replies([{"text": escaped}], "push")[0].text == text


# -- choosing -----------------------------------------------------------------------------------------


def test_replies_are_used_in_order_then_the_default() -> None:
    replies = queue({"text": "a"}, {"text": "b", "repeat": 2}, default={"text": "over"})
    got = answers(replies, *[request()] * 5)
    assert got == ["script:a", "script:b", "script:b", "default:over", "default:over"]
    assert len(replies) == 0


def test_forever_is_never_used_up() -> None:
    replies = queue({"text": "a", "repeat": "forever"}, {"text": "b"})
    assert answers(replies, *[request()] * 3) == ["script:a"] * 3
    assert len(replies) == 2


def test_a_condition_that_fails_lets_later_replies_through() -> None:
    replies = queue({"text": "a", "when_text": "one"}, {"text": "b"}, {"text": "c"})
    texts = [request("two"), request("one"), request("one")]
    assert answers(replies, *texts) == ["script:b", "script:a", "script:c"]


@pytest.mark.parametrize(
    ("condition", "hit", "miss"),
    [
        ({"when_model": "haiku"}, {"model": "claude-haiku-4"}, {"model": "opus"}),
        ({"when_text": "fix"}, {"text": "please fix it"}, {"text": "please Fix it"}),
        ({"when_system": "help"}, {}, {"system": "none"}),
        ({"when_tool_result": "ok"}, {"tool_result": "all ok"}, {"text": "ok"}),
        ({"when_tools": False}, {"tools": False}, {"tools": True}),
        ({"when_tools": True}, {"tools": True}, {"tools": False}),
        ({"when_text": "a", "when_model": "b"}, {"text": "a", "model": "b"}, {"text": "a"}),
    ],
)
def test_conditions(condition: dict[str, Any], hit: dict[str, Any], miss: dict[str, Any]) -> None:
    replies = queue({"text": "found", **condition})
    assert "found" not in answers(replies, request(**miss))[0]
    assert answers(replies, request(**hit)) == ["script:found"]


def test_requests_without_tools_leave_the_script_alone() -> None:
    replies = queue({"text": "a"}, {"text": "t", "when_text": "title"}, aux_text="aux")
    asked = [request(tools=False), request("a title", tools=False), request()]
    assert answers(replies, *asked) == ["aux:aux", "script:t", "script:a"]
    assert answers(replies, request('[[{"text": "x"}]]', tools=False)) == ["aux:aux"]


def test_a_directive_counts_when_nothing_waits() -> None:
    replies = queue({"text": "a"})
    asked = request('do [[{"text": "b"}]] now')
    assert answers(replies, asked, asked) == ["script:a", "directive:b"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[[{"text": "hi"}]]', "hi"),
        ('first [[{"text": "a"}]] then [[{"text": "b"}]]', "b"),
        ('[[{"text": "a ]] } b"}]]', "a ]] } b"),
        ('[[{"text": "${not} a variable"}]]', "${not} a variable"),
        ('a real one [[{"text": "a"}]] and bash [[{ -f x }]]', "a"),
        ("no directive", None),
        ("[[{not json}]]", None),
        ('[[{"text": "unfinished"}]', None),
        ("[[{" * 5000, None),
        ('[[{"a":' * 50_000, None),
    ],
)
def test_directives(text: str, found: str | None) -> None:
    reply = directive(text)
    assert (reply.text if reply else None) == found


@pytest.mark.parametrize("inner", ['{"txt": "a"}', '{"text": "a", "repeat": 2}', "{}"])
def test_a_directive_that_is_no_reply_is_an_error(inner: str) -> None:
    with pytest.raises(ScriptError, match="the directive in the prompt"):
        directive(f"[[{inner}]]")


def test_the_queue_is_bounded() -> None:
    replies = Replies(Script())
    one = parse_replies([{"text": "a"}], "push")
    replies.add(one * MAX_REPLIES)
    with pytest.raises(ScriptError, match="too large"):
        replies.add(one)
    replies.clear()
    assert len(replies) == 0
