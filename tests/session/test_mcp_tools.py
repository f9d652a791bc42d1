"""A Python function as a tool: its schema, its arguments, its result."""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import CallToolResult, ImageContent, TextContent
from mcp.types import Tool as WireTool

from quarterdeck.errors import OptionError
from quarterdeck.session.mcp_tools import Image, Tool, ToolResult, error_result, to_result, tool


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(TypedDict, total=False):
    x: int


@dataclass
class Size:
    width: int
    height: int = 1


class Shape(msgspec.Struct):
    size: Size
    color: Color = Color.RED


@tool
def draw(
    shape: Shape,
    count: Annotated[int, "how many"],
    scale: Annotated[float, msgspec.Meta(description="how big", gt=0)] = 1.0,
    kind: Literal["line", "fill"] = "line",
    at: Point | None = None,
    names: list[str] = ["a"],  # noqa: B006 - must not be shared between calls
    anything: Any = None,
) -> Any:
    """Draw shapes.

    At length.
    """
    names.append("b")
    return [shape.size.width, shape.color.value, count, scale, kind, at, names, anything]


def text(result: dict[str, Any]) -> str:
    CallToolResult.model_validate(result)
    (block,) = result["content"]
    assert block["type"] == "text"
    return str(block["text"])


def test_the_schema_comes_from_the_type_hints() -> None:
    wire = draw.to_wire()
    WireTool.model_validate(wire)
    assert wire["name"] == "draw"
    assert wire["description"] == "Draw shapes."
    schema = wire["inputSchema"]
    assert schema["type"] == "object"
    assert schema["required"] == ["shape", "count"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["count"] == {"type": "integer", "description": "how many"}
    assert schema["properties"]["scale"]["description"] == "how big"
    assert schema["properties"]["kind"] == {"enum": ["fill", "line"], "default": "line"}
    assert schema["properties"]["shape"] == {"$ref": "#/$defs/Shape"}
    assert set(schema["$defs"]) == {"Shape", "Size", "Color", "Point"}


async def test_arguments_are_converted_and_defaults_are_fresh() -> None:
    arguments = {"shape": {"size": {"width": 3}, "color": "blue"}, "count": 2, "at": {"x": 1}}
    for _ in range(2):
        shown = text(await draw.run(arguments))
        assert shown == '[3,"blue",2,1.0,"line",{"x":1},["a","b"],null]'


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "shape"),
        (None, "shape"),
        ({"shape": {"size": {"width": "3"}}, "count": 2}, "$.shape.size.width"),
        ({"shape": {"size": {"width": 3}}, "count": "2"}, "$.count"),
        ({"shape": {"size": {"width": 3}}, "count": 2, "colour": 1}, "colour"),
        ({"shape": {"size": {"width": 3}}, "count": 2, "scale": 0}, "$.scale"),
        ({"shape": {"size": {"width": 3}}, "count": 2, "kind": "dot"}, "$.kind"),
        ([1], "object"),
        ("text", "object"),
    ],
)
async def test_wrong_arguments_name_the_field(arguments: Any, named: str) -> None:
    result = await draw.run(arguments)
    assert result["isError"] is True
    assert named in text(result)


def test_a_tool_is_still_the_function() -> None:
    @tool("plus", "Add", read_only=True, open_world=False, title="Plus")
    def add(a: float, b: float) -> float:
        return a + b

    assert add(1, 2) == 3
    wire = add.to_wire()
    assert wire["name"] == "plus"
    assert wire["annotations"] == {"title": "Plus", "readOnlyHint": True, "openWorldHint": False}
    annotations = WireTool.model_validate(wire).annotations
    assert annotations is not None
    assert annotations.read_only_hint is True


async def test_async_functions_and_functions_without_hints() -> None:
    @tool
    async def echo(value, *, loud=False):  # type: ignore[no-untyped-def]
        return [value, loud]

    assert text(await echo.run({"value": {"a": 1}})) == '[{"a":1},false]'
    assert echo.input_schema["required"] == ["value"]


async def test_a_short_schema_by_keywords_or_as_one_dict() -> None:
    short = {"a": float, "b": Annotated[int, "second"]}

    @tool(schema=short)
    def keywords(a: float, b: int) -> float:
        return a + b

    @tool(schema=short)
    def one(args: dict[str, Any]) -> float:
        return float(args["a"]) + int(args["b"])

    for made in (keywords, one):
        assert text(await made.run({"a": 1.5, "b": 2})) == "3.5"
        assert "`b`" in text(await made.run({"a": 1}))
        assert made.input_schema["properties"]["b"]["description"] == "second"


async def test_a_json_schema_by_keywords_or_as_one_dict() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "number"}},
        "required": ["a"],
        "additionalProperties": False,
    }

    @tool(schema=schema)
    def keywords(a: float) -> float:
        return a * 2

    @tool(schema=schema)
    def one(args: dict[str, Any]) -> float:
        return float(args["a"]) * 2

    @tool(schema={"type": "object"})
    def free(**fields: Any) -> Any:
        return sorted(fields)

    for made in (keywords, one):
        assert text(await made.run({"a": 2.5})) == "5.0"
        for wrong in ({}, {"a": 1, "c": 2}, [1]):
            assert (await made.run(wrong))["isError"] is True
        assert "`a`" in text(await made.run({}))
        assert "`c`" in text(await made.run({"a": 1, "c": 2}))
    assert text(await free.run({"y": 1, "x": 2})) == '["x","y"]'
    schema["properties"] = {}
    assert keywords.input_schema["properties"] == {"a": {"type": "number"}}


