"""Tools of yours for the agent: a Python function, the schema of its input, and its result.

The schema comes from the type hints, the arguments are converted to them, and whatever the function
returns or raises becomes a result that the model can read.
"""

from __future__ import annotations

import base64
import copy
import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints, overload

import msgspec

from quarterdeck.errors import OptionError
from quarterdeck.session.callbacks import call

log = logging.getLogger(__name__)

MAX_RESULT = 16 * 1024 * 1024  # characters of one result
MAX_ERROR = 10_000  # characters of one error text
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Image(msgspec.Struct, frozen=True):
    """An image as (part of) a result."""

    data: bytes
    media_type: str = "image/png"


class ToolResult(msgspec.Struct, frozen=True):
    """A result in full.

    `content` is anything a tool may return. With `structured` the model sees its JSON instead of the
    text in `content` (images stay). `is_error` tells the model that the tool failed.
    """

    content: Any = None
    is_error: bool = False
    structured: dict[str, Any] | None = None


class Tool:
    """One tool of an in-process MCP server; made by `@tool`. Still callable as the function it is."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        schema: Mapping[str, Any] | None = None,
        annotations: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.name = _checked_name(name if name is not None else getattr(function, "__name__", ""))
        self.description = description if description is not None else _first_paragraph(function)
        self.annotations = dict(annotations or {})
        self._arguments = _arguments(function, schema)
        self.input_schema = self._arguments.schema

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def to_wire(self) -> dict[str, Any]:
        """The tool as `tools/list` shows it."""
        wire: dict[str, Any] = {"name": self.name, "inputSchema": self.input_schema}
        if self.description:
            wire["description"] = self.description
        if self.annotations:
            wire["annotations"] = self.annotations
        return wire

    async def run(self, arguments: object) -> dict[str, Any]:
        """Call the tool; the result of `tools/call`. Never raises, except for being cancelled."""
        try:
            args, kwargs = self._arguments.bind(arguments)
        except Exception as error:
            return error_result(f"wrong arguments for {self.name}: {error}")
        try:
            return to_result(await call(self.function, *args, **kwargs))
        except Exception as error:
            log.info("tool %s failed", self.name, exc_info=error)
            return error_result(str(error) or type(error).__name__)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    name: str | None = None,
    description: str | None = None,
    *,
    schema: Mapping[str, Any] | None = None,
    title: str | None = None,
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
    open_world: bool | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    name: str | Callable[..., Any] | None = None,
    description: str | None = None,
    *,
    schema: Mapping[str, Any] | None = None,
    title: str | None = None,
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
    open_world: bool | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a sync or async function: `@tool`, or `@tool("add", "Add two numbers")`.

    Without `name` and `description` they are the function's name and the first paragraph of its
    docstring. Without `schema` the input is what the type hints say (parameters with a default are
    optional; `Annotated[int, "how many"]` describes one). `schema` is a JSON Schema of an object, or
    short `{"a": float, "b": float}`; the function then takes keywords, or all of it as one dict when
    its only parameter is not one of them.

    It may return text, a number, None, an `Image`, a list of content blocks, a `ToolResult`, or
    anything that has a JSON form. What it raises is a failed call with the error's text. `read_only`
    lets the engine run calls side by side. Raises OptionError.
    """
    hints = {
        "title": title,
        "readOnlyHint": read_only,
        "destructiveHint": destructive,
        "idempotentHint": idempotent,
        "openWorldHint": open_world,
    }
    annotations = {key: value for key, value in hints.items() if value is not None}
    if callable(name):
        return Tool(name)

    def make(function: Callable[..., Any]) -> Tool:
        return Tool(
            function, name=name, description=description, schema=schema, annotations=annotations
        )

    return make


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError("name", name, "must be 1 to 64 letters, digits, _ or -")
    return name


def _first_paragraph(function: Callable[..., Any]) -> str:
    return inspect.cleandoc(getattr(function, "__doc__", None) or "").partition("\n\n")[0]


# -- arguments --------------------------------------------------------------------------------------


