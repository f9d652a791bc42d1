"""PURE. Claude Code's session files: what their lines mean, and the lines that we may add.

A session is `<config>/projects/<encoded directory>/<session id>.jsonl`, one JSON object a line. Lines
may be torn, corrupt, of other releases or hostile: every reader here answers None or a default, and
never raises on content. Which lines make up the conversation is `branches`' business.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from quarterdeck.engine.claude.decode import block_of
from quarterdeck.engine.events import Block, TextBlock

CHAIN_KINDS = frozenset({"user", "assistant", "system", "attachment", "progress"})
"""Types of lines that have a uuid and a parent."""

MAX_TITLE = 200  # characters of a title, a tag and of `first_prompt`
_MAX_REPAIR = 8 * 1024 * 1024  # bytes of a line that the slow, lenient decoder looks at
_MAX_DIRECTORY = 200  # characters of an encoded directory before it is cut

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_NOT_ALNUM = re.compile(r"[^A-Za-z0-9]")
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOOL_USE_ID = re.compile(rb'"tool_use_id"\s*:\s*"([^"\\]{1,200})"')
_BULK = re.compile(rb',"(?:data|message|attachment|snapshot|content|toolUseResult)":')
_AUTOMATIC = re.compile(
    r"<(?:command-(?:name|message|args)|local-command-\w+|bash-\w+|system-reminder|ide_\w+|"
    r"task-notification|session-start-hook|user-prompt-submit-hook|teammate-message|tick|goal)[ >]"
    r"|\[Request interrupted by user"
)
_COMMAND = re.compile(r"<command-name>(.*?)</command-name>", re.DOTALL)
_COMMAND_ARGS = re.compile(r"<command-args>(.*?)</command-args>", re.DOTALL)

T = TypeVar("T", bound=msgspec.Struct)


# -- names ------------------------------------------------------------------------------------------


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID in its usual form; only such file names are sessions."""
    return _UUID.fullmatch(text) is not None


def encode_directory(path: str) -> str:
    """The folder name for the sessions of a working directory, given its real path.

    Every UTF-16 code unit besides ASCII letters and digits becomes a dash, so an emoji gives two. A
    name of over 200 is cut there and ends in a base-36 hash of the path.
    """
    data = unicodedata.normalize("NFC", path).encode("utf-16-le", "surrogatepass")
    units = [data[i] | data[i + 1] << 8 for i in range(0, len(data), 2)]
    name = _NOT_ALNUM.sub("-", "".join(map(chr, units)))
    if len(name) <= _MAX_DIRECTORY:
        return name
    value = 0
    for unit in units:
        value = (value * 31 + unit) & 0xFFFFFFFF
    return f"{name[:_MAX_DIRECTORY]}-{_base36(min(value, 0x100000000 - value))}"


def _base36(value: int) -> str:
    digits = ""
    while value:
        value, rest = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


def one_line(text: str, limit: int = MAX_TITLE) -> str:
    """A text for one line of a screen: white space, control and direction characters become spaces."""
    return _BREAKS.sub(" ", text[: limit * 20]).strip()[:limit].rstrip()


# -- lines ------------------------------------------------------------------------------------------


class _Inner(msgspec.Struct, frozen=True, gc=False):
    id: str | None = None
    content: msgspec.Raw = msgspec.Raw(b"")


class Record(msgspec.Struct, frozen=True, gc=False):
    """What a line says of itself. The bulk (content, tool results, progress data) is not decoded."""

    type: str | None = None
    uuid: str | None = None
    parentUuid: str | None = None  # noqa: N815
    logicalParentUuid: str | None = None  # noqa: N815
    isSidechain: bool | None = None  # noqa: N815
    isMeta: bool | None = None  # noqa: N815
    isCompactSummary: bool | None = None  # noqa: N815
    sessionId: str | None = None  # noqa: N815
    teamName: str | None = None  # noqa: N815
    timestamp: str | None = None
    cwd: str | None = None
    gitBranch: str | None = None  # noqa: N815
    customTitle: str | None = None  # noqa: N815
    aiTitle: str | None = None  # noqa: N815
    lastPrompt: str | None = None  # noqa: N815
    summary: str | None = None
    tag: str | None = None
    message: _Inner | None = None

    @property
    def message_id(self) -> str:
        """The API message this line is a block of; parallel tool calls share it."""
        return (self.message.id if self.message else None) or ""

    @property
    def tool_use_id(self) -> str:
        """The first tool call that a user line answers; empty for what a person wrote."""
        if self.type != "user" or self.message is None:
            return ""
        start = bytes(memoryview(self.message.content)[:500])
        if b'"tool_result"' not in start:
            return ""
        found = _TOOL_USE_ID.search(start)
        return found[1].decode("utf-8", "replace") if found else "?"


