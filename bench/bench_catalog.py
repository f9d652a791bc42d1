"""Session discovery beside the official SDK: listing, and the end of a very long session.

`python bench/bench_catalog.py` prints both tables. Each sample is one call in a fresh process; what
counts is the median. Data is made in a temporary directory and read once before, so that both sides
find it in the page cache. All of it stays under a minute: a slow machine gets fewer samples.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES = 5
MIN_SAMPLES = 3
BUDGET = 18.0  # seconds for the samples of one measurement
PROJECTS, SESSIONS, SESSION_BYTES = 50, 5_000, 20_000
HUGE_BYTES = 100_000_000
PEAK_LIMIT_MB = 80
TAIL = 14

_MEASURE = """
import json, sys, time
{setup}
start = time.perf_counter()
count = {call}
seconds = time.perf_counter() - start
peak = 0
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([seconds, peak, count]))
"""
_OURS = "from quarterdeck.session.catalog import Catalog\ncatalog = Catalog()"
_PEER = "from claude_agent_sdk import list_sessions, get_session_messages"


def _measure(config: Path, setup: str, call: str, expected: int) -> tuple[float, float, int]:
    """Median seconds, highest resident MB, number of samples."""
    source = Path(__file__).resolve().parent.parent / "src"
    env = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(config),
        "CLAUDE_CONFIG_DIR": str(config),
    }
    env["PYTHONPATH"] = str(source)
    seconds: list[float] = []
    peak = 0
    started = time.monotonic()
    while len(seconds) < SAMPLES:
        if len(seconds) >= MIN_SAMPLES and time.monotonic() - started > BUDGET / 2:
            break
        out = subprocess.run(
            [sys.executable, "-c", _MEASURE.format(setup=setup, call=call)],
            env=env, stdout=subprocess.PIPE, check=True, timeout=60,
        ).stdout  # fmt: skip
        took, resident, count = json.loads(out)
        assert count == expected, f"{call} gave {count}, not {expected}"
        seconds.append(took)
        peak = max(peak, resident)
    return statistics.median(seconds), peak / 1e6, len(seconds)


def _row(name: str, ours: float, peer: float, goal: str, ok: bool, **more: Any) -> dict[str, Any]:
    ratio = round(peer / ours, 1)
    row = {
        "name": name,
        "ours": round(ours * 1000, 1),
        "peer": round(peer * 1000, 1),
        "ratio": ratio,
    }
    return row | {"unit": "ms", "goal": goal, "ok": ok} | more


def bench_list() -> dict[str, Any]:
    """The newest 20 of 5,000 sessions in 50 projects."""
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        config = Path(folder)
        _make_many(config)
        ours = _measure(config, _OURS, "len(catalog.list(limit=20))", 20)
        peer = _measure(config, _PEER, "len(list_sessions(limit=20))", 20)
    ok = peer[0] >= 30 * ours[0]
    name = f"list newest 20 of {SESSIONS:,} sessions"
    return _row(name, ours[0], peer[0], "ratio >= 30", ok, samples=[ours[2], peer[2]])


def bench_tail() -> list[dict[str, Any]]:
    """The last 14 messages of 100 MB, once in few huge lines and once in 20,000 lines."""
    rows = []
    for name, make in (("few huge lines", _make_huge), ("20,000 lines", _make_long)):
        with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
            config = Path(folder)
            session = make(config)
            mine = f"len(catalog.messages({session!r}, limit={TAIL}))"
            theirs = f"len(get_session_messages({session!r})[-{TAIL}:])"
            ours = _measure(config, _OURS, mine, TAIL)
            peer = _measure(config, _PEER, theirs, TAIL)
        rows.append(
            _row(
                f"last {TAIL} messages of 100 MB, {name}",
                ours[0],
                peer[0],
                f"ratio >= 15, peak < {PEAK_LIMIT_MB} MB",
                peer[0] >= 15 * ours[0] and ours[1] < PEAK_LIMIT_MB,
                ours_peak_mb=round(ours[1], 1),
                peer_peak_mb=round(peer[1], 1),
                samples=[ours[2], peer[2]],
            )
        )
    return rows


# -- data -------------------------------------------------------------------------------------------

_CODE = 'def total(rows):\n    """Sum up."""\n    return sum(row["amount"] for row in rows)\n'


def _common(session: str) -> dict[str, Any]:
    return {
        "timestamp": "2026-03-01T10:00:00.000Z", "userType": "external", "entrypoint": "cli",
        "cwd": "/home/user/project", "sessionId": session, "version": "2.1.197", "gitBranch": "main",
    }  # fmt: skip


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _talk(session: str, parent: str | None, role: str, text: str) -> tuple[str, str]:
    """One message; returns its uuid and its line."""
    own = str(uuid.uuid4())
    value: dict[str, Any] = {"parentUuid": parent, "isSidechain": False}
    if role == "user":
        value |= {"type": "user", "message": {"role": "user", "content": text}}
    else:
        content = [{"type": "text", "text": text}]
        message = {"id": f"msg_{own[:8]}", "type": "message", "role": role, "model": "model"}
        value |= {"message": message | {"content": content, "stop_reason": "end_turn"}}
        value |= {"type": "assistant"}
    return own, _line(value | {"uuid": own} | _common(session))


def _conversation(session: str, messages: int, text: str) -> Iterator[str]:
    parent = None
    for number in range(messages):
        role = "assistant" if number % 2 else "user"
        parent, line = _talk(session, parent, role, f"{number}: {text}")
        yield line


def _make_many(config: Path) -> None:
    text = _CODE * 8
    now = time.time()
    body = "".join(_conversation("SESSION", SESSION_BYTES // (len(text) + 400), text))
    for project in range(PROJECTS):
        folder = config / "projects" / f"-home-user-project-{project}"
        folder.mkdir(parents=True)
        for number in range(SESSIONS // PROJECTS):
            session = str(uuid.uuid4())
            path = folder / f"{session}.jsonl"
            path.write_text(body.replace("SESSION", session))
            when = now - (number * PROJECTS + project) * 60
            os.utime(path, (when, when))


def _make_long(config: Path) -> str:
    lines = 20_000
    text = _CODE * ((HUGE_BYTES // lines - 450) // len(json.dumps(_CODE)))
    session = str(uuid.uuid4())
    return _write(config, session, _conversation(session, lines, text))


def _make_huge(config: Path) -> str:
    """As it was seen in the field: a few messages, and between them progress records that each hold a
    sub-agent's whole conversation so far."""
    session = str(uuid.uuid4())
    step = {"type": "user", "message": {"role": "user", "content": [
        {"tool_use_id": "toolu_1", "type": "tool_result", "content": _CODE}]},
        "uuid": str(uuid.uuid4()), "timestamp": "2026-03-01T10:00:00.000Z"}  # fmt: skip
    history = [step] * (1_400_000 // len(json.dumps(step)))
    data = {
        "type": "agent_progress",
        "agentId": "a1",
        "message": step,
        "normalizedMessages": history,
    }
    bulk = json.dumps(data, separators=(",", ":"))
    between = HUGE_BYTES // TAIL // len(bulk)

    def lines() -> Iterator[str]:
        parent: str | None = None
        for number in range(TAIL):
            for _ in range(between):
                own = str(uuid.uuid4())
                start = {"parentUuid": parent, "isSidechain": False, **_common(session)}
                start |= {"type": "progress"}
                end = {"toolUseID": "t", "parentToolUseID": "t", "uuid": own}
                yield f'{_line(start)[:-2]},"data":{bulk},{_line(end)[1:]}'
                parent = own
            role = "assistant" if number % 2 else "user"
            parent, line = _talk(session, parent, role, f"{number}: {_CODE}")
            yield line

    return _write(config, session, lines())


def _write(config: Path, session: str, lines: Iterator[str]) -> str:
    folder = config / "projects" / "-home-user-project"
    folder.mkdir(parents=True)
    with (folder / f"{session}.jsonl").open("w") as file:
        file.writelines(lines)
    return session


if __name__ == "__main__":
    began = time.monotonic()
    for row in (bench_list(), *bench_tail()):
        print(json.dumps(row))
    print(f"{time.monotonic() - began:.0f} s")
