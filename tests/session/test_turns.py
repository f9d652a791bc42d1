"""Events folded into a turn's result; cumulative figures into each turn's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.engine import events as ev
from quarterdeck.engine.claude.protocol import ClaudeProtocol
from quarterdeck.errors import TurnFailed, TurnTimeout
from quarterdeck.model import Boundary, ModelUsage, Usage
from quarterdeck.session.turns import Totals, TurnFold, TurnResult

GOLDEN = Path(__file__).parents[1] / "golden" / "claude"


def results(name: str, **options: Any) -> list[TurnResult]:
    protocol, totals, made = ClaudeProtocol("s"), Totals(), []
    fold = TurnFold(prompt="p", index=1, session="s", **options)
    for line in (GOLDEN / f"{name}.ndjson").read_text().splitlines():
        record = json.loads(line)
        if record["dir"] != "out":
            continue
        raw = json.dumps(record["msg"]).encode() + b"\n"
        for event in protocol.receive(raw, record["t"]).events:
            if isinstance(event, ev.TurnEnded):
                made.append(fold.result(event, totals))
                fold = fold.fresh()
            else:
                fold.add(event)
    return made


def test_one_turn() -> None:
    (result,) = results("03-can-use-tool-allow-updated-input-and-permissions")
    assert result.ok
    assert result.text.endswith("All done.")
    assert [a.use.name for a in result.tool_executions] == ["Bash", "Bash", "Write"]
    for activity in result.tool_executions:
        assert activity.result is not None
        assert activity.duration is not None
        assert activity.duration >= 0
    assert len(result.tool_uses) == len(result.tool_results) == len(result.tool_executions)
    assert result.assistant_messages
    assert result.user_messages
    assert all(m.raw == b"" for m in result.messages)
    assert result.stream_events == ()


def test_cost_is_cumulative_in_the_engine_and_each_turns_own_here() -> None:
    made = results("11-two-turns-replay-and-duplicate-uuid")
    assert len(made) == 2
    assert made[0].cost_usd > 0
    assert made[1].total_cost_usd == pytest.approx(made[0].cost_usd + made[1].cost_usd)
    (model,) = made[1].model_usage.values()
    assert model.output_tokens == made[1].usage.output_tokens


def test_thinking_and_text_are_apart() -> None:
    (result,) = results("25-thinking-blocks")
    assert result.text == "Thought."
    assert result.thinking.startswith("Let me think")


def test_withdrawn_text_is_not_in_the_result() -> None:
    (result,) = results("32-stream-dropped-mid-text")
    assert result.text == "recovered"


def test_sub_agents_do_not_speak_for_the_main_thread() -> None:
    (result,) = results("21-subagent-forward-text")
    assert result.text == "main done"
    assert any(a.parent for a in result.tool_executions)


def test_streaming_consumers_keep_nothing() -> None:
    (result,) = results("20-subagent-foreground", keep=False)
    assert (result.messages, result.tool_executions, result.text) == ((), (), "")
    assert result.ok


def test_deltas_are_kept_on_request() -> None:
    (result,) = results("01-basic-turn-partial", keep_stream=True)
    assert any(isinstance(e, ev.TextDelta) for e in result.stream_events)


def test_a_result_has_a_size() -> None:
    (result,) = results("03-can-use-tool-allow-updated-input-and-permissions", max_bytes=700)
    assert result.dropped > 0
    assert len(result.messages) >= 1


def delta(text: str) -> ev.Event:
    return ev.TextDelta("s", 1, 0.0, b"", None, None, text, "m", 0)


def test_a_partial_turn_has_the_text_that_streamed() -> None:
    fold = TurnFold(prompt="p", index=1, session="s")
    fold.add(delta("half a "))
    fold.add(delta("word"))
    result = fold.partial(Boundary("errored", code="engine_died"), Totals())
    assert (result.text, result.complete, result.ok) == ("half a word", False, False)


def end(total: float, models: dict[str, ModelUsage] | None = None) -> ev.TurnEnded:
    return ev.TurnEnded(
        "s", 1, 0.0, b"", None, None, 1, Boundary("completed"), "", False, "end_turn", "completed",
        None, (), 1, 10, 5, Usage(1, 2), models or {}, total, (), None, None, "",
    )  # fmt: skip


def test_totals_never_run_backwards() -> None:
    totals = Totals()
    assert totals.add(end(0.5))[0] == 0.5
    assert totals.add(end(0.5))[0] == 0.0
    assert totals.add(end(0.2))[0] == 0.0
    assert totals.cost_usd == 0.5
    assert totals.usage == Usage(3, 6)


def test_models_are_counted_apart() -> None:
    totals = Totals()
    totals.add(end(0.1, {"a": ModelUsage(10, 10)}))
    _, _, models = totals.add(end(0.2, {"a": ModelUsage(10, 10), "b": ModelUsage(5, 5)}))
    assert set(models) == {"b"}


@pytest.mark.parametrize(
    ("boundary", "error"),
    [
        (Boundary("limit", limit="time"), TurnTimeout),
        (Boundary("errored", code="server_error"), TurnFailed),
        (Boundary("interrupted"), TurnFailed),
    ],
)
def test_raising_for_the_boundary(boundary: Boundary, error: type[Exception]) -> None:
    result = TurnFold(prompt="p", index=1, session="s").result(end(0), Totals(), boundary)
    with pytest.raises(error):
        result.raise_for_boundary()