_RECORD = msgspec.json.Decoder(Record)


def read_record(line: bytes) -> Record | None:
    """A line's own facts; None when it is no JSON object. A field of a wrong type counts as absent."""
    return _decode(_RECORD, Record, line)


def record_from_ends(start: bytes, end: bytes) -> Record | None:
    """The facts of a very long line from its first and last kilobytes.

    Exact or None: the pieces before and after the bulk must be JSON objects when closed and opened
    by us, which only holds at the outermost level. None means that the whole line must be read.
    """
    bulk = _BULK.search(start)
    if bulk is None:
        return None
    before = _strict(start[: bulk.start()] + b"}")
    if before is None:
        return None
    if before.type is not None and before.type not in CHAIN_KINDS:
        return before
    at = max(end.rfind(b',"type":"attachment","uuid":'), end.rfind(b',"type":"progress","uuid":'))
    at = at if at >= 0 else end.rfind(b',"uuid":')
    after = _strict(b"{" + end[at + 1 :]) if at >= 0 else None
    if after is None or after.uuid is None:
        return None
    kind = before.type or after.type
    if kind not in ("progress", "attachment"):
        return None  # what may be shown is read whole
    return msgspec.structs.replace(before, type=kind, uuid=after.uuid, timestamp=after.timestamp)


def _strict(data: bytes) -> Record | None:
    try:
        return _RECORD.decode(data)
    except (ValueError, RecursionError):
        return None


def _decode(decoder: msgspec.json.Decoder[T], kind: type[T], line: bytes) -> T | None:
    try:
        return decoder.decode(line)
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
        pass
    repaired = repair(line)
    if repaired is None:
        return None
    try:
        return decoder.decode(repaired)
    except msgspec.ValidationError:
        return _partial(kind, msgspec.json.decode(repaired))
    except (ValueError, RecursionError):
        return None


def _partial(kind: type[T], value: Any) -> T | None:
    """A struct from those fields that have the right type."""
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = {}
    for info in msgspec.structs.fields(kind):
        if info.name in value:
            try:
                fields[info.name] = msgspec.convert(value[info.name], info.type)
            except (ValueError, RecursionError):
                continue
    return kind(**fields)


def repair(line: bytes) -> bytes | None:
    """A line with broken UTF-8, half surrogate pairs or NaN as clean JSON; None when beyond that."""
    if len(line) > _MAX_REPAIR or not line.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return _SURROGATE.sub("\ufffd", text).encode()