async def test_a_json_schema_that_forgot_a_parameter() -> None:
    @tool(schema={"type": "object", "properties": {"a": {}, "b": {}}})
    def both(a: int, b: int) -> int:
        return a + b

    assert "'b'" in text(await both.run({"a": 1}))
    assert "'c'" in text(await both.run({"a": 1, "b": 1, "c": 1}))


def positional(value: Any, /) -> None: ...


def starred(*values: int) -> None: ...


def strange(value: complex) -> None: ...


def unknown_hint(value: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    "make",
    [
        lambda: tool("a b")(print),
        lambda: tool("")(print),
        lambda: tool("x" * 65)(print),
        lambda: tool(positional),
        lambda: tool(starred),
        lambda: tool(strange),
        lambda: tool(unknown_hint),
        lambda: tool(schema={"type": "array"})(strange),
        lambda: tool(schema={"type": "object", "properties": 5})(strange),
        lambda: tool(schema={"type": "object", "x": object()})(strange),
        lambda: tool(schema=[1])(strange),  # type: ignore[call-overload]
        lambda: Tool(5, name="five"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_a_tool_is_refused(make: Any) -> None:
    with pytest.raises(OptionError):
        make()


# -- results ----------------------------------------------------------------------------------------

IMAGE = {"type": "image", "data": base64.b64encode(b"png").decode(), "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("hi", [{"type": "text", "text": "hi"}]),
        (5, [{"type": "text", "text": "5"}]),
        (2.5, [{"type": "text", "text": "2.5"}]),
        (True, [{"type": "text", "text": "true"}]),
        (None, []),
        ({"a": [1]}, [{"type": "text", "text": '{"a":[1]}'}]),
        ([1, "a"], [{"type": "text", "text": '[1,"a"]'}]),
        ([], [{"type": "text", "text": "[]"}]),
        (Size(1), [{"type": "text", "text": '{"width":1,"height":1}'}]),
        (Image(b"png"), [IMAGE]),
        (["see", Image(b"png")], [{"type": "text", "text": "see"}, IMAGE]),
        ([IMAGE, 7], [IMAGE, {"type": "text", "text": "7"}]),
        (IMAGE, [IMAGE]),
        ([TextContent(type="text", text="a")], [{"type": "text", "text": "a"}]),
        (ImageContent.model_validate(IMAGE), [IMAGE]),
        ("a" + chr(0xDC80), [{"type": "text", "text": "a?"}]),
        ({"type": "text", "text": chr(0xDC80)}, [{"type": "text", "text": "?"}]),
        ({"type": "circle"}, [{"type": "text", "text": '{"type":"circle"}'}]),
    ],
)
def test_what_a_tool_may_return(value: Any, content: list[Any]) -> None:
    result = to_result(value)
    CallToolResult.model_validate(result)
    assert result == {"content": content}


def test_a_result_in_full() -> None:
    full = to_result(ToolResult("text", is_error=True, structured={"sum": 5}))
    CallToolResult.model_validate(full)
    assert full == {
        "content": [{"type": "text", "text": "text"}],
        "isError": True,
        "structuredContent": {"sum": 5},
    }


def test_a_result_of_the_mcp_package() -> None:
    foreign = CallToolResult.model_validate({"content": [IMAGE], "isError": True})
    assert to_result(foreign) == {"content": [IMAGE], "isError": True}


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        object(),
        {"a": object()},
        {"a": chr(0xD800)},
        {"type": "image", "data": 5},
        [{"type": "text"}],
        ToolResult("a", structured=[1]),  # type: ignore[arg-type]
        ToolResult("a", structured={"a": object()}),
        "x" * (16 * 1024 * 1024 + 1),
    ],
    ids=range(9),
)
async def test_what_has_no_form_is_a_failed_call(value: Any) -> None:
    result = await Tool(lambda: value, name="t").run({})
    CallToolResult.model_validate(result)
    assert result["isError"] is True


async def test_exceptions_become_text_without_a_traceback() -> None:
    def boom() -> None:
        raise ValueError("it broke")

    def silent() -> None:
        raise KeyError

    assert await Tool(boom, name="t").run({}) == error_result("it broke")
    assert text(await Tool(silent, name="t").run({})) == "KeyError"
    assert len(text(error_result("x" * 20_000))) == 10_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "text", "data", "content"]), inner, max_size=3
            )
        ),
        max_leaves=5,
    )
)
def test_any_result_is_valid_or_an_error(value: Any) -> None:
    try:
        result = to_result(value)
    except (ValueError, TypeError):
        return
    CallToolResult.model_validate(result)
    msgspec.json.encode(result)
