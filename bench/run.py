"""Benchmarks, each side by side with claude-agent-sdk in the same run.

    make bench                    all of them
    make bench ONLY=connect       those whose name contains the word

Prints a table and appends one JSON line each to bench/results.jsonl: name, ours, peer, ratio (how many
times better we are), unit, goal, ok.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench_catalog

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEER = "claude-agent-sdk"
Row = dict[str, Any]


def row(
    name: str, ours: float, peer: float | None, unit: str, goal: str, ok: bool, **more: Any
) -> Row:
    """One result. `ratio` is how many times better we are than the peer, whatever the unit."""
    more_is_better = unit.endswith("/s")
    ratio = None
    if peer and ours:
        ratio = round(ours / peer if more_is_better else peer / ours, 2)
    return {
        "name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "goal": goal,
        "ok": ok, **more,
    }  # fmt: skip


@contextmanager
def isolated() -> Iterator[tuple[Path, dict[str, str]]]:
    """A throw-away home and an environment from scratch."""
    with tempfile.TemporaryDirectory(prefix="qd-bench-") as name:
        home = Path(name)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": name,
            "LANG": "C.UTF-8",
            "DISABLE_AUTOUPDATER": "1",
        }
        yield home, env


def drive(env: dict[str, str], *args: str, timeout: float = 180) -> Row:
    """Run one side in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "drive.py"), *args],
        env=env, capture_output=True, timeout=timeout, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return {"error": tail[0] if tail else f"exit {done.returncode}"}
    made: Row = json.loads(done.stdout.splitlines()[-1])
    return made


def fake_cli(home: Path) -> str:
    """The flooding stand-in as a program that both sides can start."""
    path = home / "claude"
    path.write_text(f"#!{sys.executable} -IS\n" + (HERE / "fake_cli.py").read_text())
    path.chmod(0o755)
    return str(path)


def engine() -> str | None:
    """The real CLI: the pinned one of this checkout, else the one on PATH."""
    pinned = ROOT / "node_modules" / ".bin" / "claude"
    return str(pinned) if pinned.exists() else shutil.which("claude")


def rate(env: dict[str, str], cli: str, side: str, kind: str, count: int) -> float:
    """Median messages per second of three runs."""
    runs = [drive(env, side, "stream", kind, str(count), cli) for _ in range(3)]
    return statistics.median(float(r["seen"] / r["seconds"]) for r in runs)


def bench_throughput() -> Iterator[Row]:
    with isolated() as (home, env):
        cli = fake_cli(home)
        for label, kind in (("messages of 800 bytes", "800"), ("deltas of 40 characters", "delta")):
            ours = rate(env, cli, "ours", kind, 300_000)
            peer = rate(env, cli, "peer", kind, 150_000)
            yield row(
                f"throughput, {label}",
                round(ours),
                round(peer),
                "messages/s",
                ">= 5x",
                ours >= 5 * peer,
            )


def bench_big_line() -> Iterator[Row]:
    with isolated() as (home, env):
        cli, size = fake_cli(home), "4000000"
        ours = drive(env, "ours", "stream", size, "1", cli)
        peer = drive(env, "peer", "stream", size, "1", cli)
        note = peer.get("error", "")
        yield row(
            "one line of 4 MB", ours.get("seen", 0), peer.get("seen", 0), "delivered", "delivered",
            ours.get("seen") == 1, note=f"peer: {note[:90]}" if note else "",
        )  # fmt: skip


def bench_gigabyte() -> Iterator[Row]:
    with isolated() as (home, env):
        cli, count = fake_cli(home), 1_250_000
        ours = drive(env, "ours", "stream", "800", str(count), cli)
        peer = drive(env, "peer", "stream", "800", str(count), cli)
        grown = (ours["rss_end"] - ours["rss_early"]) / 2**20
        yield row(
            "1 GB in one session: peak resident", round(ours["peak"] / 2**20), round(peer["peak"] / 2**20),
            "MB", "flat: grows < 8 MB after the first 100 MB",
            ours["seen"] == count and grown < 8, note=f"grew {grown:.1f} MB; all {ours['seen']} delivered",
        )  # fmt: skip


def bench_connect() -> Iterator[Row]:
    cli = engine()
    if cli is None:
        return
    from quarterdeck.testing import ScriptedModelThread

    with isolated() as (home, env), ScriptedModelThread() as model:
        args = (cli, model.url, model.token, str(home))
        times: dict[str, list[float]] = {"bare": [], "ours": [], "peer": []}
        for _ in range(21):
            times["bare"].append(bare_start(cli, model.url, model.token, home, env))
            for side in ("ours", "peer"):
                times[side].append(drive(env, side, "connect", *args)["seconds"])
        bare, ours, peer = (statistics.median(v[1:]) * 1000 for v in times.values())
        yield row(
            "connect to the real CLI", round(ours), round(peer), "ms", "bare + 80 ms, and ahead of the peer",
            ours <= bare + 80 and ours < peer, note=f"bare CLI {bare:.0f} ms",
        )  # fmt: skip