def parse_time(text: str | None) -> float | None:
    """An ISO time (UTC unless it says otherwise) as Unix seconds; None when it is none."""
    try:
        time = datetime.fromisoformat(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


# -- messages ---------------------------------------------------------------------------------------


class TranscriptMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the conversation as it was saved: a prompt, a block of an answer, a tool's result.

    `timestamp` is Unix seconds. Blocks of one answer share `message_id`. `is_meta` marks what the
    engine wrote for the model only, `is_compact_summary` the text that replaced an older part.
    `subtype` is only set for the engine's own notes (role `system`).
    """

    role: str
    blocks: tuple[Block, ...]
    uuid: str
    parent_uuid: str | None = None
    timestamp: float | None = None
    model: str = ""
    message_id: str = ""
    subtype: str = ""
    is_meta: bool = False
    is_compact_summary: bool = False

    @property
    def text(self) -> str:
        """The text blocks, joined by newlines."""
        return "\n".join(b.text for b in self.blocks if isinstance(b, TextBlock))


class _FullInner(msgspec.Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    content: Any = None


class _Full(msgspec.Struct, frozen=True):
    type: str | None = None
    subtype: str | None = None
    uuid: str | None = None
    parentUuid: str | None = None  # noqa: N815
    timestamp: str | None = None
    isMeta: bool | None = None  # noqa: N815
    isCompactSummary: bool | None = None  # noqa: N815
    content: Any = None
    message: _FullInner | None = None


_FULL = msgspec.json.Decoder(_Full)


def read_message(line: bytes) -> TranscriptMessage | None:
    """A user, assistant or system line as a message; None when it is none of these."""
    full = _decode(_FULL, _Full, line)
    if full is None or full.uuid is None or full.type not in ("user", "assistant", "system"):
        return None
    inner = full.message or _FullInner()
    content = full.content if full.type == "system" else inner.content
    return TranscriptMessage(
        role=full.type,
        blocks=_blocks(content),
        uuid=full.uuid,
        parent_uuid=full.parentUuid,
        timestamp=parse_time(full.timestamp),
        model=inner.model or "",
        message_id=inner.id or "",
        subtype=full.subtype or "",
        is_meta=bool(full.isMeta),
        is_compact_summary=bool(full.isCompactSummary),
    )


def _blocks(content: Any) -> tuple[Block, ...]:
    if isinstance(content, str):
        return (TextBlock(content),) if content else ()
    return tuple(map(block_of, content)) if isinstance(content, list) else ()


def prompt_of(record: Record) -> tuple[str, str]:
    """What a person wrote in this line, and failing that the slash command they ran; both one line."""
    if record.type != "user" or record.message is None or record.tool_use_id:
        return "", ""
    if record.isMeta or record.isCompactSummary or record.isSidechain:
        return "", ""
    command = ""
    for text in _texts(record.message.content):
        name = _COMMAND.search(text)
        if name is not None:
            args = _COMMAND_ARGS.search(text)
            command = command or one_line(f"{name[1]} {args[1] if args else ''}")
        elif not _AUTOMATIC.match(text.lstrip()):
            prompt = one_line(text)
            if prompt:
                return prompt, command
    return "", command


def _texts(content: msgspec.Raw) -> list[str]:
    data = bytes(content)
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        repaired = repair(b'{"c":' + data + b"}")
        value = msgspec.json.decode(repaired)["c"] if repaired else None
    return [b.text for b in _blocks(value) if isinstance(b, TextBlock)]


# -- lines that we add ------------------------------------------------------------------------------


def title_line(session_id: str, title: str) -> bytes:
    """The line that names a session; the last one counts."""
    return _line({"type": "custom-title", "customTitle": title, "sessionId": session_id})


def tag_line(session_id: str, tag: str | None) -> bytes:
    """The line that tags a session; None takes the tag away."""
    return _line({"type": "tag", "tag": tag or "", "sessionId": session_id})


def _line(value: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ID_FIELDS = ("uuid", "parentUuid", "logicalParentUuid", "sourceToolAssistantUUID")
_QUOTED_UUID = re.compile(rb'"([0-9a-fA-F-]{36})"')


def rewrite(
    line: bytes,
    *,
    session_id: str,
    cwd: str | None = None,
    ids: Mapping[str, str] | None = None,
    parent: str | None = None,
    forked_from: str | None = None,
) -> bytes | None:
    """A line for another session; None when it is no JSON object.

    With `ids` (old uuid to new) every uuid is replaced, ids that are not in it become null, and
    `parent` is the new parent; with `forked_from` the line records that session as its origin.
    All other fields stay as they are, byte by byte.
    """
    fields = _raw_fields(line)
    if fields is None:
        return None
    old = _string(fields.get("uuid"))
    if "sessionId" in fields or old:
        fields["sessionId"] = _raw(session_id)
    if cwd is not None and "cwd" in fields:
        fields["cwd"] = _raw(cwd)
    if ids is not None:
        for name in _ID_FIELDS:
            if name in fields:
                fields[name] = _raw(ids.get(_string(fields[name])))
        if "parentUuid" in fields:
            fields["parentUuid"] = _raw(parent)
        if "compactMetadata" in fields:
            fields["compactMetadata"] = _mapped(fields["compactMetadata"], ids)
    if forked_from is not None and old:
        fields["forkedFrom"] = _raw({"sessionId": forked_from, "messageUuid": old})
    return msgspec.json.encode(fields) + b"\n"


def _raw_fields(line: bytes) -> dict[str, msgspec.Raw] | None:
    try:
        line.decode()
        return _FIELDS.decode(line)
    except (ValueError, RecursionError):
        repaired = repair(line)
        return _FIELDS.decode(repaired) if repaired else None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _string(raw: msgspec.Raw | None) -> str:
    try:
        return msgspec.json.decode(raw or b'""', type=str)
    except (ValueError, RecursionError):
        return ""


def _mapped(raw: msgspec.Raw, ids: Mapping[str, str]) -> msgspec.Raw:
    def swap(match: re.Match[bytes]) -> bytes:
        new = ids.get(match[1].decode())
        return b'"%s"' % new.encode() if new else match[0]

    return msgspec.Raw(_QUOTED_UUID.sub(swap, bytes(raw)))