class _Typed:
    """Arguments by type: a struct made for the purpose checks and converts them."""

    def __init__(self, fields: Sequence[Any]) -> None:
        try:
            self._struct = msgspec.defstruct(
                "Arguments", fields, kw_only=True, forbid_unknown_fields=True
            )
            self.schema = _schema(self._struct)
        except (TypeError, ValueError, NameError) as error:
            raise OptionError(
                "schema", [f[0] for f in fields], f"has a type without a schema: {error}",
                remedy="use plain types, or give schema=",
            ) from None  # fmt: skip

    def bind(self, arguments: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = msgspec.convert({} if arguments is None else arguments, self._struct)
        return (), {name: getattr(given, name) for name in self._struct.__struct_fields__}


class _TypedAsOne(_Typed):
    """The same, handed over as one dict without what was left out."""

    def bind(self, arguments: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (super().bind(arguments)[1],), {}


class _Loose:
    """Arguments by a JSON Schema of the user's: required and unknown names are checked."""

    def __init__(self, function: Callable[..., Any], schema: Mapping[str, Any]) -> None:
        try:
            self.schema = msgspec.json.decode(msgspec.json.encode(schema), type=dict[str, Any])
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise OptionError("schema", schema, f"has no JSON form: {error}") from None
        properties = self.schema.setdefault("properties", {})
        if not isinstance(properties, dict):
            raise OptionError("schema", schema, "properties must be an object")
        self._function = function
        self._as_one = _takes_one(function, properties)

    def bind(self, arguments: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given: object = {} if arguments is None else arguments
        if not isinstance(given, dict):
            raise TypeError("an object is wanted")
        for name in self.schema.get("required", ()):
            if name not in given:
                raise TypeError(f"missing required field `{name}`")
        if self.schema.get("additionalProperties") is False:
            for name in given:
                if name not in self.schema["properties"]:
                    raise TypeError(f"unknown field `{name}`")
        if self._as_one:
            return (dict(given),), {}
        inspect.signature(self._function).bind(**given)
        return (), dict(given)


def _arguments(function: Callable[..., Any], schema: Mapping[str, Any] | None) -> _Typed | _Loose:
    if not callable(function):
        raise OptionError("function", function, "must be a function")
    if schema is None:
        return _Typed(_hinted(function))
    if not isinstance(schema, Mapping):
        raise OptionError("schema", schema, "must be a dict")
    if schema.get("type") == "object":
        return _Loose(function, schema)
    if "type" in schema and isinstance(schema["type"], str):
        raise OptionError("schema", schema, 'must have "type": "object"')
    fields = [(name, _described(hint)) for name, hint in schema.items()]
    return _TypedAsOne(fields) if _takes_one(function, schema) else _Typed(fields)


def _takes_one(function: Callable[..., Any], names: Mapping[str, Any]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1:
        return False
    only = parameters[0]
    return (
        only.kind in (only.POSITIONAL_ONLY, only.POSITIONAL_OR_KEYWORD) and only.name not in names
    )


def _hinted(function: Callable[..., Any]) -> list[Any]:
    """The fields for a function's parameters."""
    try:
        target = function if hasattr(function, "__name__") else type(function).__call__
        hints = get_type_hints(target, include_extras=True)
    except (NameError, TypeError) as error:
        raise OptionError(
            "function", function, f"has a type hint that cannot be read: {error}",
            remedy="give schema=",
        ) from None  # fmt: skip
    fields: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise OptionError("function", function, f"{name} cannot be given by name")
        hint = _described(hints.get(name, Any))
        if parameter.default is parameter.empty:
            fields.append((name, hint))
        else:
            fields.append((name, hint, _default(parameter.default)))
    return fields


def _default(value: Any) -> Any:
    if isinstance(value, list | dict | set | bytearray) and value:
        return msgspec.field(default_factory=lambda: copy.deepcopy(value))
    return value


def _described(hint: Any) -> Any:
    """Let `Annotated[int, "text"]` describe a parameter."""
    if get_origin(hint) is not Annotated:
        return hint
    base, *extras = get_args(hint)
    metas = [msgspec.Meta(description=e) if isinstance(e, str) else e for e in extras]
    for meta in metas:
        if isinstance(meta, msgspec.Meta):
            base = Annotated[base, meta]
    return base


def _schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    (top,), parts = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    schema = dict(parts.pop(top["$ref"].rpartition("/")[2]))
    schema.pop("title", None)
    if parts:
        schema["$defs"] = parts
    return schema


# -- results ----------------------------------------------------------------------------------------


def error_result(text: str) -> dict[str, Any]:
    """A failed call, for the model to read."""
    return {"content": [_text(text[:MAX_ERROR])], "isError": True}


def to_result(value: object) -> dict[str, Any]:
    """What a tool returned as the result of `tools/call`. Raises ValueError, TypeError."""
    result = value if isinstance(value, ToolResult) else _foreign_result(value)
    if result is None:
        result = ToolResult(value)
    content = _content(result.content)
    wire: dict[str, Any] = {"content": content}
    if result.is_error:
        wire["isError"] = True
    if result.structured is not None:
        if not isinstance(result.structured, dict):
            raise TypeError("a structured result must be a dict")
        wire["structuredContent"] = msgspec.json.decode(msgspec.json.encode(result.structured))
    size = sum(len(v) for block in content for v in block.values() if isinstance(v, str))
    if size > MAX_RESULT:
        raise ValueError(f"the result has {size} characters; at most {MAX_RESULT} can be sent")
    return wire


def _foreign_result(value: object) -> ToolResult | None:
    """A `CallToolResult` of the mcp package."""
    dumped = _dumped(value)
    if (
        not isinstance(dumped, dict)
        or not isinstance(dumped.get("content"), list)
        or "type" in dumped
    ):
        return None
    return ToolResult(
        dumped["content"], dumped.get("isError") is True, dumped.get("structuredContent")
    )


def _content(value: object) -> list[dict[str, Any]]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        blocks = [_block(item) for item in value]
        if any(blocks):
            return [b or _text(_plain(v)) for b, v in zip(blocks, value, strict=True)]
    return [_block(value) or _text(_plain(value))]


def _block(value: object) -> dict[str, Any] | None:
    """A content block as JSON, checked by the mcp package's own types; None for anything else."""
    if isinstance(value, Image):
        data = base64.b64encode(value.data).decode("ascii")
        return {"type": "image", "data": data, "mimeType": value.media_type}
    block = value if isinstance(value, dict) else _dumped(value)
    if not isinstance(block, dict):
        return None
    kind = block.get("type")
    if kind == "text" and block.keys() == {"type", "text"} and isinstance(block["text"], str):
        return _text(block["text"])
    if kind not in ("text", "image", "audio", "resource", "resource_link"):
        return None
    try:
        _block_type().validate_python(block)
    except ValueError as error:
        raise ValueError(f"not a content block of type {kind}: {error}") from None
    return cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(block)))


@functools.cache
def _block_type() -> Any:
    # Slow to load, and only needed by tools that make blocks themselves.
    from mcp.types import ContentBlock
    from pydantic import TypeAdapter

    return TypeAdapter(ContentBlock)


def _dumped(value: object) -> object:
    """The JSON form of a pydantic model, which is what the mcp package's types are; else None."""
    dump = getattr(value, "model_dump", None)
    if not callable(dump) or isinstance(value, type):
        return None
    return cast(object, dump(mode="json", by_alias=True, exclude_none=True))


def _plain(value: object) -> str:
    """Text for the model: text itself, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("bytes have no text form: return Image(data, media_type) or text")
    dumped = _dumped(value)
    return msgspec.json.encode(value if dumped is None else dumped).decode("utf-8")


def _text(text: str) -> dict[str, Any]:
    # Surrogates, as in the names of files that are not UTF-8, cannot be sent.
    return {"type": "text", "text": text.encode("utf-8", "replace").decode("utf-8")}
