"""PURE. Scripts for the scripted model: reading them, and choosing the reply to a request."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from quarterdeck.errors import OptionError, ScriptError
from quarterdeck.gateway.exchange import ModelRequest, Source
from quarterdeck.gateway.reply import (
    FIELDS,
    MATCHING,
    Check,
    Place,
    Reply,
    known,
    mapping,
    parse_reply,
)

MAX_SCRIPT_BYTES = 16 * 1024 * 1024
MAX_REPLIES = 100_000
MAX_NODES = 1_000_000
MAX_DEPTH = 64
MAX_CHARACTERS = 64 * 1024 * 1024

AUX_TEXT = '{"title": "Scripted session"}'
DEFAULT = Reply(
    written={"text": "The script has no reply left for this."},
    text="The script has no reply left for this.",
)


class Script(msgspec.Struct, frozen=True):
    """A checked script: replies in order, what to say without one, and what to tell helpers."""

    replies: tuple[Reply, ...] = ()
    default: Reply = DEFAULT
    aux_text: str = AUX_TEXT


# -- reading ------------------------------------------------------------------------------------------


def parse_text(text: str, name: str, variables: Mapping[str, str] | None = None) -> Script:
    """The script in a file's text: JSON when `name` ends in .json, otherwise YAML.

    Raises ScriptError that names file, reply, field, value and remedy; OptionError for a variable
    that cannot be one.
    """
    decode = _decode_json if name.endswith(".json") else _decode_yaml
    try:
        data = decode(text, name)
    except RecursionError:
        raise _too_much(Place(name), f"over {MAX_DEPTH} levels deep") from None
    return parse_script(data, name, variables)


def parse_script(data: Any, name: str, variables: Mapping[str, str] | None = None) -> Script:
    """The script in a decoded value: a list of replies, or a mapping with `replies`.

    Errors as for `parse_text`.
    """
    top = Place(name)
    if isinstance(data, list | tuple):
        data = {"replies": data}
    elif not isinstance(data, Mapping):
        remedy = "write a list of replies, or a mapping with `replies:`"
        raise top.wrong(data, "not a script", remedy)
    filler = Filler(check_variables(variables or {}))
    filled = {}
    for field, value in data.items():
        if field == "replies" and isinstance(value, list | tuple):
            filled[field] = filler.replies(name, value)
        elif field == "default":
            filled[field] = filler.fill(Place(f"{name}: default"), value)
        else:
            filled[field] = filler.fill(top.at(str(field)), value)
    return Script(**known(top, filled, _SCRIPT, "a script"))


def parse_replies(
    values: Sequence[Any], name: str, variables: Mapping[str, str] | None = None
) -> tuple[Reply, ...]:
    """Checked replies. Errors as for `parse_text`."""
    filler = Filler(check_variables(variables or {}))
    return _replies(Place(name), filler.replies(name, values))


def _replies(place: Place, value: Any) -> tuple[Reply, ...]:
    if not isinstance(value, list):
        raise place.wrong(
            value, "not a list of replies", "write each reply as an item: `- text: hi`"
        )
    if len(value) > MAX_REPLIES:
        raise _too_much(place, f"over {MAX_REPLIES} replies")
    return tuple(parse_reply(_nth(place.reply, n), item) for n, item in enumerate(value, 1))


def _nth(name: str, number: int) -> Place:
    return Place(f"{name}: reply {number}")


def _default(place: Place, value: Any) -> Reply:
    return _for_any(Place(f"{place.reply}: default"), value)


def _for_any(place: Place, value: Any) -> Reply:
    """A reply that is not chosen by matching."""
    for field in (*MATCHING, "repeat"):
        if field in mapping(place, value):
            remedy = "leave it out, or write the reply under `replies:`"
            raise place.at(field).wrong(value[field], "cannot stand here", remedy)
    return parse_reply(place, value)


_SCRIPT: Mapping[str, Check] = {
    "replies": _replies,
    "default": _default,
    "aux_text": FIELDS["text"],
}


def _too_much(place: Place, what: str) -> ScriptError:
    return ScriptError(f"{place.reply}: the script is too large: {what}", remedy="split it")


def _decode_json(text: str, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in fields if names.count(key) > 1)
            raise ScriptError(f"{name}: the field {twice!r} stands twice", remedy="remove one")
        return fields

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        remedy = "correct the JSON; a name that does not end in .json is read as YAML"
        raise ScriptError(f"{name}: not JSON: {error}", remedy=remedy) from None


def _decode_yaml(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        remedy = (
            "correct the YAML; put texts that hold `: ` or `#` or begin with a sign into quotes"
        )
        raise ScriptError(f"{name}: not YAML{where}: {problem}", remedy=remedy) from None


@functools.cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and a field that stands twice is an error."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.value != "<<" and isinstance(key, yaml.ScalarNode) and key.value in seen:
                    problem = f"the field {key.value!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                if isinstance(key, yaml.ScalarNode):
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


# -- variables ----------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")


def check_variables(variables: Mapping[str, str]) -> Mapping[str, str]:
    """The variables, if each can be one. Raises OptionError."""
    for name, value in variables.items():
        if not isinstance(name, str) or not _NAME.match(name):
            remedy = "use letters, digits and _, not beginning with a digit"
            raise OptionError("variables", name, "not a name for a variable", remedy=remedy)
        if not isinstance(value, str):
            raise OptionError(f"variables.{name}", value, "not a text", remedy="pass a str")
    return variables


class Filler:
    """Copies a decoded script with `${name}` filled in, and bounds what the copy can grow to."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._nodes = 0
        self._characters = 0

    def replies(self, name: str, values: Sequence[Any]) -> list[Any]:
        """The copies of a list of replies; an error names the reply's number."""
        return [self.fill(_nth(name, n), value) for n, value in enumerate(values, 1)]

    def fill(self, place: Place, value: Any, depth: int = 0) -> Any:
        """The copy. Raises ScriptError for what JSON cannot hold, undefined names and excess."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _too_much(place, f"over {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise _too_much(place, f"over {MAX_DEPTH} levels deep")
        if isinstance(value, str):
            return self._text(place, value)
        if isinstance(value, Mapping):
            return {
                self._key(place, key): self.fill(place.at(f".{key}"), inner, depth + 1)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            inside = enumerate(value)
            return [self.fill(place.at(f"[{n}]"), inner, depth + 1) for n, inner in inside]
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        remedy = "put it in quotes" if not isinstance(value, float) else "write a finite number"
        raise place.wrong(value, f"a {type(value).__name__}, which JSON cannot hold", remedy)

    def _key(self, place: Place, key: Any) -> str:
        if not isinstance(key, str):
            raise place.wrong(key, "a field's name that is not a text", "put the name in quotes")
        self._characters += len(key)
        return key

    def _text(self, place: Place, text: str) -> str:
        if "${" in text:
            text = _REFERENCE.sub(functools.partial(self._value, place), text)
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise _too_much(place, f"over {MAX_CHARACTERS} characters")
        return text

    def _value(self, place: Place, found: re.Match[str]) -> str:
        whole, name = found.group(0), found.group(1)
        if whole == "$${":
            return "${"
        if not _NAME.match(name) or not found.group(2):
            remedy = "write ${name}, or $${ for a plain ${"
            raise place.wrong(whole, "not a reference to a variable", remedy)
        if name not in self._variables:
            have = ", ".join(sorted(self._variables)) or "none"
            remedy = (
                f"set it with --set {name}=... (now set: {have}), or write $${{ for a plain ${{"
            )
            raise place.wrong(whole, "no such variable", remedy)
        return self._variables[name]


# -- choosing -----------------------------------------------------------------------------------------


class Choice(msgspec.Struct, frozen=True):
    """The reply to a request, and where it came from."""

    reply: Reply
    source: Source


class Replies:
    """The replies that wait, in order. Not safe for several threads by itself."""

    def __init__(self, script: Script) -> None:
        self._default = script.default
        self._aux = Reply(written={"text": script.aux_text}, text=script.aux_text)
        self._waiting: list[tuple[Reply, int | None]] = []
        self.add(script.replies)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, replies: Iterable[Reply]) -> None:
        """Append. Raises ScriptError when there would be over 100,000."""
        more = [(reply, reply.repeat) for reply in replies]
        if len(self._waiting) + len(more) > MAX_REPLIES:
            raise _too_much(Place("the queue"), f"over {MAX_REPLIES} replies")
        self._waiting += more

    def clear(self) -> None:
        """Forget all that wait."""
        self._waiting.clear()

    def choose(self, request: ModelRequest) -> Choice:
        """The reply to this request; a reply of the script is used up by that.

        The first waiting reply that fits; else a directive in the prompt; else the default. A
        request without tools (a title, a summary) takes only replies with a `when_` field, and gets
        the auxiliary text otherwise. Raises ScriptError for a directive that is not a valid reply.
        """
        for n, (reply, left) in enumerate(self._waiting):
            if (reply.conditional or request.tools) and fits(reply, request):
                if left is not None and left > 1:
                    self._waiting[n] = (reply, left - 1)
                elif left is not None:
                    del self._waiting[n]
                return Choice(reply, "script")
        if not request.tools:
            return Choice(self._aux, "aux")
        directed = directive(request.text)
        if directed is not None:
            return Choice(directed, "directive")
        return Choice(self._default, "default")


def fits(reply: Reply, request: ModelRequest) -> bool:
    """Whether every `when_` field of the reply agrees with the request."""
    pairs = (
        (reply.when_model, request.model),
        (reply.when_text, request.text),
        (reply.when_system, request.system),
        (reply.when_tool_result, request.tool_result),
    )
    if any(part is not None and part not in whole for part, whole in pairs):
        return False
    return reply.when_tools is None or reply.when_tools is bool(request.tools)


_DIRECTIVE_REACH = 256 * 1024
_DIRECTIVE_TRIES = 64


def directive(text: str) -> Reply | None:
    """The reply that a prompt asks for with `[[{"text": "hi"}]]`: the last one in it, or None.

    Raises ScriptError when it is JSON in double brackets, but not a valid reply.
    """
    tail = text[-_DIRECTIVE_REACH:]
    decoder = json.JSONDecoder()
    start = len(tail)
    for _ in range(_DIRECTIVE_TRIES):
        start = tail.rfind("[[{", 0, start)
        if start < 0:
            return None
        try:
            value, end = decoder.raw_decode(tail, start + 2)
        except (ValueError, RecursionError):
            continue
        if tail.startswith("]]", end):
            return _for_any(Place("the directive in the prompt"), value)
    return None