def bare_start(cli: str, url: str, token: str, home: Path, env: dict[str, str]) -> float:
    """The CLI alone with our flags: from its start to the answer to initialize."""
    flags = [
        "--output-format=stream-json", "--input-format=stream-json", "--verbose", "--strict-mcp-config",
        "--setting-sources=user", "--include-partial-messages", "--replay-user-messages",
    ]  # fmt: skip
    child = {
        **env, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": token, "CLAUDE_CONFIG_DIR": str(home),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(
        [cli, *flags], env=child, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        request = {
            "type": "control_request",
            "request_id": "1",
            "request": {"subtype": "initialize"},
        }
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        took = time.perf_counter() - began
        process.stdin.close()
        process.stdout.read()
    return took


def bench_orphans() -> Iterator[Row]:
    cli = engine()
    if cli is None:
        return
    from quarterdeck.testing import ScriptedModelThread

    left = {}
    for side in ("ours", "peer"):
        with isolated() as (home, env), ScriptedModelThread() as model:
            model.push({"tools": [{"name": "Bash", "input": {"command": "sleep 297"}}]})
            args = [
                sys.executable,
                str(HERE / "drive.py"),
                side,
                "hang",
                cli,
                model.url,
                model.token,
                str(home),
            ]
            with subprocess.Popen(
                args, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as host:
                wait_for("sleep 297", home, 30)
                host.send_signal(signal.SIGKILL)
            time.sleep(3)
            remaining = of_home(home)
            left[side] = len(remaining)
            for pid in remaining:
                os.kill(pid, signal.SIGKILL)
    yield row(
        "processes left 3 s after kill -9 of the host", left["ours"], left["peer"], "processes", "0",
        left["ours"] == 0,
    )  # fmt: skip


def of_home(home: Path) -> dict[int, str]:
    """The processes whose environment names this throw-away home."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environ = (entry / "environ").read_bytes()
                command = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if str(home).encode() in environ and command:
                found[int(entry.name)] = command
    return found


def wait_for(command: str, home: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not any(command in c for c in of_home(home).values()):
        if time.monotonic() > deadline:
            raise TimeoutError("the Bash call did not start")
        time.sleep(0.05)


def bench_start() -> Iterator[Row]:
    def wall(*command: str) -> float:
        times = []
        for _ in range(9):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1000

    ours = wall(sys.executable, "-c", "import quarterdeck")
    peer = wall(sys.executable, "-c", "import claude_agent_sdk")
    bare = wall(sys.executable, "-c", "pass")
    yield row(
        "import, whole process", round(ours), round(peer), "ms", "< 150 ms", ours < 150,
        note=f"bare python {bare:.0f} ms",
    )  # fmt: skip
    whole = wall(sys.executable, "-c", "from quarterdeck import Client, query")
    yield row("import with Client", round(whole), round(peer), "ms", "< 150 ms", whole < 150)
    command = str(Path(sys.executable).parent / "quarterdeck")
    shown = wall(command, "--help")
    yield row("quarterdeck --help", round(shown), None, "ms", "< 300 ms", shown < 300)


def bench_sessions() -> Iterator[Row]:
    yield bench_catalog.bench_list()
    yield from bench_catalog.bench_tail()


BENCHES: dict[str, Callable[[], Iterator[Row]]] = {
    "throughput": bench_throughput,
    "big-line": bench_big_line,
    "gigabyte": bench_gigabyte,
    "catalog": bench_sessions,
    "connect": bench_connect,
    "orphans": bench_orphans,
    "start": bench_start,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmarks against " + PEER)
    parser.add_argument(
        "--only", default="", help="names that contain this word: " + ", ".join(BENCHES)
    )
    only = parser.parse_args().only
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
    print(f"machine: {machine}; peer: {PEER}")
    print(f"{'what':46} {'ours':>10} {'peer':>10} {'ratio':>7}  {'unit':12} ok  goal")
    failed = 0
    for name, bench in BENCHES.items():
        if only not in name:
            continue
        for result in bench():
            failed += not result["ok"]
            show(result)
    print(f"{failed} goals missed" if failed else "all goals met")
    return 0


def show(result: Row) -> None:
    peer, ratio = result["peer"], result["ratio"]
    print(
        f"{result['name']:46} {result['ours']:>10} {'-' if peer is None else peer:>10} "
        f"{'-' if ratio is None else ratio:>7}  {result['unit']:12} "
        f"{'yes' if result['ok'] else 'NO ':3} {result['goal']}",
        flush=True,
    )
    if result.get("note"):
        print(f"    {result['note']}")
    with (HERE / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.exit(main())
