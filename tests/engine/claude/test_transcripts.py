"""Lines of session files: names, facts, messages, and the lines that we add."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quarterdeck.engine.claude.transcripts import (
    encode_directory,
    is_uuid,
    one_line,
    parse_time,
    prompt_of,
    read_message,
    read_record,
    record_from_ends,
    repair,
    rewrite,
    tag_line,
    title_line,
)
from quarterdeck.engine.events import (
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "claude"
U = "12121212-0000-4000-8000-{:012d}".format
ROCKET = chr(0x1F680)
HALF = "\\u" + "d83d"  # one half of a pair, as JSON text
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def line(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def user(content: Any, **more: Any) -> bytes:
    return line(type="user", uuid=U(1), message={"role": "user", "content": content}, **more)


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/user/my_app.v2", "-home-user-my-app-v2"),
        ("/a/" + chr(0xE9), "-a--"),
        ("/a/e" + chr(0x301), "-a--"),  # the same letter decomposed
        ("/a/" + ROCKET + "x", "-a---x"),  # two UTF-16 units, two dashes
        ("/" + "a" * 199, "-" + "a" * 199),
    ],
)
def test_directory_names(path: str, name: str) -> None:
    assert encode_directory(path) == name


def test_a_long_directory_is_cut_and_ends_in_its_hash() -> None:
    name = encode_directory("/" + "a" * 200)
    assert name[:201] == "-" + "a" * 199 + "-"
    value = 0
    for char in "/" + "a" * 200:
        value = (31 * value + ord(char)) % 2**32
    assert int(name[201:], 36) == abs(value - 2**32 if value >= 2**31 else value)


@given(st.text())
def test_directory_names_are_short_and_plain(path: str) -> None:
    name = encode_directory(path)
    assert len(name) <= 208
    assert name.replace("-", "a").isalnum() or not name
    assert name.isascii()


def test_only_whole_uuids_are_ids() -> None:
    assert is_uuid(U(1))
    assert is_uuid("ABCDEF12-0000-4000-8000-000000000000")
    assert not is_uuid(U(1) + "\n")
    assert not is_uuid("agent-" + U(1))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a\n\tb  c ", "a b c"),
        ("red" + chr(27) + "[31m", "red [31m"),
        ("x" + chr(0x202E) + "gnp.exe", "x gnp.exe"),
        (chr(0x9B) + "2J", "2J"),
        ("x" * 300, "x" * 200),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


# -- facts ------------------------------------------------------------------------------------------


def test_every_recorded_line_is_read() -> None:
    lines = (GOLDEN / "transcript-rich-session.jsonl").read_bytes().splitlines()
    records = [r for r in map(read_record, lines) if r is not None]
    assert len(records) == len(lines)
    kinds = {r.type for r in records}
    assert kinds > {"user", "assistant", "system", "attachment", "queue-operation", "custom-title"}
    boundary = next(r for r in records if r.type == "system")
    assert boundary.parentUuid is None
    assert boundary.logicalParentUuid
    shared = [r.message_id for r in records if r.type == "assistant"][:2]
    assert shared[0] == shared[1] != ""
    assert next(r.tool_use_id for r in records if r.tool_use_id) == "toolu_fake_0001"


@pytest.mark.parametrize(
    "bad",
    [b"", b"{", b"[]", b"null", b'"x"', b'{"uuid":"a"} x', bytes([0, 255]), b'{"a":' * 90_000],
)
def test_what_is_no_object_has_no_facts(bad: bytes) -> None:
    assert read_record(bad) is None
    assert read_message(bad) is None
    assert rewrite(bad, session_id=U(9)) is None


def test_a_field_of_a_wrong_type_counts_as_absent() -> None:
    record = read_record(line(type="user", uuid=U(1), cwd=5, isMeta="yes", message=[1]))
    assert record is not None
    assert (record.uuid, record.cwd, record.isMeta, record.message) == (U(1), None, None, None)


def test_broken_text_is_repaired() -> None:
    text = '{"type":"user","uuid":"u","message":{"content":"cut ' + HALF + ' here X"},"x":NaN}'
    half = text.encode().replace(b"X", bytes([255]))
    message = read_message(half)
    assert message is not None
    assert message.text == f"cut {chr(0xFFFD)} here {chr(0xFFFD)}"
    repaired = repair(half)
    assert repaired is not None
    json.loads(repaired)


def test_deep_nesting_is_not_followed() -> None:
    deep = (
        b'{"type":"user","uuid":"u","message":{"content":' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    )
    assert read_message(deep) is None


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def test_a_long_line_is_known_by_its_ends() -> None:
    nested = {"message": {"uuid": U(5), "parentUuid": U(6), "text": '","uuid":"no"'}}
    before = {"parentUuid": U(1), "isSidechain": False}
    after = {"uuid": U(2), "timestamp": "2026-01-01T00:00:00Z"}
    for kind in ("progress", "attachment"):
        first = compact({**before, "type": kind, "data": nested, **after})
        last = compact({**before, "data": nested, "type": kind, **after})
        for whole in (first, last):
            record = record_from_ends(whole, whole)
            assert record is not None
            assert (record.type, record.uuid, record.parentUuid) == (kind, U(2), U(1))


def test_the_ends_are_not_believed_when_the_uuid_may_be_an_inner_one() -> None:
    inner = compact({"parentUuid": None, "type": "progress", "data": {"a": 1, "uuid": "inner"}})
    assert record_from_ends(inner, inner) is None
    whole = user("hi")
    assert record_from_ends(whole, whole) is None  # what may be shown is read whole


@given(JSON, JSON, st.sampled_from(["progress", "attachment", "user", "queue-operation"]))
def test_the_ends_never_say_something_else_than_the_line(data: Any, more: Any, kind: str) -> None:
    fields = {"parentUuid": U(1), "isSidechain": False, "type": kind, "data": data, "uuid": U(2)}
    text = compact({**fields, "more": more})
    quick, slow = record_from_ends(text, text), read_record(text)
    assert slow is not None
    if quick is not None and kind in ("progress", "attachment"):
        assert (quick.uuid, quick.parentUuid, quick.type) == (slow.uuid, slow.parentUuid, slow.type)


@given(st.binary() | JSON.map(lambda v: json.dumps(v).encode()))
@example(b'{"type":"user","uuid":"a","message":{"id":7,"content":{"a":1}},"timestamp":"9999999-"}')
@example(('{"type":"system","uuid":"a","content":["' + HALF + '"]}').encode())
def test_no_content_raises(data: bytes) -> None:
    record = read_record(data)
    if record is not None:
        prompt_of(record)
    read_message(data)
    record_from_ends(data, data)
    rewrite(data, session_id=U(9), ids={}, forked_from=U(8), cwd="/x")


@given(st.dictionaries(st.sampled_from(["type", "uuid", "message", "timestamp", "isMeta"]), JSON))
def test_fields_of_any_shape_are_tolerated(fields: dict[str, Any]) -> None:
    for kind in ("user", "assistant", "system"):
        data = line(**{**fields, "type": kind, "uuid": "u"})
        record = read_record(data)
        assert record is not None
        prompt_of(record)
        message = read_message(data)
        assert message is not None
        assert isinstance(message.text, str)


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00Z"])
def test_times_that_are_none(text: str | None) -> None:
    assert parse_time(text) is None


def test_times() -> None:
    assert parse_time("1970-01-01T00:01:00.500Z") == 60.5
    assert parse_time("1970-01-01T00:01:00") == 60.0  # whatever the zone of this machine
    assert parse_time("1970-01-01T01:01:00+01:00") == 60.0


# -- messages ---------------------------------------------------------------------------------------


def test_blocks_are_typed() -> None:
    content = [
        {"type": "text", "text": "one"},
        {"type": "thinking", "thinking": "hm"},
        {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        {"type": "holograph", "x": 1},
        {"type": "text", "text": "two"},
    ]
    message = read_message(
        line(
            type="assistant",
            uuid=U(1),
            parentUuid=U(0),
            timestamp="1970-01-01T00:00:07Z",
            message={"role": "assistant", "id": "m", "model": "claude", "content": content},
        )
    )
    assert message is not None
    kinds = [TextBlock, ThinkingBlock, ToolUseBlock, ImageBlock, UnknownBlock, TextBlock]
    assert [type(b) for b in message.blocks] == kinds
    assert message.text == "one\ntwo"
    assert (message.role, message.model, message.message_id) == ("assistant", "claude", "m")
    assert (message.parent_uuid, message.timestamp) == (U(0), 7.0)


def test_results_and_notes() -> None:
    result = read_message(user([{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]))
    assert result is not None
    assert result.blocks == (ToolResultBlock("t", "ok"),)
    note = read_message(line(type="system", subtype="compact_boundary", uuid=U(1), content="C"))
    assert note is not None
    assert (note.role, note.subtype, note.text) == ("system", "compact_boundary", "C")
    assert read_message(line(type="attachment", uuid=U(1))) is None


COMPACT = (
    "<command-name>/compact</command-name>\n<command-message>compact</command-message>\n"
    "<command-args>keep it short</command-args>"
)


@pytest.mark.parametrize(
    ("content", "more", "prompt"),
    [
        ("fix\nthe  test", {}, ("fix the test", "")),
        ("<div> is broken", {}, ("<div> is broken", "")),
        ([{"type": "text", "text": "<ide_opened_file>x</ide_opened_file>"}], {}, ("", "")),
        (
            [
                {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                {"type": "text", "text": "real"},
            ],
            {},
            ("real", ""),
        ),
        (COMPACT, {}, ("", "/compact keep it short")),
        ("<local-command-stdout>done</local-command-stdout>", {}, ("", "")),
        ("[Request interrupted by user]", {}, ("", "")),
        ([{"type": "tool_result", "tool_use_id": "t", "content": "x"}], {}, ("", "")),
        ("caveat", {"isMeta": True}, ("", "")),
        ("summary", {"isCompactSummary": True}, ("", "")),
        ("sub-agent", {"isSidechain": True}, ("", "")),
        ("y" * 500, {}, ("y" * 200, "")),
    ],
)
def test_prompts(content: Any, more: dict[str, Any], prompt: tuple[str, str]) -> None:
    record = read_record(user(content, **more))
    assert record is not None
    assert prompt_of(record) == prompt


# -- lines that we add ------------------------------------------------------------------------------


def test_titles_and_tags_have_the_engines_form() -> None:
    title = '{"type":"custom-title","customTitle":"a \\"b\\" ' + chr(0xFC) + '","sessionId":"s"}\n'
    assert title_line("s", 'a "b" ' + chr(0xFC)) == title.encode()
    assert tag_line("s", "x") == b'{"type":"tag","tag":"x","sessionId":"s"}\n'
    assert tag_line("s", None) == b'{"type":"tag","tag":"","sessionId":"s"}\n'


def test_a_fork_has_new_ids_everywhere() -> None:
    ids = {U(1): U(11), U(2): U(12)}
    old = line(
        type="system",
        uuid=U(2),
        parentUuid=None,
        logicalParentUuid=U(1),
        sessionId=U(90),
        sourceToolAssistantUUID=U(1),
        compactMetadata={"a": {"head": U(1), "all": [U(2), U(7)]}},
        big=12345678901234567890123,
    )
    new = rewrite(old, session_id=U(91), ids=ids, parent=None, forked_from=U(90))
    assert new is not None
    assert new.endswith(b"}\n")
    assert b"12345678901234567890123" in new
    fields = json.loads(new)
    assert fields["uuid"] == U(12)
    assert fields["parentUuid"] is None
    assert fields["logicalParentUuid"] == fields["sourceToolAssistantUUID"] == U(11)
    assert fields["compactMetadata"] == {"a": {"head": U(11), "all": [U(12), U(7)]}}
    assert fields["forkedFrom"] == {"sessionId": U(90), "messageUuid": U(2)}
    assert fields["sessionId"] == U(91)


def test_an_import_changes_session_and_directory_only() -> None:
    old = line(
        type="user", uuid=U(1), parentUuid=U(0), sessionId=U(90), cwd="/old", x={"cwd": "/o"}
    )
    new = rewrite(old, session_id=U(91), cwd="/new")
    assert new is not None
    assert json.loads(new) == {**json.loads(old), "sessionId": U(91), "cwd": "/new"}
