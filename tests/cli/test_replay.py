from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.cli.replay import Player, pieces, replay
from quarterdeck.engine import events as ev
from quarterdeck.session.turns import TurnResult

from .conftest import Cli

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "claude"
RUNS = sorted(GOLDEN.glob("*.ndjson"))


def play(data: bytes) -> tuple[list[ev.Event], list[TurnResult]]:
    player, events = Player(), []
    for piece in pieces(io.BytesIO(data)):
        events += player.play(piece)
    events += player.end()
    return events, player.results()


def as_plain(data: bytes) -> bytes:
    """The pure output of a recorded run."""
    lines = [msgspec.json.decode(line) for line in data.splitlines()]
    return b"".join(msgspec.json.encode(x["msg"]) + b"\n" for x in lines if x["dir"] == "out")


def comparable(results: list[TurnResult]) -> list[dict[str, Any]]:
    return [
        {
            "boundary": r.boundary,
            "text": r.text,
            "cost": r.cost_usd,
            "tools": len(r.tool_executions),
        }
        for r in results
    ]


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.stem)
def test_the_three_forms_of_a_run_are_one_run(run: Path) -> None:
    recorded = run.read_bytes()
    plain = as_plain(recorded)
    sse = b"".join(b"event: message\ndata: " + line + b"\n\n" for line in plain.splitlines())
    played = play(recorded)
    ends = sum(isinstance(e, ev.TurnEnded) for e in played[0])
    assert ends <= len(played[1]) <= ends + 1
    for other in (plain, sse):
        events, results = play(other)
        assert [type(e) for e in events] == [type(e) for e in played[0]]
        assert comparable(results) == comparable(played[1])


def test_prompts_of_a_recording_stand_in_the_results() -> None:
    _, results = play((GOLDEN / "01-basic-turn-partial.ndjson").read_bytes())
    assert [r.prompt for r in results] == ["say hello"]
    assert results[0].ok


def test_a_turn_without_its_record_has_not_succeeded() -> None:
    _, results = play((GOLDEN / "43-sigkill-mid-bash.ndjson").read_bytes())
    assert results
    assert not results[-1].complete
    assert results[-1].boundary.kind == "errored"


def test_bad_lines_are_unknown_events() -> None:
    good = as_plain((GOLDEN / "01-basic-turn-partial.ndjson").read_bytes())
    events, results = play(b'{"type":"later"}\n\xff\xfe{not json\n[1]\n' + good + b'{"cut')
    assert sum(isinstance(e, ev.Unknown) for e in events) >= 4
    assert results[0].ok


def test_an_empty_file_is_nothing() -> None:
    assert play(b"") == ([], [])
    assert play(b"\n\n") == ([], [])


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_content_breaks_it(lines: list[bytes]) -> None:
    events, _ = play(b"\n".join(lines))
    for event in events:
        json.loads(ev.to_line(event))


WORDS = st.sampled_from(["user", "assistant", "result", "system"])
MESSAGES = st.dictionaries(
    st.sampled_from(["type", "message", "event"]), WORDS | st.none() | st.just({"content": 3})
)
LINES = st.fixed_dictionaries(
    {"dir": st.sampled_from(["in", "out", "note", "x"])},
    optional={
        "t": st.none() | st.floats() | st.text(max_size=3),
        "msg": st.none() | st.text(max_size=5) | MESSAGES,
    },
)


@given(st.lists(LINES, max_size=8))
def test_no_recording_breaks_it(values: list[Any]) -> None:
    play("\n".join(json.dumps(v) for v in values).encode())


def test_a_file_that_is_no_recording_is_refused(cli: Cli) -> None:
    for number, data in enumerate((b"", b"hello\nthere\n", b'{"a": 1}\n')):
        file = cli.cwd / f"junk{number}"
        file.write_bytes(data)
        done = cli("replay", str(file))
        assert done.code == 2
        assert f"nothing in {file} looks like a recorded run" in done.err
    assert "standard input" in cli("replay", "-", stdin="junk").err


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.stem)
def test_every_recorded_run_is_recognised(
    run: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert replay(str(run)) == 0
    assert capfdbinary.readouterr().err == b""


def test_junk_beside_a_run_is_tolerated(cli: Cli) -> None:
    good = as_plain((GOLDEN / "01-basic-turn-partial.ndjson").read_bytes())
    done = cli("replay", "-", stdin=b"junk\n" + good + b"more junk\n")
    assert done.code == 0, done.err
    assert done.lines()[-1]["boundary"]["kind"] == "completed"
